//! Commit: once everything of a commit is durable, creates its manifest; worker 0 only.
//!
//! Invariants: manifests are created one by one, in order; a capability at a commit's end is held
//! until its manifest is durable, so the frontier of this stream is that of durable commits.

use std::collections::BTreeMap;
use std::sync::mpsc::channel;

use schemas::manifest::{Body, Finished, Header, Manifest, SegmentMeta};
use schemas::mapping::differing;
use sinks::commits::Merged;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use super::ack::segments;
use crate::context::Context;
use crate::epoch::{Epoch, close_of, commit_of};
use crate::records::{Ack, Cut, Last};
use crate::settings::{self, Input, Settings};

/// What records are read with, by input, and up to which commits they were read otherwise.
type Reading = (BTreeMap<String, BTreeMap<String, String>>, BTreeMap<String, u64>);

/// Puts manifests together.
struct Assembler {
    last: Manifest,
    /// What becomes true of the state once a record was read.
    reading: Option<Reading>,
    /// The wall clock at the start, and the monotonic one: versions follow both.
    start_us: (i64, u64),
    /// What a run that has read everything is finished as.
    finished: Option<Finished>,
}

impl Assembler {
    /// The manifest of the next commit from everybody's acknowledgements.
    fn next(&mut self, acks: &[Ack], cut: Cut, merged: Vec<Merged>) -> Manifest {
        let before = &self.last;
        let commit = before.header.commit + 1;
        let since_us = cut.tick.mono_us.saturating_sub(self.start_us.1);
        let clock_us = self.start_us.0.saturating_add_unsigned(since_us);
        let header = Header {
            commit,
            takeover: false,
            version: clock_us.max(before.header.version + 1),
            wall_ms: cut.tick.wall_ms,
            ..before.header.clone()
        };
        let (mut counters, mut control) = (before.body.counters, before.body.control);
        for ack in acks {
            match ack {
                Ack::Counters(more) => counters += *more,
                Ack::Control(next) => control = *next,
                Ack::Segment(_) | Ack::Cut(_) => {}
            }
        }
        let has_read = counters.records() > before.body.counters.records();
        let reading = self.reading.take_if(|_| has_read);
        let (mappings, read_otherwise) = reading
            .unwrap_or_else(|| (before.body.mappings.clone(), before.body.read_otherwise.clone()));
        let mut kept = before.body.segments.clone();
        for merge in merged {
            if !merge.apply(&mut kept) {
                tracing::debug!(file = merge.output.name, "a merge came too late");
            }
        }
        let floor_hour = cut.floor_ms.map_or(0, |ms| (ms / 3_600_000) as u32);
        kept.retain(|s| s.last_hour.is_none_or(|hour| hour >= floor_hour));
        let mut new: Vec<SegmentMeta> = segments(acks).cloned().collect();
        // Workers acknowledge in any order; the list is the same for the same files.
        new.sort_by(|a, b| a.name.cmp(&b.name));
        kept.extend(new);
        let finished = self.finished.clone().filter(|_| cut.tick.last == Some(Last::Finished));
        let body = Body {
            as_of_ms: cut.as_of_ms,
            floor_ms: cut.floor_ms,
            largest_ts_ms: cut.largest_ts_ms,
            mappings,
            read_otherwise,
            finished,
            clean: cut.tick.last.is_some(),
            inputs: cut.inputs,
            control,
            counters,
            segments: kept,
            ..before.body.clone()
        };
        let manifest = Manifest { header, body };
        self.last = manifest.clone();
        manifest
    }
}

/// What records are read with from now on.
fn reading(context: &Context) -> Reading {
    let Manifest { header, body } = &*context.start;
    let (mut mappings, mut read_otherwise) = (body.mappings.clone(), body.read_otherwise.clone());
    let Settings { repair_only, horizon_ms, beyond, .. } = *context.settings;
    // Refused records may be delivered again by a mapping that no input is read with.
    let inputs = if repair_only { &[] } else { &*context.inputs };
    for Input { name, decoder, log_time, .. } in inputs {
        let now = settings::read_with(decoder, *log_time, horizon_ms, beyond);
        let before = mappings.insert(name.clone(), now.clone()).unwrap_or_default();
        let other = differing(&before, &now);
        if !other.is_empty() {
            read_otherwise.insert(name.clone(), header.commit);
            tracing::warn!(
                input = name,
                "what was counted so far was read with {other}; that stays as it was counted"
            );
        }
    }
    (mappings, read_otherwise)
}

/// Tells the logs what has become durable.
fn tell_logs(inputs: &[Input], made: &Manifest) {
    for input in inputs {
        if let Some(partitions) = made.body.inputs.get(&input.name) {
            input.log.committed(partitions);
        }
    }
}

/// The stream whose frontier says which commits are durable.
pub(crate) fn commit<'s>(
    acks: StreamVec<'s, Epoch, Ack>,
    context: &Context,
) -> StreamVec<'s, Epoch, ()> {
    let scope = acks.scope();
    let index = scope.index();
    let mut builder = OperatorBuilder::new("commit".into(), scope);
    let mut acks = builder.new_input(acks, Exchange::new(|_: &Ack| 0));
    let (_, durable) = builder.new_output::<Vec<()>>();
    let wake = scope.worker().sync_activator_for(builder.operator_info().address.to_vec());
    let wake = std::sync::Arc::new(wake);
    let context = context.clone();
    builder.build(move |mut capabilities| {
        let mut assembler = Assembler {
            last: (*context.start).clone(),
            reading: Some(reading(&context)),
            start_us: (context.start.header.wall_ms * 1000, context.started_us),
            finished: context.finish(),
        };
        let mut commit = context.start.header.commit + 1;
        let mut capability = capabilities.pop().filter(|_| index == 0);
        capability.iter_mut().for_each(|c| c.downgrade(&close_of(commit)));
        let mut waiting: BTreeMap<u64, Vec<Ack>> = BTreeMap::new();
        let (replies, durable) = channel();
        let mut writing: Option<(Capability<Epoch>, bool)> = None;
        move |frontiers| {
            acks.for_each(|stamp, batch| {
                let commit = stamp.least().map_or(0, |epoch| commit_of(*epoch));
                waiting.entry(commit).or_default().append(batch);
            });
            if let Ok(done) = durable.try_recv()
                && let Some((mut now, last)) = writing.take()
            {
                if let Err(error) = done {
                    context.failure.set(error);
                    return;
                }
                commit += 1;
                now.downgrade(&close_of(commit));
                capability = Some(now).filter(|_| !last);
            }
            if writing.is_some() || frontiers[0].less_equal(&close_of(commit)) {
                return;
            }
            let Some(mut acks) = waiting.remove(&commit) else { return };
            let cut = acks.iter().position(|ack| matches!(ack, Ack::Cut(_)));
            let Some(Ack::Cut(cut)) = cut.map(|at| acks.swap_remove(at)) else { return };
            let Some(held) = capability.take() else { return };
            context.status.cut(&cut);
            let (last, cut_us) = (cut.tick.last.is_some(), cut.tick.mono_us);
            let manifest = assembler.next(&acks, *cut, context.merges.take());
            writing = Some((held, last));
            let (replies, wake) = (replies.clone(), wake.clone());
            let (status, clock) = (context.status.clone(), context.clock.clone());
            let inputs = context.inputs.clone();
            let made = manifest.clone();
            context.commits.send(manifest, move |done| {
                let took_us = clock.mono_us().saturating_sub(cut_us);
                if done.is_ok() {
                    status.committed(&made, took_us / 1000);
                    tell_logs(&inputs, &made);
                }
                // Nobody listens any more when the job is ending on an error.
                let _ = replies.send(done);
                let _ = wake.activate();
            });
        }
    });
    durable
}
