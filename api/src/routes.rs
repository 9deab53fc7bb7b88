//! Routes: each reads the store at most once and makes the response.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::header::{
    CACHE_CONTROL, CONTENT_LOCATION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HOST, HeaderName,
    HeaderValue, IF_NONE_MATCH, LOCATION, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use maud::Markup;
use percent_encoding::percent_decode_str;
use schemas::tags::{Name, TAG_CODE_POINTS_MAX};
use sinks::store::{AsOf, Store, StoreError};

use crate::answer::TagAnswer;
use crate::limits::TARGET_BYTES_MAX;
use crate::page;
use crate::problem::Problem;

/// A response, and the route under which it is counted.
pub(crate) type Answered = (&'static str, Response<Full<Bytes>>);

const CORS: HeaderName = HeaderName::from_static("access-control-allow-origin");
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";

/// The routes of the service.
enum Route {
    Front,
    Style,
    TagPage(String),
    TagJson(String),
    Live,
    Ready,
}

impl Route {
    fn of(path: &str) -> Option<Self> {
        let path = path.strip_suffix('/').filter(|p| !p.is_empty()).unwrap_or(path);
        match path {
            "/" => return Some(Self::Front),
            page::STYLE_PATH => return Some(Self::Style),
            "/livez" => return Some(Self::Live),
            "/readyz" => return Some(Self::Ready),
            _ => {}
        }
        let (folder, name) = path.strip_prefix('/')?.split_once('/')?;
        match folder {
            _ if name.contains('/') => None,
            "t" => Some(Self::TagPage(name.to_owned())),
            "tags" => Some(Self::TagJson(name.to_owned())),
            _ => None,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Front => "/",
            Self::Style => page::STYLE_PATH,
            Self::TagPage(_) => "/t/{name}",
            Self::TagJson(_) => "/tags/{name}",
            Self::Live => "/livez",
            Self::Ready => "/readyz",
        }
    }
}

/// Answers a request.
pub(crate) async fn answer(request: Request<Incoming>, store: Arc<dyn Store>) -> Answered {
    if let Err(problem) = check(&request) {
        return ("refused", problem.response());
    }
    let Some(route) = Route::of(request.uri().path()) else {
        return ("unknown", Problem::UnknownPath.response());
    };
    let name = route.name();
    let answered = match route {
        Route::Style => Ok(style()),
        Route::Front => front(&request, &*store).await,
        Route::TagPage(tag) => tag_page(&request, &tag, &*store).await,
        Route::TagJson(tag) => tag_json(&request, &tag, &*store).await,
        Route::Live => Ok(plain("live\n")),
        Route::Ready => ready(&*store).await,
    };
    (name, answered.unwrap_or_else(|problem| problem.response()))
}

/// Refuses requests that HTTP allows but only attackers send, to smuggle further requests in.
fn check(request: &Request<Incoming>) -> Result<(), Problem> {
    if request.headers().get_all(HOST).iter().count() != 1 {
        return Err(Problem::BadRequest("a request must have exactly one Host header"));
    }
    if request.uri().authority().is_some() {
        return Err(Problem::BadRequest("the request target must be a path"));
    }
    if request.uri().path_and_query().is_some_and(|p| p.as_str().len() > TARGET_BYTES_MAX) {
        return Err(Problem::TooLong);
    }
    if !request.body().is_end_stream() {
        return Err(Problem::Body);
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Err(Problem::Method);
    }
    Ok(())
}

/// The value of `scope`, the only query key; `""` if it is not given.
fn scope(request: &Request<Incoming>) -> Result<String, Problem> {
    let bad = |text: String| Problem::BadQuery(text);
    let mut scope = None;
    let query = request.uri().query().unwrap_or("");
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if key != "scope" {
            return Err(bad("the only query key is scope, for example ?scope=region=eu".into()));
        }
        let value = percent_decode_str(value).decode_utf8();
        let value = value.map_err(|_| bad("scope is not UTF-8".into()))?;
        if scope.replace(value.into_owned()).is_some() {
            return Err(bad("scope is given twice".into()));
        }
    }
    Ok(scope.unwrap_or_default())
}

fn parse_name(encoded: &str) -> Result<Name, Problem> {
    let decoded = percent_decode_str(encoded).decode_utf8();
    let decoded = decoded.map_err(|_| Problem::BadName("the name is not UTF-8".into()))?;
    Name::parse(&decoded).map_err(|error| Problem::BadName(error.to_string()))
}

fn unavailable(error: &StoreError) -> Problem {
    match error {
        StoreError::Empty => Problem::Unavailable(error.to_string()),
        // The store logs this itself, once and not for every request.
        StoreError::Unavailable(_) => Problem::Unavailable("the store does not answer".into()),
        _ => {
            tracing::error!(%error, "cannot read the store");
            Problem::Unavailable("the store does not answer".into())
        }
    }
}

fn unknown(key: &str, scope: &str) -> Problem {
    let place = if scope.is_empty() { String::new() } else { format!(" in {scope}") };
    Problem::UnknownTag(format!("no post carries #{key}{place}"))
}

async fn tag_json(
    request: &Request<Incoming>,
    encoded: &str,
    store: &dyn Store,
) -> Result<Response<Full<Bytes>>, Problem> {
    let (name, scope) = (parse_name(encoded)?, scope(request)?);
    let (at, tag) = store.tag(&scope, name.key()).await.map_err(|e| unavailable(&e))?;
    let tag = tag.ok_or_else(|| unknown(name.key(), &scope))?;
    let body = serde_json::to_vec(&TagAnswer::new(tag, &at));
    let body = body.unwrap_or_else(|e| unreachable!("strings and numbers encode: {e}"));
    let mut response = cacheable(request, JSON, body, &at);
    if !name.is_canonical() {
        let path = tag_path_and_query(request, "/tags/", &name);
        response.headers_mut().insert(CONTENT_LOCATION, header(path));
    }
    Ok(response)
}

async fn tag_page(
    request: &Request<Incoming>,
    encoded: &str,
    store: &dyn Store,
) -> Result<Response<Full<Bytes>>, Problem> {
    let (name, scope) = (parse_name(encoded)?, scope(request)?);
    // A key may be longer than any name. Such a tag stays at the requested spelling.
    if !name.is_canonical() && name.key().chars().count() <= TAG_CODE_POINTS_MAX {
        return Ok(moved(tag_path_and_query(request, "/t/", &name)));
    }
    let (at, tag) = store.tag(&scope, name.key()).await.map_err(|e| unavailable(&e))?;
    let tag = tag.ok_or_else(|| unknown(name.key(), &scope))?;
    Ok(html(request, page::tag(&tag, &at), &at))
}

/// The path of a tag under its key, with the query of the request.
fn tag_path_and_query(request: &Request<Incoming>, prefix: &str, name: &Name) -> String {
    let path = page::tag_path(prefix, name.key());
    request.uri().query().map_or_else(|| path.clone(), |query| format!("{path}?{query}"))
}

/// A header value. The text is encoded, or comes from a request line, in which hyper's HTTP/1
/// parser refuses control characters.
fn header(text: String) -> HeaderValue {
    HeaderValue::try_from(text)
        .unwrap_or_else(|e| unreachable!("checked by the HTTP/1 parser: {e}"))
}

async fn front(
    request: &Request<Incoming>,
    store: &dyn Store,
) -> Result<Response<Full<Bytes>>, Problem> {
    let scope = scope(request)?;
    let (at, boards) = store.boards(&scope).await.map_err(|e| unavailable(&e))?;
    Ok(html(request, page::front(&boards, &scope, &at), &at))
}

async fn ready(store: &dyn Store) -> Result<Response<Full<Bytes>>, Problem> {
    let at = store.as_of().await.map_err(|e| unavailable(&e))?;
    Ok(plain(&format!("ready, commit {}\n", at.commit)))
}

fn respond(content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn plain(text: &str) -> Response<Full<Bytes>> {
    let mut response = respond("text/plain; charset=utf-8", text.to_owned());
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn style() -> Response<Full<Bytes>> {
    let mut response = respond("text/css; charset=utf-8", page::STYLE);
    let caching = HeaderValue::from_static("public, max-age=3600");
    response.headers_mut().insert(CACHE_CONTROL, caching);
    response
}

fn moved(path: String) -> Response<Full<Bytes>> {
    let mut response = plain("");
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response.headers_mut().insert(LOCATION, header(path));
    response
}

fn html(request: &Request<Incoming>, page: Markup, at: &AsOf) -> Response<Full<Bytes>> {
    let mut response = cacheable(request, HTML, page.into_string(), at);
    let policy = "default-src 'none'; style-src 'self'; img-src data:; frame-ancestors 'none'; \
                  base-uri 'none'; form-action 'none'";
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

/// A response that depends only on the path and the commit, or 304 if the client has it.
fn cacheable(
    request: &Request<Incoming>,
    content_type: &'static str,
    body: impl Into<Bytes>,
    at: &AsOf,
) -> Response<Full<Bytes>> {
    let tag = format!("\"{}-{}\"", at.commit, at.version);
    let known = request.headers().get_all(IF_NONE_MATCH).iter().any(|value| {
        // A weak comparison (RFC 9110 13.1.2), because a proxy that compresses weakens the tag.
        let same = |t: &str| t.strip_prefix("W/").unwrap_or(t) == tag || t == "*";
        let listed = |text: &str| text.split(',').any(|t| same(t.trim()));
        value.to_str().is_ok_and(listed)
    });
    let mut response = if known {
        let mut unchanged = Response::new(Full::default());
        *unchanged.status_mut() = StatusCode::NOT_MODIFIED;
        unchanged
    } else {
        respond(content_type, body)
    };
    let headers = response.headers_mut();
    let caching = "public, max-age=1, s-maxage=5, stale-while-revalidate=30";
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(caching));
    headers.insert(CORS, HeaderValue::from_static("*"));
    headers.insert(ETAG, header(tag));
    response
}
