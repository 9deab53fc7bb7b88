//! The events behind one tag's count, so that anyone can count them by hand.
//!
//! Invariant: without drift, the number of events that count is the tag's total.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::Serialize;
use sinks::difference::RecordPosition;

use super::check::Check;
use super::{Progress, ReconcileError, Request, copies};

/// An event that carries the tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExplainedEvent {
    /// The position of its record.
    #[serde(flatten)]
    pub at: RecordPosition,
    /// Its id.
    pub event_id: String,
    /// Its time, in milliseconds.
    pub ts: i64,
    /// How it spells the tag.
    pub spelling: String,
    /// Whether it counts: of several deliveries of an event, only the first does.
    pub counts: bool,
    /// The names of the windows that contain it at the commit's stream time.
    pub windows: Vec<String>,
}

/// The number of events behind a tag's count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventCount {
    /// The events that count.
    pub total: i64,
    /// The events whose copies differ, so that any copy may count; looked up only if `total` is not
    /// the commit's.
    pub ambiguous: u64,
}

/// Calls `each` with the events up to the commit that carry tag `key` in `scope`, partition by
/// partition. Returns how many count; the commit's count is `stored`.
pub fn explain<E: From<ReconcileError>>(
    request: Request,
    (scope, key): (&str, &str),
    stored: i64,
    progress: &Arc<Progress>,
    mut each: impl FnMut(ExplainedEvent) -> Result<(), E>,
) -> Result<EventCount, E> {
    let check = Check::new(request, Arc::clone(progress))?;
    progress.all.store(check.span(), Ordering::Relaxed);
    let kept = &check.kept;
    let (mut seen, mut total, mut printed) = (HashSet::new(), 0, Ok(()));
    let hasher = check.request.snapshot.manifest.body.hash_key.hasher();
    let wanted = hasher.scoped(scope, hasher.tag(key));
    check.look_up(|event, position, hasher| {
        let Some((.., spelling)) = event.uses(hasher).find(|(hash, ..)| *hash == wanted) else {
            return;
        };
        let counts = event.id.is_none_or(|id| seen.insert(id));
        total += i64::from(counts);
        let inside = kept.buckets(event.ts_ms).filter(|(window, bucket)| {
            counts && *bucket <= kept.as_of_ms / kept.window(*window).slide_ms
        });
        let explained = ExplainedEvent {
            at: position(),
            event_id: event.event_id.clone(),
            ts: event.ts_ms,
            spelling: spelling.to_owned(),
            counts,
            windows: inside.map(|(window, _)| kept.window(window).name()).collect(),
        };
        if printed.is_ok() {
            printed = each(explained);
        }
    })?;
    printed?;
    let differs = (total != stored).then_some(wanted);
    let ambiguous = copies::differing(&check, &differs.into_iter().collect())?.len() as u64;
    Ok(EventCount { total, ambiguous })
}
