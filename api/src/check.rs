//! Refuses requests that HTTP allows but that are meant to smuggle something, or are too large.
//!
//! Invariant: a request that passes names one host at most, has no body, and fits the limits.

use hyper::body::{Body, Incoming};
use hyper::header::HOST;
use hyper::http::uri::Authority;
use hyper::{Method, Request, Version};

use crate::limits::{HEAD_BYTES_MAX, HEADERS_MAX, TARGET_BYTES_MAX};
use crate::problem::{Kind, Problem};

/// Checks everything that does not depend on the route.
pub(crate) fn check(request: &Request<Incoming>) -> Result<(), Problem> {
    let host = host(request)?;
    if ![Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method()) {
        return Err(Kind::Method.into());
    }
    target(request, host.as_ref())?;
    size(request)?;
    if !request.body().is_end_stream() {
        return Err(Kind::Body.into());
    }
    Ok(())
}

fn bad(detail: &str) -> Problem {
    Problem::new(Kind::BadRequest, detail)
}

/// The host that the request is for. HTTP/1.0 needs none.
fn host(request: &Request<Incoming>) -> Result<Option<Authority>, Problem> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host,
        (None, _) if request.version() == Version::HTTP_10 => return Ok(None),
        _ => return Err(bad("a request must have exactly one Host header")),
    };
    if host.is_empty() {
        return Ok(None);
    }
    let unusable = || bad("the Host header is not a host, or a host and its port");
    let host = Authority::try_from(host.as_bytes()).map_err(|_| unusable())?;
    let port = host.as_str().strip_prefix(host.host()).ok_or_else(unusable)?;
    let digits = port.strip_prefix(':').unwrap_or(port);
    let fits = digits.is_empty() || host.port_u16().is_some();
    if fits { Ok(Some(host)) } else { Err(unusable()) }
}

/// The target must be a path, or an address whose host is that of the request.
fn target(request: &Request<Incoming>, host: Option<&Authority>) -> Result<(), Problem> {
    if request.uri().path() == "*" && request.method() != Method::OPTIONS {
        return Err(bad("the target * is for OPTIONS alone"));
    }
    let Some(authority) = request.uri().authority() else { return Ok(()) };
    let default = match request.uri().scheme_str() {
        Some("http") => 80,
        Some("https") => 443,
        _ => return Err(bad("the target must be a path, or an http or https address")),
    };
    let port = |of: &Authority| of.port_u16().unwrap_or(default);
    let same = |host: &Authority| {
        host.host().eq_ignore_ascii_case(authority.host()) && port(host) == port(authority)
    };
    let without = request.version() == Version::HTTP_10 && !request.headers().contains_key(HOST);
    if !authority.as_str().contains('@') && (without || host.is_some_and(same)) {
        return Ok(());
    }
    Err(bad("the target names another host than the Host header"))
}

fn size(request: &Request<Incoming>) -> Result<(), Problem> {
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if target > TARGET_BYTES_MAX {
        return Err(Kind::TooLong.into());
    }
    // With the colon, the space and the end of the line.
    let line = |(name, value): (&hyper::header::HeaderName, &hyper::header::HeaderValue)| {
        name.as_str().len() + value.len() + 4
    };
    let bytes: usize = request.headers().iter().map(line).sum();
    if request.headers().len() > HEADERS_MAX || target + bytes > HEAD_BYTES_MAX {
        return Err(Kind::HeadTooLarge.into());
    }
    Ok(())
}
