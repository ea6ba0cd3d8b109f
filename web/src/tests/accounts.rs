//! A node behind the port, in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use xmpp::jid::BareJid;
use xmpp::sasl::Password;

use crate::backend::{AuditKey, BackendError, BackupKey, ControlBackend};
use crate::report::access::{
    AuditPage, AuditQuery, ChangeReport, Identity, IssuedOperator, IssuedToken, NewOperator,
    NewToken, OperatorReport, OutcomeReport, Role, TokenReport,
};
use crate::report::backup::{BackupPart, BackupPool, CaptureReport, EndReport};
use crate::report::cluster::{FinaliseReport, VersionSpan, VersionsReport};
use crate::report::console::{HistoryReport, NodeHistory};
use crate::report::imports::ImportPiece;
use crate::report::join::{JoinReply, JoinRequest};
use crate::report::nodes::{NodeOperation, NodeReport, PlanStep, ProgressReport};
use crate::report::{HashReport, MemberReport, PartitionReport, PoolReport, Readiness};

/// Accounts in memory, and an audit log.
#[derive(Clone, Default)]
pub(super) struct Accounts {
    pub(super) users: Arc<Mutex<BTreeMap<BareJid, String>>>,
    pub(super) quorum: bool,
    /// Who did what, and what became of it.
    pub(super) records: Arc<Mutex<Vec<(ChangeReport, OutcomeReport)>>>,
    /// Nothing can be written down.
    pub(super) mute: bool,
    /// How often progress was asked for.
    pub(super) asked: Arc<Mutex<u64>>,
    /// Tokens that open nothing more.
    pub(super) revoked: Arc<Mutex<Vec<&'static str>>>,
}

/// The tokens of three operators.
pub(super) const OPERATORS: [(&str, Role); 3] = [
    ("olga-0123456789abcdef0123456789abcdef", Role::Operator),
    ("sven-0123456789abcdef0123456789abcdef", Role::Support),
    ("anna-0123456789abcdef0123456789abcdef", Role::Auditor),
];

impl ControlBackend for Accounts {
    fn report(&self) -> PoolReport {
        PoolReport {
            pool: "p".into(),
            domain: "localhost".into(),
            node: 1,
            incarnation: 7,
            version: "0".into(),
            supports: VersionSpan { min: 1, max: 2 },
            pool_version: 1,
            uptime_s: 3,
            sessions: 2,
            members: vec![MemberReport {
                id: 1,
                address: "127.0.0.1:1".into(),
                connected: true,
                alive: true,
                standing: Some("in-touch".into()),
                reaches: Vec::new(),
                relay: None,
            }],
            partitions: vec![PartitionReport {
                id: 0,
                owner: Some(1),
                epoch: 5,
                leader: Some(1),
                term: 2,
                voters: vec![1],
                applied: Some(9),
                committed: Some(9),
                last_log: Some(9),
                quarantined: false,
            }],
        }
    }

    fn sessions(&self, after: &str, containing: &str, limit: usize) -> Vec<String> {
        let all = [
            "alice@localhost/desk",
            "alice@localhost/phone",
            "bob@localhost/desk",
        ];
        let fits = |jid: &&str| *jid > after && jid.contains(containing);
        all.into_iter()
            .filter(fits)
            .take(limit)
            .map(str::to_owned)
            .collect()
    }

    fn history(&self, after_ms: u64) -> HistoryReport {
        if after_ms >= 1000 {
            return HistoryReport::default();
        }
        let node = NodeHistory {
            node: 1,
            sessions: vec![Some(2)],
            ..NodeHistory::default()
        };
        HistoryReport {
            at_ms: vec![1000],
            nodes: vec![node],
        }
    }

    fn readiness(&self) -> Readiness {
        Readiness {
            quorum: self.quorum,
            stopping: false,
            draining: false,
            log_full: false,
            groups_failed: 0,
            partitions_owned: 1,
            partitions: 1,
        }
    }

    async fn partition_hash(&self, partition: u16) -> Result<HashReport, BackendError> {
        match partition {
            0 => Ok(HashReport {
                partition,
                applied: 9,
                state_rows: 4,
                state: "a1".into(),
                archive_rows: 2,
                archive: "b2".into(),
            }),
            1 => Err(BackendError::Unavailable("written to all the time".into())),
            _ => Err(BackendError::NoPartition),
        }
    }

    fn metrics(&self) -> String {
        "muster_sessions 2\n# EOF\n".into()
    }

    async fn begin_import(&self, user: BareJid) -> Result<(), BackendError> {
        match self.users.lock().unwrap().contains_key(&user) {
            true => Err(BackendError::Conflict),
            false => Ok(()),
        }
    }

    async fn import(&self, _: BareJid, _: ImportPiece) -> Result<(), BackendError> {
        Ok(())
    }

    async fn create_account(&self, user: BareJid, password: Password) -> Result<(), BackendError> {
        if password.reveal().is_empty() {
            return Err(BackendError::Invalid("the password is empty".into()));
        }
        if user.as_str().starts_with("slow@") {
            return Err(BackendError::Timeout);
        }
        let mut users = self.users.lock().unwrap();
        if users.contains_key(&user) {
            return Err(BackendError::Conflict);
        }
        users.insert(user, password.reveal().to_owned());
        Ok(())
    }

    async fn set_password(&self, user: BareJid, password: Password) -> Result<(), BackendError> {
        let mut users = self.users.lock().unwrap();
        let stored = users.get_mut(&user).ok_or(BackendError::NotFound)?;
        *stored = password.reveal().to_owned();
        Ok(())
    }

    async fn remove_account(&self, user: BareJid) -> Result<(), BackendError> {
        self.users
            .lock()
            .unwrap()
            .remove(&user)
            .map(drop)
            .ok_or(BackendError::NotFound)
    }

    async fn list_accounts(
        &self,
        after: Option<BareJid>,
        limit: u32,
    ) -> Result<Vec<BareJid>, BackendError> {
        let users = self.users.lock().unwrap();
        let behind = users
            .keys()
            .filter(|user| after.as_ref().is_none_or(|after| *user > after));
        Ok(behind.take(limit as usize).cloned().collect())
    }

    fn nodes(&self) -> Vec<NodeReport> {
        let node = |id| NodeReport {
            id,
            address: format!("127.0.0.{id}:7400"),
            state: "member".to_owned(),
            leaves: false,
            alive: true,
            replicas: 2,
            owns: 1,
            sessions: Some(2),
            build: None,
        };
        vec![node(1), node(2)]
    }

    fn plan(&self, node: u64, _: NodeOperation) -> Result<Vec<PlanStep>, BackendError> {
        match node {
            2 => Ok(vec![PlanStep::MoveSessions { node }]),
            _ => Err(last_node()),
        }
    }

    fn plan_addition(&self, address: &str) -> Result<(u64, Vec<PlanStep>), BackendError> {
        match address {
            "10.0.0.4:7400" => Ok((4, vec![PlanStep::Join { node: 4 }])),
            taken => Err(BackendError::Refused {
                code: "address-in-use".to_owned(),
                message: format!("{taken} is taken"),
            }),
        }
    }

    async fn operate(&self, node: u64, _: NodeOperation) -> Result<(), BackendError> {
        match node {
            2 => Ok(()),
            _ => Err(last_node()),
        }
    }

    fn progress(&self) -> ProgressReport {
        let mut asked = self.asked.lock().unwrap();
        *asked += 1;
        ProgressReport {
            done: *asked >= 2,
            leaders_left: 2_u64.saturating_sub(*asked),
            ..ProgressReport::default()
        }
    }

    fn versions(&self) -> VersionsReport {
        VersionsReport {
            version: 1,
            newest: 2,
            members: Vec::new(),
            partitions: Vec::new(),
        }
    }

    fn plan_finalisation(&self, version: Option<u16>) -> Result<FinaliseReport, BackendError> {
        let to = version.unwrap_or(2);
        if to > 2 {
            return Err(BackendError::Refused {
                code: "version-skew".to_owned(),
                message: "not supported everywhere".to_owned(),
            });
        }
        let done = false;
        Ok(FinaliseReport { from: 1, to, done })
    }

    async fn finalise(&self, version: Option<u16>) -> Result<FinaliseReport, BackendError> {
        let report = self.plan_finalisation(version)?;
        Ok(FinaliseReport {
            done: true,
            ..report
        })
    }

    fn identify(&self, token: &str) -> Option<Identity> {
        if self.revoked.lock().unwrap().contains(&token) {
            return None;
        }
        let (token, role) = OPERATORS.into_iter().find(|(known, _)| *known == token)?;
        let name = token.split('-').next().unwrap_or_default().to_owned();
        Some(Identity { name, role })
    }

    async fn begin_record(&self, change: ChangeReport) -> Result<AuditKey, BackendError> {
        if self.mute {
            return Err(BackendError::Unavailable("no quorum".to_owned()));
        }
        let mut records = self.records.lock().unwrap();
        records.push((change, OutcomeReport::Unknown));
        Ok([u8::try_from(records.len() - 1).unwrap(); 16])
    }

    async fn end_record(&self, key: AuditKey, outcome: OutcomeReport) {
        self.records.lock().unwrap()[usize::from(key[0])].1 = outcome;
    }

    fn audit(&self, _: &AuditQuery) -> AuditPage {
        AuditPage {
            records: Vec::new(),
            next: None,
            previous: None,
        }
    }

    fn operators(&self) -> Vec<OperatorReport> {
        Vec::new()
    }

    async fn add_operator(
        &self,
        new: NewOperator,
        _: String,
    ) -> Result<IssuedOperator, BackendError> {
        Ok(IssuedOperator {
            name: new.name,
            role: new.role,
            token: "shown-once".to_owned(),
        })
    }

    async fn revoke_operator(&self, _: String) -> Result<(), BackendError> {
        Err(BackendError::NoSuch("operator"))
    }

    fn tokens(&self) -> Vec<TokenReport> {
        Vec::new()
    }

    async fn issue_token(&self, _: NewToken, _: String) -> Result<IssuedToken, BackendError> {
        Ok(IssuedToken {
            id: "0a".to_owned(),
            token: "shown-once".to_owned(),
            ends_ms: 1,
            addresses: Vec::new(),
        })
    }

    async fn revoke_token(&self, _: String) -> Result<(), BackendError> {
        Err(BackendError::NoSuch("token"))
    }

    async fn check_join(&self, request: &JoinRequest) -> Result<String, BackendError> {
        match request.secret.as_str() {
            "good" => Ok("0a".to_owned()),
            _ => Err(BackendError::Refused {
                code: "token-used".to_owned(),
                message: "the token has been used".to_owned(),
            }),
        }
    }

    async fn join(&self, _: JoinRequest) -> Result<JoinReply, BackendError> {
        Err(BackendError::Refused {
            code: "capacity".to_owned(),
            message: "the pool is full".to_owned(),
        })
    }

    fn backup_pool(&self) -> BackupPool {
        BackupPool {
            pool: "p".to_owned(),
            version: "0".to_owned(),
            domain: "localhost".to_owned(),
            rooms_domain: "conference.localhost".to_owned(),
            partitions: 16,
            contacts_max: 1,
            occupants_max: 2,
            rooms_owned_max: 3,
            id_key: "00".repeat(16),
        }
    }

    fn group_of(&self, _: &BareJid) -> u32 {
        7
    }

    async fn begin_backup(&self) -> Result<(BackupKey, u64), BackendError> {
        Ok(([0xab; 16], 5))
    }

    async fn backup_capture(
        &self,
        _: BackupKey,
        group: u32,
    ) -> Result<CaptureReport, BackendError> {
        match group {
            0..=16 => Ok(CaptureReport {
                group,
                node: 1,
                index: 9,
                state_bytes: 3,
            }),
            _ => Err(last_node()),
        }
    }

    async fn backup_end(&self, _: BackupKey, _: u32) -> Result<EndReport, BackendError> {
        Ok(EndReport { node: 1, index: 11 })
    }

    async fn backup_part(
        &self,
        _: BackupKey,
        _: u32,
        part: BackupPart,
    ) -> Result<Vec<u8>, BackendError> {
        Ok(format!("{part:?}").into_bytes())
    }

    async fn backup_goes_on(&self, _: BackupKey, _: bool) {}
}

fn last_node() -> BackendError {
    BackendError::Refused {
        code: "last-node".to_owned(),
        message: "it is the last".to_owned(),
    }
}
