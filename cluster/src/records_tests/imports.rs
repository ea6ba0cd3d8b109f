//! Golden bytes of what imports propose, in lines of their own: they came later.

use messaging::user::import::{ImportedContact, ImportedItem, ImportedRequest};

use super::*;

#[test]
fn golden_bytes_of_imports() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Samples(Vec<Command>);

    impl Record for Samples {
        const VERSION: u8 = 1;
        const NAME: &'static str = "partition-import";
    }

    let user = juliet();
    let contact = ImportedContact {
        contact: romeo(),
        name: Some("Romeo".into()),
        groups: vec!["Friends".into()],
        to: true,
        from: false,
        pending_out: true,
        approved: true,
        listed: true,
        pending_in: Some(ImportedRequest {
            id: Some("p1".into()),
            lang: Some("en".into()),
            payload: Bytes::from_static(b"<status>hark</status>"),
        }),
    };
    let record = MessageRecord {
        sent: true,
        peer: romeo().into(),
        sender: Some(balcony()),
        stanza: message(),
    };
    let samples = Samples(vec![
        Command::BeginImport { user: user.clone() },
        Command::ImportContacts {
            user: user.clone(),
            contacts: vec![contact],
        },
        Command::ImportRows {
            user: user.clone(),
            after: 7,
            waiting: true,
            rows: vec![(1_700_000_000_000, record)],
        },
        Command::FinishImport {
            user,
            credentials: credentials(),
        },
    ]);
    samples.0.iter().for_each(is_known);
    storage::golden!("../../tests/goldens/partition.txt", &samples);
}

#[test]
fn golden_bytes_of_imported_items() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Samples(Vec<Command>);

    impl Record for Samples {
        const VERSION: u8 = 1;
        const NAME: &'static str = "partition-import-item";
    }

    let private = ImportedItem::Private {
        name: "{urn:v}v".into(),
        element: Bytes::from_static(b"<v xmlns='urn:v'/>"),
    };
    let vcard = ImportedItem::Vcard(Bytes::from_static(b"<vCard xmlns='vcard-temp'/>"));
    let items = [ImportedItem::Blocked(vec![romeo().into()]), private, vcard];
    let user = juliet();
    let commands = items.map(|item| Command::ImportItem {
        user: user.clone(),
        item,
    });
    storage::golden!(
        "../../tests/goldens/partition.txt",
        &Samples(commands.into())
    );
}
