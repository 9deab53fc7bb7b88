//! Runs the second computation, pass by pass: each worker reads its splits of the log and its share
//! of the commit.
//!
//! Invariant: there is a report only if every split was read up to the commit's position.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use differential_dataflow::input::{Input as _, InputSession};
use schemas::hash::KeyHash;
use schemas::manifest::Manifest;
use timely::communication::Config as CommunicationConfig;
use timely::dataflow::operators::probe::Handle;
use timely::worker::Worker;

use super::accept::{Accepted, Rules, digest};
use super::check::Check;
use super::drift::Differences;
use super::program::{Copies, END, Event, Fact, Time, drift, share};
use super::{
    Findings, PARTS, Part, Progress, ReconcileError, Report, Request, Selection, copies, stored,
};
use crate::settings::decoded_otherwise;

/// Checks a commit against its log.
pub fn reconcile(request: Request, progress: &Arc<Progress>) -> Result<Findings, ReconcileError> {
    let parts = parts(&request);
    assert!(!parts.is_empty(), "a check without a pass");
    let mut check = Check::new(request, Arc::clone(progress))?;
    progress.all.store(check.span() * parts.len() as u64, Ordering::Relaxed);
    let Manifest { header, body } = &check.request.snapshot.manifest;
    let (commit, events) = (header.commit, body.counters.events);
    let since = check.request.since.as_ref().map(|since| since.manifest.header.commit);
    let read_otherwise = body.read_otherwise.values().max().copied().filter(|_| since.is_none());
    let is_older =
        body.inputs.keys().any(|input| body.mappings.get(input).is_none_or(decoded_otherwise));
    let read_otherwise = if is_older { Some(commit) } else { read_otherwise };
    let mut report = Report { commit, since, read_otherwise, events, ..Report::default() };
    let mut facts = Vec::new();
    for part in parts {
        check.kept.part = part;
        check = pass(check)?;
        check.require_events()?;
        facts.append(check.found.get_mut());
    }
    report.checked = check.checked.load(Ordering::Relaxed);
    let (differences, mut ambiguous) = Differences::new(facts);
    ambiguous.extend(copies::differing(&check, &differences.keys())?);
    let mut evidence = differences.evidence();
    if !evidence.is_empty() {
        check.look_up(|event, position, hasher| {
            for (key, scope, tag, _) in event.uses(hasher) {
                evidence.note(key, (scope, tag), event.ts_ms, position);
            }
            if let Some(id) = event.id {
                evidence.note(id, ("", &event.event_id), event.ts_ms, position);
            }
        })?;
    }
    let keys = differences.keys();
    let (snapshot, kept) = (&check.request.snapshot, &check.kept);
    let controls = differences.controls(snapshot, kept, &evidence, &check.ids);
    let differences = differences.list(snapshot, kept, evidence);
    report.drift = differences.len() as u64;
    report.ambiguous = ambiguous.len() as u64;
    Ok(Findings { differences, report, controls, keys })
}

/// The keys of each pass.
fn parts(request: &Request) -> Vec<Part> {
    match &request.selection {
        Selection::Sample(one_in) => {
            assert!(*one_in > 0, "one key in none");
            vec![Part::Sample(*one_in)]
        }
        Selection::Bins { bins, passes } => {
            assert!(*passes > 0, "a check without a pass");
            assert!(bins.end <= PARTS, "there are {PARTS} parts, not {}", bins.end);
            let (begin, length) = (bins.start, bins.end - bins.start);
            let at = |pass: u64| begin + length * pass / passes;
            let passes = (0..*passes).map(|pass| at(pass)..at(pass + 1));
            passes.filter(|bins| !bins.is_empty()).map(Part::Bins).collect()
        }
        Selection::Tags(tags) => {
            let body = &request.snapshot.manifest.body;
            let hasher = body.hash_key.hasher();
            let scopes = body.scopes.iter().flatten().map(String::as_str).chain([""]);
            let scopes: Vec<&str> = scopes.collect();
            let keys = tags
                .iter()
                .flat_map(|tag| scopes.iter().map(|scope| hasher.scoped(scope, hasher.tag(tag))));
            vec![Part::Keys(Arc::new(keys.collect()))]
        }
        Selection::Keys(keys) => vec![Part::Keys(Arc::new(keys.clone()))],
    }
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
            shared.failure.set(error);
        }
        if shared.failure.is_set() {
            worker.installed_dataflows().into_iter().for_each(|id| worker.drop_dataflow(id));
        }
    });
    for result in guards.map_err(ReconcileError::Worker)?.join() {
        result.map_err(ReconcileError::Worker)?;
    }
    let check = Arc::into_inner(check)
        .unwrap_or_else(|| unreachable!("a worker still shares the check after it was joined"));
    check.failure.take().map_or(Ok(check), Err)
}

const HOUR_MS: i64 = 3_600_000;

/// One worker's inputs of the program.
struct Sessions {
    events: InputSession<Time, KeyHash, Copies>,
    no_dedup: InputSession<Time, Event, isize>,
    before: InputSession<Time, Fact, isize>,
    stored: InputSession<Time, Fact, isize>,
}

impl Sessions {
    fn flush(&mut self) {
        self.events.flush();
        self.no_dedup.flush();
        self.before.flush();
        self.stored.flush();
    }
}

/// Builds the program on one worker: its inputs, and a probe at its end.
fn build(worker: &mut Worker, check: &Arc<Check>) -> (Sessions, Handle<Time>) {
    let sink = Arc::clone(check);
    worker.dataflow::<Time, _, _>(|scope| {
        let (events, events_of) = scope.new_collection();
        let (no_dedup, no_dedup_of) = scope.new_collection();
        let (before, before_of) = scope.new_collection();
        let (stored, stored_of) = scope.new_collection();
        let found = drift(events_of, no_dedup_of, before_of, stored_of, &check.kept)
            .inspect(move |(fact, _, number)| sink.found.lock().push((fact.clone(), *number)));
        let (probe, _) = found.probe();
        let mut sessions = Sessions { events, no_dedup, before, stored };
        sessions.no_dedup.advance_to(END);
        sessions.before.advance_to(END);
        sessions.stored.advance_to(END);
        (sessions, probe)
    })
}

fn work(worker: &mut Worker, check: &Arc<Check>) -> Result<(), ReconcileError> {
    let (mut sessions, probe) = build(worker, check);
    let (index, peers) = (worker.index(), worker.peers());
    assert_eq!(peers, check.request.workers, "every worker has its share of the splits");
    let mine = move |key: KeyHash| key.bin() % peers as u64 == index as u64;
    let snapshot = &check.request.snapshot;
    let rows = stored::rows(snapshot, &check.kept, mine, |fact| sessions.stored.insert(fact))?;
    let ids = stored::ids(&check.ids, &check.kept, mine, |fact| sessions.stored.insert(fact));
    check.checked.fetch_add(rows + ids, Ordering::Relaxed);
    if let Some(since) = &check.since {
        since.facts(&check.kept, mine, |fact| sessions.before.insert(fact))?;
    }
    for split in check.splits.iter().skip(index).step_by(peers) {
        let rules = check.rules(&split.input);
        let sessions = std::cell::RefCell::new(&mut sessions);
        let each = |event: Accepted, _| insert(&event, check, rules, &mut sessions.borrow_mut());
        check.read(split, each, || {
            sessions.borrow_mut().flush();
            worker.step();
        })?;
    }
    for (event, position) in check.redeliveries.iter().filter(|_| index == 0) {
        insert(event, check, check.rules(&position.input), &mut sessions);
    }
    for share in 1..=END {
        sessions.events.advance_to(share);
        sessions.flush();
        step_while(check, worker, || probe.less_than(&share));
    }
    drop(sessions);
    step_while(check, worker, || !probe.done());
    Ok(())
}

/// Runs the operators for as long as something is pending.
fn step_while(check: &Check, worker: &mut Worker, is_pending: impl Fn() -> bool) {
    while is_pending() && !check.failure.is_set() {
        worker.step_or_park(Some(Duration::from_millis(100)));
    }
}

/// Passes an event to the program if this pass needs it, for its id or for one of its tags.
fn insert(event: &Accepted, check: &Check, rules: &Rules, sessions: &mut Sessions) {
    let part = &check.kept.part;
    let (mut all, mut uses) = (0, Vec::new());
    for (key, _, _, spelling) in event.uses(&rules.hasher) {
        all = digest(all, key, spelling);
        if part.has(key) {
            uses.push((key, spelling.into()));
        }
    }
    if let Some((id, hour)) = event.id.zip(check.hour_before(event)) {
        // A copy with a later time prolongs what the earlier commit remembers.
        let first = check.kept.first_hour;
        if part.has(id) && hour < first && event.ts_ms.max(0) / HOUR_MS >= first {
            sessions.before.insert(Fact::Id(id));
        }
        return;
    }
    let copy = Event { ts_ms: event.ts_ms, digest: all, uses: uses.into() };
    match event.id {
        Some(id) if part.has(id) || !copy.uses.is_empty() => {
            sessions.events.update_at(
                id,
                share(id),
                Copies { event: copy, differ: false, last_ms: event.ts_ms },
            );
        }
        None if !copy.uses.is_empty() => sessions.no_dedup.insert(copy),
        _ => {}
    }
}
