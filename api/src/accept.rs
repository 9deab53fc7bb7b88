//! `Accept`, for the few paths whose form it decides.
//!
//! Invariant: a client that does not prefer pages gets JSON.

use hyper::HeaderMap;
use hyper::header::ACCEPT;

/// Whether a client would rather have a page than JSON.
pub(crate) fn prefers_page(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let ranges: Vec<(String, f32)> = values.flat_map(|v| v.split(',')).map(range).collect();
    let page = quality(&ranges, &["text/html", "text/*", "*/*"]);
    let json = [
        quality(&ranges, &["application/problem+json", "application/*", "*/*"]),
        quality(&ranges, &["application/json", "application/*", "*/*"]),
    ];
    page > json[0].max(json[1])
}

/// A media range and its quality; parameters other than `q` do not matter here.
fn range(text: &str) -> (String, f32) {
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next().unwrap_or("").to_ascii_lowercase();
    let q = parts.find_map(|part| part.strip_prefix(['q', 'Q'])?.trim_start().strip_prefix('='));
    (name, q.map_or(1.0, |q| q.trim().parse().unwrap_or(0.0)))
}

/// The quality of the first of `names`, the most specific one first, that is accepted.
fn quality(ranges: &[(String, f32)], names: &[&str]) -> f32 {
    let of = |name: &&str| ranges.iter().find(|(range, _)| range == name).map(|(_, q)| *q);
    names.iter().find_map(of).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_get_pages_and_everything_else_gets_json() {
        let prefers = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            prefers_page(&headers)
        };
        for page in [
            "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8",
            "TEXT/HTML",
            "text/*",
            "text/html;level=1;q=0.5, application/json;q=0.4",
            "application/json;q=0, */*",
        ] {
            assert_eq!(prefers(page), !page.starts_with("application"), "{page}");
        }
        for json in [
            "*/*",
            "application/json",
            "application/problem+json, text/html",
            "text/html;q=0.1, application/*",
            "text/html;q=0",
            "text/html;q=nonsense",
            "image/png",
            "",
        ] {
            assert!(!prefers(json), "{json}");
        }
        assert!(!prefers_page(&HeaderMap::new()));
    }
}
