//! Requests on the loopback listener, which serves metrics and nothing else.

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use crate::problem::{Kind, Problem};
use crate::respond::{self, Answer, Form};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers a request on the loopback listener.
pub(crate) fn answer(request: &Request<Incoming>, registry: &Registry) -> Answer {
    let metrics = || {
        if request.uri().path() != "/metrics" {
            return Err(Problem::new(Kind::UnknownPath, "metrics are at /metrics"));
        }
        let mut text = String::new();
        let encoded = encode(&mut text, registry);
        encoded.map_err(|_| Problem::new(Kind::Unavailable, "the metrics cannot be encoded"))?;
        Ok(text)
    };
    // Unlike on the public listener, no answer is for scripts of other origins.
    let read = [Method::GET, Method::HEAD].contains(request.method());
    let method = Problem::new(Kind::Method, "only GET and HEAD are supported");
    match if read { metrics() } else { Err(method) } {
        Err(problem) => {
            let mut response = respond::problem(&problem, Form::Json);
            if !read {
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            }
            response
        }
        Ok(text) => {
            let mut response = Response::new(Full::new(Bytes::from(text)));
            let kind = HeaderValue::from_static(OPENMETRICS);
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
    }
}
