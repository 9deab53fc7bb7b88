//! Takes control records: once per commit, worker 0 reads the files that have arrived.
//!
//! Invariants: files are taken in the order of their numbers, each in one commit; what corrects a
//! count is taken only in the history that it was requested in.

use std::collections::HashSet;
use std::sync::Arc;

use schemas::control::Control;
use schemas::hash::{Hasher, KeyHash};
use schemas::planted::{Bug, planted};
use schemas::rows::{Redelivery, Repairs, partition_hash, record_hash};
use sinks::commits::{CommitError, QueueError, controls, open_table, pending};
use sinks::storage::Storage;

use crate::context::Context;
use crate::limits::{CONTROL_BYTES, CONTROL_RECORDS};
use crate::records::{Order, Post, PostBatches, Route};

/// The control records that have not been taken yet.
pub(crate) struct Controls {
    storage: Arc<dyn Storage>,
    hasher: Hasher,
    history: u64,
    /// The first file that has not been taken.
    next: u64,
    /// The records that were redelivered, by the keys of their dead letters.
    redelivered: HashSet<KeyHash>,
    /// How many orders of another history were passed over in this commit.
    superseded: u64,
}

impl Controls {
    /// Continues from the commit that the job starts with.
    pub(crate) fn new(context: &Context) -> Result<Self, CommitError> {
        let start = &context.start;
        let mut redelivered = HashSet::new();
        for segment in open_table::<Repairs>(&*context.storage, start)? {
            let is_one =
                |kind: &str| Redelivery::parse(kind).is_some() && !planted(Bug::AgainForgotten);
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

    /// Takes the files that have arrived, and sends their orders to the owners of what they change.
    /// `redeliver` decodes and sends a record, and returns whether it did. Returns about how many
    /// bytes the orders take.
    pub(crate) fn take(
        &mut self,
        batches: &mut PostBatches,
        mut redeliver: impl FnMut(Order, &mut PostBatches) -> bool,
    ) -> Result<usize, QueueError> {
        let (mut taken, mut bytes) = (0, 0);
        for number in pending(&*self.storage, self.next)? {
            assert!(number >= self.next, "file {number} was taken before: {} is next", self.next);
            if taken >= CONTROL_RECORDS || bytes >= CONTROL_BYTES {
                break;
            }
            let (author, records) = controls(&*self.storage, number)?;
            self.next = number + 1;
            taken += records.len();
            bytes += records.iter().map(Control::bytes).sum::<usize>();
            for control in records {
                let order = Order { request: number, author: author.clone(), control };
                let Some(id) = self.target(&order) else { continue };
                if !matches!(order.control, Control::Redeliver { .. }) {
                    let post = order_post(id, order);
                    batches.weigh(post.bytes(0));
                    batches.of(id).posts.push(post);
                } else if redeliver(order, batches) {
                    self.redelivered.insert(id);
                }
            }
        }
        Ok(bytes)
    }

    /// The hash of what an order changes. `None` if it is void.
    fn target(&mut self, order: &Order) -> Option<KeyHash> {
        let of_other_history = order.author.history != self.history;
        let (hash, is_void) = match &order.control {
            Control::Correct(correction) => (correction.hash, of_other_history),
            Control::Remember(id) | Control::Forget(id) => (id.hash, of_other_history),
            Control::Republish { scope, key, .. } => {
                (self.hasher.scoped(scope, self.hasher.tag(key)), false)
            }
            Control::Redeliver { input, partition, position, .. } => {
                let hash = record_hash(partition_hash(input, partition), *position);
                (hash, self.redelivered.contains(&hash))
            }
        };
        self.superseded += u64::from(is_void);
        (!is_void).then_some(hash)
    }

    /// Ends a commit: the first file that it has not taken, and how many orders it passed over.
    pub(crate) fn close(&mut self) -> (u64, u64) {
        (self.next, std::mem::take(&mut self.superseded))
    }
}

/// An order as it travels to the owner of what it changes.
fn order_post(id: KeyHash, order: Order) -> Post {
    let route = Route::Order(Box::new(order));
    Post { id, ts_ms: 0, tags: (0, 0), scopes: Box::default(), route }
}
