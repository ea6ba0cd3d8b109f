//! The limits and times of a link.

use std::time::Duration;

/// The limits and times of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkSettings {
    /// The most proposals without an answer. Default 1,024, which is also the maximum: as many answers are kept.
    pub proposals_max: usize,
    /// The most soft publications that are not taken. Default 4,096.
    pub publishes_max: usize,
    /// The most questions without an answer. Default 4,096.
    pub asks_max: usize,
    /// The most bytes of all that waits. Default 16 MiB.
    pub bytes_max: u64,
    /// How long a caller waits for an outcome. Default 10 s.
    pub deadline: Duration,
    /// How long an owner may take to answer an attachment before it is sent again. Default 3 s.
    pub attach_wait: Duration,
    /// How long to wait after a lost connection or a refusal before attaching without news. Default 250 ms.
    pub retry_wait: Duration,
    /// The shortest time between two attachments to the same owner. Default 100 ms.
    pub attach_pause: Duration,
    /// How long nothing may move while something is open before the node attaches again. Default 4 s.
    pub stall_wait: Duration,
    /// How long after an attachment missing rows may take to come. Default 1 s.
    pub hole_wait: Duration,
}

impl Default for LinkSettings {
    fn default() -> Self {
        LinkSettings {
            proposals_max: messaging::link_record::ANSWERS_MAX,
            publishes_max: 4_096,
            asks_max: 4_096,
            bytes_max: 16 * 1024 * 1024,
            deadline: Duration::from_secs(10),
            attach_wait: Duration::from_secs(3),
            retry_wait: Duration::from_millis(250),
            attach_pause: Duration::from_millis(100),
            stall_wait: Duration::from_secs(4),
            hole_wait: Duration::from_secs(1),
        }
    }
}
