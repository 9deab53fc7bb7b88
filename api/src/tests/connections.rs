//! Many connections: who makes room, and for whom there always is some.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ipnet::IpNet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::{DEADLINE, Memory, Reply, Served, get};
use crate::limits::PROBES_MAX;
use crate::metrics::Metrics;
use crate::room::{Phase, Room, Seat};
use crate::server::serve_in;

fn room(places: usize, trusted: &[&str]) -> Arc<Room> {
    let trusted: Vec<IpNet> = trusted.iter().map(|net| net.parse().unwrap()).collect();
    Room::new(places, Duration::ZERO, trusted, Metrics::default())
}

fn enter(room: &Arc<Room>, address: &str) -> Seat {
    room.admit(address.parse().unwrap())
}

fn here(seat: &Seat) -> bool {
    seat.is_here()
}

#[test]
fn there_is_no_bound_by_address_while_there_is_room() {
    let room = room(10, &[]);
    let seats: Vec<Seat> = (0..10).map(|_| enter(&room, "192.0.2.1")).collect();
    assert!(seats.iter().all(|seat| here(seat) && !seat.probes_only));
}

#[test]
fn the_address_with_most_connections_makes_room() {
    let room = room(6, &[]);
    let few: Vec<Seat> = ["192.0.2.1", "192.0.2.2"].map(|ip| enter(&room, ip)).into();
    let many: Vec<Seat> = (0..4).map(|_| enter(&room, "192.0.2.9")).collect();
    let new = enter(&room, "192.0.2.3");
    assert!(few.iter().all(here) && here(&new) && !new.probes_only);
    assert_eq!(many.iter().map(here).collect::<Vec<_>>(), [false, true, true, true], "the oldest");
    // An IPv6 network counts as one address.
    let networks = self::room(4, &[]);
    let one = enter(&networks, "192.0.2.1");
    let ipv6 = ["2001:db8::1", "2001:db8::2", "2001:db8::3"].map(|ip| enter(&networks, ip));
    let _new = enter(&networks, "192.0.2.2");
    assert!(here(&one) && !here(&ipv6[0]));
}

#[test]
fn slow_ones_go_first_then_the_oldest_idle_and_never_one_that_is_answered() {
    let room = room(4, &[]);
    let seats: Vec<Seat> = (0..4).map(|_| enter(&room, "192.0.2.1")).collect();
    let phases = [Phase::Answering, Phase::Sending, Phase::Sending, Phase::Silent];
    for (seat, phase) in seats.iter().zip(phases) {
        seat.now(phase);
    }
    // Two have their answers; the second of them is idle for longer.
    seats[2].sent();
    seats[1].sent();
    let here = || seats.iter().map(self::here).collect::<Vec<_>>();
    let mut new = vec![enter(&room, "192.0.2.2")];
    assert_eq!(here(), [true, true, true, false], "the silent one");
    new[0].now(Phase::Answering);
    new.push(enter(&room, "192.0.2.3"));
    assert_eq!(here(), [true, true, false, false], "the oldest idle one");
    new[1].now(Phase::Answering);
    new.push(enter(&room, "192.0.2.4"));
    assert_eq!(here(), [true, false, false, false]);
    new[2].now(Phase::Answering);
    let probe = enter(&room, "192.0.2.5");
    assert_eq!(here(), [true, false, false, false], "its request is being answered");
    assert!(probe.probes_only, "only probes are answered beyond the places");
    drop(seats);
    assert!(!enter(&room, "192.0.2.5").probes_only, "a place is free again");
}

#[test]
fn a_new_connection_stays_while_its_request_may_be_on_the_way() {
    let room = Room::new(3, DEADLINE, Vec::new(), Metrics::default());
    let idle = [enter(&room, "192.0.2.1"), enter(&room, "192.0.2.1")];
    idle.iter().for_each(|seat| seat.now(Phase::Idle));
    let new = [enter(&room, "192.0.2.1"), enter(&room, "192.0.2.1"), enter(&room, "192.0.2.1")];
    assert!(!idle.iter().any(here) && new.iter().all(here));
    // Among new ones alone, the oldest.
    assert!(here(&enter(&room, "192.0.2.1")) && !here(&new[0]));
}

#[test]
fn a_trusted_proxy_is_exempt_and_its_clients_count_for_themselves() {
    let room = room(6, &["10.0.0.0/8"]);
    let proxy: Vec<Seat> = (0..4).map(|_| enter(&room, "10.0.0.1")).collect();
    let direct: Vec<Seat> = ["192.0.2.1"; 2].map(|ip| enter(&room, ip)).into();
    let new = enter(&room, "192.0.2.2");
    assert!(proxy.iter().all(here), "most connections are the proxy's");
    assert_eq!(direct.iter().map(here).collect::<Vec<_>>(), [false, true]);
    drop((direct, new));
    // A client behind the proxy takes most places.
    let greedy: Option<IpAddr> = "198.51.100.7".parse().ok();
    for seat in &proxy[..3] {
        seat.is_for(greedy);
    }
    proxy[3].is_for("198.51.100.8".parse().ok());
    let new: Vec<Seat> = (1..4).map(|i| enter(&room, &format!("192.0.2.{i}"))).collect();
    assert!(new.iter().all(here));
    assert_eq!(proxy.iter().map(here).collect::<Vec<_>>(), [false, true, true, true]);
    // Where there is nobody else, the oldest of a proxy's makes room.
    let room = self::room(2, &["10.0.0.0/8"]);
    let [first, second, third] = ["10.0.0.1"; 3].map(|ip| enter(&room, ip));
    assert!(!here(&first) && here(&second) && here(&third));
}

#[test]
fn a_service_that_ends_waits_for_answers_and_not_for_requests() {
    let room = room(10, &[]);
    let phases = [Phase::Silent, Phase::Answering, Phase::Sending, Phase::Silent];
    let seats = phases.map(|phase| {
        let seat = enter(&room, "192.0.2.1");
        seat.now(phase);
        seat
    });
    room.dismiss();
    assert_eq!(seats.each_ref().map(here), [false, true, true, false]);
}

async fn served_in(places: usize) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (at, store) = (listener.local_addr().unwrap(), Memory::new());
    let (read, room) = (Arc::clone(&store), room(places, &[]));
    tokio::spawn(serve_in(room, listener, read, Metrics::default(), std::future::pending()));
    Served { at, store }
}

/// A connection that has sent `bytes`.
async fn connected(at: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

/// What arrives until the connection ends.
async fn rest(mut stream: TcpStream) -> Reply {
    let mut bytes = Vec::new();
    let read = timeout(DEADLINE, stream.read_to_end(&mut bytes)).await;
    // A connection that makes room may be reset.
    let _ = read.expect("the connection ends");
    Reply::parse(&bytes)
}

#[tokio::test]
async fn silent_slow_and_idle_clients_make_room_for_good_ones() {
    let served = served_in(8).await;
    let asked = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
    for first in [&b""[..], b"GET /tags/sun", asked] {
        let mut others = Vec::new();
        for _ in 0..40 {
            others.push(connected(served.at, first).await);
            assert_eq!(get(served.at, "/tags/sunset").await.status, 200);
        }
        // All but the last few are gone.
        for stream in others.drain(..30) {
            rest(stream).await;
        }
    }
}

#[tokio::test]
async fn a_burst_of_clients_waits_to_be_accepted() {
    let served = served_in(2000).await;
    assert_eq!(get(served.at, "/livez").await.status, 200);
    // Nothing is accepted meanwhile: this thread is the service's.
    let connect = |_| std::net::TcpStream::connect_timeout(&served.at, DEADLINE / 10).unwrap();
    let burst: Vec<std::net::TcpStream> = (0..300).map(connect).collect();
    assert_eq!(get(served.at, "/livez").await.status, 200);
    drop(burst);
}

#[tokio::test]
async fn probes_are_answered_while_every_place_is_taken() {
    let served = served_in(4).await;
    served.store.stuck.store(true, Ordering::Relaxed);
    let ask = b"GET /tags/sunset HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let mut waiting = Vec::new();
    for _ in 0..4 {
        waiting.push(connected(served.at, ask).await);
    }
    let full = async {
        while served.store.waiting.load(Ordering::Relaxed) < 4 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(DEADLINE, full).await.expect("the service is full");
    for _ in 0..3 * PROBES_MAX {
        assert_eq!(get(served.at, "/livez").await.status, 200);
        assert_eq!(get(served.at, "/readyz").await.status, 200);
        let refused = get(served.at, "/tags/sunset").await;
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
        assert_eq!(refused.header("access-control-allow-origin"), Some("*"));
    }
    // Silent connections cannot take the places of probes.
    let mut silent = Vec::new();
    for _ in 0..5 * PROBES_MAX {
        silent.push(TcpStream::connect(served.at).await.unwrap());
    }
    assert_eq!(get(served.at, "/livez").await.status, 200);
    served.store.stuck.store(false, Ordering::Relaxed);
    for stream in waiting {
        assert_eq!(rest(stream).await.status, 200);
    }
}
