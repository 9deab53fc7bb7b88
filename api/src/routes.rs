//! Routes: each reads the store at most once and makes the response.
//!
//! Invariant: a route decides the form of its answers, errors included, so that no cache mixes
//! pages and JSON; only unknown paths and `/problems/` ask the client.

use std::sync::Arc;

use hyper::body::{Body, Incoming};
use hyper::header::CONTENT_LOCATION;
use hyper::{HeaderMap, Method, Request};
use sinks::store::{Store, StoreError};

use crate::accept::prefers_page;
use crate::answer::TagAnswer;
use crate::check::check;
use crate::page;
use crate::problem::{Kind, Problem};
use crate::respond::{self, Answer, Form};
use crate::target::{Query, leads, name};

/// A response, and the route under which it is counted.
pub(crate) type Answered = (&'static str, Answer);

/// The routes of the service.
enum Route<'a> {
    Front,
    Style,
    TagPage(&'a str),
    TagJson(&'a str),
    Live,
    Ready,
    Problem(Kind),
    Unknown,
}

impl<'a> Route<'a> {
    fn of(path: &'a str) -> Self {
        let path = path.strip_suffix('/').filter(|p| !p.is_empty()).unwrap_or(path);
        match path {
            "/" => return Self::Front,
            page::STYLE_PATH => return Self::Style,
            "/livez" => return Self::Live,
            "/readyz" => return Self::Ready,
            _ => {}
        }
        let parts = path.strip_prefix('/').and_then(|path| path.split_once('/'));
        match parts {
            Some(("t", name)) if !name.contains('/') => Self::TagPage(name),
            Some(("tags", name)) if !name.contains('/') => Self::TagJson(name),
            Some(("problems", name)) => Kind::named(name).map_or(Self::Unknown, Self::Problem),
            _ => Self::Unknown,
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
            Self::Problem(_) => "/problems/{name}",
            Self::Unknown => "unknown",
        }
    }

    /// Whether the client decides the form.
    fn asks(&self) -> bool {
        matches!(self, Self::Problem(_) | Self::Unknown)
    }

    fn is_probe(&self) -> bool {
        matches!(self, Self::Live | Self::Ready)
    }

    fn form(&self, headers: &HeaderMap) -> Form {
        match self {
            Self::Front | Self::TagPage(_) => Form::Page,
            Self::Problem(_) | Self::Unknown if prefers_page(headers) => Form::Page,
            _ => Form::Json,
        }
    }
}

/// Answers a request. Without `room` only probes are answered.
pub(crate) async fn answer(
    request: Request<Incoming>,
    store: Arc<dyn Store>,
    room: bool,
) -> Answered {
    let route = Route::of(request.uri().path());
    let form = route.form(request.headers());
    let (name, mut response) = match check(&request) {
        Err(problem) => ("refused", respond::problem(&problem, form)),
        Ok(()) if !room && !route.is_probe() => {
            let full = Problem::new(Kind::Unavailable, "there are too many requests at once");
            ("refused", respond::closing(respond::problem(&full, form)))
        }
        Ok(()) if request.method() == Method::OPTIONS => (route.name(), respond::options()),
        Ok(()) => {
            let answered = routed(&request, &route, form, &*store).await;
            (route.name(), answered.unwrap_or_else(|problem| respond::problem(&problem, form)))
        }
    };
    // An answer without a body has no form.
    if route.asks() && !response.body().is_end_stream() {
        response = respond::negotiated(response);
    }
    if !room {
        response = respond::closing(response);
    }
    (name, respond::shared(response))
}

async fn routed(
    request: &Request<Incoming>,
    route: &Route<'_>,
    form: Form,
    store: &dyn Store,
) -> Result<Answer, Problem> {
    match route {
        Route::Style => Ok(respond::style()),
        Route::Front => front(request, store).await,
        Route::TagPage(tag) => tag_page(request, tag, store).await,
        Route::TagJson(tag) => tag_json(request, tag, store).await,
        Route::Live => Ok(respond::plain("live\n")),
        Route::Ready => ready(store).await,
        Route::Problem(kind) => Ok(respond::kind(*kind, form)),
        Route::Unknown => Err(Kind::UnknownPath.into()),
    }
}

fn trouble(error: StoreError) -> Problem {
    match error {
        StoreError::Scope(unknown) => {
            let said = Problem::new(Kind::UnknownScope, unknown.to_string());
            Problem { scopes: unknown.known, ..said }
        }
        StoreError::Empty | StoreError::NotFollowed => {
            Problem::new(Kind::Unavailable, error.to_string())
        }
        // The store logs this itself, once and not for every request.
        StoreError::Unavailable(_) => Problem::new(Kind::Unavailable, "the store does not answer"),
        _ => {
            tracing::error!(%error, "cannot read the store");
            Problem::new(Kind::Unavailable, "the store does not answer")
        }
    }
}

fn unknown(key: &str, scope: &str) -> Problem {
    let place = if scope.is_empty() { String::new() } else { format!(" in {scope}") };
    Problem::new(Kind::UnknownTag, format!("no post carries #{key}{place}"))
}

async fn tag_json(
    request: &Request<Incoming>,
    encoded: &str,
    store: &dyn Store,
) -> Result<Answer, Problem> {
    let rules = store.rules();
    let ((_, name), query) = (name(encoded, rules)?, Query::strict(request.uri())?);
    let (at, tag) = store.tag(&query.scope, name.key()).await.map_err(trouble)?;
    let tag = tag.ok_or_else(|| unknown(name.key(), &query.scope))?;
    let body = serde_json::to_vec(&TagAnswer::new(tag, &at));
    let body = body.unwrap_or_else(|e| unreachable!("strings and numbers encode: {e}"));
    let mut response = respond::cacheable(request.headers(), respond::json(body), &at)?;
    if !name.is_canonical() && leads(name.key(), name.key(), rules) {
        let path = page::tag_path("/tags/", name.key()) + &query.clean;
        if let Some(address) = respond::address(&path) {
            response.headers_mut().insert(CONTENT_LOCATION, address);
        }
    }
    Ok(response)
}

async fn tag_page(
    request: &Request<Incoming>,
    encoded: &str,
    store: &dyn Store,
) -> Result<Answer, Problem> {
    let rules = store.rules();
    let ((text, name), query) = (name(encoded, rules)?, Query::of(request.uri())?);
    let key = name.key();
    // A key may be longer than any name. Such a tag stays at the requested spelling.
    let other = !name.is_canonical() && leads(key, key, rules);
    if other || query.has_more() {
        let path = page::tag_path("/t/", if other { key } else { &text });
        if let Some(address) = respond::address(&(path + &query.clean)) {
            return Ok(respond::moved(address));
        }
    }
    let (at, tag) = store.tag(&query.scope, key).await.map_err(trouble)?;
    let tag = tag.ok_or_else(|| unknown(key, &query.scope))?;
    respond::cacheable(request.headers(), respond::html(page::tag(&tag, &at)), &at)
}

async fn front(request: &Request<Incoming>, store: &dyn Store) -> Result<Answer, Problem> {
    let query = Query::of(request.uri())?;
    if query.has_more()
        && let Some(address) = respond::address(&format!("/{}", query.clean))
    {
        return Ok(respond::moved(address));
    }
    let (at, boards) = store.boards(&query.scope).await.map_err(trouble)?;
    let page = respond::html(page::front(&boards, &query.scope, &at, store.rules()));
    respond::cacheable(request.headers(), page, &at)
}

async fn ready(store: &dyn Store) -> Result<Answer, Problem> {
    let at = store.ready().await.map_err(trouble)?;
    Ok(respond::plain(&format!("ready, commit {}\n", at.commit)))
}
