//! Running the second computation: workers that read their splits of the log and their share of
//! the commit, pass by pass.
//!
//! Invariant: a report is made only where every split was read to the commit's position.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

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
use super::{Found, Part, Progress, ReconcileError, Report, Request, Which, copies, stored};

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
    for split in check.splits.iter().skip(index).step_by(peers) {
        let Some((_, rules)) = check.input(split) else { continue };
        let sessions = std::cell::RefCell::new(&mut sessions);
        let each = |accepted: Accepted, _| {
            insert(&accepted, check, rules, &mut sessions.borrow_mut());
        };
        check.read(split, each, || {
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
        step_while(check, worker, || probe.less_than(&share));
    }
    drop(sessions);
    step_while(check, worker, || !probe.done());
    Ok(())
}

/// Lets the operators work while something is behind.
fn step_while(check: &Check, worker: &mut Worker, behind: impl Fn() -> bool) {
    while behind() && !check.failed.load(Ordering::Relaxed) {
        worker.step_or_park(Some(std::time::Duration::from_millis(100)));
    }
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
