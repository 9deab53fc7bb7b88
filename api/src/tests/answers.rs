//! What each form of answer promises: CORS, forms of errors, redirects, links.

use std::sync::atomic::Ordering;

use tokio::net::TcpListener;

use super::{Reply, ask, get, raw, served};
use crate::Limits;

const PAGE: &str = "text/html; charset=utf-8";
const PROBLEM: &str = "application/problem+json";
const BROWSER: &str = "Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n";

/// Every kind of path, with good and bad requests.
const PATHS: [&str; 18] = [
    "/",
    "/?scope=mars",
    "/?fbclid=1",
    "/t/sunset",
    "/t/SUNSET",
    "/t/12",
    "/t/nothere",
    "/tags/sunset",
    "/tags/SUNSET",
    "/tags/12",
    "/tags/nothere",
    "/tags/sunset?x=1",
    "/livez",
    "/readyz",
    "/style.css",
    "/problems/method",
    "/problems/none",
    "/none",
];

#[tokio::test]
async fn every_answer_is_for_any_origin_and_exposes_its_headers() {
    let served = served(Limits::default()).await;
    let long = format!("/tags/{}", "a".repeat(3000));
    let cookies = format!("Cookie: {}\r\n", "a".repeat(17_000));
    for empty in [false, true] {
        served.store.empty.store(empty, Ordering::Relaxed);
        for path in PATHS.into_iter().chain([long.as_str()]) {
            for method in ["GET", "HEAD", "OPTIONS", "POST", "TRACE"] {
                for headers in ["", "If-None-Match: *\r\n", cookies.as_str()] {
                    let reply = ask(served.at, method, path, headers).await;
                    let what = format!("{method} {path}: {}", reply.status);
                    assert_eq!(reply.header("access-control-allow-origin"), Some("*"), "{what}");
                    let exposed = reply.header("access-control-expose-headers").unwrap();
                    for name in ["ETag", "Content-Location", "Retry-After", "Link"] {
                        assert!(exposed.contains(name), "{what}");
                    }
                    let asks = path.starts_with("/problems/") || path == "/none";
                    let varies = (asks && reply.status != 204).then_some("accept");
                    assert_eq!(reply.header("vary"), varies, "{what}");
                    let kept = reply.header("cache-control") != Some("no-store");
                    assert!(!asks || !kept, "{what} may be cached");
                }
            }
        }
    }
}

#[tokio::test]
async fn browsers_may_ask_with_headers_of_their_own() {
    let served = served(Limits::default()).await;
    let asked = "Origin: https://a.example\r\nAccess-Control-Request-Method: GET\r\n\
                 Access-Control-Request-Headers: if-none-match\r\n";
    for path in ["/tags/sunset", "/t/sunset", "/", "/none", "*"] {
        let reply = ask(served.at, "OPTIONS", path, asked).await;
        assert_eq!((reply.status, reply.body.as_str()), (204, ""), "{path}");
        assert_eq!(reply.header("allow"), Some("GET, HEAD, OPTIONS"));
        assert_eq!(reply.header("access-control-allow-methods"), Some("GET, HEAD, OPTIONS"));
        assert_eq!(reply.header("access-control-allow-headers"), Some("*"));
        assert_eq!(reply.header("vary"), None, "{path}: nothing depends on a header");
    }
}

#[tokio::test]
async fn the_route_decides_the_form_of_an_error() {
    let served = served(Limits::default()).await;
    for accept in ["", BROWSER, "Accept: application/json\r\n"] {
        for path in ["/t/12", "/t/nothere", "/t/sunset?scope=mars", "/?scope=mars", "/?scope=%zz"] {
            let reply = ask(served.at, "GET", path, accept).await;
            assert_eq!(reply.header("content-type"), Some(PAGE), "{path}");
            assert!(reply.status >= 400 && reply.body.contains("href=\"/\""), "{path}");
            assert!(reply.body.contains("What to do: "), "{path}");
            assert!(reply.header("content-security-policy").is_some(), "{path}");
        }
        for path in ["/tags/12", "/tags/nothere", "/tags/sunset?scope=mars", "/tags/sunset?x"] {
            let reply = ask(served.at, "GET", path, accept).await;
            assert_eq!(reply.header("content-type"), Some(PROBLEM), "{path}");
            let document: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
            assert_eq!(document["status"], reply.status, "{path}");
        }
        for (method, path, form) in [("POST", "/t/a", PAGE), ("POST", "/tags/a", PROBLEM)] {
            let reply = ask(served.at, method, path, accept).await;
            assert_eq!((reply.status, reply.header("content-type")), (405, Some(form)), "{path}");
        }
        for path in ["/none", "/favicon.ico", "/problems/none", "/tags/"] {
            let form = if accept == BROWSER { PAGE } else { PROBLEM };
            let reply = ask(served.at, "GET", path, accept).await;
            assert_eq!((reply.status, reply.header("content-type")), (404, Some(form)), "{path}");
        }
    }
    served.store.empty.store(true, Ordering::Relaxed);
    let page = get(served.at, "/").await;
    assert_eq!((page.status, page.header("retry-after")), (503, Some("1")));
    assert!(page.body.contains("http-equiv=\"refresh\""), "a page that waits comes back by itself");
    let ready = get(served.at, "/readyz").await;
    assert_eq!((ready.status, ready.header("content-type")), (503, Some(PROBLEM)));
}

#[tokio::test]
async fn an_error_says_once_what_is_wrong_and_once_what_to_do() {
    let served = served(Limits::default()).await;
    let page = ask(served.at, "GET", "/none", BROWSER).await.body;
    assert_eq!(page.matches("nothing is served at this path").count(), 1, "{page}");
    assert_eq!(page.matches("/tags/{name}").count(), 1, "{page}");
    for path in ["/none", "/tags/nothere", "/tags/a?scope=mars", "/tags/12", "/tags/a?x"] {
        let body = get(served.at, path).await.body;
        let document: serde_json::Value = serde_json::from_str(&body).unwrap();
        let (detail, advice) = (document["detail"].as_str(), document["advice"].as_str());
        assert!(detail.is_some() && advice.is_some() && detail != advice, "{document}");
    }
    // More header lines than hyper accepts by default.
    let lines: String = (0..101).map(|i| format!("X-{i}: 1\r\n")).collect();
    let reply = ask(served.at, "GET", "/tags/sunset", &lines).await;
    assert_eq!((reply.status, reply.header("content-type")), (431, Some(PROBLEM)));
}

#[tokio::test]
async fn no_answer_names_an_address_that_is_too_long_to_ask_for() {
    let served = served(Limits::default()).await;
    // Encoded in the answer, what is sent as it is becomes three times as long.
    let more = "é".repeat(600);
    for path in [format!("/t/SUNSET?scope={more}"), format!("/?fbclid=1&scope={more}")] {
        let reply = get(served.at, &path).await;
        assert_eq!((reply.status, reply.header("location")), (404, None), "{path}");
        assert!(reply.body.contains("href=\"/?scope=region%3Deu\""), "{}", reply.body);
    }
}

#[tokio::test]
async fn the_type_of_every_problem_resolves() {
    let served = served(Limits::default()).await;
    for path in ["/none", "/tags/nothere", "/tags/a?scope=mars", "/tags/12", "/tags/a?x"] {
        let document: serde_json::Value =
            serde_json::from_str(&get(served.at, path).await.body).unwrap();
        let kind = document["type"].as_str().unwrap();
        let reply = get(served.at, kind).await;
        assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")));
        let about: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
        assert_eq!(about["type"], kind);
        assert_eq!(about["title"], document["title"]);
        let page = ask(served.at, "GET", kind, BROWSER).await;
        assert_eq!((page.status, page.header("content-type")), (200, Some(PAGE)));
        assert!(page.body.contains(about["title"].as_str().unwrap()), "{}", page.body);
    }
}

#[tokio::test]
async fn an_unknown_scope_says_which_scopes_there_are() {
    let served = served(Limits::default()).await;
    let json = get(served.at, "/tags/sunset?scope=region=mars").await;
    assert_eq!(json.status, 404);
    let document: serde_json::Value = serde_json::from_str(&json.body).unwrap();
    assert_eq!(document["type"], "/problems/unknown-scope");
    assert!(document["detail"].as_str().unwrap().contains("\"region=eu\""), "{document}");
    for path in ["/?scope=region=mars", "/t/sunset?scope=region=mars", "/t/nothere?scope=x"] {
        let page = get(served.at, path).await;
        assert_eq!(page.status, 404, "{path}");
        assert!(page.body.contains("href=\"/?scope=region%3DNew%20York\""), "{}", page.body);
    }
}

#[tokio::test]
async fn plus_is_a_space_in_a_query() {
    let served = served(Limits::default()).await;
    for path in [
        "/tags/sunset?scope=region=New+York",
        "/tags/sunset?scope=region%3DNew%20York",
        "/t/sunset?scope=region=New+York",
        "/?scope=region=a%2Bb",
        "/tags/sunset?scope=region%3Da%2Bb",
    ] {
        assert_eq!(get(served.at, path).await.status, 200, "{path}");
    }
    assert_eq!(get(served.at, "/tags/sunset?scope=region=a+b").await.status, 404);
    assert_eq!(get(served.at, "/tags/sun+set").await.status, 400, "not in a path");
}

#[tokio::test]
async fn pages_redirect_to_their_clean_address() {
    let served = served(Limits::default()).await;
    for (path, to) in [
        ("/t/sunset?fbclid=IwAR0x", "/t/sunset"),
        ("/?utm_source=news&utm_medium=mail", "/"),
        ("/t/sunset?scope=region%3Deu&gclid=x", "/t/sunset?scope=region%3Deu"),
        ("/t/SUNSET?gclid=%zz&scope=region=New+York", "/t/sunset?scope=region=New+York"),
        ("/?scope=region=eu&x", "/?scope=region=eu"),
        ("/t/%23Sunset", "/t/sunset"),
        ("/t/sunset/?a=b", "/t/sunset"),
    ] {
        let reply = get(served.at, path).await;
        assert_eq!((reply.status, reply.header("location")), (308, Some(to)), "{path}");
        assert_eq!(get(served.at, to).await.status, 200, "{to}");
    }
    for path in ["/t/sunset?", "/?&&", "/t/sunset?scope=", "/style.css?v=1", "/livez?verbose"] {
        assert_eq!(get(served.at, path).await.status, 200, "{path}");
    }
    for path in ["/tags/sunset?fbclid=x", "/tags/sunset?scope=region=eu&utm_source=x"] {
        assert_eq!(get(served.at, path).await.status, 400, "programs are told: {path}");
    }
}

#[tokio::test]
async fn every_link_of_a_page_leads_to_its_tag() {
    let served = served(Limits::default()).await;
    for (scope, query) in [("", ""), ("region=a+b", "?scope=region%3Da%2Bb")] {
        let front = get(served.at, &format!("/{query}")).await.body;
        let links: Vec<&str> = front.split("href=\"/t/").skip(1).collect();
        assert_eq!(links.len(), 4, "{front}");
        for link in links {
            let path = format!("/t/{}", link.split('"').next().unwrap());
            let page = get(served.at, &path).await;
            assert_eq!(page.status, 200, "{path}");
            assert!(page.body.contains(&format!("href=\"/{query}\"")), "back to {scope:?}");
        }
    }
    // The JSON names a location only if it can be asked for.
    let long = get(served.at, &format!("/tags/{}", "%C3%9F".repeat(60))).await;
    assert_eq!((long.status, long.header("content-location")), (200, None));
    let other = get(served.at, "/tags/SUNSET?scope=region=eu").await;
    assert_eq!(other.header("content-location"), Some("/tags/sunset?scope=region=eu"));
}

#[tokio::test]
async fn conditional_requests_follow_rfc_9110() {
    let served = served(Limits::default()).await;
    for path in ["/tags/sunset", "/t/sunset", "/"] {
        let tag = get(served.at, path).await.header("etag").unwrap().to_owned();
        let status = async |list: &str| {
            let reply = ask(served.at, "GET", path, &format!("If-None-Match: {list}\r\n")).await;
            assert_eq!(reply.header("etag"), Some(tag.as_str()));
            reply.status
        };
        for list in [tag.clone(), format!("W/{tag}"), format!("\"a,b\", {tag}"), "*".into()] {
            assert_eq!(status(&list).await, 304, "{list}");
        }
        for list in ["\"client,*,tag\"", "\"a, * ,b\"", "\"other\"", "7-9"] {
            assert_eq!(status(list).await, 200, "{list}");
        }
        for (list, status) in [("*", 200), (tag.as_str(), 200), ("\"other\"", 412), ("7-9", 412)] {
            let asked = format!("If-Match: {list}\r\nIf-None-Match: \"other\"\r\n");
            let reply = ask(served.at, "GET", path, &asked).await;
            assert_eq!(reply.status, status, "{list}");
            assert_eq!(reply.header("cache-control") == Some("no-store"), status == 412);
        }
        let weak = ask(served.at, "GET", path, &format!("If-Match: W/{tag}\r\n")).await;
        assert_eq!(weak.status, 412, "If-Match compares strongly");
        let head =
            format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nIf-None-Match: ");
        let latin1 = [head.as_bytes(), b"\"\xe9t\xe9\", ", tag.as_bytes(), b"\r\n\r\n"].concat();
        assert_eq!(Reply::parse(&raw(served.at, &latin1).await).status, 304);
    }
}

#[tokio::test]
async fn metrics_answer_head_and_are_not_for_other_origins() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let registry = prometheus_client::registry::Registry::default();
    tokio::spawn(crate::serve_admin(listener, registry.into(), std::future::pending()));
    let all = get(at, "/metrics").await;
    let head = ask(at, "HEAD", "/metrics", "").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(head.header("content-length"), all.header("content-length"));
    assert_eq!(head.header("content-type"), all.header("content-type"));
    let post = ask(at, "POST", "/metrics", "").await;
    assert_eq!((post.status, post.header("allow")), (405, Some("GET, HEAD")));
    assert_eq!(get(at, "/none").await.status, 404);
    assert_eq!(all.header("access-control-allow-origin"), None);
}
