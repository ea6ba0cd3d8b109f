//! Points in time as XMPP writes them (XEP-0082): `2026-11-22T17:00:00.123Z`.
//!
//! No clock here: the time is given in. Years 0 to 9999, proleptic Gregorian, UTC.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(i64);

/// The text is no XEP-0082 date and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a date and time")]
pub struct TimestampError;

const DAY_MILLIS: i64 = 86_400_000;

impl Timestamp {
    /// A time so many milliseconds after (or before) the start of 1970.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the start of 1970.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Reads `CCYY-MM-DDThh:mm:ss[.sss]TZD`, any number of decimals, `Z` or an offset (XEP-0082 §3.2).
    pub fn parse(text: &str) -> Result<Self, TimestampError> {
        Self::parse_fields(text).ok_or(TimestampError)
    }

    fn parse_fields(text: &str) -> Option<Self> {
        let (date, rest) = text.split_once('T')?;
        let (year, month_day) = date.split_once('-')?;
        let (month, day) = month_day.split_once('-')?;
        let (year, month, day) = (digits(year, 4)?, digits(month, 2)?, digits(day, 2)?);
        let (time, offset_millis) = split_zone(rest)?;
        let (clock, fraction) = time
            .split_once('.')
            .map_or((time, None), |(clock, rest)| (clock, Some(rest)));
        let (hour, minute_second) = clock.split_once(':')?;
        let (minute, second) = minute_second.split_once(':')?;
        let (hour, minute, second) = (digits(hour, 2)?, digits(minute, 2)?, digits(second, 2)?);
        let in_range = (1..=12).contains(&month)
            && (1..=days_in_month(year, month)).contains(&day)
            && hour <= 23
            && minute <= 59
            // A leap second is the last the clock can hold.
            && second <= 60;
        if !in_range {
            return None;
        }
        let millis = fraction.map_or(Some(0), fraction_millis)?;
        let seconds = (hour * 60 + minute) * 60 + second.min(59);
        Some(Self(
            days_from_civil(year, month, day) * DAY_MILLIS + seconds * 1000 + millis
                - offset_millis,
        ))
    }
}

/// Exactly so many decimal digits.
fn digits(text: &str, len: usize) -> Option<i64> {
    let valid = text.len() == len && text.bytes().all(|byte| byte.is_ascii_digit());
    if valid { text.parse().ok() } else { None }
}

/// Splits off `Z` or `±hh:mm`; gives the offset east of Greenwich.
fn split_zone(text: &str) -> Option<(&str, i64)> {
    if let Some(time) = text.strip_suffix('Z') {
        return Some((time, 0));
    }
    let at = text.rfind(['+', '-'])?;
    let (time, zone) = text.split_at_checked(at)?;
    let (sign, zone) = zone.split_at_checked(1)?;
    let (hours, minutes) = zone.split_once(':')?;
    let (hours, minutes) = (digits(hours, 2)?, digits(minutes, 2)?);
    if hours > 23 || minutes > 59 {
        return None;
    }
    let millis = (hours * 60 + minutes) * 60_000;
    Some((time, if sign == "-" { -millis } else { millis }))
}

/// The first three decimals; the others are read and dropped.
fn fraction_millis(text: &str) -> Option<i64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let mut decimals = text
        .bytes()
        .map(|byte| i64::from(byte - b'0'))
        .chain([0, 0]);
    let mut next = || decimals.next().unwrap_or(0);
    Some(next() * 100 + next() * 10 + next())
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01. The year starts in March here, so that the leap day is its last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The inverse of [`days_from_civil`]: (year, month, day).
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_from_days(self.0.div_euclid(DAY_MILLIS));
        let millis = self.0.rem_euclid(DAY_MILLIS);
        let (hour, minute, second) = (millis / 3_600_000, millis / 60_000 % 60, millis / 1000 % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z",
            millis % 1000
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, expect: Option<i64>) {
        assert_eq!(
            Timestamp::parse(text).ok().map(Timestamp::as_millis),
            expect,
            "{text:?}"
        );
    }

    #[test]
    fn reading() {
        check("1970-01-01T00:00:00Z", Some(0));
        check("1969-07-21T02:56:15Z", Some(-14_159_025_000));
        check("1969-07-20T21:56:15-05:00", Some(-14_159_025_000));
        check("2026-11-22T17:00:00.5Z", Some(1_795_366_800_500));
        check("2026-11-22T18:30:00.500999+01:30", Some(1_795_366_800_500));
        check("2000-02-29T00:00:00Z", Some(951_782_400_000));
        check("2016-12-31T23:59:60Z", Some(1_483_228_799_000));
        for text in [
            "",
            "T",
            "1970-01-01",
            "1970-01-01T00:00:00",
            "1970-01-01 00:00:00Z",
            "1900-02-29T00:00:00Z",
            "1970-13-01T00:00:00Z",
            "1970-00-01T00:00:00Z",
            "1970-01-00T00:00:00Z",
            "1970-01-01T24:00:00Z",
            "1970-01-01T00:60:00Z",
            "1970-01-01T00:00:61Z",
            "1970-01-01T00:00:00.Z",
            "1970-01-01T00:00:00.xZ",
            "19700101T00:00:00",
            "+970-01-01T00:00:00Z",
            "1970-01-01T00:00:00+1:00",
            "1970-01-01T00:00:00+24:00",
            "1970-01-01T00:00:00é",
            "1970-01-01T00:00Z",
        ] {
            check(text, None);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(millis in -62_000_000_000_000i64..253_000_000_000_000) {
            let time = Timestamp::from_millis(millis);
            prop_assert_eq!(Timestamp::parse(&time.to_string()), Ok(time));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC{0,30}") {
            let _ = Timestamp::parse(&text);
        }
    }
}
