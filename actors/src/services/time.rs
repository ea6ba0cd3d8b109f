//! XEP-0202: entity time.

use xmpp::ns;
use xmpp::write::XmlWriter;

use super::Service;

/// The server's time, in UTC.
pub fn answer() -> Service {
    let now = messaging::user::archive_page::stamp(crate::runtime::now_ms());
    let mut writer = XmlWriter::new(ns::CLIENT);
    writer
        .start_ns("time", ns::TIME)
        .leaf("tzo", "+00:00")
        .leaf("utc", &now)
        .end();
    Service::Answer(writer.finish())
}
