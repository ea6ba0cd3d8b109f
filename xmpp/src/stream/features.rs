//! The registry of features: what is advertised, and where.
//!
//! One entry a feature. Stream features, service discovery and the list of supported specifications in the
//! documentation all come from here, so that none of them can claim what the others do not.

use crate::ns;

/// A feature that Muster has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// What people call it.
    pub name: &'static str,
    /// The document that defines it.
    pub specification: &'static str,
    /// Its namespace, which is also its name in service discovery.
    pub namespace: &'static str,
    /// Where it is advertised.
    pub advertised: &'static [Place],
}

/// A place where features are advertised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// In `<stream:features/>`, by its own element.
    Stream(StreamFeature),
    /// disco#info of a served domain.
    DiscoServer,
    /// disco#info of an account's bare address.
    DiscoAccount,
    /// disco#info of the rooms' service.
    DiscoRooms,
    /// disco#info of a room.
    DiscoRoom,
}

/// A feature with an element in `<stream:features/>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamFeature {
    /// `<starttls/>`.
    StartTls,
    /// `<mechanisms/>`.
    Sasl,
    /// `<register/>`.
    Register,
    /// `<bind/>`.
    Bind,
    /// `<sm/>`.
    StreamManagement,
    /// `<ver/>`.
    RosterVersions,
    /// `<sub/>`.
    PreApproval,
    /// `<csi/>`.
    ClientState,
    /// `<limits/>`.
    Limits,
}

const fn stream(
    name: &'static str,
    specification: &'static str,
    namespace: &'static str,
    advertised: &'static [Place],
) -> Feature {
    Feature {
        name,
        specification,
        namespace,
        advertised,
    }
}

/// Every feature, in the order in which stream features are written.
pub const FEATURES: &[Feature] = &[
    stream(
        "STARTTLS",
        "RFC 6120 §5",
        ns::TLS,
        &[Place::Stream(StreamFeature::StartTls)],
    ),
    stream(
        "SASL",
        "RFC 6120 §6",
        ns::SASL,
        &[Place::Stream(StreamFeature::Sasl)],
    ),
    stream(
        "In-band registration",
        "XEP-0077",
        ns::REGISTER_FEATURE,
        &[Place::Stream(StreamFeature::Register)],
    ),
    stream(
        "Resource binding",
        "RFC 6120 §7",
        ns::BIND,
        &[Place::Stream(StreamFeature::Bind)],
    ),
    stream(
        "Stream management",
        "XEP-0198",
        ns::STREAM_MANAGEMENT,
        &[Place::Stream(StreamFeature::StreamManagement)],
    ),
    stream(
        "Roster versions",
        "RFC 6121 §2.6",
        ns::ROSTER_VERSIONS,
        &[Place::Stream(StreamFeature::RosterVersions)],
    ),
    stream(
        "Subscription pre-approval",
        "RFC 6121 §3.4",
        ns::PRE_APPROVAL,
        &[Place::Stream(StreamFeature::PreApproval)],
    ),
    stream(
        "Client state indication",
        "XEP-0352",
        ns::CLIENT_STATE,
        &[Place::Stream(StreamFeature::ClientState)],
    ),
    stream(
        "Stream limits",
        "XEP-0478",
        ns::STREAM_LIMITS,
        &[Place::Stream(StreamFeature::Limits)],
    ),
    stream(
        "Registration on a bound stream",
        "XEP-0077",
        ns::REGISTER,
        &[Place::DiscoServer],
    ),
    stream(
        "Service discovery, information",
        "XEP-0030",
        ns::DISCO_INFO,
        &[
            Place::DiscoServer,
            Place::DiscoAccount,
            Place::DiscoRooms,
            Place::DiscoRoom,
        ],
    ),
    stream(
        "Service discovery, items",
        "XEP-0030",
        ns::DISCO_ITEMS,
        &[
            Place::DiscoServer,
            Place::DiscoAccount,
            Place::DiscoRooms,
            Place::DiscoRoom,
        ],
    ),
    stream(
        "Ping",
        "XEP-0199",
        ns::PING,
        &[Place::DiscoServer, Place::DiscoAccount, Place::DiscoRooms],
    ),
    stream(
        "Software version",
        "XEP-0092",
        ns::VERSION,
        &[Place::DiscoServer, Place::DiscoRooms],
    ),
    stream(
        "Entity time",
        "XEP-0202",
        ns::TIME,
        &[Place::DiscoServer, Place::DiscoRooms],
    ),
    stream("Roster", "RFC 6121 §2", ns::ROSTER, &[Place::DiscoServer]),
    stream(
        "Private XML",
        "XEP-0049",
        ns::PRIVATE,
        &[Place::DiscoServer],
    ),
    stream(
        "vCards",
        "XEP-0054",
        ns::VCARD,
        &[Place::DiscoServer, Place::DiscoAccount],
    ),
    stream(
        "Offline messages",
        "XEP-0160",
        ns::OFFLINE,
        &[Place::DiscoServer],
    ),
    stream("Blocking", "XEP-0191", ns::BLOCKING, &[Place::DiscoServer]),
    stream("Carbons", "XEP-0280", ns::CARBONS, &[Place::DiscoServer]),
    stream(
        "Message archive",
        "XEP-0313",
        ns::MAM,
        &[Place::DiscoAccount, Place::DiscoRoom],
    ),
    stream(
        "Message archive, extended",
        "XEP-0313",
        ns::MAM_EXTENDED,
        &[Place::DiscoAccount, Place::DiscoRoom],
    ),
    stream(
        "Stanza ids",
        "XEP-0359",
        ns::STANZA_ID,
        &[Place::DiscoAccount, Place::DiscoRoom],
    ),
    stream(
        "Rooms",
        "XEP-0045",
        ns::MUC,
        &[Place::DiscoRooms, Place::DiscoRoom],
    ),
    stream(
        "Requests for voice",
        "XEP-0045 §8.6",
        ns::MUC_REQUEST,
        &[Place::DiscoRoom],
    ),
    stream(
        "Stable ids of room messages",
        "XEP-0045 §7.4",
        ns::MUC_STABLE_ID,
        &[Place::DiscoRooms, Place::DiscoRoom],
    ),
    stream(
        "Self-ping in rooms",
        "XEP-0410",
        ns::MUC_SELF_PING,
        &[Place::DiscoRoom],
    ),
    stream(
        "Occupant ids",
        "XEP-0421",
        ns::OCCUPANT_ID,
        &[Place::DiscoRooms, Place::DiscoRoom],
    ),
];

/// The stream features in the order in which they are written.
pub fn stream_features() -> impl Iterator<Item = StreamFeature> {
    FEATURES
        .iter()
        .flat_map(|feature| feature.advertised)
        .filter_map(|place| match place {
            Place::Stream(feature) => Some(*feature),
            _ => None,
        })
}

/// The namespaces to name in the disco#info of a place.
pub fn namespaces_at(place: Place) -> impl Iterator<Item = &'static str> {
    FEATURES
        .iter()
        .filter(move |feature| feature.advertised.contains(&place))
        .map(|feature| feature.namespace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_feature_has_one_entry_and_one_place_at_least() {
        let namespaces: BTreeSet<_> = FEATURES.iter().map(|feature| feature.namespace).collect();
        assert_eq!(namespaces.len(), FEATURES.len());
        assert!(
            FEATURES
                .iter()
                .all(|feature| !feature.advertised.is_empty())
        );
    }

    #[test]
    fn session_establishment_is_not_advertised() {
        assert!(
            FEATURES
                .iter()
                .all(|feature| feature.namespace != ns::SESSION)
        );
    }
}
