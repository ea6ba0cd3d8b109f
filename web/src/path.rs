//! Canonical paths: every page has one spelling, so that a rule about a path can't be written around.

/// Whether a raw path is the one spelling of what it names: no empty, `.` or `..` segment, nothing encoded that
/// needs none (RFC 3986 §2.3) or that would add a segment, hex digits in upper case (§6.2.2.1).
pub(crate) fn is_canonical(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else {
        return false;
    };
    rest.split('/')
        .all(|segment| !matches!(segment, "" | "." | "..") && is_canonical_segment(segment))
}

fn is_canonical_segment(segment: &str) -> bool {
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        let fine = match byte {
            b'%' => {
                let (Some(high), Some(low)) =
                    (bytes.next().and_then(hex), bytes.next().and_then(hex))
                else {
                    return false;
                };
                let decoded = high << 4 | low;
                !is_plain(decoded) && decoded != b'/' && !decoded.is_ascii_control()
            }
            _ => is_plain(byte),
        };
        if !fine {
            return false;
        }
    }
    true
}

/// What a segment has unencoded (RFC 3986 §3.3).
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte)
}

/// The path of a user's page, in its one spelling.
pub fn user_path(user: &str) -> String {
    path_of("/v1/users", user)
}

/// The path of something in a list, in its one spelling.
pub fn path_of(list: &str, name: &str) -> String {
    format!("{list}/{}", quoted(name))
}

/// A path with one parameter behind it.
pub fn path_with(path: &str, parameter: &str, value: &str) -> String {
    format!("{path}?{parameter}={}", quoted(value))
}

/// What stands for itself, and the rest percent-encoded (RFC 3986 §2.1).
fn quoted(text: &str) -> String {
    let mut quoted = String::new();
    for byte in text.bytes() {
        if is_plain(byte) {
            quoted.push(char::from(byte));
        } else {
            quoted.push_str(&format!("%{byte:02X}"));
        }
    }
    quoted
}

fn hex(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(path: &str, canonical: bool) {
        assert_eq!(is_canonical(path), canonical, "{path}");
    }

    #[test]
    fn one_spelling_a_page() {
        check("/v1/users", true);
        check("/v1/users/alice@localhost", true);
        check("/v1/users/alice@localhost/password", true);
        check("/v1/users/%C3%A4@localhost", true);
        check("/v1/users/a%20b@localhost", true);
        check("/", false);
        check("", false);
        check("v1/users", false);
        check("/v1/users/", false);
        check("/v1//users", false);
        check("/v1/./users", false);
        check("/v1/x/../users", false);
        check("/v1/%2E%2E/users", false);
        check("/v1/%75sers", false);
        check("/v1/users/alice%40localhost", false);
        check("/v1/users/a%2Fb", false);
        check("/v1/users/a%5Cb", true);
        check("/v1/users/%c3%a4", false);
        check("/v1/users/%", false);
        check("/v1/users/%4", false);
        check("/v1/users/%00", false);
        check("/v1/users/%2525", true);
        check("/v1/users/a b", false);
        check("/v1/users/ä", false);
    }

    proptest! {
        #[test]
        fn every_address_has_a_page(text in "[^/@]{1,20}@[a-z]{1,9}") {
            if let Ok(user) = xmpp::jid::BareJid::parse(&text) {
                prop_assert!(is_canonical(&user_path(user.as_str())), "{}", user.as_str());
            }
        }

        #[test]
        fn any_path_is_judged_without_panic(path in ".{0,60}") {
            let _ = is_canonical(&path);
        }

        #[test]
        fn two_canonical_paths_never_mean_the_same(a in "/[%a4A0-9]{1,4}", b in "/[%a4A0-9]{1,4}") {
            prop_assume!(a != b && is_canonical(&a) && is_canonical(&b));
            let decoded = |path: &str| {
                let mut bytes = path.bytes();
                let mut out = Vec::new();
                while let Some(byte) = bytes.next() {
                    out.push(if byte == b'%' {
                        hex(bytes.next().unwrap()).unwrap() << 4 | hex(bytes.next().unwrap()).unwrap()
                    } else {
                        byte
                    });
                }
                out
            };
            prop_assert_ne!(decoded(&a), decoded(&b));
        }
    }
}
