//! Which requests with a cookie come from the console's own page, and not from another one in the same browser.
//!
//! A browser sends the cookie along whoever makes it send the request. `SameSite=Strict` keeps other sites out; another port
//! of the same host is the same *site*, so that is not enough. Three more things must be so, each by itself enough in
//! browsers of today:
//!
//! - `Sec-Fetch-Site`, where it is sent, says `same-origin` (or `none` for what only reads: a person typed the address);
//! - `Origin`, where it is sent, is this host and port; what changes something must send it;
//! - what changes something carries the header [`HEADER`], which another origin may send only after a question (CORS) that
//!   the control port never answers with yes.

use actix_web::http::Method;
use actix_web::http::header::{HOST, HeaderMap, HeaderName, ORIGIN};

/// What the page's requests carry: `1`, or `poll` where nobody asked but a clock.
pub(crate) const HEADER: HeaderName = HeaderName::from_static("x-muster-console");

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Whether a request comes from the page, or for reading from a person.
pub(crate) fn is_own(method: &Method, headers: &HeaderMap) -> bool {
    let only_reads = matches!(*method, Method::GET | Method::HEAD);
    let site = match one(headers, &FETCH_SITE) {
        Sent::Not => true,
        Sent::Once("same-origin") => true,
        Sent::Once("none") => only_reads,
        Sent::Once(_) | Sent::Badly => false,
    };
    let origin = match (one(headers, &ORIGIN), one(headers, &HOST)) {
        (Sent::Not, _) => only_reads,
        (Sent::Once(origin), Sent::Once(host)) => origin
            .strip_prefix("https://")
            .is_some_and(|origin| origin.eq_ignore_ascii_case(host)),
        _ => false,
    };
    let marked = only_reads || matches!(one(headers, &HEADER), Sent::Once(_));
    site && origin && marked
}

/// Whether a person asked, and not a clock.
pub(crate) fn is_by_a_person(headers: &HeaderMap) -> bool {
    matches!(one(headers, &HEADER), Sent::Once("1"))
}

/// How a header was sent.
enum Sent<'a> {
    Not,
    Once(&'a str),
    /// Twice, or with octets that are no text.
    Badly,
}

fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Sent<'a> {
    let mut values = headers.get_all(name);
    match (values.next(), values.next()) {
        (None, _) => Sent::Not,
        (Some(value), None) => value.to_str().map_or(Sent::Badly, Sent::Once),
        _ => Sent::Badly,
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    fn check(method: Method, headers: &[(&'static str, &'static str)], own: bool) {
        let mut map = HeaderMap::new();
        map.append(HOST, HeaderValue::from_static("127.0.0.1:7480"));
        for &(name, value) in headers {
            let name = HeaderName::from_static(name);
            map.append(name, HeaderValue::from_static(value));
        }
        assert_eq!(is_own(&method, &map), own, "{method} {headers:?}");
    }

    #[test]
    fn only_the_own_page_is_own() {
        let origin = ("origin", "https://127.0.0.1:7480");
        let mark = ("x-muster-console", "1");
        let site = ("sec-fetch-site", "same-origin");
        check(Method::GET, &[], true);
        check(Method::GET, &[site], true);
        check(Method::GET, &[("sec-fetch-site", "none")], true);
        check(Method::GET, &[("sec-fetch-site", "same-site")], false);
        check(Method::GET, &[("sec-fetch-site", "cross-site")], false);
        check(Method::GET, &[site, site], false);
        check(Method::GET, &[("origin", "https://127.0.0.1")], false);
        check(Method::POST, &[origin, mark, site], true);
        check(Method::POST, &[origin, mark], true);
        check(
            Method::POST,
            &[
                ("origin", "https://127.0.0.1:7480"),
                ("x-muster-console", "poll"),
            ],
            true,
        );
        check(Method::POST, &[origin, site], false);
        check(Method::POST, &[mark, site], false);
        check(
            Method::POST,
            &[origin, mark, ("sec-fetch-site", "none")],
            false,
        );
        check(
            Method::POST,
            &[origin, mark, ("sec-fetch-site", "same-site")],
            false,
        );
        check(Method::POST, &[origin, origin, mark], false);
        for foreign in [
            "null",
            "http://127.0.0.1:7480",
            "https://127.0.0.1:7481",
            "https://127.0.0.1:7480.example.org",
            "https://user@127.0.0.1:7480",
            "https://",
        ] {
            check(Method::DELETE, &[("origin", foreign), mark, site], false);
        }
    }
}
