//! Errors as problem documents (RFC 9457), each with a stable type.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde::Serialize;

/// What can be wrong with a request, or with us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// No such page.
    UnknownPath,
    /// A tag that no post carries.
    UnknownTag(String),
    /// A name that no tag can have.
    BadName(String),
    /// A query key that is unknown, repeated or unreadable.
    BadQuery(String),
    /// A request that HTTP leaves open to abuse.
    BadRequest(&'static str),
    /// A path and query that are too long.
    TooLong,
    /// A body where none belongs.
    Body,
    /// Another method than GET and HEAD.
    Method,
    /// Nothing to show yet, or the store does not answer.
    Unavailable(String),
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
}

impl Problem {
    fn parts(&self) -> (StatusCode, &'static str, &'static str, &str) {
        match self {
            Self::UnknownPath => (
                StatusCode::NOT_FOUND,
                "unknown-path",
                "No such page",
                "tags are at /tags/{name} (JSON) and /t/{name} (page)",
            ),
            Self::UnknownTag(detail) => {
                (StatusCode::NOT_FOUND, "unknown-tag", "Unknown tag", detail)
            }
            Self::BadName(detail) => {
                (StatusCode::BAD_REQUEST, "bad-name", "Not a tag's name", detail)
            }
            Self::BadQuery(detail) => {
                (StatusCode::BAD_REQUEST, "bad-query", "Unusable query", detail)
            }
            Self::BadRequest(detail) => {
                (StatusCode::BAD_REQUEST, "bad-request", "Unusable request", detail)
            }
            Self::TooLong => (
                StatusCode::URI_TOO_LONG,
                "too-long",
                "Path too long",
                "a path and its query have at most 2048 bytes",
            ),
            Self::Body => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "body",
                "Unexpected body",
                "a request here has no body",
            ),
            Self::Method => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method",
                "Method not allowed",
                "only GET and HEAD are answered",
            ),
            Self::Unavailable(detail) => {
                (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Not available", detail)
            }
        }
    }

    /// The answer.
    pub(crate) fn response(&self) -> Response<Full<Bytes>> {
        let (status, name, title, detail) = self.parts();
        let r#type = format!("/problems/{name}");
        let document = Document { r#type: &r#type, title, status: status.as_u16(), detail };
        // Texts and numbers always have a JSON form.
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        let text = hyper::header::HeaderValue::from_static;
        headers.insert(CONTENT_TYPE, text("application/problem+json"));
        let cacheable = matches!(self, Self::UnknownTag(_));
        let caching = if cacheable { "public, max-age=1" } else { "no-store" };
        headers.insert(CACHE_CONTROL, text(caching));
        match self {
            Self::Method => drop(headers.insert(ALLOW, text("GET, HEAD"))),
            Self::Unavailable(_) => drop(headers.insert(RETRY_AFTER, text("1"))),
            // What follows on this connection cannot be trusted to begin where we think.
            Self::Body | Self::BadRequest(_) => drop(headers.insert(CONNECTION, text("close"))),
            _ => {}
        }
        response
    }
}
