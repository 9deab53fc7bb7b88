//! Dedup: lets the first event of each id pass, exactly once through crashes.
//!
//! Invariants: an id is in the set from the event that was accepted until the floor passes its
//! hour; the rows of a commit are the ids accepted in it.

use std::collections::HashMap;

use schemas::control::{Control, Id};
use schemas::hash::{BINS, KeyHash};
use schemas::manifest::Counters;
use schemas::planted::{Bug, planted};
use schemas::rows::{
    BEYOND_HORIZON, BelowFloor, DeadLetterRow, DeadLetters, IdRow, Ids, partition_hash, record_hash,
};
use schemas::segment::Rows;
use sinks::commits::CommitError;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::Antichain;

use super::ack::{Acker, owns};
use super::audit::{Audit, Done};
use super::controls::REDELIVERED;
use super::stash::Stash;
use crate::context::Context;
use crate::epoch::Epoch;
use crate::records::{Ack, Close, Order, Origin, Post, Posts, Route};
use crate::state::id_set::IdSet;
use schemas::config::Beyond;

const HOUR_MS: i64 = 3_600_000;

/// The ids of one worker's bins.
pub(crate) struct Dedup {
    ids: IdSet,
    beyond: Beyond,
    floor_ms: Option<i64>,
    commit: u64,
    accepted: Rows<Ids>,
    dead: Rows<DeadLetters>,
    counters: Counters,
    /// Ids that were taken back in the commit under way and not accepted since, and their hours:
    /// an id has one row in a commit.
    forgotten: HashMap<KeyHash, u32>,
    audit: Audit,
}

fn hour(ms: i64) -> u32 {
    (ms.max(0) / HOUR_MS) as u32
}

/// Of an id that was taken back leaves what its newest row says: it may have been accepted again
/// since, in another hour. `rows` are all it has, the newest first.
fn leave_newest(ids: &mut IdSet, rows: impl Iterator<Item = IdRow>) {
    let mut kept = None;
    for (age, row) in rows.enumerate() {
        if age == 0 && !row.forgotten {
            kept = Some(row.hour);
        }
        if kept != Some(row.hour) {
            ids.remove(row.hour, row.hash);
        }
    }
}

/// A worker's bins that tell how many ids an hour has.
const SAMPLED_ONE_IN: usize = 16;

/// What a dead letter tells of an event that the source took to be safely above the floor: only
/// clocks running ahead of each other can bring that about.
fn unknown_origin(post: &Post) -> Origin {
    let KeyHash { hi, lo } = post.id;
    let raw = format!("event {hi:016x}{lo:016x}").into_bytes();
    Origin { input: String::new(), partition: format!("{hi:016x}"), position: lo, raw }
}

impl Dedup {
    /// Loads the ids of the bins that worker `index` of `peers` owns.
    pub(crate) fn load(context: &Context, index: usize, peers: usize) -> Result<Self, CommitError> {
        let start = &context.start;
        let mut dedup = Self::new(context.settings.beyond, start.header.commit + 1);
        dedup.floor_ms = start.body.floor_ms.filter(|_| !planted(Bug::FloorForgotten));
        let floor = start.body.floor_ms.map_or(0, hour);
        dedup.audit = Audit::load(context, index, peers)?;
        // The newest row of an id says whether it is remembered, where one was ever forgotten.
        let segments = context.ids.open(&*context.storage, start)?;
        let mut taken_back = Vec::new();
        let wrong = u64::from(planted(Bug::ReshardByWrongHash));
        let bins: Vec<u64> =
            (0..BINS).filter(|bin| owns(index, peers, (bin + wrong) % BINS)).collect();
        let rows = |step: usize| {
            let mine = bins.iter().step_by(step);
            let rows = segments
                .iter()
                .flat_map(move |segment| mine.clone().flat_map(move |bin| segment.rows.bin(*bin)));
            rows.filter(|(_, row)| row.hour >= floor)
        };
        // Bins are alike: some tell how many ids an hour has.
        let times = bins.len().div_ceil(bins.len().div_ceil(SAMPLED_ONE_IN).max(1));
        let some = rows(SAMPLED_ONE_IN).map(|(_, row)| row.hour);
        dedup.ids = IdSet::with_room(peers, some, times);
        for (id, row) in rows(1) {
            taken_back.extend(row.forgotten.then_some(id));
            dedup.ids.insert(row.hour, id);
        }
        for id in taken_back {
            let rows = segments.iter().rev().filter_map(|segment| segment.rows.get(id));
            leave_newest(&mut dedup.ids, rows);
        }
        Ok(dedup)
    }

    pub(super) fn new(beyond: Beyond, commit: u64) -> Self {
        Self {
            ids: IdSet::new(1),
            beyond,
            floor_ms: None,
            commit,
            accepted: Rows::default(),
            dead: Rows::default(),
            counters: Counters::default(),
            forgotten: HashMap::new(),
            audit: Audit::default(),
        }
    }

    /// Removes from `batch` what does not count.
    pub(super) fn apply(&mut self, batch: &mut Posts) {
        batch.posts.iter().for_each(|post| self.ids.prefetch(hour(post.ts_ms), post.id));
        batch.posts.retain_mut(|post| {
            let below_floor = self.floor_ms.is_some_and(|floor| post.ts_ms < floor);
            match &post.route {
                Route::Asked(order) => match order.control {
                    Control::Redeliver { .. } => self.again(post, below_floor),
                    Control::Remember(_) | Control::Forget(_) => {
                        self.apply_order(order);
                        false
                    }
                    Control::Correct(_) | Control::Republish { .. } => true,
                },
                Route::AsItIs => true,
                Route::UnlessBelowFloor(origin) if below_floor => {
                    self.below_floor(origin);
                    self.beyond == Beyond::Count
                }
                Route::Once if below_floor => {
                    self.below_floor(&unknown_origin(post));
                    self.beyond == Beyond::Count
                }
                Route::UnlessBelowFloor(_) | Route::Once => self.first(post.id, hour(post.ts_ms)),
            }
        });
    }

    /// Lets a refused record count that is delivered again: as it is where it lies below the floor,
    /// else once per id.
    fn again(&mut self, post: &mut Post, below_floor: bool) -> bool {
        let Route::Asked(order) = std::mem::replace(&mut post.route, Route::Once) else {
            return false;
        };
        let Control::Redeliver { input, partition, position, refused, record } = &order.control
        else {
            return false;
        };
        let hour = hour(post.ts_ms);
        let [counted, duplicate, as_it_is] = REDELIVERED;
        let kind = if below_floor {
            as_it_is
        } else if self.ids.insert(hour, post.id) {
            self.remember(post.id, hour);
            counted
        } else {
            duplicate
        };
        let (scope, name, before, after) = (&**input, &**partition, &**refused, &**record);
        let key = record_hash(partition_hash(input, partition), *position);
        self.audit.note(key, &order, Done { kind, scope, name, before, after }, self.commit);
        self.audit.counters.redelivered += 1;
        kind != duplicate
    }

    /// Writes down an id that is remembered from now on.
    fn remember(&mut self, id: KeyHash, hour: u32) {
        // Hardly ever is there one, and looking costs a hash.
        if !self.forgotten.is_empty() {
            self.forgotten.remove(&id);
        }
        self.accepted.push(id, &IdRow { hash: id, hour, forgotten: false });
    }

    /// Does what was asked for about an id.
    fn apply_order(&mut self, order: &Order) {
        let (Control::Remember(id) | Control::Forget(id)) = &order.control else { return };
        if self.audit.is_superseded(id.hash, order) {
            return;
        }
        let Id { hash, text, hour } = id;
        let remembers = matches!(order.control, Control::Remember(_));
        let kind = if remembers { "remember" } else { "forget" };
        if remembers && self.ids.insert(*hour, *hash) {
            self.remember(*hash, *hour);
        } else if !remembers && self.ids.remove(*hour, *hash) {
            self.forgotten.insert(*hash, *hour);
        } else {
            return;
        }
        let [was, is] = [!remembers, remembers].map(|is| format!(r#"{{"remembered":{is}}}"#));
        let done = Done { kind, scope: "", name: text, before: &was, after: &is };
        self.audit.note(*hash, order, done, self.commit);
        self.audit.counters.corrected += 1;
    }

    fn first(&mut self, id: KeyHash, hour: u32) -> bool {
        let first = self.ids.insert(hour, id);
        if first {
            self.counters.events += 1;
            self.remember(id, hour);
        } else {
            self.counters.duplicates += 1;
        }
        first
    }

    /// The floor depends on the moment at which commits end, so its word leaves a row, whether the
    /// event is counted or not.
    fn below_floor(&mut self, origin: &Origin) {
        self.counters.beyond_horizon += 1;
        let detail = match self.beyond {
            Beyond::DeadLetter => BelowFloor::Refused,
            Beyond::Count => BelowFloor::Counted,
        }
        .to_string();
        let partition = partition_hash(&origin.input, &origin.partition);
        let row = DeadLetterRow {
            input: &origin.input,
            partition: &origin.partition,
            position: origin.position,
            reason: BEYOND_HORIZON,
            detail: &detail,
            raw: &origin.raw,
            commit: self.commit,
        };
        self.dead.push(record_hash(partition, origin.position), &row);
    }

    /// Ends a commit: hands over what it has to write, and forgets what lies below the floor.
    fn close(&mut self, close: Close, acker: &mut Acker) {
        for (id, hour) in self.forgotten.drain() {
            self.accepted.push(id, &IdRow { hash: id, hour, forgotten: true });
        }
        let (repairs, asked) = self.audit.close();
        self.counters += asked;
        acker.begin(close.commit, close.last, std::mem::take(&mut self.counters));
        acker.write(repairs);
        let accepted = std::mem::take(&mut self.accepted);
        if !planted(Bug::DedupMissing) {
            acker.write(accepted);
        }
        acker.write(std::mem::take(&mut self.dead));
        let too_high = i64::from(planted(Bug::FloorTooHigh)) * HOUR_MS;
        self.floor_ms = close.floor_ms.map(|floor| floor + too_high);
        if let Some(floor) = close.floor_ms {
            let early = u32::from(planted(Bug::HorizonTooShort));
            self.ids.forget_before(hour(floor) + early);
        }
        self.commit = close.commit + 1;
    }
}

/// The posts that count, and acknowledgements.
pub(crate) fn dedup<'s>(
    posts: StreamVec<'s, Epoch, Posts>,
    closes: StreamVec<'s, Epoch, Close>,
    mut dedup: Dedup,
    context: &Context,
) -> (StreamVec<'s, Epoch, Posts>, StreamVec<'s, Epoch, Ack>) {
    let scope = posts.scope();
    let index = scope.index();
    let mut builder = OperatorBuilder::new("dedup".into(), scope);
    let (fresh_out, fresh) = builder.new_output::<Vec<Posts>>();
    let (acks_out, acks) = builder.new_output::<Vec<Ack>>();
    let same = Antichain::from_elem(0);
    let by_id = Exchange::new(|posts: &Posts| posts.worker);
    let mut posts =
        builder.new_input_connection(posts, by_id, [(0, same.clone()), (1, same.clone())]);
    // The end of a commit holds back acknowledgements, not posts.
    let by_worker = Exchange::new(|close: &Close| close.worker);
    let mut closes = builder.new_input_connection(closes, by_worker, [(1, same)]);
    let wake = scope.worker().sync_activator_for(builder.operator_info().address.to_vec());
    let context = context.clone();
    builder.build(move |mut capabilities| {
        let acks_cap = capabilities.pop();
        capabilities.clear();
        let mut acker = acks_cap.map(|c| Acker::new(&context, c, 'd', index, wake));
        let mut fresh_out = OutputBuilder::from(fresh_out);
        let mut acks_out = OutputBuilder::from(acks_out);
        let mut stash = Stash::new(dedup.commit);
        let mut ending = Vec::<Close>::new();
        move |frontiers| {
            let Some(acker) = acker.as_mut() else { return };
            let mut fresh_out = fresh_out.activate();
            closes.for_each(|_, batch| ending.append(batch));
            posts.for_each_stamp(|stamp, batches| {
                if let Some(now) = stash.admit(&stamp, 0, batches) {
                    for mut batch in now {
                        batch.iter_mut().for_each(|posts| dedup.apply(posts));
                        fresh_out.session(&stamp).give_container(&mut batch);
                    }
                }
            });
            while let Some(close) = stash.next_close(&mut ending, frontiers) {
                dedup.close(close, acker);
                for (capability, mut batch) in stash.release(close.commit + 1) {
                    batch.iter_mut().for_each(|posts| dedup.apply(posts));
                    fresh_out.session(&capability).give_container(&mut batch);
                }
                context.status.dedup(index, dedup.ids.len(), dedup.ids.bytes());
            }
            if let Some((capability, acks)) = acker.poll() {
                acks_out.activate().session(&capability).give_iterator(acks.into_iter());
            }
        }
    });
    (fresh, acks)
}

#[cfg(test)]
mod tests {
    use super::*;
    fn post(id: u64, ts_ms: i64, route: Route) -> Post {
        let id = KeyHash { hi: id, lo: id };
        Post { id, ts_ms, tags: (0, 0), scopes: Box::default(), route }
    }

    /// The ids of those that pass.
    fn apply(dedup: &mut Dedup, posts: impl Into<Vec<Post>>) -> Vec<u64> {
        let mut batch = Posts { posts: posts.into(), ..Posts::default() };
        dedup.apply(&mut batch);
        batch.posts.iter().map(|p| p.id.hi).collect()
    }

    fn origin() -> Route {
        let (input, partition) = ("i".to_owned(), "p".to_owned());
        Route::UnlessBelowFloor(Box::new(Origin { input, partition, position: 9, raw: vec![1] }))
    }

    #[test]
    fn an_id_passes_once_and_what_is_beyond_the_horizon_never_asks() {
        let mut dedup = Dedup::new(Beyond::DeadLetter, 1);
        let ts = 100 * HOUR_MS;
        let posts = [
            post(1, ts, Route::Once),
            post(1, ts, Route::Once),
            post(1, ts, Route::AsItIs),
            post(2, ts, origin()),
        ];
        assert_eq!(apply(&mut dedup, posts), [1, 1, 2]);
        assert_eq!((dedup.counters.events, dedup.counters.duplicates), (2, 1));
    }

    #[test]
    fn of_an_id_that_was_taken_back_a_load_leaves_what_there_was() {
        let hash = KeyHash { hi: 1, lo: 1 };
        let row = |hour: u32, forgotten: bool| IdRow { hash, hour, forgotten };
        // Rows in the order of their commits, and the hour that is remembered at the end.
        let cases: [(&[(u32, bool)], Option<u32>); 5] = [
            (&[(1, false), (1, true)], None),
            (&[(1, false), (1, true), (1, false)], Some(1)),
            (&[(1, false), (1, true), (3, false)], Some(3)),
            (&[(1, false), (1, true), (3, false), (3, true)], None),
            (&[(3, false), (3, true), (1, false), (1, true), (3, false)], Some(3)),
        ];
        for (rows, kept) in cases {
            let mut ids = IdSet::new(1);
            for (hour, _) in rows {
                ids.insert(*hour, hash);
            }
            leave_newest(&mut ids, rows.iter().rev().map(|(hour, gone)| row(*hour, *gone)));
            for hour in [1, 3] {
                assert_eq!(!ids.insert(hour, hash), kept == Some(hour), "{rows:?} in {hour}");
            }
        }
    }

    #[test]
    fn the_floor_refuses_and_leaves_a_row() {
        for (beyond, passes) in [(Beyond::DeadLetter, 0), (Beyond::Count, 1)] {
            let mut dedup = Dedup::new(beyond, 1);
            dedup.floor_ms = Some(100 * HOUR_MS);
            let passed = apply(&mut dedup, [post(1, 100 * HOUR_MS - 1, origin())]);
            assert_eq!((passed.len(), dedup.dead.len()), (passes, 1));
            assert_eq!((dedup.counters.beyond_horizon, dedup.counters.events), (1, 0));
            let passed = apply(&mut dedup, [post(1, 100 * HOUR_MS, origin())]);
            assert_eq!(passed.len(), 1, "an event at the floor counts");
        }
    }
}
