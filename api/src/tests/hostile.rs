//! Requests that nobody sends by accident, as bytes over a socket, with the status that each gets.
//!
//! Invariant: no bytes get two answers out of what another server may read as one request.

use super::{Reply, raw, served};
use crate::Limits;

/// Closed without an answer.
const CLOSED: u16 = 0;
const CLOSE: &str = "Connection: close\r\n\r\n";

/// Requests and the status of their only answer.
fn requests() -> Vec<(&'static str, Vec<u8>, u16)> {
    let mut all = lengths();
    all.extend(lines());
    all.extend(beginnings());
    all.extend(hosts());
    all.extend(paths());
    all.extend(methods());
    all
}

/// Bodies, and disagreement about where a request ends. After any of them the connection ends.
fn lengths() -> Vec<(&'static str, Vec<u8>, u16)> {
    let get = |headers: &str| format!("GET /tags/sunset HTTP/1.1\r\nHost: x\r\n{headers}").into();
    let next = "GET /tags/sunset HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    vec![
        ("body on GET", get("Content-Length: 5\r\n\r\nhello"), 413),
        ("no body on GET", get(&format!("Content-Length: 0\r\n{CLOSE}")), 200),
        (
            "body that is a request",
            get(&format!("Content-Length: {}\r\n\r\n{next}", next.len())),
            413,
        ),
        (
            "both lengths",
            get("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            413,
        ),
        (
            "both, in the other order",
            get("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
            413,
        ),
        ("chunked", get("Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 413),
        (
            "chunked with trailers",
            get("Transfer-Encoding: chunked\r\nTrailer: X\r\n\r\n1\r\na\r\n0\r\nX: 1\r\n\r\n"),
            413,
        ),
        (
            "chunked, then a request",
            get(&format!("Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{next}")),
            413,
        ),
        ("two lengths", get("Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"), 400),
        ("two equal lengths", get("Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"), 413),
        ("a list of lengths", get("Content-Length: 0, 5\r\n\r\n"), 400),
        ("a signed length", get("Content-Length: +5\r\n\r\nhello"), 400),
        ("a negative length", get("Content-Length: -1\r\n\r\n"), 400),
        ("a hexadecimal length", get("Content-Length: 0x5\r\n\r\nhello"), 400),
        ("a huge length", get("Content-Length: 99999999999999999999\r\n\r\n"), 400),
        ("an unknown coding", get("Transfer-Encoding: gzip\r\n\r\n"), 400),
        ("chunked is not last", get("Transfer-Encoding: chunked, identity\r\n\r\n"), 400),
        ("an obscured coding", get("Transfer-Encoding: xchunked\r\n\r\n"), 400),
        (
            "chunked in HTTP/1.0",
            b"GET /tags/sunset HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
                .into(),
            400,
        ),
        ("expects 100", get("Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"), 413),
        ("expects 100 for nothing", get(&format!("Expect: 100-continue\r\n{CLOSE}")), 200),
    ]
}

/// Lines and headers.
fn lines() -> Vec<(&'static str, Vec<u8>, u16)> {
    let get = |headers: &str| format!("GET /tags/sunset HTTP/1.1\r\nHost: x\r\n{headers}").into();
    let many = |n: usize| (0..n).map(|i| format!("X-{i}: 1\r\n")).collect::<String>();
    let long = |n: usize| format!("X: {}\r\n{CLOSE}", "a".repeat(n));
    let bytes = |value: &[u8]| {
        [b"GET /tags/sunset HTTP/1.1\r\nHost: x\r\nX: ", value, b"\r\nConnection: close\r\n\r\n"]
            .concat()
    };
    vec![
        (
            "bare line feeds",
            b"GET /tags/sunset HTTP/1.1\nHost: x\nConnection: close\n\n".into(),
            400,
        ),
        ("a bare line feed", get(&format!("X: a\n{CLOSE}")), 400),
        (
            "a bare line feed at the end",
            b"GET /tags/sunset HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\n".into(),
            400,
        ),
        (
            "a request after bare line feeds",
            get("X: a\n\nGET /t/12 HTTP/1.1\r\nHost: x\r\n\r\n"),
            400,
        ),
        ("a bare carriage return", get(&format!("X: a\rb\r\n{CLOSE}")), 400),
        ("a folded header", get(&format!("X: a\r\n b\r\n{CLOSE}")), 400),
        (
            "a folded first header",
            format!("GET /tags/sunset HTTP/1.1\r\n Host: x\r\n{CLOSE}").into(),
            400,
        ),
        ("a space before the colon", get(&format!("X : a\r\n{CLOSE}")), 400),
        ("a space in a name", get(&format!("X Y: a\r\n{CLOSE}")), 400),
        ("no colon", get(&format!("X\r\n{CLOSE}")), 400),
        ("no name", get(&format!(": a\r\n{CLOSE}")), 400),
        ("NUL in a value", bytes(b"a\0b"), 400),
        ("DEL in a value", bytes(b"a\x7fb"), 400),
        ("obs-text in a value", bytes(b"\xe9\xff"), 200),
        ("a tab in a value", bytes(b"a\tb"), 200),
        (
            "obs-text in a name",
            b"GET /tags/sunset HTTP/1.1\r\nHost: x\r\nX\xe9: a\r\nConnection: close\r\n\r\n".into(),
            400,
        ),
        ("a large header", get(&long(15_000)), 200),
        ("a too large header", get(&long(17_000)), 431),
        ("a huge header", get(&long(100_000)), 431),
        ("many headers", get(&format!("{}{CLOSE}", many(60))), 200),
        ("too many headers", get(&format!("{}{CLOSE}", many(70))), 431),
        ("far too many headers", get(&format!("{}{CLOSE}", many(1000))), 431),
    ]
}

/// First lines, and what is no HTTP/1.1.
fn beginnings() -> Vec<(&'static str, Vec<u8>, u16)> {
    let first = |line: &str| format!("{line}\r\nHost: x\r\n{CLOSE}").into();
    let upgrade = "GET /tags/sunset HTTP/1.1\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk";
    vec![
        ("empty lines first", first("\r\n\r\nGET /tags/sunset HTTP/1.1"), 200),
        ("two spaces in the first line", first("GET  /tags/sunset HTTP/1.1"), 400),
        ("a tab in the first line", first("GET\t/tags/sunset\tHTTP/1.1"), 400),
        ("HTTP/0.9", b"GET /tags/sunset\r\n\r\n".into(), 400),
        ("HTTP/1.2", first("GET /tags/sunset HTTP/1.2"), 400),
        ("HTTP/2.0 in the first line", first("GET /tags/sunset HTTP/2.0"), 400),
        ("http/1.1 in small letters", first("GET /tags/sunset http/1.1"), 400),
        ("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0".into(), CLOSED),
        ("an upgrade to HTTP/2", first(upgrade), 200),
        ("the beginning of TLS", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n".into(), 400),
        ("nonsense", b"nonsense\r\n\r\n".into(), 400),
        ("nothing at all", Vec::new(), CLOSED),
    ]
}

/// Whom the request is for.
fn hosts() -> Vec<(&'static str, Vec<u8>, u16)> {
    let of = |target: &str, version: &str, hosts: &str| {
        format!("GET {target} HTTP/{version}\r\n{hosts}{CLOSE}").into()
    };
    let path = |hosts: &str| of("/tags/sunset", "1.1", hosts);
    vec![
        ("no host", path(""), 400),
        ("two hosts", path("Host: x\r\nHost: y\r\n"), 400),
        ("the same host twice", path("Host: x\r\nHost: x\r\n"), 400),
        ("an empty host", path("Host:\r\n"), 200),
        ("a list of hosts", path("Host: x, y\r\n"), 400),
        ("a host with a user", path("Host: a@x\r\n"), 400),
        ("a host with a path", path("Host: x/y\r\n"), 400),
        ("a host with a bad port", path("Host: x:y\r\n"), 400),
        ("a host with a port", path("Host: [::1]:80\r\n"), 200),
        ("no host in HTTP/1.0", of("/tags/sunset", "1.0", ""), 200),
        ("a probe in HTTP/1.0", b"GET /livez HTTP/1.0\r\n\r\n".into(), 200),
        ("another probe in HTTP/1.0", b"GET /readyz HTTP/1.0\r\n\r\n".into(), 200),
        ("two hosts in HTTP/1.0", of("/tags/sunset", "1.0", "Host: x\r\nHost: y\r\n"), 400),
        ("the absolute form", of("http://x/tags/sunset", "1.1", "Host: x\r\n"), 200),
        ("with the default port", of("HTTP://X:80/tags/sunset", "1.1", "Host: x\r\n"), 200),
        ("over TLS", of("https://x/tags/sunset", "1.1", "Host: x:443\r\n"), 200),
        ("with another port", of("http://x:81/tags/sunset", "1.1", "Host: x\r\n"), 400),
        ("with another authority", of("http://evil/tags/sunset", "1.1", "Host: x\r\n"), 400),
        ("with a user", of("http://a@x/tags/sunset", "1.1", "Host: x\r\n"), 400),
        ("with another scheme", of("ftp://x/tags/sunset", "1.1", "Host: x\r\n"), 400),
        ("without a host", of("http://x/tags/sunset", "1.1", ""), 400),
        ("the absolute form in HTTP/1.0", of("http://x/tags/sunset", "1.0", ""), 200),
        ("an authority alone", of("x:80", "1.1", "Host: x\r\n"), 400),
    ]
}

/// Paths and queries.
fn paths() -> Vec<(&'static str, Vec<u8>, u16)> {
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n{CLOSE}").into();
    let bytes = |path: &[u8]| {
        [b"GET ", path, b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"].concat()
    };
    vec![
        ("NUL, encoded", get("/tags/%00"), 400),
        ("NUL", bytes(b"/tags/a\0b"), 400),
        ("a line break, encoded", get("/tags/a%0d%0aSet-Cookie:%20x"), 400),
        ("overlong UTF-8", get("/tags/%c0%ae%c0%ae"), 400),
        ("a surrogate in UTF-8", get("/tags/%ed%a0%80"), 400),
        ("half a character", get("/tags/%e6%97"), 400),
        ("an incomplete percent", get("/tags/sunset%"), 400),
        ("a wrong percent", get("/tags/sunset%zz"), 400),
        ("encoded twice", get("/tags/%2573unset"), 400),
        ("UTF-8 as it is", bytes("/tags/日本".as_bytes()), 200),
        ("Latin-1 as it is", bytes(b"/tags/\xe9"), 400),
        ("two dots", get("/../etc/passwd"), 404),
        ("two dots as a tag", get("/tags/.."), 400),
        ("two dots, encoded", get("/tags/%2e%2e%2fsunset"), 400),
        ("a slash, encoded", get("/tags%2fsunset"), 404),
        ("a backslash", get("/tags\\sunset"), 404),
        ("two slashes", get("//tags/sunset"), 404),
        ("no path", get("?scope="), 400),
        ("a fragment", get("/tags/sunset#x"), 200),
        ("a long path", get(&format!("/tags/{}", "a".repeat(3000))), 414),
        ("a path too long for the head", get(&format!("/tags/{}", "a".repeat(20_000))), 414),
        ("a huge path", get(&format!("/tags/{}", "a".repeat(70_000))), 431),
        ("a name too long", get(&format!("/tags/{}", "a".repeat(101))), 400),
        ("a long query", get(&format!("/tags/sunset?scope={}", "a".repeat(3000))), 414),
        ("two scopes", get("/tags/sunset?scope=region=eu&scope=region=eu"), 400),
        ("two scopes of a page", get("/t/sunset?scope=a&scope=b"), 400),
        ("a scope that is no UTF-8", get("/tags/sunset?scope=%ff"), 400),
        ("a scope with NUL", get("/tags/sunset?scope=%00"), 404),
        ("a wrong percent in a query", get("/tags/sunset?scope=%zz"), 400),
        ("DEL in a query of a page", bytes(b"/t/SUNSET?scope=\x7f"), 400),
        ("UTF-8 in a redirect", bytes("/t/SUNSET?scope=é".as_bytes()), 308),
        ("markup in a scope", get("/?scope=%3Cscript%3E"), 404),
    ]
}

fn methods() -> Vec<(&'static str, Vec<u8>, u16)> {
    let of = |method: &str| format!("{method} /tags/sunset HTTP/1.1\r\nHost: x\r\n{CLOSE}").into();
    vec![
        ("TRACE", of("TRACE"), 405),
        ("POST", of("POST"), 405),
        ("DELETE", of("DELETE"), 405),
        ("an unknown method", of("BREW"), 405),
        ("a method in small letters", of("get"), 405),
        ("a long method", of(&"A".repeat(5000)), 405),
        ("CONNECT", format!("CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n{CLOSE}").into(), 405),
        ("OPTIONS", of("OPTIONS"), 204),
        ("GET of everything", format!("GET * HTTP/1.1\r\nHost: x\r\n{CLOSE}").into(), 400),
        ("HEAD of everything", format!("HEAD * HTTP/1.1\r\nHost: x\r\n{CLOSE}").into(), 400),
        ("OPTIONS of everything", format!("OPTIONS * HTTP/1.1\r\nHost: x\r\n{CLOSE}").into(), 204),
        (
            "POST with a body",
            b"POST /tags/sunset HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}".into(),
            405,
        ),
    ]
}

#[tokio::test]
async fn every_hostile_request_gets_one_answer_with_the_documented_status() {
    let served = served(Limits::default()).await;
    let mut wrong = Vec::new();
    for (what, request, status) in requests() {
        let bytes = raw(served.at, &request).await;
        let text = String::from_utf8_lossy(&bytes);
        let reply = Reply::parse(&bytes);
        let answers = text.matches("HTTP/1.1 ").count() + text.matches("HTTP/1.0 ").count();
        if reply.status != status || answers != usize::from(status != CLOSED) {
            wrong.push(format!("{what}: {answers} answers, {}, not {status}", reply.status));
        }
        // Those that the parser refuses have no body; no browser sends them.
        let ours = reply.header("access-control-allow-origin") == Some("*");
        if !ours && ![CLOSED, 400, 431].contains(&reply.status) {
            wrong.push(format!("{what}: an answer without CORS: {text}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let served = served(Limits::default()).await;
    let get = |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n");
    let all = get("/livez", "") + &get("/tags/12", "") + &get("/t/sunset", "Connection: close\r\n");
    let bytes = raw(served.at, all.as_bytes()).await;
    let text = String::from_utf8(bytes).unwrap();
    let statuses: Vec<&str> = text.split("HTTP/1.1 ").skip(1).map(|a| &a[..3]).collect();
    assert_eq!(statuses, ["200", "400", "200"], "{text}");
    // What follows a body is not read.
    let all = get("/tags/sunset", "Content-Length: 3\r\n") + "abc" + &get("/livez", "");
    let text = String::from_utf8(raw(served.at, all.as_bytes()).await).unwrap();
    assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{text}");
}
