//! The PROXY protocol, versions 1 and 2: how a load balancer says whom it speaks for, before the first byte of TLS or XMPP.
//! Source: <https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt>.
//!
//! Only connections from the networks that the operator names begin with such a header, and those must: otherwise a
//! client could claim any address. The reader never takes a byte behind the header.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How far a header has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Header {
    /// At least so many more bytes belong to it.
    Needs(usize),
    /// It is whole. `None`: the balancer speaks for itself, or doesn't know for whom.
    Whole(Option<IpAddr>),
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProxyError {
    /// They begin otherwise.
    #[error("the connection does not begin with a PROXY header")]
    Missing,
    /// A version, command or kind of connection that we don't know.
    #[error("the PROXY header is of a kind that is not supported")]
    Unsupported,
    /// It is longer than may be.
    #[error("the PROXY header is too long")]
    TooLong,
    /// It begins well and does not go on so.
    #[error("the PROXY header is malformed")]
    Malformed,
}

/// §2.2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const PREFIX: &[u8; 6] = b"PROXY ";

/// §2.1: the longest line of version 1, its end included.
const LINE_BYTES_MAX: usize = 107;

/// The shortest, `PROXY UNKNOWN`, its end included.
const LINE_BYTES_MIN: usize = 15;

/// What comes before the length in version 2.
const HEAD_BYTES: usize = 16;

/// What may come behind the head of version 2: addresses, and what balancers add (§2.2.1 has no bound but 65,535).
const REST_BYTES_MAX: usize = 2_048;

/// Looks at all that has come of a header.
///
/// # Errors
/// When it is none, whatever may follow.
pub(crate) fn parse(bytes: &[u8]) -> Result<Header, ProxyError> {
    let begins = |with: &[u8]| {
        bytes
            .iter()
            .zip(with)
            .all(|(byte, expected)| byte == expected)
    };
    if bytes.is_empty() {
        // The shorter of both.
        Ok(Header::Needs(LINE_BYTES_MIN))
    } else if begins(SIGNATURE) {
        version_2(bytes)
    } else if begins(PREFIX) {
        version_1(bytes)
    } else {
        Err(ProxyError::Missing)
    }
}

/// §2.1: a line of text.
fn version_1(bytes: &[u8]) -> Result<Header, ProxyError> {
    if bytes.len() < LINE_BYTES_MIN {
        return Ok(Header::Needs(LINE_BYTES_MIN - bytes.len()));
    }
    let Some(line) = bytes.strip_suffix(b"\r\n") else {
        let needs = if bytes.ends_with(b"\r") { 1 } else { 2 };
        return match bytes.len() + needs <= LINE_BYTES_MAX {
            true => Ok(Header::Needs(needs)),
            false => Err(ProxyError::TooLong),
        };
    };
    let line = std::str::from_utf8(line).map_err(|_| ProxyError::Malformed)?;
    if line.contains(['\r', '\n']) {
        return Err(ProxyError::Malformed);
    }
    let fields: Vec<&str> = line.split(' ').skip(1).collect();
    let (source, destination, ports) = match fields.as_slice() {
        ["UNKNOWN", ..] => return Ok(Header::Whole(None)),
        ["TCP4", source, destination, from, to] => (v4(source), v4(destination), [from, to]),
        ["TCP6", source, destination, from, to] => (v6(source), v6(destination), [from, to]),
        _ => return Err(ProxyError::Malformed),
    };
    let are_ports = ports.iter().all(|port| port.parse::<u16>().is_ok());
    match (source, destination) {
        (Some(source), Some(_)) if are_ports => Ok(Header::Whole(Some(source))),
        _ => Err(ProxyError::Malformed),
    }
}

fn v4(text: &str) -> Option<IpAddr> {
    text.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
}

fn v6(text: &str) -> Option<IpAddr> {
    text.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

/// §2.2: a head of 16 bytes, whose last two are the length of the rest.
fn version_2(bytes: &[u8]) -> Result<Header, ProxyError> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() else {
        return Ok(Header::Needs(HEAD_BYTES - bytes.len()));
    };
    let [.., command, kind, high, low] = *head;
    if !matches!(command, 0x20 | 0x21) {
        return Err(ProxyError::Unsupported);
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > REST_BYTES_MAX {
        return Err(ProxyError::TooLong);
    }
    if rest.len() < length {
        return Ok(Header::Needs(length - rest.len()));
    }
    // LOCAL: a health check of the balancer's own; whatever else it says doesn't count.
    if command == 0x20 {
        return Ok(Header::Whole(None));
    }
    let address = match kind {
        0x00 => None,
        0x11 => Some(source::<4, 12>(rest)?.into()),
        0x21 => Some(source::<16, 36>(rest)?.into()),
        _ => return Err(ProxyError::Unsupported),
    };
    Ok(Header::Whole(address))
}

/// The source among the addresses and ports, which take `ALL` bytes.
fn source<const ADDRESS: usize, const ALL: usize>(
    rest: &[u8],
) -> Result<[u8; ADDRESS], ProxyError> {
    let addresses = rest.first_chunk::<ALL>().ok_or(ProxyError::Malformed)?;
    addresses
        .first_chunk()
        .copied()
        .ok_or(ProxyError::Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Version 2 with this command, kind and rest.
    fn v2_header(command: u8, kind: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, kind], &length, rest].concat()
    }

    fn tcp4() -> Vec<u8> {
        v2_header(
            0x21,
            0x11,
            &[192, 0, 2, 7, 10, 0, 0, 1, 0x30, 0x39, 0x14, 0x66],
        )
    }

    fn tcp6() -> Vec<u8> {
        let addresses = [
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7).octets(),
            Ipv6Addr::LOCALHOST.octets(),
        ];
        // What balancers add behind the addresses is passed over.
        v2_header(
            0x21,
            0x21,
            &[addresses.as_flattened(), &[1, 2, 3, 4], &[3, 0, 1, 9]].concat(),
        )
    }

    fn good() -> Vec<(Vec<u8>, Option<&'static str>)> {
        let line = |text: &str| text.as_bytes().to_vec();
        vec![
            (
                line("PROXY TCP4 192.0.2.7 10.0.0.1 12345 5222\r\n"),
                Some("192.0.2.7"),
            ),
            (
                line("PROXY TCP6 2001:db8::7 ::1 12345 5222\r\n"),
                Some("2001:db8::7"),
            ),
            (line("PROXY UNKNOWN\r\n"), None),
            (line("PROXY UNKNOWN ff:: ff:: 1 2\r\n"), None),
            (tcp4(), Some("192.0.2.7")),
            (tcp6(), Some("2001:db8::7")),
            (v2_header(0x20, 0x00, &[]), None),
            (v2_header(0x20, 0x11, &[9; 40]), None),
            (v2_header(0x21, 0x00, &[9; 40]), None),
        ]
    }

    /// Reads as a connection is read: as many bytes as are asked for, each time.
    fn read(stream: &[u8]) -> Result<(usize, Option<IpAddr>), ProxyError> {
        let mut upto = 0;
        loop {
            match parse(stream.get(..upto).expect("the stream is long enough"))? {
                Header::Needs(more) => {
                    assert!(more > 0);
                    upto += more;
                }
                Header::Whole(address) => return Ok((upto, address)),
            }
        }
    }

    #[test]
    fn headers_are_read_to_their_last_byte_and_no_further() {
        for (header, address) in good() {
            let expect = (
                header.len(),
                address.map(|address| address.parse().unwrap()),
            );
            let stream = [&header[..], b"<?xml version='1.0'?>"].concat();
            assert_eq!(read(&stream), Ok(expect), "{}", header.escape_ascii());
        }
    }

    #[test]
    fn a_header_cut_anywhere_asks_for_no_more_than_is_missing() {
        for (header, _) in good() {
            for cut in 0..header.len() {
                let missing = header.len() - cut;
                match parse(&header[..cut]) {
                    Ok(Header::Needs(more)) => assert!((1..=missing).contains(&more), "{cut}"),
                    other => panic!("{other:?} at {cut} of {}", header.escape_ascii()),
                }
            }
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let check = |bytes: &[u8], error: ProxyError| {
            assert_eq!(parse(bytes), Err(error), "{}", bytes.escape_ascii());
        };
        check(b"<", ProxyError::Missing);
        check(b"\x16\x03\x01", ProxyError::Missing);
        check(b"PROXX", ProxyError::Missing);
        check(b"\r\n\r\n\0\r\nQUIX", ProxyError::Missing);
        check(b"GET / HTTP/1.1\r\n", ProxyError::Missing);
        for line in [
            "PROXY TCP4 192.0.2.7 10.0.0.1 12345\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 12345 5222 1\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 12345 65536\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 -1 5222\r\n",
            "PROXY TCP4 2001:db8::7 ::1 12345 5222\r\n",
            "PROXY TCP6 192.0.2.7 10.0.0.1 12345 5222\r\n",
            "PROXY TCP4  192.0.2.7 10.0.0.1 12345 5222\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.256 12345 5222\r\n",
            "PROXY SCTP 192.0.2.7 10.0.0.1 12345 5222\r\n",
            "PROXY TCP4 192.0.2.7\n10.0.0.1 12345 5222\r\n",
            "PROXY TCP4 192.0.2.7\r 10.0.0.1 12345 5222\r\n",
            "PROXY unknown\r\n",
        ] {
            check(line.as_bytes(), ProxyError::Malformed);
        }
        check(
            b"PROXY TCP4 \xff\xff\xff\xff\xff\r\n",
            ProxyError::Malformed,
        );
        check(
            &[b"PROXY UNKNOWN ", &[b'x'; 92][..]].concat(),
            ProxyError::TooLong,
        );
        check(&v2_header(0x31, 0x11, &[0; 12]), ProxyError::Unsupported);
        check(&v2_header(0x22, 0x11, &[0; 12]), ProxyError::Unsupported);
        check(&v2_header(0x21, 0x12, &[0; 12]), ProxyError::Unsupported);
        check(&v2_header(0x21, 0x31, &[0; 216]), ProxyError::Unsupported);
        check(&v2_header(0x21, 0x11, &[0; 11]), ProxyError::Malformed);
        check(&v2_header(0x21, 0x21, &[0; 35]), ProxyError::Malformed);
        // Before the rest is waited for.
        check(
            &v2_header(0x21, 0x11, &[0; 2_049])[..16],
            ProxyError::TooLong,
        );
        check(
            &[&SIGNATURE[..], &[0x21, 0x11, 0xff, 0xff]].concat(),
            ProxyError::TooLong,
        );
    }

    proptest! {
        /// Whatever comes: no panic, and never more is asked for than the longest header has.
        #[test]
        fn any_bytes_are_survived(
            start in 0usize..3,
            bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let head: &[u8] = [&b""[..], PREFIX, SIGNATURE][start];
            let all = [head, &bytes].concat();
            for upto in 0..=all.len() {
                if let Ok(Header::Needs(more)) = parse(&all[..upto]) {
                    prop_assert!(more > 0 && upto + more <= HEAD_BYTES + REST_BYTES_MAX);
                }
            }
        }
    }
}
