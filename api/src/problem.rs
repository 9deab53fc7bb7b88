//! Errors as problem documents (RFC 9457), each with a stable type.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde::Serialize;

/// What is wrong with a request, or with the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// No route has this path.
    UnknownPath,
    /// No post carries this tag.
    UnknownTag(String),
    /// No tag can have this name.
    BadName(String),
    /// A query key that is unknown, repeated or not UTF-8.
    BadQuery(String),
    /// A request that HTTP allows, but that only attackers send.
    BadRequest(&'static str),
    /// The path and query are too long.
    TooLong,
    /// The request has a body.
    Body,
    /// The method is not GET or HEAD.
    Method,
    /// There is no commit yet, or the store does not answer.
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
                "a request must not have a body",
            ),
            Self::Method => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method",
                "Method not allowed",
                "only GET and HEAD are supported",
            ),
            Self::Unavailable(detail) => {
                (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Not available", detail)
            }
        }
    }

    /// The response.
    pub(crate) fn response(&self) -> Response<Full<Bytes>> {
        let (status, name, title, detail) = self.parts();
        let r#type = format!("/problems/{name}");
        let document = Document { r#type: &r#type, title, status: status.as_u16(), detail };
        let body = serde_json::to_vec(&document);
        let body = body.unwrap_or_else(|e| unreachable!("strings and numbers encode: {e}"));
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
            // The next request may not begin where it seems to begin.
            Self::Body | Self::BadRequest(_) => drop(headers.insert(CONNECTION, text("close"))),
            _ => {}
        }
        response
    }
}
