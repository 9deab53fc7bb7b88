//! Room for connections: who is connected, and who has to make room for another.
//!
//! Invariants: while there is room, everyone is let in; when it is short, the address with most
//! connections loses its slowest or, if none is slow, its oldest idle one; a connection whose
//! request is being answered loses nothing; some places are for probes alone.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::files;
use crate::forwarded::is_trusted;
use crate::limits::PROBES_MAX;
use crate::metrics::Metrics;

/// What connections of a trusted proxy count for until it has named a client. They make room last.
const EXEMPT: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
/// For how long a look at the files that are open holds.
const LOOK: Duration = Duration::from_millis(900);
/// Below this many connections, users may be turned away, and the log says so.
const FEW: usize = 100;

/// What a connection does. Those that come first make room first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// It has not asked anything yet: silent, or slow.
    Silent,
    /// Its answer is being sent.
    Sending,
    /// It had its answers and is kept open.
    Idle,
    /// Its request is being answered.
    Answering,
}

struct Client {
    /// The address that it counts for.
    address: IpAddr,
    phase: Phase,
    /// Its place in the order of what happened.
    since: u64,
    /// When that was.
    at: Instant,
    /// Ends it.
    end: Option<AbortHandle>,
}

/// The connections of an address.
#[derive(Default)]
struct Group {
    size: usize,
    /// Those that may have to make room, in that order.
    may_go: BTreeMap<(Phase, u64), u64>,
}

#[derive(Default)]
struct Table {
    clients: HashMap<u64, Client>,
    groups: HashMap<IpAddr, Group>,
    /// Rises with everything that happens.
    tick: u64,
    looked: Option<Instant>,
    places: usize,
}

/// The places of a listener.
pub(crate) struct Room {
    table: Mutex<Table>,
    trusted: Vec<IpNet>,
    max: usize,
    /// For how long a connection that is silent is taken for a new one.
    patience: Duration,
    metrics: Metrics,
}

/// The place of a connection, given back when dropped.
pub(crate) struct Seat {
    room: Arc<Room>,
    id: u64,
    /// Whether a proxy that is trusted sits here.
    pub(crate) trusted: bool,
    /// Whether only probes are answered here.
    pub(crate) probes_only: bool,
}

impl Table {
    /// Takes a connection out of its group.
    fn leave_group(&mut self, id: u64) {
        let Some(client) = self.clients.get(&id) else { return };
        let address = client.address;
        let Some(group) = self.groups.get_mut(&address) else {
            unreachable!("an address that has connections has a group")
        };
        group.may_go.remove(&(client.phase, client.since));
        group.size -= 1;
        if group.size == 0 {
            self.groups.remove(&address);
        }
    }

    /// Puts a connection into the group of its address.
    fn join_group(&mut self, id: u64) {
        let Some(client) = self.clients.get(&id) else { return };
        let group = self.groups.entry(client.address).or_default();
        group.size += 1;
        if client.phase != Phase::Answering {
            let before = group.may_go.insert((client.phase, client.since), id);
            assert!(before.is_none(), "two things happen at one tick");
        }
    }

    fn change(&mut self, id: u64, change: impl FnOnce(&mut Client)) {
        self.leave_group(id);
        self.tick += 1;
        if let Some(client) = self.clients.get_mut(&id) {
            change(client);
            (client.since, client.at) = (self.tick, Instant::now());
        }
        self.join_group(id);
    }

    fn remove(&mut self, id: u64) -> Option<Client> {
        self.leave_group(id);
        self.clients.remove(&id)
    }

    /// Who makes room: of the addresses with most connections, the one that has been slow or idle
    /// for the longest time.
    fn victim(&self, patience: Duration) -> Option<u64> {
        let rank = |(address, group): (&IpAddr, &Group)| {
            let first = group.may_go.first_key_value()?;
            // Its request may be on the way.
            let new = self.clients[first.1].at.elapsed() < patience;
            let other = group.may_go.range((Phase::Sending, 0)..).next().filter(|_| new);
            let ((phase, since), id) = other.unwrap_or(first);
            let last = (*address == EXEMPT, Reverse(group.size), new && other.is_none());
            Some((last, *phase, *since, *id))
        };
        self.groups.iter().filter_map(rank).min().map(|(.., id)| id)
    }
}

/// Providers give a whole network of 2^64 addresses to one customer.
fn counted(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl Room {
    /// A room of at most `max` places.
    pub(crate) fn new(
        max: usize,
        patience: Duration,
        trusted: Vec<IpNet>,
        metrics: Metrics,
    ) -> Arc<Self> {
        let room = Self { table: Mutex::default(), trusted, max, patience, metrics };
        let (limit, places) = (files::limit(), room.look());
        if places < max.min(FEW) {
            tracing::warn!(
                limit,
                places,
                "few connections fit beside the job's files; raise the limit of open files (ulimit -n)"
            );
        }
        Arc::new(room)
    }

    /// The number of places. They are counted anew from time to time, since the job opens files.
    fn look(&self) -> usize {
        let mut table = self.table.lock();
        if table.looked.is_none_or(|at| at.elapsed() > LOOK) {
            let others = files::open().saturating_sub(table.clients.len() as u64);
            table.places = files::connections(files::limit(), others).min(self.max);
            table.looked = Some(Instant::now());
        }
        table.places
    }

    /// Lets connections go that take what the job needs.
    pub(crate) fn make_room(&self) {
        let places = self.look();
        let mut table = self.table.lock();
        while table.clients.len() > places
            && let Some(victim) = table.victim(self.patience)
        {
            self.evict(&mut table, victim);
        }
    }

    /// Whether another connection can be let in.
    pub(crate) fn has_room(&self) -> bool {
        let places = self.look();
        let table = self.table.lock();
        table.clients.len() < places + PROBES_MAX || table.victim(self.patience).is_some()
    }

    /// Lets a connection in. Another one may have to make room.
    pub(crate) fn admit(self: &Arc<Self>, peer: IpAddr) -> Seat {
        let places = self.look();
        let trusted = is_trusted(&self.trusted, peer);
        let mut table = self.table.lock();
        while table.clients.len() >= places
            && let Some(victim) = table.victim(self.patience)
        {
            self.evict(&mut table, victim);
        }
        table.tick += 1;
        let (id, address) = (table.tick, if trusted { EXEMPT } else { counted(peer) });
        let (phase, at) = (Phase::Silent, Instant::now());
        let client = Client { address, phase, since: id, at, end: None };
        let probes_only = table.clients.len() >= places;
        table.clients.insert(id, client);
        table.join_group(id);
        self.metrics.connected(1);
        Seat { room: Arc::clone(self), id, trusted, probes_only }
    }

    fn evict(&self, table: &mut Table, id: u64) {
        let Some(client) = table.remove(id) else { unreachable!("a victim is connected") };
        assert!(client.phase != Phase::Answering, "a request that is answered is not cut off");
        if let Some(end) = client.end {
            end.abort();
        }
        self.metrics.evicted();
    }

    /// Gives a file back to the process, if a connection may go.
    pub(crate) fn give_back(&self) {
        let mut table = self.table.lock();
        table.looked = None;
        if let Some(victim) = table.victim(self.patience) {
            self.evict(&mut table, victim);
        }
    }

    /// Lets those go that have not asked anything yet: a service that ends would wait for them.
    pub(crate) fn dismiss(&self) {
        let mut table = self.table.lock();
        let silent = table.clients.iter().filter(|(_, client)| client.phase == Phase::Silent);
        let silent: Vec<u64> = silent.map(|(id, _)| *id).collect();
        for id in silent {
            if let Some(end) = table.remove(id).and_then(|client| client.end) {
                end.abort();
            }
        }
    }

    /// The proxies whose word is taken.
    pub(crate) fn trusted(&self) -> &[IpNet] {
        &self.trusted
    }
}

impl Seat {
    /// The room that it is in.
    pub(crate) fn room(&self) -> &Room {
        &self.room
    }

    /// Whether the connection still has its place.
    #[cfg(test)]
    pub(crate) fn is_here(&self) -> bool {
        self.room.table.lock().clients.contains_key(&self.id)
    }

    /// Says how to end the connection.
    pub(crate) fn ends_by(&self, end: AbortHandle) {
        if let Some(client) = self.room.table.lock().clients.get_mut(&self.id) {
            client.end = Some(end);
        }
    }

    /// Says what the connection does now.
    pub(crate) fn now(&self, phase: Phase) {
        self.room.table.lock().change(self.id, |client| client.phase = phase);
    }

    /// Says that an answer has been sent, if one was.
    pub(crate) fn sent(&self) {
        let mut table = self.room.table.lock();
        if table.clients.get(&self.id).is_some_and(|client| client.phase == Phase::Sending) {
            table.change(self.id, |client| client.phase = Phase::Idle);
        }
    }

    /// Says whose request a trusted proxy passed on.
    pub(crate) fn is_for(&self, client: Option<IpAddr>) {
        let address = client.map_or(EXEMPT, counted);
        self.room.table.lock().change(self.id, |client| client.address = address);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.room.table.lock().remove(self.id);
        self.room.metrics.connected(-1);
    }
}
