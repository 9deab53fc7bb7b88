//! Running the second computation: workers that read their pieces of the log and their share of
//! the commit, pass by pass.
//!
//! Invariant: a report is made only where every piece was read to the commit's position.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use differential_dataflow::input::{Input as _, InputSession};
use schemas::hash::{Hasher, KeyHash};
use schemas::manifest::Manifest;
use schemas::mapping::Mapping;
use schemas::rows::{DeadLetters, Ids, Repairs};
use sinks::commits::{OpenSegment, Snapshot, open_table};
use timely::communication::Config as CommunicationConfig;
use timely::dataflow::operators::probe::Handle;
use timely::worker::Worker;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::accept::{Accept, Accepted, Rules, again, decisions};
use super::alike::{can_be_counted, read_alike, verify};
use super::drift::{Differences, Place};
use super::pieces::Piece;
use super::program::{Copies, END, Event, Fact, Kept, Time, drift, share};
use super::since::Since;
use super::{
    Found, PARTS, Part, Progress, ReconcileError, Report, Request, Which, copies, since, stored,
};
use crate::clock::{Clock, SystemClock};
use crate::context::Pace;
use crate::log::Log;
use crate::operators::controls::REDELIVERED;
use crate::settings::{Scope, Settings};

/// The records read before the other operators have their turn.
const TURN_RECORDS: usize = 4096;

/// A partition that delivers nothing for so long ends a check.
const SILENCE_US: u64 = 60_000_000;

/// What the workers of a check share.
pub(super) struct Check {
    pieces: Vec<Piece>,
    /// The commit that the pieces come on top of.
    since: Option<Since>,
    /// By input name.
    logs: Vec<(Arc<dyn Log>, Rules)>,
    pub(super) request: Request,
    ids: Vec<OpenSegment<Ids>>,
    /// Refused records that were delivered again and counted.
    again: Vec<(Accepted, Place)>,
    pub(super) kept: Kept,
    pace: Pace,
    clock: SystemClock,
    progress: Arc<Progress>,
    found: Mutex<Vec<(Fact, isize)>>,
    checked: Mutex<u64>,
    /// How many records were taken for events that count, copies included, in all passes.
    accepted: AtomicU64,
    failure: Mutex<Option<ReconcileError>>,
    failed: AtomicBool,
}

/// Checks a commit.
pub fn reconcile(request: Request, progress: &Arc<Progress>) -> Result<Found, ReconcileError> {
    let parts = parts(&request);
    let mut check = Check::new(request, Arc::clone(progress))?;
    progress.all.store(check.span() * parts.len() as u64, Ordering::Relaxed);
    let Manifest { header, body } = &check.request.snapshot.manifest;
    let (commit, events) = (header.commit, body.counters.events);
    let since = check.request.since.as_ref().map(|since| since.manifest.header.commit);
    let read_otherwise = body.read_otherwise.values().max().copied();
    let read_otherwise = read_otherwise.filter(|_| since.is_none());
    let mut report = Report { commit, since, read_otherwise, events, ..Report::default() };
    let mut facts = Vec::new();
    for part in parts {
        check.kept.part = part;
        check = pass(check)?;
        check.is_the_log()?;
        facts.append(check.found.get_mut().unwrap_or_else(PoisonError::into_inner));
    }
    report.checked = *check.checked.lock().unwrap_or_else(PoisonError::into_inner);
    let (differences, mut ambiguous) = Differences::new(facts);
    ambiguous.extend(copies::differing(&check, &differences.keys())?);
    let mut wanted = differences.wanted();
    if !wanted.is_empty() {
        check.look_up(|accepted, place, hasher| {
            for (key, scope, tag, _) in accepted.uses(hasher) {
                wanted.see(key, (scope, tag), accepted.ts_ms, place);
            }
            if let Some(id) = accepted.id {
                wanted.see(id, ("", &accepted.event_id), accepted.ts_ms, place);
            }
        })?;
    }
    let keys = differences.keys();
    let (snapshot, kept) = (&check.request.snapshot, &check.kept);
    let controls = differences.controls(snapshot, kept, &wanted, &check.ids);
    let values = differences.values(snapshot, kept, wanted);
    report.drift = values.len() as u64;
    report.ambiguous = ambiguous.len() as u64;
    Ok(Found { values, report, controls, keys })
}

/// The keys of each pass.
fn parts(request: &Request) -> Vec<Part> {
    match &request.which {
        Which::Sample(one_in) => vec![Part::Sample(*one_in)],
        Which::Bins { bins, passes } => {
            let (begin, length) = (bins.start, bins.end - bins.start);
            let at = |pass: u64| begin + length * pass / passes;
            let passes = (0..*passes).map(|pass| at(pass)..at(pass + 1));
            passes.filter(|bins| !bins.is_empty()).map(Part::Bins).collect()
        }
        Which::Tags(tags) => {
            let body = &request.snapshot.manifest.body;
            let hasher = body.hash_key.hasher();
            let scopes = body.scopes.iter().flatten().map(String::as_str).chain([""]);
            let scopes: Vec<&str> = scopes.collect();
            let keys = tags
                .iter()
                .flat_map(|tag| scopes.iter().map(|scope| hasher.scoped(scope, hasher.tag(tag))));
            vec![Part::Keys(Arc::new(keys.collect()))]
        }
        Which::Keys(keys) => vec![Part::Keys(Arc::new(keys.clone()))],
    }
}

/// The scopes of a state, from their names: `region=eu` and `region=us` are one of two values.
pub(crate) fn scopes(names: &[String]) -> Vec<Scope> {
    let mut scopes: Vec<Scope> = Vec::new();
    for (attribute, value) in names.iter().filter_map(|name| name.split_once('=')) {
        match scopes.iter_mut().find(|scope| scope.attribute == attribute) {
            Some(scope) => scope.allow.push(value.to_owned()),
            None => scopes
                .push(Scope { attribute: attribute.to_owned(), allow: vec![value.to_owned()] }),
        }
    }
    scopes
}

impl Check {
    pub(super) fn new(request: Request, progress: Arc<Progress>) -> Result<Self, ReconcileError> {
        let manifest = &request.snapshot.manifest;
        let body = &manifest.body;
        can_be_counted(&request)?;
        let settings = Settings {
            scopes: scopes(body.scopes.as_deref().unwrap_or_default()),
            ..Settings::default()
        };
        let dead = open_table::<DeadLetters>(&*request.storage, manifest)?;
        let repairs = open_table::<Repairs>(&*request.storage, manifest)?;
        let after = request.since.as_ref().map_or(0, |since| since.manifest.header.commit);
        let redelivered = redelivered(&repairs);
        let keys = redelivered.iter().map(|r| r.key).collect();
        let decisions = Arc::new(decisions(dead.iter().map(|segment| &segment.rows), &keys));
        let clock = SystemClock::default();
        let shared: Arc<dyn Clock> = Arc::new(clock);
        let mut logs = Vec::new();
        for input in &request.inputs {
            let opened = input.open(manifest.header.generation, &settings, &shared)?;
            let rules = Rules {
                input: input.name.clone(),
                decoder: opened.decoder,
                log_time: opened.log_time,
                hasher: body.hash_key.hasher(),
                scopes: settings.scopes.clone().into(),
                // Blocks have no order; a state without a floor has had no horizon.
                horizon_ms: request.horizon_ms.filter(|_| body.floor_ms.is_some()),
                beyond: request.beyond,
                until_ms: body.finished.as_ref().and_then(|finished| finished.until_ms),
                floor_ms: body.floor_ms,
                decisions: Arc::clone(&decisions),
            };
            logs.push((opened.log, rules));
        }
        read_alike(&logs, manifest)?;
        let plain = settings.decoder(&Mapping::default());
        let counted = redelivered.iter().filter_map(|r| {
            let (_, rules) = logs.iter().find(|(_, rules)| rules.input == r.place.input)?;
            let as_it_is = r.as_it_is.filter(|_| r.commit > after)?;
            Some((again(rules, &plain, r.record, as_it_is)?, r.place.clone()))
        });
        let again = counted.collect();
        let since = request.since.clone().map(|snapshot| Since::open(&*request.storage, snapshot));
        let since = since.transpose()?;
        let pieces = since::pieces(manifest, since.as_ref())?;
        verify(&logs, body, &pieces)?;
        let kept = Kept {
            windows: body.windows.clone(),
            as_of_ms: body.as_of_ms.unwrap_or_default(),
            first_hour: stored::first_hour(body),
            part: Part::Bins(0..PARTS),
        };
        Ok(Self {
            pieces,
            since,
            ids: open_table::<Ids>(&*request.storage, manifest)?,
            again,
            pace: Pace::new(request.limit_rate, clock.mono_us()),
            logs,
            kept,
            clock,
            progress,
            request,
            found: Mutex::default(),
            checked: Mutex::default(),
            accepted: AtomicU64::default(),
            failure: Mutex::default(),
            failed: AtomicBool::default(),
        })
    }

    /// Whether what was read can be what the commit counted: with another mapping than the job's
    /// there are no events, and all the commit holds would be drift.
    fn is_the_log(&self) -> Result<(), ReconcileError> {
        let events = |snapshot: &Snapshot| snapshot.manifest.body.counters.events;
        let before = self.request.since.as_deref().map_or(0, events);
        let counted = events(&self.request.snapshot).saturating_sub(before);
        let records = self.progress.records.load(Ordering::Relaxed);
        if counted == 0 || records == 0 || self.accepted.load(Ordering::Relaxed) > 0 {
            return Ok(());
        }
        Err(ReconcileError::NoEvents { records, counted })
    }

    /// How much there is to read, in the units of [`Progress`].
    pub(super) fn span(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.end.saturating_sub(piece.begin)).sum()
    }

    /// Whether the earlier commit has counted this event.
    fn is_known(&self, event: &Accepted) -> bool {
        self.since.as_ref().zip(event.id).is_some_and(|(since, id)| since.remembers(id))
    }

    fn input(&self, piece: &Piece) -> Option<&(Arc<dyn Log>, Rules)> {
        self.logs.iter().find(|(_, rules)| rules.input == piece.input)
    }

    /// Reads a piece; `each` gets the events that count, and `turn` is called now and then.
    fn read(
        &self,
        piece: &Piece,
        mut each: impl FnMut(Accepted, u64),
        mut turn: impl FnMut(),
    ) -> Result<(), ReconcileError> {
        let Some((log, rules)) = self.input(piece) else { return Ok(()) };
        let mut accept = Accept::new(rules.clone(), piece);
        let mut reader = piece.open(&**log)?;
        let (mut more, mut moved_us) = (true, self.clock.mono_us());
        while more && !self.failed.load(Ordering::Relaxed) {
            let limit = self.pace.grant(TURN_RECORDS, self.clock.mono_us());
            if limit == 0 {
                turn();
                moved_us = self.clock.mono_us();
                std::thread::park_timeout(std::time::Duration::from_millis(5));
                continue;
            }
            let (mut read, mut accepted, before) = (0, 0, reader.position());
            more = piece.read(&mut *reader, limit, &mut |record| {
                read += 1;
                let position = record.position;
                let event = accept.take(record);
                accepted += u64::from(event.is_some());
                event.into_iter().for_each(|event| each(event, position));
            })?;
            self.accepted.fetch_add(accepted, Ordering::Relaxed);
            self.pace.give_back(limit - read);
            let now_us = self.clock.mono_us();
            if reader.position() > before {
                moved_us = now_us;
            } else if more && now_us - moved_us > SILENCE_US {
                let (partition, position) = (piece.partition.clone(), reader.position());
                return Err(ReconcileError::Silent { partition, position, end: piece.end });
            } else if more {
                std::thread::park_timeout(std::time::Duration::from_millis(5));
            }
            self.progress.records.fetch_add(read as u64, Ordering::Relaxed);
            let forward = reader.position().saturating_sub(before);
            self.progress.read.fetch_add(forward, Ordering::Relaxed);
            turn();
        }
        Ok(())
    }

    /// Reads the log once more, for names and places.
    pub(super) fn look_up(
        &self,
        mut each: impl FnMut(&Accepted, &dyn Fn() -> Place, &Hasher),
    ) -> Result<(), ReconcileError> {
        for piece in &self.pieces {
            let Some((_, rules)) = self.input(piece) else { continue };
            let of = |accepted: Accepted, position| {
                if self.is_known(&accepted) {
                    return;
                }
                let (input, partition) = (piece.input.clone(), piece.partition.clone());
                let place =
                    || Place { input: input.clone(), partition: partition.clone(), position };
                each(&accepted, &place, &rules.hasher);
            };
            self.read(piece, of, || ())?;
        }
        for (accepted, place) in self.again.iter().filter(|(again, _)| !self.is_known(again)) {
            let rules = self.logs.iter().find(|(_, rules)| rules.input == place.input);
            if let Some((_, rules)) = rules {
                each(accepted, &|| place.clone(), &rules.hasher);
            }
        }
        Ok(())
    }

    /// Lets the operators work while something is behind.
    fn step_while(&self, worker: &mut Worker, behind: impl Fn() -> bool) {
        while behind() && !self.failed.load(Ordering::Relaxed) {
            worker.step_or_park(Some(std::time::Duration::from_millis(100)));
        }
    }

    fn fail(&self, error: ReconcileError) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.failed.store(true, Ordering::Release);
    }
}

/// A refused record that was delivered again.
struct Redelivered<'s> {
    /// The key of its dead letter.
    key: KeyHash,
    place: Place,
    record: &'s str,
    /// The commit that counted it.
    commit: u64,
    /// Whether it counts without a look at its id; none where it was a duplicate.
    as_it_is: Option<bool>,
}

fn redelivered(segments: &[OpenSegment<Repairs>]) -> Vec<Redelivered<'_>> {
    let rows = segments.iter().flat_map(|segment| segment.rows.iter());
    let [counted, duplicate, as_it_is] = REDELIVERED;
    let redelivered = rows.filter_map(|(hash, row)| {
        let kinds = [(counted, Some(false)), (duplicate, None), (as_it_is, Some(true))];
        let (_, as_it_is) = kinds.into_iter().find(|(kind, _)| *kind == row.kind)?;
        let (input, partition) = (row.scope.to_owned(), row.key.to_owned());
        let place = Place { input, partition, position: row.lo };
        let (key, commit) = (row.changed(hash), row.commit);
        Some(Redelivered { key, place, record: row.after, commit, as_it_is })
    });
    redelivered.collect()
}

/// Runs one pass on all workers.
fn pass(check: Check) -> Result<Check, ReconcileError> {
    let workers = check.request.workers;
    let check = Arc::new(check);
    let communication = match workers {
        1 => CommunicationConfig::Thread,
        n => CommunicationConfig::Process(n),
    };
    let config = timely::Config { communication, worker: timely::WorkerConfig::default() };
    let shared = Arc::clone(&check);
    let guards = timely::execute(config, move |worker| {
        if let Err(error) = work(worker, &shared) {
            shared.fail(error);
        }
        if shared.failed.load(Ordering::Acquire) {
            worker.installed_dataflows().into_iter().for_each(|id| worker.drop_dataflow(id));
        }
    });
    for result in guards.map_err(ReconcileError::Worker)?.join() {
        result.map_err(ReconcileError::Worker)?;
    }
    let mut check = Arc::into_inner(check)
        .ok_or_else(|| ReconcileError::Worker("a worker has not ended".to_owned()))?;
    let failure = check.failure.get_mut().unwrap_or_else(PoisonError::into_inner).take();
    failure.map_or(Ok(check), Err)
}

/// One worker's inputs of the program.
struct Sessions {
    events: InputSession<Time, KeyHash, Copies>,
    as_is: InputSession<Time, Event, isize>,
    before: InputSession<Time, Fact, isize>,
    stored: InputSession<Time, Fact, isize>,
}

impl Sessions {
    fn flush(&mut self) {
        self.events.flush();
        self.as_is.flush();
        self.before.flush();
        self.stored.flush();
    }
}

/// Builds the program on one worker: its inputs, and the probe of its end.
fn build(worker: &mut Worker, check: &Arc<Check>) -> (Sessions, Handle<Time>) {
    let sink = Arc::clone(check);
    worker.dataflow::<Time, _, _>(|scope| {
        let (events_in, events) = scope.new_collection();
        let (as_is_in, as_is) = scope.new_collection();
        let (before, earlier) = scope.new_collection();
        let (stored_in, stored) = scope.new_collection();
        let found =
            drift(events, as_is, earlier, stored, &check.kept).inspect(move |(fact, _, number)| {
                let mut found = sink.found.lock().unwrap_or_else(PoisonError::into_inner);
                found.push((fact.clone(), *number));
            });
        let (probe, _) = found.probe();
        let (events, as_is, stored) = (events_in, as_is_in, stored_in);
        let mut sessions = Sessions { events, as_is, before, stored };
        sessions.as_is.advance_to(END);
        sessions.before.advance_to(END);
        sessions.stored.advance_to(END);
        (sessions, probe)
    })
}

fn work(worker: &mut Worker, check: &Arc<Check>) -> Result<(), ReconcileError> {
    let (mut sessions, probe) = build(worker, check);
    let (index, peers) = (worker.index(), worker.peers());
    let mine = move |key: KeyHash| key.bin() % peers as u64 == index as u64;
    let snapshot = &check.request.snapshot;
    let rows = stored::rows(snapshot, &check.kept, mine, |fact| sessions.stored.insert(fact))?;
    let ids = stored::ids(&check.ids, &check.kept, mine, |fact| sessions.stored.insert(fact));
    *check.checked.lock().unwrap_or_else(PoisonError::into_inner) += rows + ids;
    if let Some(since) = &check.since {
        since.facts(&check.kept, mine, |fact| sessions.before.insert(fact))?;
    }
    for piece in check.pieces.iter().skip(index).step_by(peers) {
        let Some((_, rules)) = check.input(piece) else { continue };
        let sessions = std::cell::RefCell::new(&mut sessions);
        let each = |accepted: Accepted, _| {
            insert(&accepted, check, rules, &mut sessions.borrow_mut());
        };
        check.read(piece, each, || {
            sessions.borrow_mut().flush();
            worker.step();
        })?;
    }
    for (accepted, place) in check.again.iter().filter(|_| index == 0) {
        if let Some((_, rules)) = check.logs.iter().find(|(_, r)| r.input == place.input) {
            insert(accepted, check, rules, &mut sessions);
        }
    }
    for share in 1..=END {
        sessions.events.advance_to(share);
        sessions.flush();
        check.step_while(worker, || probe.less_than(&share));
    }
    drop(sessions);
    check.step_while(worker, || !probe.done());
    Ok(())
}

/// What copies of an event have in common where they are alike, apart from their time: a digest of
/// all tags, one after the other.
pub(super) fn digest(before: u64, key: KeyHash, spelling: &str) -> u64 {
    xxh3_64_with_seed(spelling.as_bytes(), before ^ key.lo)
}

/// Hands an event to the program, if this pass needs it: for its id, or for a tag of it.
fn insert(accepted: &Accepted, check: &Check, rules: &Rules, sessions: &mut Sessions) {
    let part = &check.kept.part;
    let (mut all, mut uses) = (0, Vec::new());
    for (key, _, _, spelling) in accepted.uses(&rules.hasher) {
        all = digest(all, key, spelling);
        if part.has(key) {
            uses.push((key, spelling.into()));
        }
    }
    let event = Event { ts_ms: accepted.ts_ms, digest: all, uses: uses.into() };
    match accepted.id {
        Some(_) if check.is_known(accepted) => {}
        Some(id) if part.has(id) || !event.uses.is_empty() => {
            sessions.events.update_at(id, share(id), Copies { event, differ: false });
        }
        None if !event.uses.is_empty() => sessions.as_is.insert(event),
        _ => {}
    }
}
