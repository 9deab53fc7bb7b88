//! Copies of an event that differ, where a check of some keys has not seen both of them.
//!
//! A pass reads an event for its id or for a tag of it, so a copy whose tags are all outside the
//! part escapes it. Where all keys are checked, the pass of the id has seen every copy.
//! Invariant: of drift in a checked key it is known whether copies of its events differ.

use std::collections::{BTreeSet, HashMap};

use schemas::hash::KeyHash;

use super::ReconcileError;
use super::accept::digest;
use super::check::Check;

/// The events with one of `keys`, of which copies differ. Reads the log twice, and only where a
/// part of it was checked and something differs: nothing else hangs on it.
pub(super) fn differing(
    check: &Check,
    keys: &BTreeSet<KeyHash>,
) -> Result<BTreeSet<KeyHash>, ReconcileError> {
    let mut differing = BTreeSet::new();
    if keys.is_empty() || check.request.which.is_all() {
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
