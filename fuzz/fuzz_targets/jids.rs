//! Addresses: preparing one that is prepared changes nothing, and its parts are the address.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xmpp::jid::{BareJid, FullJid, Jid};

const PART_BYTES_MAX: usize = 1_023;

fn is_short(part: Option<&str>) -> bool {
    part.is_none_or(|part| (1..=PART_BYTES_MAX).contains(&part.len()))
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (bare, full) = (BareJid::parse(text), FullJid::parse(text));
    let Ok(jid) = Jid::parse(text) else {
        assert!(bare.is_err() && full.is_err());
        return;
    };
    assert_eq!(
        Jid::parse(jid.as_str()).as_ref(),
        Ok(&jid),
        "prepared once more"
    );
    let (local, domain, resource) = (jid.local(), jid.domain(), jid.resource());
    assert!(is_short(local) && is_short(Some(domain)) && is_short(resource));
    let again = Jid::from_parts(local, domain, resource);
    assert_eq!(again.as_ref(), Ok(&jid), "put together from its parts");
    assert_eq!(jid.is_bare(), resource.is_none());
    assert_eq!(
        (bare.is_ok(), full.is_ok()),
        (resource.is_none(), resource.is_some())
    );
    assert_eq!(jid.bare().as_str(), jid.bare_str());
    if let (Some(full), Some(resource)) = (jid.to_full(), resource) {
        assert_eq!(full.as_str(), jid.as_str());
        assert_eq!(full.bare().with_resource(resource).as_ref(), Ok(&full));
    }
    assert!(!jid.as_str().contains('\0'));
});
