//! The console page: files that are part of the program, at `/console`. They are the same for everybody and hold no secret;
//! what they show they ask from `/v1/…`, as whoever has signed in.

use actix_web::http::header::{
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, LOCATION, PERMISSIONS_POLICY,
};
use actix_web::web::{Path, ServiceConfig, get, head, resource, to};
use actix_web::{HttpResponse, Responder};

use crate::error::ControlError;

/// Nothing but what this port serves, and no word of it as a program unless it is a file of its own.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");

/// What a file is called, what it is, and what is in it.
struct File {
    name: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
}

macro_rules! files {
    ($($name:literal: $kind:expr,)*) => {
        [$(File {
            name: $name,
            kind: $kind,
            bytes: include_bytes!(concat!("../console/", $name)),
        }),*]
    };
}

const PAGE: &[u8] = include_bytes!("../console/index.html");

const FILES: &[File] = &files! {
    "console.css": STYLE,
    "console.js": SCRIPT,
    "api.js": SCRIPT,
    "elements.js": SCRIPT,
    "tables.js": SCRIPT,
    "pool.js": SCRIPT,
    "operations.js": SCRIPT,
    "progress.js": SCRIPT,
    "tokens.js": SCRIPT,
    "charts.js": SCRIPT,
    "partitions.js": SCRIPT,
    "sessions.js": SCRIPT,
    "audit.js": SCRIPT,
    "icon.svg": "image/svg+xml",
    "uPlot.iife.min.js": SCRIPT,
    "uPlot.min.css": STYLE,
    "uPlot.LICENSE": "text/plain; charset=utf-8",
};

pub(crate) fn routes(config: &mut ServiceConfig) {
    config
        .service(
            resource("/")
                .route(get().to(from_the_root))
                .route(head().to(from_the_root))
                .default_service(to(not_allowed)),
        )
        .service(
            resource("/console")
                .route(get().to(page))
                .route(head().to(page))
                .default_service(to(not_allowed)),
        )
        .service(
            resource("/console/{file}")
                .route(get().to(file))
                .route(head().to(file))
                .default_service(to(not_allowed)),
        );
}

async fn from_the_root() -> impl Responder {
    HttpResponse::SeeOther()
        .insert_header((LOCATION, "/console"))
        .finish()
}

async fn page() -> impl Responder {
    served("text/html; charset=utf-8", PAGE)
}

async fn file(name: Path<String>) -> Result<HttpResponse, ControlError> {
    let file = FILES.iter().find(|file| file.name == name.as_str());
    let file = file.ok_or(ControlError::NoSuchPath)?;
    Ok(served(file.kind, file.bytes))
}

fn served(kind: &str, bytes: &'static [u8]) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, kind))
        .insert_header((CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((OPENER_POLICY, "same-origin"))
        .insert_header((
            PERMISSIONS_POLICY,
            "camera=(), microphone=(), geolocation=()",
        ))
        .body(bytes)
}

async fn not_allowed() -> Result<HttpResponse, ControlError> {
    Err(ControlError::MethodNotAllowed("GET, HEAD"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the page names is there, and what is there is named by the page or a module that it loads.
    #[test]
    fn the_page_is_whole() {
        let text = |bytes: &'static [u8]| std::str::from_utf8(bytes).unwrap();
        let scripts = FILES.iter().filter(|file| file.name.ends_with(".js"));
        let imports = scripts.flat_map(|file| text(file.bytes).split("from \"./").skip(1));
        let imported: Vec<&str> = imports.filter_map(|rest| rest.split('"').next()).collect();
        let linked = text(PAGE).split("\"/console/").skip(1);
        let linked: Vec<&str> = linked.filter_map(|rest| rest.split('"').next()).collect();
        let known = |name: &str| FILES.iter().any(|file| file.name == name);
        for name in imported.iter().chain(&linked) {
            assert!(known(name), "{name} is not served");
        }
        for file in FILES.iter().filter(|file| !file.name.ends_with("LICENSE")) {
            let used = imported.contains(&file.name) || linked.contains(&file.name);
            assert!(used, "nobody uses {}", file.name);
        }
        let licence = FILES.iter().find(|file| file.name == "uPlot.LICENSE");
        assert!(licence.is_some_and(|file| text(file.bytes).contains("MIT License")));
    }

    /// The policy would hold such things up: no script or style stands in the page itself, no handler in an attribute.
    #[test]
    fn nothing_is_written_into_the_page() {
        let page = std::str::from_utf8(PAGE).unwrap();
        for rest in page.split("<script").skip(1) {
            assert!(
                rest.contains("src=\"/console/") && rest.contains("></script>"),
                "{rest}"
            );
        }
        for (what, banned) in [
            ("style", "<style"),
            ("style", " style="),
            ("handler", " on"),
        ] {
            let found = page.split(banned).skip(1).any(|rest| {
                banned != " on"
                    || rest.split('=').next().is_some_and(|word| {
                        word.len() < 12 && word.chars().all(char::is_alphabetic)
                    })
            });
            assert!(!found, "a {what} in the page");
        }
        for file in FILES
            .iter()
            .filter(|file| file.name.ends_with(".js") && !file.name.starts_with("uPlot"))
        {
            let text = std::str::from_utf8(file.bytes).unwrap();
            for banned in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "localStorage",
                "sessionStorage",
            ] {
                assert!(!text.contains(banned), "{banned} in {}", file.name);
            }
        }
    }
}
