//! Taking control records: worker 0 reads the files that have come, once a commit.
//!
//! Invariants: a file is taken in one commit, in the order of the numbers; what corrects a count is
//! taken only in the history it was found in.

use std::collections::HashSet;
use std::sync::Arc;

use schemas::control::Control;
use schemas::hash::{Hasher, KeyHash};
use schemas::planted::{Bug, planted};
use schemas::rows::{Repairs, partition_hash, record_hash};
use sinks::commits::{CommitError, QueueError, controls, open_table, pending};
use sinks::storage::Storage;

use crate::context::Context;
use crate::records::{Order, Outbox, Post, Route};

/// The records taken in one commit at least, where there are so many.
const RECORDS: usize = 10_000;

/// The kinds of what came of records that were delivered again.
pub(crate) const REDELIVERED: [&str; 3] = ["counted", "duplicate", "counted_as_it_is"];

/// What is left to take.
pub(crate) struct Controls {
    storage: Arc<dyn Storage>,
    hasher: Hasher,
    history: u64,
    /// The first file that has not been taken.
    next: u64,
    /// The records that were delivered again, by the keys of their dead letters.
    redelivered: HashSet<KeyHash>,
    /// Corrections of another history.
    superseded: u64,
}

impl Controls {
    /// Goes on where the commit left off that the job starts from.
    pub(crate) fn new(context: &Context) -> Result<Self, CommitError> {
        let start = &context.start;
        let mut redelivered = HashSet::new();
        for segment in open_table::<Repairs>(&*context.storage, start)? {
            let is_one = |kind: &str| REDELIVERED.contains(&kind) && !planted(Bug::AgainForgotten);
            let rows = segment.rows.iter().filter(|(_, row)| is_one(row.kind));
            redelivered.extend(rows.map(|(hash, row)| row.changed(hash)));
        }
        Ok(Self {
            storage: Arc::clone(&context.storage),
            hasher: start.body.hash_key.hasher(),
            history: start.header.history,
            next: start.body.control,
            redelivered,
            superseded: 0,
        })
    }

    /// Takes what has come: what tags and ids have to do goes into the outbox. `again` sends a
    /// record that is read again, or says that it does not.
    pub(crate) fn take(
        &mut self,
        outbox: &mut Outbox,
        mut again: impl FnMut(Order, &mut Outbox) -> bool,
    ) -> Result<(), QueueError> {
        let mut taken = 0;
        for number in pending(&*self.storage, self.next)? {
            if taken >= RECORDS {
                break;
            }
            let (asker, records) = controls(&*self.storage, number)?;
            self.next = number + 1;
            taken += records.len();
            for control in records {
                let order = Order { request: number, asker: asker.clone(), control };
                let Some(id) = self.wanted(&order) else { continue };
                if !matches!(order.control, Control::Redeliver { .. }) {
                    outbox.of(id).posts.push(asked(id, order));
                } else if again(order, outbox) {
                    self.redelivered.insert(id);
                }
            }
        }
        Ok(())
    }

    /// The hash of what an order is about; none where it is void.
    fn wanted(&mut self, order: &Order) -> Option<KeyHash> {
        let (hash, void) = match &order.control {
            Control::Correct(correction) => (correction.hash, order.asker.history != self.history),
            Control::Remember(id) | Control::Forget(id) => {
                (id.hash, order.asker.history != self.history)
            }
            Control::Republish { scope, key, .. } => {
                (self.hasher.scoped(scope, self.hasher.tag(key)), false)
            }
            Control::Redeliver { input, partition, position, .. } => {
                let hash = record_hash(partition_hash(input, partition), *position);
                (hash, self.redelivered.contains(&hash))
            }
        };
        self.superseded += u64::from(void);
        (!void).then_some(hash)
    }

    /// Ends a commit: the first file that it has not taken, and what it passed over.
    pub(crate) fn close(&mut self) -> (u64, u64) {
        (self.next, std::mem::take(&mut self.superseded))
    }
}

/// An order as it travels to the owner of what it changes.
fn asked(id: KeyHash, order: Order) -> Post {
    let route = Route::Asked(Box::new(order));
    Post { id, ts_ms: 0, tags: (0, 0), scopes: Box::default(), route }
}
