//! How fast clients may be: from what was written to paces that can be kept.

use std::time::Duration;

use actors::allowance::UserPaces;
use xmpp::shaper::{Pace, StreamPaces};

use super::error::ConfigError;
use super::file::ConfigFile;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// What is read at once takes no longer than some seconds.
const BYTES_PER_SECOND_MIN: u64 = 4 << 10;

/// Of one session and of one user.
pub(crate) fn paces(file: &ConfigFile) -> Result<(StreamPaces, UserPaces), ConfigError> {
    let section = &file.shaping;
    let pace = |key, amount, per, burst| {
        if amount > 0 && burst == 0 {
            let reason = "must be above zero; what comes before it, at 0, means no bound";
            return Err(file.invalid("shaping", key, reason));
        }
        Ok(Pace::new(amount, per, burst))
    };
    let bytes = section.bytes_per_second.0;
    if bytes > 0 && bytes < BYTES_PER_SECOND_MIN {
        let reason = "must be 0, for no bound, or at least 4 KiB";
        return Err(file.invalid("shaping", "bytes_per_second", reason));
    }
    let a_minute = |key, amount: u32, burst: u32| pace(key, amount.into(), MINUTE, burst.into());
    let stream = StreamPaces {
        bytes: pace("bytes_burst", bytes, SECOND, section.bytes_burst.0)?,
        stanzas: pace(
            "stanzas_burst",
            section.stanzas_per_second.into(),
            SECOND,
            section.stanzas_burst.into(),
        )?,
    };
    let user = UserPaces {
        joins: a_minute("joins_burst", section.joins_per_minute, section.joins_burst)?,
        subscriptions: a_minute(
            "subscriptions_burst",
            section.subscriptions_per_minute,
            section.subscriptions_burst,
        )?,
        new_recipients: a_minute(
            "new_recipients_burst",
            section.new_recipients_per_minute,
            section.new_recipients_burst,
        )?,
    };
    Ok((stream, user))
}

/// Accounts of one address.
pub(crate) fn registrations(file: &ConfigFile) -> Result<Option<Pace>, ConfigError> {
    let section = &file.clients;
    if section.registrations_within.0.is_zero() {
        let reason = "must be above zero";
        return Err(file.invalid("clients", "registrations_within", reason));
    }
    let max = u64::from(section.registrations_per_address_max);
    Ok(Pace::new(max, section.registrations_within.0, max))
}
