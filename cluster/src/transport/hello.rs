//! The hello: the first thing both ends of a connection say, right after TLS.
//!
//! Pure: bytes in, a hello or a refusal out. The opener speaks first; the other end answers with its own
//! hello, whose status says whether it accepts. Both take the highest version that both ranges hold, so
//! that a pool can be upgraded one node at a time; what the pool has finalised is the lowest that a node still speaks. Octets behind the fields known here are skipped: a later
//! version may append to them.
//!
//! ```text
//!  u16 length | "MSTR" | u8 status | u8 lane | u16 min | u16 max | u64 node | u64 incarnation
//!             | u8 pool length | pool id | (later fields)
//! ```

use bytes::{Buf, BufMut, BytesMut};

use crate::node_id::{Incarnation, NodeId, PoolId};
use crate::transport::frame::Lane;
use crate::version::VersionRange;

/// A hello is never longer than this, its length field included.
pub(crate) const HELLO_BYTES_MAX: usize = 512;

const MAGIC: &[u8; 4] = b"MSTR";
const LANE_PROBE: u8 = 0xff;

/// What a connection is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    Lane(Lane),
    /// Only to learn whether the process answers.
    Probe,
}

/// Why a hello is refused; the code travels in the answer, so that the opener's log says what is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[repr(u8)]
pub enum Refusal {
    /// The ends belong to different pools.
    #[error("it belongs to another pool")]
    WrongPool = 1,
    /// The version ranges don't meet.
    #[error("no common protocol version")]
    Protocol = 2,
    /// The hello's node id is not the certificate's.
    #[error("the certificate is another node's")]
    WrongNode = 3,
    /// The opener is no member of the pool.
    #[error("not a member of the pool")]
    NotMember = 4,
    /// A later life of the same node was seen already.
    #[error("a later incarnation of the node is known")]
    StaleIncarnation = 5,
    /// The lane does not exist.
    #[error("no such lane")]
    NoSuchLane = 6,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping = 7,
}

impl Refusal {
    fn from_code(code: u8) -> Option<Refusal> {
        use Refusal::*;
        [
            WrongPool,
            Protocol,
            WrongNode,
            NotMember,
            StaleIncarnation,
            NoSuchLane,
            Stopping,
        ]
        .into_iter()
        .find(|refusal| *refusal as u8 == code)
    }
}

/// A hello that cannot be accepted.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HelloError {
    /// What came is no hello of Muster.
    #[error("this is no Muster node's hello")]
    Malformed,
    /// The other end refused ours.
    #[error("the peer refuses: {0}; it is {1}")]
    RefusedByPeer(Refusal, String),
    /// We refuse theirs.
    #[error("refused: {0}; {1}")]
    Refused(Refusal, String),
    /// The other end refused for a reason this version doesn't know.
    #[error("the peer refuses with the unknown code {0}")]
    UnknownRefusal(u8),
}

impl HelloError {
    /// Whether the two speak no version in common.
    pub(crate) fn is_skew(&self) -> bool {
        matches!(
            self,
            HelloError::RefusedByPeer(Refusal::Protocol, _)
                | HelloError::Refused(Refusal::Protocol, _)
        )
    }
}

/// One end's hello.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Hello {
    pub(crate) status: u8,
    pub(crate) purpose: u8,
    pub(crate) protocol: VersionRange,
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) pool: String,
}

/// What a node says about itself in every hello.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) node: NodeId,
    pub(crate) pool: PoolId,
    pub(crate) incarnation: Incarnation,
    pub(crate) protocol: VersionRange,
}

impl Purpose {
    fn code(self) -> u8 {
        match self {
            Purpose::Lane(lane) => lane.code(),
            Purpose::Probe => LANE_PROBE,
        }
    }
}

impl Hello {
    /// The opener's hello.
    pub(crate) fn opening(identity: &Identity, purpose: Purpose) -> Hello {
        Hello::answering(identity, purpose.code(), None)
    }

    /// The answer to a hello for `purpose`.
    pub(crate) fn answering(identity: &Identity, purpose: u8, refusal: Option<Refusal>) -> Hello {
        Hello {
            status: refusal.map_or(0, |refusal| refusal as u8),
            purpose,
            protocol: identity.protocol,
            node: identity.node,
            incarnation: identity.incarnation,
            pool: identity.pool.as_str().to_owned(),
        }
    }

    /// The hello with its length in front.
    pub(crate) fn encode(&self) -> BytesMut {
        let mut body = BytesMut::with_capacity(96);
        body.put_slice(MAGIC);
        body.put_u8(self.status);
        body.put_u8(self.purpose);
        body.put_u16(self.protocol.min);
        body.put_u16(self.protocol.max);
        body.put_u64(self.node.0);
        body.put_u64(self.incarnation.0);
        let pool = self.pool.as_bytes();
        let pool = &pool[..pool.len().min(PoolId::LENGTH_MAX)];
        body.put_u8(u8::try_from(pool.len()).expect("a pool id is at most 40 bytes"));
        body.put_slice(pool);
        let mut out = BytesMut::with_capacity(2 + body.len());
        out.put_u16(u16::try_from(body.len()).expect("a hello is below 512 bytes"));
        out.put_slice(&body);
        out
    }

    /// Reads a hello; `body` is what stands behind the length.
    pub(crate) fn decode(mut body: &[u8]) -> Result<Hello, HelloError> {
        let mut magic = [0; 4];
        body.try_copy_to_slice(&mut magic).map_err(malformed)?;
        if &magic != MAGIC {
            return Err(HelloError::Malformed);
        }
        let status = body.try_get_u8().map_err(malformed)?;
        let purpose = body.try_get_u8().map_err(malformed)?;
        let min = body.try_get_u16().map_err(malformed)?;
        let max = body.try_get_u16().map_err(malformed)?;
        let node = NodeId(body.try_get_u64().map_err(malformed)?);
        let incarnation = Incarnation(body.try_get_u64().map_err(malformed)?);
        let pool_length = usize::from(body.try_get_u8().map_err(malformed)?);
        let pool = body.get(..pool_length).ok_or(HelloError::Malformed)?;
        let pool = std::str::from_utf8(pool)
            .map_err(|_| HelloError::Malformed)?
            .to_owned();
        Ok(Hello {
            status,
            purpose,
            protocol: VersionRange { min, max },
            node,
            incarnation,
            pool,
        })
    }

    /// The acceptor's check of an opening hello; `certified` is the id in the opener's certificate.
    pub(crate) fn accept(
        &self,
        own: &Identity,
        certified: NodeId,
    ) -> Result<(Purpose, u16), HelloError> {
        let refuse = |refusal, detail| Err(HelloError::Refused(refusal, detail));
        if self.pool != own.pool.as_str() {
            return refuse(Refusal::WrongPool, format!("it says pool {:?}", self.pool));
        }
        if self.node != certified {
            return refuse(
                Refusal::WrongNode,
                format!("it says {}, certified is {certified}", self.node),
            );
        }
        let Some(version) = own.protocol.agree(self.protocol) else {
            return refuse(
                Refusal::Protocol,
                format!("it speaks {}, we speak {}", self.protocol, own.protocol),
            );
        };
        let purpose = match self.purpose {
            LANE_PROBE => Purpose::Probe,
            code => match Lane::from_code(code) {
                Some(lane) => Purpose::Lane(lane),
                None => return refuse(Refusal::NoSuchLane, format!("lane code {code}")),
            },
        };
        Ok((purpose, version))
    }

    /// The opener's check of the answer; `wanted` is whom it meant to reach.
    pub(crate) fn check_answer(&self, own: &Identity, wanted: NodeId) -> Result<u16, HelloError> {
        if self.status != 0 {
            let refusal =
                Refusal::from_code(self.status).ok_or(HelloError::UnknownRefusal(self.status))?;
            let who = format!(
                "{} of pool {:?}, speaking {}",
                self.node, self.pool, self.protocol
            );
            return Err(HelloError::RefusedByPeer(refusal, who));
        }
        self.accept(own, wanted).map(|(_, version)| version)
    }
}

fn malformed(_: bytes::TryGetError) -> HelloError {
    HelloError::Malformed
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use storage::codec::golden::Layout;

    fn identity(node: u64, pool: &str, min: u16, max: u16) -> Identity {
        Identity {
            node: NodeId(node),
            pool: pool.parse().unwrap(),
            incarnation: Incarnation(9),
            protocol: VersionRange { min, max },
        }
    }

    #[test]
    fn hellos_are_checked_against_certificate_pool_and_versions() {
        let own = identity(1, "pool", 1, 2);
        let check = |peer: Identity, certified: u64, expect: Result<u16, Refusal>| {
            let hello = Hello::opening(&peer, Purpose::Lane(Lane::Route));
            let hello = Hello::decode(&hello.encode()[2..]).unwrap();
            match (hello.accept(&own, NodeId(certified)), expect) {
                (Ok((purpose, version)), Ok(expected)) => {
                    assert_eq!((purpose, version), (Purpose::Lane(Lane::Route), expected));
                }
                (Err(HelloError::Refused(refusal, _)), Err(expected)) => {
                    assert_eq!(refusal, expected)
                }
                (got, expected) => panic!("{got:?} instead of {expected:?}"),
            }
        };
        check(identity(2, "pool", 1, 1), 2, Ok(1));
        check(identity(2, "pool", 2, 9), 2, Ok(2));
        check(identity(2, "pool", 3, 9), 2, Err(Refusal::Protocol));
        check(identity(2, "loop", 1, 1), 2, Err(Refusal::WrongPool));
        check(identity(2, "pool", 1, 1), 3, Err(Refusal::WrongNode));
    }

    #[test]
    fn an_unknown_lane_and_the_probe_are_told_apart() {
        let own = identity(1, "pool", 1, 1);
        let mut hello = Hello::opening(&identity(2, "pool", 1, 1), Purpose::Probe);
        assert_eq!(hello.accept(&own, NodeId(2)).unwrap().0, Purpose::Probe);
        hello.purpose = 77;
        assert!(matches!(
            hello.accept(&own, NodeId(2)),
            Err(HelloError::Refused(Refusal::NoSuchLane, _))
        ));
    }

    #[test]
    fn refusals_reach_the_opener() {
        let own = identity(2, "pool", 1, 1);
        let answer = Hello::answering(&identity(1, "pool", 3, 4), 0, Some(Refusal::Protocol));
        let answer = Hello::decode(&answer.encode()[2..]).unwrap();
        let error = answer.check_answer(&own, NodeId(1)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the peer refuses: no common protocol version; it is node 1 of pool \"pool\", speaking 3 to 4"
        );
        let mut odd = answer;
        odd.status = 200;
        assert_eq!(
            odd.check_answer(&own, NodeId(1)),
            Err(HelloError::UnknownRefusal(200))
        );
    }

    /// A hello for every purpose and an answer with every status, under the names of their golden lines.
    fn samples() -> Vec<(&'static str, Hello)> {
        use Refusal::*;
        let own = Identity {
            incarnation: Incarnation(0x1112_1314_1516_1718),
            ..identity(0x0102_0304_0506_0708, "pool", 0x0201, 0x0302)
        };
        let opening = |purpose| Hello::opening(&own, purpose);
        let answer = |refusal| Hello::answering(&own, 1, refusal);
        vec![
            ("hello-raft", opening(Purpose::Lane(Lane::Raft))),
            ("hello-route", opening(Purpose::Lane(Lane::Route))),
            ("hello-bulk", opening(Purpose::Lane(Lane::Bulk))),
            ("hello-gossip", opening(Purpose::Lane(Lane::Gossip))),
            ("hello-probe", opening(Purpose::Probe)),
            ("hello-accepted", answer(None)),
            ("hello-wrong-pool", answer(Some(WrongPool))),
            ("hello-protocol", answer(Some(Protocol))),
            ("hello-wrong-node", answer(Some(WrongNode))),
            ("hello-not-member", answer(Some(NotMember))),
            ("hello-stale", answer(Some(StaleIncarnation))),
            ("hello-no-such-lane", answer(Some(NoSuchLane))),
            ("hello-stopping", answer(Some(Stopping))),
        ]
    }

    #[test]
    fn golden_bytes_of_hellos() {
        for (name, hello) in samples() {
            let layout = Layout {
                name,
                version: 1,
                written: &hello.encode(),
            };
            let read = |bytes: Vec<u8>| {
                let (length, body) = bytes.split_first_chunk()?;
                assert_eq!(usize::from(u16::from_be_bytes(*length)), body.len());
                Hello::decode(body).ok()
            };
            storage::golden_layout!("../../tests/goldens/wire.txt", layout, &hello, read);
        }
    }

    #[test]
    fn later_fields_are_skipped() {
        let hello = Hello::opening(&identity(2, "pool", 1, 1), Purpose::Probe);
        let mut bytes = hello.encode();
        bytes.extend_from_slice(b"something newer");
        assert_eq!(Hello::decode(&bytes[2..]), Ok(hello));
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_hello_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            let _ = Hello::decode(&bytes);
            let mut with_magic = MAGIC.to_vec();
            with_magic.extend_from_slice(&bytes);
            if let Ok(hello) = Hello::decode(&with_magic) {
                let _ = hello.accept(&identity(1, "pool", 1, 1), NodeId(2));
            }
        }
    }
}
