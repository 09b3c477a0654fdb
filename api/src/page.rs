//! The page at `/` and the reference at `/api`: files of the binary, bundled from `api/page` (see `docs/page.md`).
//!
//! ```text
//!  GET /                       index.html
//!  GET /app.js                 what it does
//!  GET /app.css                how both look
//!  GET /api, /api/reference.js what may be asked, drawn from `/api/openapi.json`
//! ```
//!
//! They hold no data and ask the api like anybody else, so it is open to whoever may not know the token yet. Whatever the
//! database says reaches it as text; should some of that ever become a script, the policy forbids it to run.

use axum::Router;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::cache::is_known;

/// The paths, for whoever decides what needs a token.
pub const PATHS: [&str; 5] = ["/", "/app.js", "/app.css", "/api", "/api/reference.js"];

/// Nothing from elsewhere, nothing inline, in nobody's frame. Images may stand in the text: the page's icon does.
const POLICY: &str = "default-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// A file as it is served.
#[derive(Clone, Copy)]
struct File {
    media: &'static str,
    text: &'static str,
}

const INDEX: File = File { media: "text/html; charset=utf-8", text: include_str!("../page/dist/index.html") };
const SCRIPT: File = File { media: "text/javascript; charset=utf-8", text: include_str!("../page/dist/app.js") };
const REFERENCE: File = File { media: INDEX.media, text: include_str!("../page/dist/reference.html") };
const REFERENCE_SCRIPT: File = File { media: SCRIPT.media, text: include_str!("../page/dist/reference.js") };
const STYLE: File = File { media: "text/css; charset=utf-8", text: include_str!("../page/dist/app.css") };

/// The routes.
pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    PATHS.iter().zip([INDEX, SCRIPT, STYLE, REFERENCE, REFERENCE_SCRIPT]).fold(Router::new(), |router, (path, file)| {
        let tag = format!("\"{}\"", blake3::hash(file.text.as_bytes()).to_hex());
        router.route(path, get(move |headers: HeaderMap| std::future::ready(answer(&file, &tag, &headers))))
    })
}

/// A file, unless the browser has it already.
fn answer(file: &File, tag: &str, headers: &HeaderMap) -> Response {
    let mut response = if is_known(tag, headers) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, file.media)], file.text).into_response()
    };
    let mut set = |name: HeaderName, value: &'static str| {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    };
    set(header::CACHE_CONTROL, "no-cache");
    set(header::CONTENT_SECURITY_POLICY, POLICY);
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::REFERRER_POLICY, "no-referrer");
    if let Ok(tag) = HeaderValue::from_str(tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_browser_has_is_not_sent_again() {
        let asked = |known: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, known.parse().unwrap());
            answer(&INDEX, "\"a1\"", &headers)
        };
        for (known, status) in [("\"a1\"", 304), ("W/\"a1\"", 304), ("\"b2\", \"a1\"", 304), ("\"b2\"", 200)] {
            assert_eq!(asked(known).status().as_u16(), status, "{known}");
        }
        assert_eq!(asked("\"b2\"").headers()[header::CONTENT_TYPE], INDEX.media);
        assert!(asked("\"a1\"").headers().contains_key(header::CONTENT_SECURITY_POLICY));
    }

    #[test]
    fn the_page_has_nothing_inline() {
        for inline in ["<style", " style=", " onclick=", " onload=", "<script>"] {
            assert!(!INDEX.text.contains(inline) && !REFERENCE.text.contains(inline), "{inline}");
        }
    }
}
