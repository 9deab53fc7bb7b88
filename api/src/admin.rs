//! Requests on the loopback listener, which serves metrics and nothing else.

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use crate::problem::Problem;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers a request on the loopback listener.
pub(crate) fn answer(request: &Request<Incoming>, registry: &Registry) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        return Problem::Method.response();
    }
    if request.uri().path() != "/metrics" {
        return Problem::UnknownPath.response();
    }
    let mut text = String::new();
    if encode(&mut text, registry).is_err() {
        return Problem::Unavailable("the metrics cannot be encoded".into()).response();
    }
    let mut response = Response::new(Full::new(Bytes::from(text)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(OPENMETRICS));
    response
}
