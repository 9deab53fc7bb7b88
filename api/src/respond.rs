//! Responses: what is common to all answers of a form.
//!
//! Invariants: an answer on the public listener allows any origin, errors included; an error is a
//! page where people ask, and a document where programs do.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderName,
    HeaderValue, LOCATION, RETRY_AFTER, VARY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{HeaderMap, Response, StatusCode};
use maud::Markup;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use sinks::store::AsOf;

use crate::limits::TARGET_BYTES_MAX;
use crate::problem::{Kind, Problem};
use crate::{etag, page};

/// A response in full.
pub(crate) type Answer = Response<Full<Bytes>>;

pub(crate) const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";
const METHODS: &str = "GET, HEAD, OPTIONS";
/// A header is ASCII; percent-encoding also covers everything beyond it.
const HEADER: &AsciiSet = &CONTROLS.add(b' ');

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// For people.
    Page,
    /// For programs.
    Json,
}

fn respond(content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn with(mut response: Answer, name: HeaderName, value: &'static str) -> Answer {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
    response
}

/// A short text.
pub(crate) fn plain(text: &str) -> Answer {
    with(respond("text/plain; charset=utf-8", text.to_owned()), CACHE_CONTROL, "no-store")
}

/// The style sheet.
pub(crate) fn style() -> Answer {
    let response = respond("text/css; charset=utf-8", page::STYLE);
    with(response, CACHE_CONTROL, "public, max-age=3600")
}

/// The answer to OPTIONS: browsers ask before a request with headers of its own.
pub(crate) fn options() -> Answer {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    for (name, value) in [
        (ALLOW, METHODS),
        (CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("access-control-allow-methods"), METHODS),
        (HeaderName::from_static("access-control-allow-headers"), "*"),
        (HeaderName::from_static("access-control-max-age"), "86400"),
    ] {
        response = with(response, name, value);
    }
    response
}

/// A permanent redirect to an address.
pub(crate) fn moved(address: HeaderValue) -> Answer {
    let mut response = plain("");
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response.headers_mut().insert(LOCATION, address);
    response
}

/// A path and its query as a header, unless a request for them would be refused. Encoding may have
/// made them longer than those that were asked for.
pub(crate) fn address(path: &str) -> Option<HeaderValue> {
    Some(header(path)).filter(|address| address.len() <= TARGET_BYTES_MAX)
}

/// A header with text from a request.
fn header(text: &str) -> HeaderValue {
    HeaderValue::try_from(utf8_percent_encode(text, HEADER).to_string())
        .unwrap_or_else(|e| unreachable!("encoded: {e}"))
}

/// A page.
pub(crate) fn html(page: Markup) -> Answer {
    let policy = "default-src 'none'; style-src 'self'; img-src data:; frame-ancestors 'none'; \
                  base-uri 'none'; form-action 'none'";
    with(respond(HTML, page.into_string()), CONTENT_SECURITY_POLICY, policy)
}

/// An answer for programs.
pub(crate) fn json(body: Vec<u8>) -> Answer {
    respond(JSON, body)
}

/// Makes a response that depends only on the path and the commit cacheable; 304 if the client has
/// it, an error if it wants another.
pub(crate) fn cacheable(
    request: &HeaderMap,
    mut response: Answer,
    at: &AsOf,
) -> Result<Answer, Problem> {
    let tag = format!("\"{}-{}\"", at.commit, at.version);
    if etag::refused(request, &tag) {
        return Err(Kind::Precondition.into());
    }
    if etag::known(request, &tag) {
        response = Response::new(Full::default());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    response.headers_mut().insert(ETAG, header(&tag));
    let cached = "public, max-age=1, s-maxage=5, stale-while-revalidate=30";
    Ok(with(response, CACHE_CONTROL, cached))
}

/// An error.
pub(crate) fn problem(problem: &Problem, form: Form) -> Answer {
    let mut response = match form {
        Form::Page => html(page::problem(problem)),
        Form::Json => respond("application/problem+json", problem.json()),
    };
    *response.status_mut() = problem.kind.about().status;
    // A tag may appear in the next commit.
    let brief = problem.kind == Kind::UnknownTag;
    response = with(response, CACHE_CONTROL, if brief { "public, max-age=1" } else { "no-store" });
    match problem.kind {
        Kind::Method => with(response, ALLOW, METHODS),
        Kind::Unavailable => with(response, RETRY_AFTER, "1"),
        // The next request may not begin where it seems to begin.
        Kind::Body | Kind::BadRequest | Kind::HeadTooLarge => closing(response),
        _ => response,
    }
}

/// What is at the type of an error.
pub(crate) fn kind(kind: Kind, form: Form) -> Answer {
    let response = match form {
        Form::Page => html(page::kind(kind)),
        Form::Json => json(kind.json()),
    };
    with(response, CACHE_CONTROL, "no-store")
}

/// Says that the form depends on `Accept`.
pub(crate) fn negotiated(response: Answer) -> Answer {
    with(response, VARY, "accept")
}

/// Ends the connection after this answer.
pub(crate) fn closing(response: Answer) -> Answer {
    with(response, CONNECTION, "close")
}

/// Lets scripts of any origin read the answer: it is public, and nothing depends on who asks.
pub(crate) fn shared(response: Answer) -> Answer {
    let name = HeaderName::from_static;
    let response = with(response, name("access-control-allow-origin"), "*");
    let exposed = "ETag, Content-Location, Retry-After, Link";
    with(response, name("access-control-expose-headers"), exposed)
}
