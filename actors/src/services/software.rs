//! XEP-0092: software version. The operating system is nobody's business.

use xmpp::ns;
use xmpp::write::XmlWriter;

use super::Service;

/// Name and version.
pub fn answer() -> Service {
    let mut writer = XmlWriter::new(ns::CLIENT);
    writer
        .start_ns("query", ns::VERSION)
        .leaf("name", "Muster")
        .leaf("version", env!("CARGO_PKG_VERSION"))
        .end();
    Service::Answer(writer.finish())
}
