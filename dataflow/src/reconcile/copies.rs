//! Finds events whose copies differ, for a check of some keys that has not seen all copies.
//!
//! A pass takes an event for its id or for one of its tags, so it misses a copy if none of the
//! copy's tags is selected. If all keys are checked, the pass of the id sees every copy.
//! Invariant: for every selected key that differs, it is known whether copies of its events differ.

use std::collections::{BTreeSet, HashMap};

use schemas::hash::KeyHash;

use super::ReconcileError;
use super::accept::digest;
use super::check::Check;

/// The events of `keys` whose copies differ. Reads the log twice, but only if some keys were
/// checked and something differs: otherwise the answer is known or does not matter.
pub(super) fn differing(
    check: &Check,
    keys: &BTreeSet<KeyHash>,
) -> Result<BTreeSet<KeyHash>, ReconcileError> {
    let mut differing = BTreeSet::new();
    if keys.is_empty() || check.request.selection.is_all() {
        return Ok(differing);
    }
    let mut copies: HashMap<KeyHash, Option<(i64, u64)>> = HashMap::new();
    check.look_up(|event, _, hasher| {
        let id = event.id.filter(|id| {
            keys.contains(id) || event.uses(hasher).any(|(key, ..)| keys.contains(&key))
        });
        copies.extend(id.map(|id| (id, None)));
    })?;
    check.look_up(|event, _, hasher| {
        let Some((id, first)) = event.id.and_then(|id| Some((id, copies.get_mut(&id)?))) else {
            return;
        };
        let tags = event.uses(hasher);
        let tags = tags.fold(0, |all, (key, _, _, spelling)| digest(all, key, spelling));
        let this = (event.ts_ms, tags);
        if *first.get_or_insert(this) != this {
            differing.insert(id);
        }
    })?;
    Ok(differing)
}
