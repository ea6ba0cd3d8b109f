//! The XMPP protocol of Muster: addresses, stanzas, streams, authentication, stream management.
//!
//! No I/O, no clock, no randomness: bytes, events and the time go in, elements, effects and bytes come out. The
//! other crates decide what stanzas mean; this one knows how they are spelt.
//!
//! | to read | look at |
//! |---|---|
//! | what an address is | [`jid`] |
//! | how bytes become elements, and what is refused | [`scan`] |
//! | how elements become bytes | [`write`](mod@write) |
//! | what a stanza is and how it travels | [`stanza`] |
//! | what is told to a peer that erred | [`stream_error`], [`stanza_error`] |
//! | how a client's stream is negotiated | [`stream`], [`sasl`], [`registration`] |
//! | how stanzas are acknowledged | [`stream_management`] |
//! | how fast a client may send | [`shaper`] |
//! | the payloads of extensions, each named by its meaning | the other modules; numbers stand in [`ns`] |

pub mod jid;
pub mod scan;
pub mod write;

pub mod stanza;
pub mod stanza_error;
pub mod stream_error;

pub mod ns;
mod wire_names;

pub mod payload;
pub mod timestamp;

pub mod caps;
pub mod client_state;
pub mod data_form;
pub mod disco;
pub mod rsm;

pub mod blocking;
pub mod roster;

pub mod carbons;
pub mod delay;
pub mod forward;
pub mod hints;
pub mod mam;
pub mod muc;
pub mod stanza_id;

pub mod sasl;
pub mod shaper;
pub mod stream;
pub mod stream_management;

pub mod registration;
