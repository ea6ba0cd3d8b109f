//! The kinds of values a knob may have, and how each is written in TOML.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use storage::state_store::Engine;
use toml::Value;

/// A kind of value.
pub(crate) trait Knob: Sized {
    /// What may be written, for people.
    const ALLOWED: &'static str;
    /// Whether a message must not show what was written.
    const SECRET: bool = false;

    /// Reads it; `None` if it is not allowed.
    fn read(value: &Value) -> Option<Self>;

    /// Writes it as TOML.
    fn show(&self) -> String;
}

/// A duration, written with its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

/// Bytes, written with their unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

/// A member of the pool and where the others reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemberAddress {
    pub(crate) id: u64,
    pub(crate) address: String,
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    pub(crate) address: IpAddr,
    pub(crate) prefix: u8,
}

/// 16 or 32 secret bytes as hexadecimal digits. `Debug` does not show them.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret<const N: usize>(pub(crate) [u8; N]);

impl<const N: usize> std::fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

const SPAN_UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("min", 60_000), ("h", 3_600_000)];
const SIZE_UNITS: [(&str, u64); 4] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

/// A whole number and one of the units, in the smallest unit.
fn read_quantity(value: &Value, units: &[(&str, u64)]) -> Option<u64> {
    let text = value.as_str()?;
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let unit = unit.strip_prefix(' ').unwrap_or(unit);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// The largest unit that leaves a whole number.
fn show_quantity(quantity: u64, units: &[(&str, u64)]) -> String {
    let fits = |(_, factor): &&(&str, u64)| quantity > 0 && quantity.is_multiple_of(*factor);
    let (unit, factor) = units
        .iter()
        .rev()
        .find(fits)
        .copied()
        .unwrap_or(("s", 1000));
    let unit = if quantity == 0 {
        units.first().map_or("", |(name, _)| *name)
    } else {
        unit
    };
    format!("\"{} {unit}\"", quantity / factor)
}

impl Knob for Span {
    const ALLOWED: &'static str = "a time such as \"250 ms\", \"30 s\", \"15 min\" or \"1 h\"";

    fn read(value: &Value) -> Option<Self> {
        read_quantity(value, &SPAN_UNITS).map(|millis| Span(Duration::from_millis(millis)))
    }

    fn show(&self) -> String {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        show_quantity(millis, &SPAN_UNITS)
    }
}

impl Knob for Size {
    const ALLOWED: &'static str = "a size such as \"512 B\", \"64 KiB\", \"16 MiB\" or \"1 GiB\"";

    fn read(value: &Value) -> Option<Self> {
        read_quantity(value, &SIZE_UNITS).map(Size)
    }

    fn show(&self) -> String {
        show_quantity(self.0, &SIZE_UNITS)
    }
}

impl Knob for bool {
    const ALLOWED: &'static str = "true or false";

    fn read(value: &Value) -> Option<Self> {
        value.as_bool()
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

macro_rules! whole_numbers {
    ($($kind:ty: $allowed:literal),*) => {$(
        impl Knob for $kind {
            const ALLOWED: &'static str = $allowed;

            fn read(value: &Value) -> Option<Self> {
                value.as_integer()?.try_into().ok()
            }

            fn show(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

whole_numbers!(
    u16: "a whole number of 0 to 65535",
    u32: "a whole number of 0 to 4294967295",
    u64: "a whole number, not negative",
    usize: "a whole number, not negative"
);

impl Knob for String {
    const ALLOWED: &'static str = "a text";

    fn read(value: &Value) -> Option<Self> {
        value.as_str().map(str::to_owned)
    }

    fn show(&self) -> String {
        Value::from(self.as_str()).to_string()
    }
}

impl Knob for Vec<String> {
    const ALLOWED: &'static str = "a list of texts such as [\"example.org\"]";

    fn read(value: &Value) -> Option<Self> {
        value.as_array()?.iter().map(Knob::read).collect()
    }

    fn show(&self) -> String {
        show_list(self)
    }
}

impl Knob for PathBuf {
    const ALLOWED: &'static str = "a path; if it is relative, from the folder of this file";

    fn read(value: &Value) -> Option<Self> {
        value
            .as_str()
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
    }

    fn show(&self) -> String {
        Value::from(self.to_string_lossy().as_ref()).to_string()
    }
}

impl Knob for SocketAddr {
    const ALLOWED: &'static str =
        "an address and port such as \"127.0.0.1:5222\" or \"[::1]:5222\"";

    fn read(value: &Value) -> Option<Self> {
        value.as_str()?.parse().ok()
    }

    fn show(&self) -> String {
        format!("\"{self}\"")
    }
}

impl Knob for Vec<SocketAddr> {
    const ALLOWED: &'static str = "a list of addresses and ports such as [\"127.0.0.1:5222\"]";

    fn read(value: &Value) -> Option<Self> {
        value.as_array()?.iter().map(Knob::read).collect()
    }

    fn show(&self) -> String {
        show_list(self)
    }
}

impl Knob for MemberAddress {
    const ALLOWED: &'static str = "a node's id and address such as \"1=10.0.0.1:7400\"";

    fn read(value: &Value) -> Option<Self> {
        let (id, address) = value.as_str()?.split_once('=')?;
        let (host, port) = address.rsplit_once(':')?;
        let port: u16 = port.parse().ok()?;
        let id = id.parse().ok().filter(|id| *id > 0)?;
        let good = port > 0 && !host.is_empty() && !host.contains(char::is_whitespace);
        good.then(|| MemberAddress {
            id,
            address: address.to_owned(),
        })
    }

    fn show(&self) -> String {
        format!("\"{}={}\"", self.id, self.address)
    }
}

impl Knob for Vec<MemberAddress> {
    const ALLOWED: &'static str =
        "a list of node ids and addresses such as [\"1=10.0.0.1:7400\", \"2=10.0.0.2:7400\"]";

    fn read(value: &Value) -> Option<Self> {
        value.as_array()?.iter().map(Knob::read).collect()
    }

    fn show(&self) -> String {
        show_list(self)
    }
}

impl Knob for Network {
    const ALLOWED: &'static str = "a network such as \"10.0.0.0/8\"";

    fn read(value: &Value) -> Option<Self> {
        let (address, prefix) = value.as_str()?.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let prefix: u8 = prefix.parse().ok()?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        (prefix <= bits).then_some(Network { address, prefix })
    }

    fn show(&self) -> String {
        format!("\"{}/{}\"", self.address, self.prefix)
    }
}

impl Knob for Vec<Network> {
    const ALLOWED: &'static str = "a list of networks such as [\"127.0.0.0/8\", \"fd00::/8\"]";

    fn read(value: &Value) -> Option<Self> {
        value.as_array()?.iter().map(Knob::read).collect()
    }

    fn show(&self) -> String {
        show_list(self)
    }
}

fn show_list<T: Knob>(list: &[T]) -> String {
    let shown: Vec<String> = list.iter().map(Knob::show).collect();
    format!("[{}]", shown.join(", "))
}

impl Knob for Engine {
    const ALLOWED: &'static str = "\"sled\" or \"fjall\"";

    fn read(value: &Value) -> Option<Self> {
        match value.as_str()? {
            "sled" => Some(Engine::Sled),
            "fjall" => Some(Engine::Fjall),
            _ => None,
        }
    }

    fn show(&self) -> String {
        match self {
            Engine::Sled => "\"sled\"".to_owned(),
            Engine::Fjall => "\"fjall\"".to_owned(),
        }
    }
}

impl<const N: usize> Knob for Secret<N> {
    const ALLOWED: &'static str = "the hexadecimal digits that `muster init` wrote";
    const SECRET: bool = true;

    fn read(value: &Value) -> Option<Self> {
        let hex = |text: &&str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let text = value
            .as_str()
            .filter(|text| text.len() == 2 * N)
            .filter(hex)?;
        let mut bytes = [0; N];
        for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
        }
        Some(Secret(bytes))
    }

    fn show(&self) -> String {
        let digits: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("\"{digits}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: Knob>(text: &str) -> Option<T> {
        T::read(&Value::from(text))
    }

    #[test]
    fn times_and_sizes() {
        let time = |text, millis: Option<u64>| {
            assert_eq!(
                read(text),
                millis.map(|ms| Span(Duration::from_millis(ms))),
                "{text}"
            );
        };
        time("250 ms", Some(250));
        time("30s", Some(30_000));
        time("15 min", Some(900_000));
        time("1 h", Some(3_600_000));
        time("0 s", Some(0));
        for wrong in [
            "",
            "5",
            "s",
            "-1 s",
            "1.5 s",
            "1  s",
            "1 day",
            "99999999999999999999 s",
            "18446744073709551615 h",
        ] {
            time(wrong, None);
        }
        let size = |text, bytes: Option<u64>| assert_eq!(read(text), bytes.map(Size), "{text}");
        size("512 B", Some(512));
        size("64KiB", Some(65_536));
        size("1 GiB", Some(1 << 30));
        size("1 MB", None);
        size("1", None);
        let shown = |millis, expected| {
            assert_eq!(Span(Duration::from_millis(millis)).show(), expected);
        };
        shown(250, "\"250 ms\"");
        shown(90_000, "\"90 s\"");
        shown(60_000, "\"1 min\"");
        shown(0, "\"0 ms\"");
        assert_eq!(Size(3 << 20).show(), "\"3 MiB\"");
        assert_eq!(Size(1000).show(), "\"1000 B\"");
    }

    #[test]
    fn members_and_networks() {
        let member =
            |text, good: bool| assert_eq!(read::<MemberAddress>(text).is_some(), good, "{text}");
        member("1=10.0.0.1:7400", true);
        member("12=node-12.example.org:1", true);
        member("1=[::1]:7400", true);
        for wrong in [
            "0=a:1",
            "1=a",
            "1=a:0",
            "1=:1",
            "=a:1",
            "a:1",
            "1=a b:1",
            "1=a:70000",
            "x=a:1",
        ] {
            member(wrong, false);
        }
        let network =
            |text, good: bool| assert_eq!(read::<Network>(text).is_some(), good, "{text}");
        network("10.0.0.0/8", true);
        network("::1/128", true);
        network("10.0.0.0/33", false);
        network("10.0.0.0", false);
        network("a/8", false);
    }

    #[test]
    fn secrets_come_back_and_stay_hidden() {
        let secret = Secret([0x5a; 16]);
        let shown = secret.show();
        assert_eq!(
            Secret::<16>::read(&Value::from(shown.trim_matches('"'))),
            Some(secret.clone())
        );
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        for wrong in [
            "",
            "5a",
            &"5".repeat(31),
            &"x".repeat(32),
            &"+5".repeat(16),
            &"é".repeat(16),
        ] {
            let good = read::<Secret<16>>(wrong);
            assert!(good.is_none(), "{wrong}");
        }
    }
}
