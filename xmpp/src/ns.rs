//! Namespace names: every XML namespace that Muster speaks, one constant each.
//!
//! Extensions are named by meaning; the number of the specification stands beside the constant.

/// Stanzas between client and server (RFC 6120 §4.8.2).
pub const CLIENT: &str = "jabber:client";
/// Stanzas between servers (RFC 6120 §4.8.2).
pub const SERVER: &str = "jabber:server";
/// Stanzas between a component and its server (XEP-0114).
pub const COMPONENT_ACCEPT: &str = "jabber:component:accept";
/// The stream itself: header, features, errors (RFC 6120 §4.8.1).
pub const STREAM: &str = "http://etherx.jabber.org/streams";
/// Conditions of stream errors (RFC 6120 §4.9.2).
pub const STREAM_ERROR: &str = "urn:ietf:params:xml:ns:xmpp-streams";
/// Conditions of stanza errors (RFC 6120 §8.3.2).
pub const STANZA_ERROR: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";
/// The namespace that the prefix `xml` is bound to.
pub const XML: &str = "http://www.w3.org/XML/1998/namespace";
/// The namespace that the prefix `xmlns` is bound to.
pub const XMLNS: &str = "http://www.w3.org/2000/xmlns/";
/// STARTTLS negotiation (RFC 6120 §5).
pub const TLS: &str = "urn:ietf:params:xml:ns:xmpp-tls";
/// SASL negotiation (RFC 6120 §6).
pub const SASL: &str = "urn:ietf:params:xml:ns:xmpp-sasl";
/// SASL with one round trip less (XEP-0388).
pub const SASL2: &str = "urn:xmpp:sasl:2";
/// Channel-binding types a server offers (XEP-0440).
pub const SASL_CHANNEL_BINDING: &str = "urn:xmpp:sasl-cb:0";
/// Upgrade of stored credentials at login (XEP-0480).
pub const SASL_UPGRADE: &str = "urn:xmpp:sasl:upgrade:0";
/// Resumption tokens for logins (XEP-0484).
pub const FAST: &str = "urn:xmpp:fast:0";
/// Resource binding (RFC 6120 §7).
pub const BIND: &str = "urn:ietf:params:xml:ns:xmpp-bind";
/// Resource binding inside authentication (XEP-0386).
pub const BIND2: &str = "urn:xmpp:bind:0";
/// Session establishment: answered, never advertised (RFC 3921 §3, RFC 6121 appendix E).
pub const SESSION: &str = "urn:ietf:params:xml:ns:xmpp-session";
/// Streams over WebSocket (RFC 7395 §3.3).
pub const FRAMING: &str = "urn:ietf:params:xml:ns:xmpp-framing";
/// Streams over HTTP (XEP-0124).
pub const HTTP_BIND: &str = "http://jabber.org/protocol/httpbind";
/// XMPP's extensions of streams over HTTP (XEP-0206).
pub const XBOSH: &str = "urn:xmpp:xbosh";
/// Stream management (XEP-0198).
pub const STREAM_MANAGEMENT: &str = "urn:xmpp:sm:3";
/// Stream limits advertisement (XEP-0478).
pub const STREAM_LIMITS: &str = "urn:xmpp:stream-limits:0";
/// In-band registration (XEP-0077).
pub const REGISTER: &str = "jabber:iq:register";
/// The stream feature of in-band registration (XEP-0077 §8).
pub const REGISTER_FEATURE: &str = "http://jabber.org/features/iq-register";
/// Client state indication (XEP-0352).
pub const CLIENT_STATE: &str = "urn:xmpp:csi:0";

/// Rosters (RFC 6121 §2).
pub const ROSTER: &str = "jabber:iq:roster";
/// The stream feature of roster versions (RFC 6121 §2.6.1).
pub const ROSTER_VERSIONS: &str = "urn:xmpp:features:rosterver";
/// The stream feature of subscription pre-approval (RFC 6121 §3.4).
pub const PRE_APPROVAL: &str = "urn:xmpp:features:pre-approval";
/// Last activity (XEP-0012).
pub const LAST_ACTIVITY: &str = "jabber:iq:last";
/// Information about an entity (XEP-0030).
pub const DISCO_INFO: &str = "http://jabber.org/protocol/disco#info";
/// Items of an entity (XEP-0030).
pub const DISCO_ITEMS: &str = "http://jabber.org/protocol/disco#items";
/// Data forms (XEP-0004).
pub const DATA_FORM: &str = "jabber:x:data";
/// Validation of data forms (XEP-0122).
pub const DATA_FORM_VALIDATE: &str = "http://jabber.org/protocol/xdata-validate";
/// Paging through results (XEP-0059).
pub const RSM: &str = "http://jabber.org/protocol/rsm";
/// Private XML storage (XEP-0049).
pub const PRIVATE: &str = "jabber:iq:private";
/// Bookmarks in private storage (XEP-0048).
pub const BOOKMARKS_LEGACY: &str = "storage:bookmarks";
/// Bookmarks in PEP (XEP-0402).
pub const BOOKMARKS: &str = "urn:xmpp:bookmarks:1";
/// Compatibility between the two kinds of bookmarks (XEP-0402 §5).
pub const BOOKMARKS_COMPAT: &str = "urn:xmpp:bookmarks:1#compat";
/// Ad-hoc commands (XEP-0050).
pub const COMMANDS: &str = "http://jabber.org/protocol/commands";
/// Administration by ad-hoc commands (XEP-0133).
pub const ADMIN: &str = "http://jabber.org/protocol/admin";
/// vCards (XEP-0054).
pub const VCARD: &str = "vcard-temp";
/// Avatar hashes in presence (XEP-0153).
pub const VCARD_UPDATE: &str = "vcard-temp:x:update";
/// Conversion between vCard and PEP avatars (XEP-0398).
pub const AVATAR_CONVERSION: &str = "urn:xmpp:pep-vcard-conversion:0";
/// Avatar data in PEP (XEP-0084).
pub const AVATAR_DATA: &str = "urn:xmpp:avatar:data";
/// Avatar metadata in PEP (XEP-0084).
pub const AVATAR_METADATA: &str = "urn:xmpp:avatar:metadata";
/// Publish-subscribe (XEP-0060).
pub const PUBSUB: &str = "http://jabber.org/protocol/pubsub";
/// Notifications of publish-subscribe (XEP-0060).
pub const PUBSUB_EVENT: &str = "http://jabber.org/protocol/pubsub#event";
/// Owner requests of publish-subscribe (XEP-0060).
pub const PUBSUB_OWNER: &str = "http://jabber.org/protocol/pubsub#owner";
/// Error conditions of publish-subscribe (XEP-0060).
pub const PUBSUB_ERRORS: &str = "http://jabber.org/protocol/pubsub#errors";
/// Preconditions of a publication (XEP-0060 §7.1.5).
pub const PUBSUB_PUBLISH_OPTIONS: &str = "http://jabber.org/protocol/pubsub#publish-options";
/// Configuration form of a publish-subscribe node (XEP-0060).
pub const PUBSUB_NODE_CONFIG: &str = "http://jabber.org/protocol/pubsub#node_config";
/// Rooms (XEP-0045).
pub const MUC: &str = "http://jabber.org/protocol/muc";
/// Rooms: what concerns occupants (XEP-0045).
pub const MUC_USER: &str = "http://jabber.org/protocol/muc#user";
/// Rooms: moderators' and admins' requests (XEP-0045).
pub const MUC_ADMIN: &str = "http://jabber.org/protocol/muc#admin";
/// Rooms: owners' requests (XEP-0045).
pub const MUC_OWNER: &str = "http://jabber.org/protocol/muc#owner";
/// Rooms: form type of the configuration (XEP-0045 §16.5.3).
pub const MUC_ROOM_CONFIG: &str = "http://jabber.org/protocol/muc#roomconfig";
/// Rooms: form type of extended disco information (XEP-0045 §16.5.4).
pub const MUC_ROOM_INFO: &str = "http://jabber.org/protocol/muc#roominfo";
/// Rooms: form type of a request for voice (XEP-0045 §16.5.2).
pub const MUC_REQUEST: &str = "http://jabber.org/protocol/muc#request";
/// Rooms: form type of a registration (XEP-0045 §16.5.1).
pub const MUC_REGISTER: &str = "http://jabber.org/protocol/muc#register";
/// Rooms: a stable id at reflection (XEP-0045 §18.4, disco feature).
pub const MUC_STABLE_ID: &str = "http://jabber.org/protocol/muc#stable_id";
/// Optimised self-ping of rooms (XEP-0410).
pub const MUC_SELF_PING: &str = "http://jabber.org/protocol/muc#self-ping-optimization";
/// Direct invitations to rooms (XEP-0249).
pub const CONFERENCE: &str = "jabber:x:conference";
/// Occupant ids (XEP-0421).
pub const OCCUPANT_ID: &str = "urn:xmpp:occupant-id:0";
/// Hats of occupants (XEP-0317).
pub const HATS: &str = "urn:xmpp:hats:0";
/// Retraction of messages (XEP-0424).
pub const RETRACT: &str = "urn:xmpp:message-retract:1";
/// Moderation of messages in rooms (XEP-0425).
pub const MODERATE: &str = "urn:xmpp:message-moderate:1";
/// Blocking (XEP-0191).
pub const BLOCKING: &str = "urn:xmpp:blocking";
/// Error condition of a blocked recipient (XEP-0191 §3.5).
pub const BLOCKING_ERRORS: &str = "urn:xmpp:blocking:errors";
/// Ping (XEP-0199).
pub const PING: &str = "urn:xmpp:ping";
/// Software version (XEP-0092).
pub const VERSION: &str = "jabber:iq:version";
/// Entity time (XEP-0202).
pub const TIME: &str = "urn:xmpp:time";
/// Delayed delivery (XEP-0203).
pub const DELAY: &str = "urn:xmpp:delay";
/// Receipts (XEP-0184).
pub const RECEIPTS: &str = "urn:xmpp:receipts";
/// Entity capabilities (XEP-0115).
pub const CAPS: &str = "http://jabber.org/protocol/caps";
/// Carbons (XEP-0280).
pub const CARBONS: &str = "urn:xmpp:carbons:2";
/// Rules by which messages are carbon-copied (XEP-0280 §6.1).
pub const CARBONS_RULES: &str = "urn:xmpp:carbons:rules:0";
/// Forwarded stanzas (XEP-0297).
pub const FORWARD: &str = "urn:xmpp:forward:0";
/// Message archives (XEP-0313).
pub const MAM: &str = "urn:xmpp:mam:2";
/// Extended fields and metadata of message archives (XEP-0313 §5).
pub const MAM_EXTENDED: &str = "urn:xmpp:mam:2#extended";
/// Full-text search of archives (XEP-0431).
pub const FULL_TEXT: &str = "urn:xmpp:fulltext:0";
/// Message processing hints (XEP-0334).
pub const HINTS: &str = "urn:xmpp:hints";
/// Stanza ids and origin ids (XEP-0359).
pub const STANZA_ID: &str = "urn:xmpp:sid:0";
/// Chat markers (XEP-0333).
pub const CHAT_MARKERS: &str = "urn:xmpp:chat-markers:0";
/// Chat states (XEP-0085).
pub const CHAT_STATES: &str = "http://jabber.org/protocol/chatstates";
/// Displayed synchronisation (XEP-0490).
pub const DISPLAYED_SYNC: &str = "urn:xmpp:mds:displayed:0";
/// Inbox (XEP-0430).
pub const INBOX: &str = "urn:xmpp:inbox:1";
/// Push notifications (XEP-0357).
pub const PUSH: &str = "urn:xmpp:push:0";
/// Uploads over HTTP (XEP-0363).
pub const HTTP_UPLOAD: &str = "urn:xmpp:http:upload:0";
/// External services such as TURN (XEP-0215).
pub const EXTERNAL_SERVICES: &str = "urn:xmpp:extdisco:2";
/// Contact addresses of a service (XEP-0157).
pub const SERVER_INFO: &str = "http://jabber.org/network/serverinfo";
/// Messages wait for who is offline (XEP-0160), named by disco.
pub const OFFLINE: &str = "msgoffline";
