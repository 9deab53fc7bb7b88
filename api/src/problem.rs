//! What can be wrong, each with a stable type (RFC 9457), a meaning and advice.
//!
//! Invariant: a kind of error is declared once, here; its status, its document, its page and what
//! `/problems/{name}` says come from that.

use hyper::StatusCode;
use serde::Serialize;

/// Kinds of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    UnknownPath,
    UnknownTag,
    UnknownScope,
    BadName,
    BadQuery,
    BadRequest,
    TooLong,
    HeadTooLarge,
    Body,
    Method,
    Precondition,
    Unavailable,
}

/// What is said of a kind.
pub(crate) struct About {
    pub(crate) status: StatusCode,
    /// The last part of its type.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// When it happens.
    pub(crate) meaning: &'static str,
    /// What to do.
    pub(crate) advice: &'static str,
}

const fn about(
    status: StatusCode,
    name: &'static str,
    title: &'static str,
    meaning: &'static str,
    advice: &'static str,
) -> About {
    About { status, name, title, meaning, advice }
}

impl Kind {
    /// The kind whose type ends with `name`.
    pub(crate) fn named(name: &str) -> Option<Self> {
        ABOUT.iter().find(|(_, about)| about.name == name).map(|(kind, _)| *kind)
    }

    /// What is said of it.
    pub(crate) fn about(self) -> &'static About {
        let found = ABOUT.iter().find(|(kind, _)| *kind == self);
        found.map_or_else(|| unreachable!("{self:?} is in the table"), |(_, about)| about)
    }
}

/// Every kind of error, in the order of docs/api.md.
const ABOUT: [(Kind, About); 12] = [
    (
        Kind::UnknownPath,
        about(
            StatusCode::NOT_FOUND,
            "unknown-path",
            "No such page",
            "nothing is served at this path",
            "tags are at /tags/{name} (JSON) and /t/{name} (page)",
        ),
    ),
    (
        Kind::UnknownTag,
        about(
            StatusCode::NOT_FOUND,
            "unknown-tag",
            "Unknown tag",
            "no post carries the tag, in the scope that was asked for",
            "check the spelling, or ask again once a post carries the tag",
        ),
    ),
    (
        Kind::UnknownScope,
        about(
            StatusCode::NOT_FOUND,
            "unknown-scope",
            "Unknown scope",
            "nothing is counted in the scope that was asked for",
            "leave out the scope for the whole stream, or ask for one that is counted",
        ),
    ),
    (
        Kind::BadName,
        about(
            StatusCode::BAD_REQUEST,
            "bad-name",
            "Not a tag's name",
            "no tag can have this name",
            "write letters, digits and underscores, in UTF-8, percent-encoded where necessary",
        ),
    ),
    (
        Kind::BadQuery,
        about(
            StatusCode::BAD_REQUEST,
            "bad-query",
            "Unusable query",
            "a query key is unknown or repeated, or its value cannot be decoded",
            "the only query key is scope, once, as in ?scope=region%3Deu",
        ),
    ),
    (
        Kind::BadRequest,
        about(
            StatusCode::BAD_REQUEST,
            "bad-request",
            "Unusable request",
            "the request has no path, or contradicts itself about which host it is for",
            "send one Host header, and a path as the target",
        ),
    ),
    (
        Kind::TooLong,
        about(
            StatusCode::URI_TOO_LONG,
            "too-long",
            "Address too long",
            "a path and its query have at most 2048 bytes",
            "shorten the address",
        ),
    ),
    (
        Kind::HeadTooLarge,
        about(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "head-too-large",
            "Too many headers",
            "the head of a request has at most 16 KiB and 64 header lines",
            "send fewer or shorter headers; in a browser, remove the site's cookies",
        ),
    ),
    (
        Kind::Body,
        about(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body",
            "Unexpected body",
            "a request must not have a body",
            "send the request without a body",
        ),
    ),
    (
        Kind::Method,
        about(
            StatusCode::METHOD_NOT_ALLOWED,
            "method",
            "Method not allowed",
            "only GET, HEAD and OPTIONS are supported",
            "send a GET request",
        ),
    ),
    (
        Kind::Precondition,
        about(
            StatusCode::PRECONDITION_FAILED,
            "precondition",
            "Precondition failed",
            "the answer is not the one that If-Match names",
            "leave out If-Match, or name the entity tag of the newest answer",
        ),
    ),
    (
        Kind::Unavailable,
        about(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "Not available",
            "no commit is visible yet, the store cannot be read, or there are too many requests",
            "try again in a moment",
        ),
    ),
];

/// What is wrong with a request, or with the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) kind: Kind,
    pub(crate) detail: String,
    /// Scopes that a person may have meant.
    pub(crate) scopes: Vec<String>,
}

/// A problem document, or the description of a kind.
#[derive(Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    advice: &'a str,
}

impl Problem {
    /// A problem of this kind.
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), scopes: Vec::new() }
    }

    /// The document for programs.
    pub(crate) fn json(&self) -> Vec<u8> {
        document(self.kind, &self.detail)
    }
}

impl From<Kind> for Problem {
    fn from(kind: Kind) -> Self {
        Self::new(kind, kind.about().meaning)
    }
}

impl Kind {
    /// What a program finds at the type.
    pub(crate) fn json(self) -> Vec<u8> {
        document(self, self.about().meaning)
    }
}

fn document(kind: Kind, detail: &str) -> Vec<u8> {
    let About { status, name, title, advice, .. } = *kind.about();
    let (status, r#type) = (status.as_u16(), format!("/problems/{name}"));
    let body = serde_json::to_vec(&Document { r#type, title, status, detail, advice });
    body.unwrap_or_else(|e| unreachable!("strings and numbers encode: {e}"))
}
