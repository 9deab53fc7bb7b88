//! Who a request is from, if a proxy that is trusted passes it on: `Forwarded` (RFC 7239).
//!
//! Invariant: what an address that is not trusted says of itself is not believed.

use std::net::{IpAddr, SocketAddr};

use hyper::HeaderMap;
use hyper::header::FORWARDED;
use ipnet::IpNet;

/// Whether `peer` is one of the `trusted` proxies.
pub(crate) fn is_trusted(trusted: &[IpNet], peer: IpAddr) -> bool {
    trusted.iter().any(|net| net.contains(&peer.to_canonical()))
}

/// The client that a trusted proxy names: the last address that is not itself a trusted proxy's.
pub(crate) fn client(headers: &HeaderMap, trusted: &[IpNet]) -> Option<IpAddr> {
    let lines = headers.get_all(FORWARDED).iter().map(|value| value.to_str().ok());
    // Each proxy appends itself, so what stands before an unreadable line may be made up.
    let mut clients = Vec::new();
    for line in lines {
        match line.and_then(|line| split(line, ',')) {
            Some(elements) => clients.extend(elements.into_iter().map(element)),
            None => clients.clear(),
        }
    }
    clients.reverse();
    clients.into_iter().find(|client| client.is_none_or(|ip| !is_trusted(trusted, ip)))?
}

/// The address that an element names; `None` if there is none, such as for `unknown`.
fn element(text: &str) -> Option<IpAddr> {
    let pairs = split(text, ';')?.into_iter().filter_map(|pair| pair.trim().split_once('='));
    let mut named = pairs.filter(|(name, _)| name.eq_ignore_ascii_case("for"));
    address(named.next()?.1)
}

/// Splits at a character outside quotes; `None` if a quote is not closed.
fn split(text: &str, at: char) -> Option<Vec<&str>> {
    let (mut quoted, mut escaped) = (false, false);
    let parts = text.split(|c| {
        let inside = quoted;
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        c == at && !inside
    });
    let parts = parts.collect();
    (!quoted).then_some(parts)
}

/// An address, with or without a port; one of IPv6 is in brackets.
fn address(value: &str) -> Option<IpAddr> {
    let text = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
    let bare = text.strip_prefix('[').and_then(|v| v.strip_suffix(']')).unwrap_or(text);
    let ip = bare.parse().ok().or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()))?;
    Some(IpAddr::to_canonical(&ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED, line.parse().unwrap());
        }
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        client(&headers, &trusted).map(|ip| ip.to_string())
    }

    #[test]
    fn the_last_client_that_is_no_trusted_proxy_is_taken() {
        for (lines, client) in [
            (&["for=192.0.2.60;proto=http;by=203.0.113.43"][..], Some("192.0.2.60")),
            (&["For=\"[2001:db8:cafe::17]:4711\""], Some("2001:db8:cafe::17")),
            (&["for=\"192.0.2.43:80\"; secret=\"a,b;for=1.1.1.1\""], Some("192.0.2.43")),
            (&["for=\"::ffff:192.0.2.1\""], Some("192.0.2.1")),
            (&["for=1.1.1.1, for=192.0.2.43, for=10.1.2.3"], Some("192.0.2.43")),
            (&["for=1.1.1.1", "for=192.0.2.43", "for=\"[fd00::1]\""], Some("192.0.2.43")),
            (&["for=1.1.1.1, for=unknown"], None),
            (&["for=1.1.1.1, for=_hidden, for=10.0.0.1"], None),
            (&["for=1.1.1.1, by=10.0.0.1"], None),
            (&["for=1.1.1.1", "for=\"2.2.2.2"], None),
            (&["for=\"2.2.2.2", "for=1.1.1.1"], Some("1.1.1.1")),
            (&["nonsense"], None),
            (&["for=10.0.0.1"], None),
            (&[], None),
        ] {
            assert_eq!(of(lines).as_deref(), client, "{lines:?}");
        }
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        assert!(is_trusted(&trusted, "::ffff:10.0.0.1".parse().unwrap()));
        assert!(!is_trusted(&trusted, "11.0.0.1".parse().unwrap()));
    }
}
