//! The events behind one tag's numbers: what anyone needs to count them again by hand.
//!
//! Invariant: the events that count are as many as the tag's total, where there is no drift.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use schemas::windows::Window;
use serde::Serialize;

use super::check::Check;
use super::{Place, Progress, ReconcileError, Request, copies};

/// An event that carries the tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExplainedEvent {
    /// Where it is.
    #[serde(flatten)]
    pub place: Place,
    /// Its id.
    pub event_id: String,
    /// When it happened, in milliseconds.
    pub ts: i64,
    /// How it writes the tag.
    pub spelling: String,
    /// Whether it counts: of several deliveries of one event the first does.
    pub counts: bool,
    /// The names of the windows that it counts in at the commit's stream time.
    pub windows: Vec<String>,
}

/// How many events are behind a tag's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventCount {
    /// Those that count.
    pub total: i64,
    /// Those of which copies differ, so that any may count; looked for where `total` is another
    /// than the commit's.
    pub ambiguous: u64,
}

/// Calls `each` with the events up to the commit that carry tag `key` in `scope`, partition by
/// partition; how many of them count, where the commit has `stored`.
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
    let (mut seen, mut total, mut failed) = (HashSet::new(), 0, Ok(()));
    let hasher = check.request.snapshot.manifest.body.hash_key.hasher();
    let wanted = hasher.scoped(scope, hasher.tag(key));
    check.look_up(|event, place, hasher| {
        let Some((.., spelling)) = event.uses(hasher).find(|(hash, ..)| *hash == wanted) else {
            return;
        };
        let counts = event.id.is_none_or(|id| seen.insert(id));
        total += i64::from(counts);
        let inside = kept.buckets(event.ts_ms).filter(|(window, bucket)| {
            let slide_ms = kept.windows.iter().nth(usize::from(*window)).map_or(1, |w| w.slide_ms);
            counts && *bucket <= kept.as_of_ms / slide_ms
        });
        let name =
            |(window, _): (u8, i64)| kept.windows.iter().nth(usize::from(window)).map(Window::name);
        let found = ExplainedEvent {
            place: place(),
            event_id: event.event_id.clone(),
            ts: event.ts_ms,
            spelling: spelling.to_owned(),
            counts,
            windows: inside.filter_map(name).collect(),
        };
        if failed.is_ok() {
            failed = each(found);
        }
    })?;
    failed?;
    let differs = (total != stored).then_some(wanted);
    let ambiguous = copies::differing(&check, &differs.into_iter().collect())?.len() as u64;
    Ok(EventCount { total, ambiguous })
}
