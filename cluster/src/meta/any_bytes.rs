//! Whatever bytes a log or a store holds: they are refused, or mean what they would be written as; nothing panics, and what a
//! replica then holds its store gives back.

use proptest::collection::vec;
use proptest::prelude::*;

use super::access::AccessEntry;
use super::audit::{AuditEntry, AuditRecord};
use super::operators::{Operator, OperatorEntry};
use super::tokens::{Token, TokenEntry};
use super::*;

/// The bodies of golden records by name.
fn golden(name: &str) -> Vec<u8> {
    const FILES: [&str; 4] = [
        include_str!("../../tests/goldens/partition.txt"),
        include_str!("../../tests/goldens/members.txt"),
        include_str!("../../tests/goldens/operators.txt"),
        include_str!("../../tests/goldens/versions.txt"),
    ];
    let lines = FILES.iter().flat_map(|file| file.lines());
    let mut hex = lines.filter_map(|line| line.strip_prefix(name)?.strip_prefix(" 1 "));
    let hex = hex.next_back().expect("there are golden bytes").trim();
    let digits = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(digits).collect();
    bytes[5..].to_vec()
}

/// An entry of each kind, as they are proposed.
fn entries() -> Vec<Vec<u8>> {
    let mut entries: Vec<MetaEntry> = Vec::new();
    for name in [
        "meta-entries",
        "meta-member-entries",
        "meta-version-entries",
    ] {
        entries.extend(codec::body::<Vec<MetaEntry>>(&golden(name)).unwrap());
    }
    let (tokens, _): (Vec<TokenEntry>, Token) = codec::body(&golden("meta-tokens")).unwrap();
    let (operators, _): (Vec<OperatorEntry>, Vec<Operator>) =
        codec::body(&golden("meta-operators")).unwrap();
    let (audit, _): (Vec<AuditEntry>, Vec<AuditRecord>) =
        codec::body(&golden("meta-audit")).unwrap();
    let access = tokens.into_iter().map(AccessEntry::Token);
    let access = access.chain(operators.into_iter().map(AccessEntry::Operator));
    let access = access.chain(audit.into_iter().map(AccessEntry::Audit));
    entries.extend(access.map(MetaEntry::Access));
    let encoded = entries.into_iter().map(|entry| entry.encode().unwrap());
    encoded.map(|bytes| bytes.to_vec()).collect()
}

/// What is done to bytes.
#[derive(Debug, Clone)]
enum Harm {
    Set(u16, u8),
    Flip(u16, u8),
    Cut(u16),
    Insert(u16, u8),
    /// Eight bytes: numbers are so long.
    Number(u16, u64),
}

fn harm() -> impl Strategy<Value = Harm> {
    let number = prop_oneof![
        Just(0),
        Just(1),
        Just(u64::MAX),
        Just(1 << 63),
        any::<u64>()
    ];
    prop_oneof![
        4 => (any::<u16>(), any::<u8>()).prop_map(|(at, byte)| Harm::Set(at, byte)),
        4 => (any::<u16>(), 0_u8..8).prop_map(|(at, bit)| Harm::Flip(at, bit)),
        1 => any::<u16>().prop_map(Harm::Cut),
        1 => (any::<u16>(), any::<u8>()).prop_map(|(at, byte)| Harm::Insert(at, byte)),
        4 => (any::<u16>(), number).prop_map(|(at, number)| Harm::Number(at, number)),
    ]
}

fn hurt(mut bytes: Vec<u8>, harms: &[Harm]) -> Vec<u8> {
    for harm in harms {
        let place = |at: &u16| usize::from(*at) % bytes.len().max(1);
        match harm {
            Harm::Set(at, byte) => {
                let at = place(at);
                bytes
                    .iter_mut()
                    .skip(at)
                    .take(1)
                    .for_each(|old| *old = *byte);
            }
            Harm::Flip(at, bit) => {
                let at = place(at);
                bytes
                    .iter_mut()
                    .skip(at)
                    .take(1)
                    .for_each(|old| *old ^= 1 << bit);
            }
            Harm::Cut(at) => {
                let at = place(at);
                bytes.truncate(at);
            }
            Harm::Insert(at, byte) => {
                let at = place(at);
                bytes.insert(at, *byte);
            }
            Harm::Number(at, number) => {
                let at = place(at);
                let olds = bytes.iter_mut().skip(at).take(8);
                olds.zip(number.to_le_bytes())
                    .for_each(|(old, new)| *old = new);
            }
        }
    }
    bytes
}

/// Both parts of the state out of rows.
fn load(rows: &[StoredRow]) -> Result<(MetaState, Access), CodecError> {
    let (mut state, mut access) = (MetaState::default(), Access::default());
    for (table, key, value) in rows {
        if !access.load_row(*table, key, value)? {
            state.load_row(*table, key, value)?;
        }
    }
    Ok((state, access))
}

fn rows(state: &MetaState, access: &Access) -> Vec<StoredRow> {
    let mut rows = state.rows().unwrap();
    rows.extend(access.rows().unwrap());
    rows
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn entries_are_refused_or_applied(
        picks in vec((any::<prop::sample::Index>(), vec(harm(), 0..3)), 1..24),
        row_harm in (any::<prop::sample::Index>(), any::<bool>(), vec(harm(), 1..3)),
    ) {
        let seeds = entries();
        let (mut state, mut access) = (MetaState::default(), Access::default());
        let mut changes = Changes::default();
        for (index, (pick, harms)) in (1_u64..).zip(&picks) {
            let bytes = hurt(pick.get(&seeds).clone(), harms);
            let Ok(entry) = MetaEntry::decode(&bytes) else { continue };
            let written = entry.clone().encode().unwrap();
            prop_assert_eq!(&MetaEntry::decode(&written).unwrap(), &entry);
            let before = (state.clone(), access.clone());
            let verdict = match entry {
                MetaEntry::Access(entry) => access.apply(entry, &mut changes),
                entry => state.apply(index, entry),
            };
            if verdict.is_err() {
                prop_assert_eq!(&before.0, &state, "a refusal changes nothing");
                prop_assert_eq!(&before.1, &access, "a refusal changes nothing");
            }
        }
        let mut all = rows(&state, &access);
        let loaded = load(&all).unwrap();
        prop_assert_eq!(&loaded.0, &state);
        prop_assert_eq!(&loaded.1, &access);

        // A hurt row is refused, or is another row.
        let (pick, is_key, harms) = row_harm;
        if all.is_empty() {
            return Ok(());
        }
        let at = pick.index(all.len());
        let (_, key, value) = &mut all[at];
        let part = if is_key { key } else { value };
        *part = hurt(part.clone(), &harms);
        if let Ok((state, access)) = load(&all) {
            let again = load(&rows(&state, &access)).unwrap();
            prop_assert_eq!(again, (state, access));
        }
    }
}
