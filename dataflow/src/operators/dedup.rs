//! Dedup: lets the first event of each id pass, exactly once through crashes.
//!
//! Copies of an event may claim different times. Invariants: an id is in the set from its first
//! accepted event until the floor passes the latest hour that its copies have claimed; the rows of
//! a commit are the ids accepted, moved to a later hour or forgotten in it, one row for each id.

use std::collections::HashMap;
use std::sync::Arc;

use schemas::config::Beyond;
use schemas::control::{Control, Id};
use schemas::hash::{BINS, KeyHash};
use schemas::manifest::Counters;
use schemas::planted::{Bug, planted};
use schemas::rows::{
    BEYOND_HORIZON, BelowFloor, IdRow, Ids, Redelivery, hour_of, partition_hash, record_hash,
};
use schemas::segment::Rows;
use sinks::commits::CommitError;

use super::ack::Acker;
use super::audit::{Audit, Done};
use super::commit_operator::PerCommit;
use super::refusals::{Refusals, Refused};
use crate::context::Context;
use crate::error::RunError;
use crate::process::ProcessShared;
use crate::records::{Close, Order, Origin, Post, Posts, Route};
use crate::state::id_set::IdSet;
use crate::status::Status;
use crate::worker_id::WorkerId;

const HOUR_MS: i64 = 3_600_000;

/// The ids of one worker's bins.
pub(crate) struct Dedup {
    worker: WorkerId,
    ids: IdSet,
    beyond: Beyond,
    process: Arc<ProcessShared>,
    floor_ms: Option<i64>,
    commit: u64,
    accepted: Rows<Ids>,
    dead: Refusals,
    counters: Counters,
    /// The rows of ids that have changed again in the commit under way: they replace those in
    /// `accepted`.
    changed: HashMap<KeyHash, IdRow>,
    audit: Audit,
}

/// For an id that was once forgotten, keeps only what its newest row says.
fn keep_newest(ids: &mut IdSet, newest: Option<IdRow>) {
    let Some(IdRow { hash, hour, forgotten }) = newest else {
        unreachable!("an id was forgotten by a row of it");
    };
    ids.remove(hash);
    if !forgotten {
        ids.insert(hour, hash);
    }
}

/// One bin in this many is sampled to estimate how many ids there are.
const SAMPLED_ONE_IN: usize = 16;

/// The origin, for a dead letter, of an event that the source sent without one because it took the
/// event to be safely above the floor. Only clocks that run ahead of each other can cause this.
fn unknown_origin(post: &Post) -> Origin {
    let KeyHash { hi, lo } = post.id;
    let raw = format!("event {hi:016x}{lo:016x}").into_bytes();
    let bytes = raw.len() as u64;
    Origin { input: String::new(), partition: format!("{hi:016x}"), position: lo, raw, bytes }
}

impl Dedup {
    /// Loads the ids of the bins that `worker` owns.
    pub(crate) fn load(context: &Context, worker: WorkerId) -> Result<Self, CommitError> {
        let start = &context.start;
        let process = Arc::clone(&context.process);
        let mut dedup = Self::new(context.settings.beyond, process, context.first_commit(), worker);
        dedup.floor_ms = start.body.floor_ms.filter(|_| !planted(Bug::FloorForgotten));
        let floor = start.body.floor_ms.map_or(0, hour_of);
        dedup.audit = Audit::load(context, worker)?;
        let segments = context.process.open_ids.open(&*context.storage, start)?;
        let mut once_forgotten = Vec::new();
        let wrong = u64::from(planted(Bug::ReshardByWrongHash));
        let bins: Vec<u64> = (0..BINS).filter(|bin| worker.owns((bin + wrong) % BINS)).collect();
        let rows = |step: usize| {
            let mine = bins.iter().step_by(step);
            let rows = segments
                .iter()
                .flat_map(move |segment| mine.clone().flat_map(move |bin| segment.rows.bin(*bin)));
            rows.filter(|(_, row)| row.hour >= floor)
        };
        // Bins are about equally full, so a sample shows how many ids there are.
        let times = bins.len().div_ceil(bins.len().div_ceil(SAMPLED_ONE_IN).max(1));
        dedup.ids = IdSet::with_room(worker.peers(), rows(SAMPLED_ONE_IN).count() * times);
        dedup.ids.forget_before(floor);
        for (id, row) in rows(1) {
            once_forgotten.extend(row.forgotten.then_some(id));
            dedup.ids.insert(row.hour, id);
        }
        // The newest row of an id says whether it is remembered.
        for id in once_forgotten {
            let newest = segments.iter().rev().find_map(|segment| segment.rows.get(id));
            keep_newest(&mut dedup.ids, newest);
        }
        Ok(dedup)
    }

    pub(super) fn new(
        beyond: Beyond,
        process: Arc<ProcessShared>,
        commit: u64,
        worker: WorkerId,
    ) -> Self {
        Self {
            worker,
            ids: IdSet::new(worker.peers()),
            beyond,
            floor_ms: None,
            commit,
            accepted: Rows::default(),
            dead: Refusals::new(Arc::clone(&process), commit),
            process,
            counters: Counters::default(),
            changed: HashMap::new(),
            audit: Audit::default(),
        }
    }

    /// Removes from `batch` the posts that do not count.
    pub(super) fn filter(&mut self, batch: &mut Posts) {
        batch.posts.iter().for_each(|post| self.ids.prefetch(post.id));
        batch.posts.retain_mut(|post| {
            let below_floor = self.floor_ms.is_some_and(|floor| post.ts_ms < floor);
            match &post.route {
                Route::Order(order) => match order.control {
                    Control::Redeliver { .. } => self.redeliver(post, below_floor),
                    Control::Remember(_) | Control::Forget(_) => {
                        self.apply_order(order);
                        false
                    }
                    Control::Correct(_) | Control::Republish { .. } => true,
                },
                Route::Unchecked => true,
                Route::OnceAboveFloor(origin) if below_floor => {
                    self.below_floor(origin);
                    self.beyond == Beyond::Count
                }
                Route::Once if below_floor => {
                    self.below_floor(&unknown_origin(post));
                    self.beyond == Beyond::Count
                }
                Route::OnceAboveFloor(_) | Route::Once => self.first(post.id, hour_of(post.ts_ms)),
            }
        });
    }

    /// Whether a redelivered record counts: below the floor it always does, else once per id.
    fn redeliver(&mut self, post: &mut Post, below_floor: bool) -> bool {
        let Route::Order(order) = std::mem::replace(&mut post.route, Route::Once) else {
            unreachable!("only orders come here: checked by `filter`");
        };
        let Control::Redeliver { input, partition, position, refused, record } = &order.control
        else {
            unreachable!("only redeliveries come here: checked by `filter`");
        };
        let hour = hour_of(post.ts_ms);
        let redelivery = if below_floor {
            Redelivery::CountedBelowFloor
        } else {
            match self.insert(post.id, hour) {
                None => Redelivery::Counted,
                Some(_) => Redelivery::Duplicate,
            }
        };
        let kind = redelivery.kind();
        let (scope, name, before, after) = (&**input, &**partition, &**refused, &**record);
        let key = record_hash(partition_hash(input, partition), *position);
        self.audit.record(key, &order, Done { kind, scope, name, before, after }, self.commit);
        self.audit.counters.redelivered += 1;
        redelivery != Redelivery::Duplicate
    }

    /// Remembers an id with the hour that a copy claims. Returns the latest hour that copies
    /// claimed before, if it was remembered.
    fn insert(&mut self, id: KeyHash, hour: u32) -> Option<u32> {
        let id = if planted(Bug::CountedEachHour) {
            KeyHash { lo: id.lo ^ (u64::from(hour) << 32), ..id }
        } else {
            id
        };
        let known = self.ids.insert(hour, id);
        let row = IdRow { hash: id, hour, forgotten: false };
        match known {
            // There is hardly ever one, and a look-up costs a hash.
            None if self.changed.is_empty() || !self.changed.contains_key(&id) => {
                self.accepted.push(id, &row);
            }
            Some(before) if before >= hour => {}
            None | Some(_) => self.change(row),
        }
        known
    }

    /// Notes that an id changes that may have a row in this commit.
    fn change(&mut self, row: IdRow) {
        self.changed.insert(row.hash, row);
        self.process.budget.hold(self.commit, size_of::<(KeyHash, IdRow)>());
    }

    /// Remembers or forgets an id on request.
    fn apply_order(&mut self, order: &Order) {
        let (Control::Remember(id) | Control::Forget(id)) = &order.control else {
            unreachable!("only orders about ids come here: checked by `filter`");
        };
        if self.audit.is_superseded(id.hash, order) {
            return;
        }
        let Id { hash, text, hour } = id;
        let remembers = matches!(order.control, Control::Remember(_));
        let kind = if remembers { "remember" } else { "forget" };
        if remembers {
            if self.insert(*hash, *hour).is_some() {
                return;
            }
        } else {
            let Some(known) = self.ids.remove(*hash) else { return };
            // Not before the rows that it hides expire.
            let hour = known.max(*hour);
            self.change(IdRow { hash: *hash, hour, forgotten: true });
        }
        let [was, is] = [!remembers, remembers].map(|is| format!(r#"{{"remembered":{is}}}"#));
        let done = Done { kind, scope: "", name: text, before: &was, after: &is };
        self.audit.record(*hash, order, done, self.commit);
        self.audit.counters.corrected += 1;
    }

    /// Gives each id that has changed in the commit its one row.
    fn settle(&mut self) {
        if !self.changed.is_empty() {
            let changed = std::mem::take(&mut self.changed);
            self.accepted.remove(|id| changed.contains_key(&id));
            changed.iter().for_each(|(id, row)| self.accepted.push(*id, row));
        }
    }

    /// Whether this is the first event of its id.
    fn first(&mut self, id: KeyHash, hour: u32) -> bool {
        let known = self.insert(id, hour);
        match known {
            None => self.counters.events += 1,
            Some(before) => {
                self.counters.duplicates += 1;
                self.counters.copies_differ += u64::from(before != hour);
            }
        }
        known.is_none()
    }

    /// Records that the floor decided about an event. The floor depends on when commits end, so the
    /// decision leaves a row whether the event is counted or not.
    fn below_floor(&mut self, origin: &Origin) {
        self.counters.beyond_horizon += 1;
        let detail = match self.beyond {
            Beyond::DeadLetter => BelowFloor::Refused,
            Beyond::Count => BelowFloor::Counted,
        }
        .to_string();
        let Origin { input, partition, position, raw, bytes } = origin;
        let (position, bytes) = (*position, *bytes);
        self.dead.add(Refused { input, partition, position, raw, bytes }, BEYOND_HORIZON, &detail);
    }
}

impl PerCommit for Dedup {
    type Record = Posts;
    type End = Close;
    /// The posts that count.
    type Emitted = Posts;
    type Closed = ();

    const NAME: &'static str = "dedup";
    const RECORDS_AT_END: bool = false;

    fn worker_of(posts: &Posts) -> u64 {
        posts.worker
    }

    fn apply(&mut self, mut batch: Vec<Posts>) -> Result<Vec<Posts>, RunError> {
        let before = self.accepted.bytes();
        batch.iter_mut().for_each(|posts| self.filter(posts));
        self.process.budget.hold(self.commit, self.accepted.bytes() - before);
        Ok(batch)
    }

    /// Writes what was accepted and refused, and forgets the ids below the floor.
    fn close(&mut self, close: Close, acker: &mut Acker) -> Vec<()> {
        self.settle();
        let (repairs, repaired) = self.audit.close();
        self.counters += repaired;
        acker.count(std::mem::take(&mut self.counters));
        acker.write(repairs);
        let accepted = std::mem::take(&mut self.accepted);
        if !planted(Bug::DedupMissing) {
            acker.write(accepted);
        }
        acker.write(self.dead.close());
        let too_high = i64::from(planted(Bug::FloorTooHigh)) * HOUR_MS;
        self.floor_ms = close.floor_ms.map(|floor| floor + too_high);
        if let Some(floor) = close.floor_ms {
            let early = u32::from(planted(Bug::HorizonTooShort));
            self.ids.forget_before(hour_of(floor) + early);
        }
        self.commit = close.commit + 1;
        Vec::new()
    }

    fn report(&mut self, status: &Status) {
        status.dedup(self.worker.index(), self.ids.len(), self.ids.bytes());
    }
}

#[cfg(test)]
mod tests {
    use schemas::control::Author;
    use schemas::segment::Segment;

    use super::*;
    use crate::budget::Memory;
    use crate::plan::BlockQueue;
    use crate::rate_limiter::RateLimiter;

    fn post(id: u64, ts_ms: i64, route: Route) -> Post {
        let id = KeyHash { hi: id, lo: id };
        Post { id, ts_ms, tags: (0, 0), scopes: Box::default(), route }
    }

    /// The ids of the posts that pass.
    fn apply(dedup: &mut Dedup, posts: impl Into<Vec<Post>>) -> Vec<u64> {
        let mut batch = Posts { posts: posts.into(), ..Posts::default() };
        dedup.filter(&mut batch);
        batch.posts.iter().map(|p| p.id.hi).collect()
    }

    fn origin() -> Route {
        let (input, partition) = ("i".to_owned(), "p".to_owned());
        let raw = vec![1];
        Route::OnceAboveFloor(Box::new(Origin { input, partition, position: 9, raw, bytes: 1 }))
    }

    fn process() -> Arc<ProcessShared> {
        let (blocks, limiter) = (BlockQueue::default(), RateLimiter::new(None, 0));
        Arc::new(ProcessShared::new(1, blocks, limiter, Memory::default(), Arc::default()))
    }

    #[test]
    fn id_passes_once_and_unchecked_events_always_pass() {
        let mut dedup = Dedup::new(Beyond::DeadLetter, process(), 1, WorkerId::new(0, 1));
        let ts = 100 * HOUR_MS;
        let posts = [
            post(1, ts, Route::Once),
            post(1, ts, Route::Once),
            post(1, ts, Route::Unchecked),
            post(2, ts, origin()),
        ];
        assert_eq!(apply(&mut dedup, posts), [1, 1, 2]);
        assert_eq!((dedup.counters.events, dedup.counters.duplicates), (2, 1));
    }

    #[test]
    fn newest_row_tells_whether_a_forgotten_id_is_remembered() {
        let hash = KeyHash { hi: 1, lo: 1 };
        // Rows in the order of their commits, and the hour that is remembered at the end.
        let cases: [(&[(u32, bool)], Option<u32>); 5] = [
            (&[(1, false), (1, true)], None),
            (&[(1, false), (1, true), (1, false)], Some(1)),
            (&[(1, false), (1, true), (3, false)], Some(3)),
            (&[(1, false), (1, true), (3, false), (3, true)], None),
            (&[(3, false), (3, true), (1, false)], Some(1)),
        ];
        for (rows, kept) in cases {
            let mut ids = IdSet::new(1);
            for (hour, _) in rows {
                ids.insert(*hour, hash);
            }
            let newest = rows.last().map(|(hour, forgotten)| IdRow {
                hash,
                hour: *hour,
                forgotten: *forgotten,
            });
            keep_newest(&mut ids, newest);
            assert_eq!(ids.insert(0, hash), kept, "{rows:?}");
        }
    }

    /// The rows that a commit would write, by id.
    fn rows(dedup: &mut Dedup) -> Vec<(u64, u32, bool)> {
        dedup.settle();
        let mut out = Vec::new();
        std::mem::take(&mut dedup.accepted).encode(&mut out).unwrap();
        let segment = Segment::<Ids>::open(out.into()).unwrap();
        segment.iter().map(|(hash, row)| (hash.hi, row.hour, row.forgotten)).collect()
    }

    #[test]
    fn copies_in_other_hours_count_once_and_move_the_id_to_the_latest() {
        let mut dedup = Dedup::new(Beyond::DeadLetter, process(), 1, WorkerId::new(0, 1));
        let at = |id, hour| post(id, hour * HOUR_MS, Route::Once);
        assert_eq!(apply(&mut dedup, [at(1, 100), at(2, 100), at(1, 103)]), [1, 2]);
        assert_eq!(rows(&mut dedup), [(1, 103, false), (2, 100, false)], "one row for each id");
        assert_eq!(apply(&mut dedup, [at(1, 99), at(2, 100), at(2, 101), at(2, 101)]), [0_u64; 0]);
        assert_eq!(rows(&mut dedup), [(2, 101, false)], "only what has changed");
        let Counters { events, duplicates, copies_differ, .. } = dedup.counters;
        assert_eq!((events, duplicates, copies_differ), (2, 5, 3));
        // The floor has passed the first hour that was claimed, but not the latest.
        dedup.ids.forget_before(101);
        assert_eq!(apply(&mut dedup, [at(1, 104), at(2, 102)]), [0_u64; 0]);
        dedup.ids.forget_before(105);
        assert_eq!(apply(&mut dedup, [at(1, 105), at(2, 105)]), [1, 2], "too far apart");
    }

    #[test]
    fn id_that_is_forgotten_in_the_commit_of_its_event_has_one_row() {
        let mut dedup = Dedup::new(Beyond::DeadLetter, process(), 1, WorkerId::new(0, 1));
        let order = |control| {
            let (who, why) = (String::new(), String::new());
            let author = Author { who, when_ms: 0, why, base: 9, history: 0 };
            let route = Route::Order(Box::new(Order { request: 1, author, control }));
            post(1, 0, route)
        };
        let id = |hour| Id { hash: KeyHash { hi: 1, lo: 1 }, text: String::new(), hour };
        let event = || post(1, 100 * HOUR_MS, Route::Once);
        assert_eq!(apply(&mut dedup, [event(), order(Control::Forget(id(99)))]), [1]);
        assert_eq!(rows(&mut dedup), [(1, 100, true)]);
        assert_eq!(apply(&mut dedup, [event(), order(Control::Forget(id(100))), event()]), [1, 1]);
        assert_eq!(rows(&mut dedup), [(1, 100, false)]);
    }

    #[test]
    fn event_below_the_floor_leaves_a_row() {
        for (beyond, passes) in [(Beyond::DeadLetter, 0), (Beyond::Count, 1)] {
            let mut dedup = Dedup::new(beyond, process(), 1, WorkerId::new(0, 1));
            dedup.floor_ms = Some(100 * HOUR_MS);
            let passed = apply(&mut dedup, [post(1, 100 * HOUR_MS - 1, origin())]);
            assert_eq!((passed.len(), dedup.dead.len()), (passes, 1));
            assert_eq!((dedup.counters.beyond_horizon, dedup.counters.events), (1, 0));
            let passed = apply(&mut dedup, [post(1, 100 * HOUR_MS, origin())]);
            assert_eq!(passed.len(), 1, "an event at the floor counts");
        }
    }
}
