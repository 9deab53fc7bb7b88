//! The audit of one operator: what was requested and done, and when each key was last corrected.
//!
//! Invariant: a correction made from commit n is applied only if its key has not been corrected in
//! a later one, so requesting it twice changes nothing.

use std::collections::HashMap;

use schemas::hash::KeyHash;
use schemas::manifest::Counters;
use schemas::planted::{Bug, planted};
use schemas::rows::{RepairRow, Repairs, repair_hash};
use schemas::segment::Rows;
use sinks::commits::{CommitError, open_table};

use crate::context::Context;
use crate::records::Order;
use crate::worker_id::WorkerId;

/// The kind of a row that was only written again, which corrects nothing.
pub(crate) const REPUBLISH: &str = "republish";

/// The repairs that one operator of one worker made.
#[derive(Default)]
pub(crate) struct Audit {
    /// The commit of the last correction, by key.
    corrected: HashMap<KeyHash, u64>,
    rows: Rows<Repairs>,
    /// What was counted in the commit under way.
    pub(crate) counters: Counters,
}

impl Audit {
    /// Loads the corrections of the bins that `worker` owns.
    pub(crate) fn load(context: &Context, worker: WorkerId) -> Result<Self, CommitError> {
        let mut audit = Self::default();
        for segment in open_table::<Repairs>(&*context.storage, &context.start)? {
            for (hash, row) in segment.rows.iter() {
                if worker.owns(hash.bin()) && row.kind != REPUBLISH {
                    let last = audit.corrected.entry(row.changed(hash)).or_default();
                    *last = row.commit.max(*last);
                }
            }
        }
        Ok(audit)
    }

    /// Whether a later correction of `key` has made this one void. If so, it is counted.
    pub(crate) fn is_superseded(&mut self, key: KeyHash, order: &Order) -> bool {
        let later = self.corrected.get(&key).is_some_and(|last| *last > order.author.base);
        self.counters.superseded += u64::from(later);
        later
    }

    /// Records what was done to `key` in `commit`.
    pub(crate) fn record(&mut self, key: KeyHash, order: &Order, done: Done<'_>, commit: u64) {
        let Done { kind, scope, name, before, after } = done;
        if kind != REPUBLISH {
            self.corrected.insert(key, commit);
        }
        if planted(Bug::RepairUnsaid) {
            return;
        }
        let row = RepairRow {
            request: order.request,
            kind,
            scope,
            key: name,
            lo: key.lo,
            before,
            after,
            who: &order.author.who,
            why: &order.author.why,
            when_ms: order.author.when_ms,
            base: order.author.base,
            commit,
        };
        self.rows.push(repair_hash(key, order.request), &row);
    }

    /// Ends a commit: its rows, and what was counted.
    pub(crate) fn close(&mut self) -> (Rows<Repairs>, Counters) {
        (std::mem::take(&mut self.rows), std::mem::take(&mut self.counters))
    }
}

/// A repair that was made: its kind, and what it changed: the name, before and after.
#[derive(Clone, Copy)]
pub(crate) struct Done<'a> {
    pub(crate) kind: &'a str,
    pub(crate) scope: &'a str,
    pub(crate) name: &'a str,
    pub(crate) before: &'a str,
    pub(crate) after: &'a str,
}
