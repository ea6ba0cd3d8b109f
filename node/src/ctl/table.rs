//! Tables for people.

use web::report::{HashReport, MemberReport, PartitionReport, PoolReport};

/// The pool as a node sees it.
pub(crate) fn pool(report: &PoolReport) -> String {
    let PoolReport {
        pool,
        domain,
        node,
        incarnation,
        version,
        supports,
        pool_version,
        uptime_s,
        sessions,
        members,
        partitions,
    } = report;
    let mut out = format!(
        "Pool {pool}, domain {domain}, as node {node} sees it\n\
         pool at version {pool_version}; build {version}, for versions {supports}\n\
         incarnation {incarnation}, up {}, {sessions} sessions here\n\n",
        duration(*uptime_s)
    );
    let member = |member: &MemberReport| {
        let owned = partitions
            .iter()
            .filter(|partition| partition.owner == Some(member.id))
            .count();
        let connected = match member.relay {
            _ if member.id == *node => "itself".to_owned(),
            Some(relay) => format!("via {relay}"),
            None => yes(member.connected).to_owned(),
        };
        let reaches: Vec<String> = member.reaches.iter().map(u64::to_string).collect();
        vec![
            member.id.to_string(),
            member.address.clone(),
            connected,
            yes(member.alive).to_owned(),
            member.standing.clone().unwrap_or_else(|| "-".to_owned()),
            reaches.join(","),
            owned.to_string(),
        ]
    };
    out.push_str(&table(
        &[
            "NODE",
            "ADDRESS",
            "CONNECTED",
            "ALIVE",
            "STANDING",
            "REACHES",
            "OWNS",
        ],
        &members.iter().map(member).collect::<Vec<_>>(),
    ));
    out.push('\n');
    out.push_str(&table(
        &[
            "PARTITION",
            "OWNER",
            "EPOCH",
            "TERM",
            "VOTERS",
            "APPLIED",
            "COMMITTED",
            "LAST LOG",
            "",
        ],
        &partitions.iter().map(partition).collect::<Vec<_>>(),
    ));
    out
}

fn partition(partition: &PartitionReport) -> Vec<String> {
    let index = |index: Option<u64>| index.map_or("-".to_owned(), |index| index.to_string());
    let voters: Vec<String> = partition.voters.iter().map(u64::to_string).collect();
    vec![
        partition.id.to_string(),
        index(partition.owner),
        partition.epoch.to_string(),
        partition.term.to_string(),
        voters.join(","),
        index(partition.applied),
        index(partition.committed),
        index(partition.last_log),
        if partition.quarantined {
            "QUARANTINED"
        } else {
            ""
        }
        .to_owned(),
    ]
}

/// What replicas hold. Of a digest, as many digits as tell any two apart.
pub(crate) fn hashes(hashes: &[HashReport]) -> String {
    const DIGITS: usize = 16;
    let short = |digest: &str| digest.chars().take(DIGITS).collect::<String>();
    let row = |hash: &HashReport| {
        vec![
            hash.partition.to_string(),
            hash.applied.to_string(),
            hash.state_rows.to_string(),
            short(&hash.state),
            hash.archive_rows.to_string(),
            short(&hash.archive),
        ]
    };
    table(
        &[
            "PARTITION",
            "APPLIED",
            "ROWS",
            "STATE",
            "ARCHIVED",
            "ARCHIVE",
        ],
        &hashes.iter().map(row).collect::<Vec<_>>(),
    )
}

pub(super) fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "NO" }
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Columns as wide as their longest cell, two spaces apart.
pub(super) fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize, head: &str| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        cells.chain([head.chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = heads
        .iter()
        .enumerate()
        .map(|(column, head)| width(column, head))
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let mut out = line(&mut heads.iter().copied());
    for row in rows {
        out.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    out
}

#[cfg(test)]
mod tests {
    use web::report::cluster::VersionSpan;

    use super::*;

    #[test]
    fn a_pool_as_people_read_it() {
        let member = |id, connected| MemberReport {
            id,
            address: format!("127.0.0.{id}:7400"),
            connected,
            alive: connected,
            standing: connected.then(|| "in-touch".into()),
            reaches: if connected { vec![3] } else { Vec::new() },
            relay: (id == 3).then_some(1),
        };
        let partition = |id, owner, quarantined| PartitionReport {
            id,
            owner,
            epoch: 12,
            leader: owner,
            term: 3,
            voters: vec![1, 2],
            applied: Some(100),
            committed: Some(1000),
            last_log: None,
            quarantined,
        };
        let report = PoolReport {
            pool: "muster-1".into(),
            domain: "localhost".into(),
            node: 1,
            incarnation: 4,
            version: "0.1.0".into(),
            supports: VersionSpan { min: 1, max: 2 },
            pool_version: 1,
            uptime_s: 300,
            sessions: 2,
            members: vec![member(1, true), member(2, false), member(3, true)],
            partitions: vec![partition(0, Some(1), false), partition(1, None, true)],
        };
        let expected = "\
Pool muster-1, domain localhost, as node 1 sees it
pool at version 1; build 0.1.0, for versions 1-2
incarnation 4, up 5 min, 2 sessions here

NODE  ADDRESS         CONNECTED  ALIVE  STANDING  REACHES  OWNS
1     127.0.0.1:7400  itself     yes    in-touch  3        1
2     127.0.0.2:7400  NO         NO     -                  0
3     127.0.0.3:7400  via 1      yes    in-touch  3        0

PARTITION  OWNER  EPOCH  TERM  VOTERS  APPLIED  COMMITTED  LAST LOG
0          1      12     3     1,2     100      1000       -
1          -      12     3     1,2     100      1000       -         QUARANTINED
";
        assert_eq!(pool(&report), expected);
    }

    #[test]
    fn hashes_as_people_read_them() {
        let hash = |partition, applied, rows| HashReport {
            partition,
            applied,
            state_rows: rows,
            state: "0123456789abcdef".repeat(4),
            archive_rows: 1000 * rows,
            archive: "fedcba9876543210".repeat(4),
        };
        let expected = "\
PARTITION  APPLIED  ROWS  STATE             ARCHIVED  ARCHIVE
0          7        12    0123456789abcdef  12000     fedcba9876543210
15         1234567  3     0123456789abcdef  3000      fedcba9876543210
";
        assert_eq!(hashes(&[hash(0, 7, 12), hash(15, 1_234_567, 3)]), expected);
    }

    #[test]
    fn durations() {
        let check = |seconds, expected| assert_eq!(duration(seconds), expected);
        check(0, "0 s");
        check(119, "119 s");
        check(120, "2 min");
        check(7200, "2 h");
        check(172_800, "2 days");
    }
}
