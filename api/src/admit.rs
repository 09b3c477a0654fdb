//! Who may ask: by the name that was addressed, by where a browser comes from, by the token.
//!
//! A page of somebody else's must not ask through the browser of one of our users: neither under its own name (a name that
//! was made to point here) nor under ours (a form or a script of another origin).

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tidegate_engine::settings::ApiSettings;

use crate::page;
use crate::router::problem;

/// What may be asked without a token: whether it lives.
const OPEN: [&str; 2] = ["/health", "/readyz"];

/// Who is let in.
pub struct Admission {
    /// The digest of the token: digests compare in the same time whatever they are.
    token: Option<blake3::Hash>,
    hosts: Vec<String>,
}

impl Admission {
    /// As the settings say.
    pub fn new(settings: &ApiSettings) -> Arc<Self> {
        let token = (!settings.token.is_empty()).then(|| blake3::hash(settings.token.as_bytes()));
        let hosts = settings.hosts.iter().map(|host| host.to_lowercase()).collect();
        Arc::new(Self { token, hosts })
    }

    fn has_token(&self, headers: &HeaderMap) -> bool {
        let Some(token) = self.token else { return true };
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|value| value.split_once(' '));
        given.is_some_and(|(scheme, given)| {
            scheme.eq_ignore_ascii_case("bearer") && blake3::hash(given.trim().as_bytes()) == token
        })
    }

    /// Whether a name cannot have been made to point here by somebody else: an address, a name of this network, or ours.
    fn is_ours(&self, host: &str) -> bool {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let local = !host.contains('.') || host.ends_with(".localhost");
        bare.parse::<IpAddr>().is_ok() || local || self.hosts.contains(&host.to_lowercase())
    }
}

/// The host that a request is for, and its port.
fn authority(uri: &Uri, headers: &HeaderMap) -> Option<Uri> {
    let told = headers.get(header::HOST).and_then(|value| value.to_str().ok());
    let told = uri.authority().map(ToString::to_string).or_else(|| told.map(str::to_string))?;
    format!("http://{told}").parse().ok()
}

/// Lets a request in, or says why not.
pub async fn admit(State(admission): State<Arc<Admission>>, request: Request, next: Next) -> Response {
    match refusal(&admission, request.uri(), request.headers()) {
        None => next.run(request).await,
        Some(refused) => refused,
    }
}

fn refusal(admission: &Admission, uri: &Uri, headers: &HeaderMap) -> Option<Response> {
    let forbidden = |why: &str, hint: &str| Some(problem(StatusCode::FORBIDDEN, "TG-API-HOST", why, Some(hint)));
    let Some(addressed) = authority(uri, headers) else {
        return forbidden("the request does not say whom it is for", "send a Host header");
    };
    if !addressed.host().is_some_and(|host| admission.is_ours(host)) {
        let hint = "address it by IP or by a name without a dot, or put the name into api.hosts";
        return forbidden("the request is for another host", hint);
    }
    let text = |name: header::HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let foreign = text(header::ORIGIN).is_some_and(|origin| {
        origin.parse::<Uri>().ok().and_then(|origin| origin.authority().cloned()).as_ref() != addressed.authority()
    });
    let cross = headers.get("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none");
    // A link to a page may stand anywhere: it has no data.
    if foreign || cross && !matches!(uri.path(), "/" | "/api") {
        return forbidden("the request comes from a page of another origin", "ask from the page that this api serves");
    }
    if OPEN.contains(&uri.path()) || page::PATHS.contains(&uri.path()) || admission.has_token(headers) {
        return None;
    }
    let told = problem(
        StatusCode::UNAUTHORIZED,
        "TG-API-TOKEN",
        "this needs the api's token",
        Some("send Authorization: Bearer TOKEN, with the token of api.token"),
    );
    Some(([(header::WWW_AUTHENTICATE, "Bearer")], told).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(settings: &ApiSettings, path: &str, headers: &[(&str, &str)]) -> u16 {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(name.parse::<header::HeaderName>().unwrap(), value.parse().unwrap());
        }
        let refused = refusal(&Admission::new(settings), &path.parse().unwrap(), &map);
        refused.map_or(200, |response| response.status().as_u16())
    }

    #[test]
    fn a_name_that_somebody_made_to_point_here_is_refused() {
        let mut settings = ApiSettings::default();
        for host in ["127.0.0.1:8000", "localhost:8000", "metrics-api:8000", "[::1]:8000", "10.0.0.7"] {
            assert_eq!(status(&settings, "/x", &[("host", host)]), 200, "{host}");
        }
        for host in ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""] {
            assert_eq!(status(&settings, "/x", &[("host", host)]), 403, "{host}");
        }
        assert_eq!(status(&settings, "/x", &[]), 403);
        settings.hosts = vec!["Metrics.Example".to_string()];
        assert_eq!(status(&settings, "/x", &[("host", "metrics.example:80")]), 200);
    }

    #[test]
    fn a_page_of_another_origin_is_refused() {
        let settings = ApiSettings::default();
        let host = ("host", "localhost:8000");
        assert_eq!(status(&settings, "/x", &[host, ("origin", "http://localhost:8000")]), 200);
        for origin in ["http://evil.example", "null", "http://localhost:9000"] {
            assert_eq!(status(&settings, "/x", &[host, ("origin", origin)]), 403, "{origin}");
        }
        assert_eq!(status(&settings, "/x", &[host, ("sec-fetch-site", "cross-site")]), 403);
        assert_eq!(status(&settings, "/x", &[host, ("sec-fetch-site", "same-site")]), 403);
        assert_eq!(status(&settings, "/x", &[host, ("sec-fetch-site", "same-origin")]), 200);
    }

    #[test]
    fn everything_but_health_needs_the_token() {
        let settings = ApiSettings { token: "s3cret".to_string(), ..ApiSettings::default() };
        let host = ("host", "localhost");
        for (path, authorization, expected) in [
            ("/health", "", 200),
            ("/readyz", "", 200),
            ("/prometheus", "", 401),
            ("/api/v1/sql?token=s3cret", "", 401),
            ("/api/v1/sql", "Bearer s3cret", 200),
            ("/api/v1/sql", "bearer s3cret", 200),
            ("/api/v1/sql", "Bearer s3cre", 401),
            ("/api/v1/sql", "Bearer", 401),
            ("/api/v1/sql", "Basic s3cret", 401),
            ("/health/../api/v1/sql", "", 401),
        ] {
            let given = [host, ("authorization", authorization)];
            assert_eq!(status(&settings, path, &given), expected, "{path} {authorization}");
        }
    }
}
