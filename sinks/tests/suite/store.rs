//! What the API reads from a commit: windows by their definition, tags and boards by name.

use std::task::{Context, Poll, Waker};

use crate::common::{Batch, Job, key_of, memory, windows};
use proptest::collection::vec;
use proptest::prelude::*;
use schemas::rows::TagRow;
use schemas::windows::Buckets;
use sinks::commits::Follower;
use sinks::store::{CommitView, Store, StoreError, evaluate};

const HOUR_MS: i64 = 3_600_000;

/// A row in which only these columns matter.
fn row(recent: &[u8], as_of: i64) -> TagRow<'_> {
    let (scope, tag, display) = ("region=eu", "sunset", "SunSet");
    let (total, first_seen, last_seen, commit) = (77, 5, 6, 3);
    TagRow { scope, tag, display, total, recent, first_seen, last_seen, as_of, commit }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn window_counts_the_events_in_it(
        ages in vec(-HOUR_MS / 12..27 * HOUR_MS, 0..60),
        as_of in 30 * HOUR_MS..60 * HOUR_MS,
        later in proptest::option::of(-HOUR_MS..30 * HOUR_MS),
    ) {
        // Some events are a little ahead of the stream time, some older than every window.
        let events: Vec<i64> = ages.iter().map(|age| as_of - age).collect();
        let tiers = windows().tiers();
        let mut buckets = Buckets::default();
        buckets.fold(&tiers, tiers.slot(as_of));
        for ts in &events {
            buckets.add(&tiers, tiers.slot(*ts), 1);
        }
        let mut recent = Vec::new();
        buckets.encode(&mut recent);

        let store_as_of = later.map(|later| as_of + later);
        let tag = evaluate(&row(&recent, as_of), &windows(), store_as_of).unwrap();
        let at = store_as_of.map_or(as_of, |store| store.max(as_of));
        let count = |duration_ms: i64, slide_ms: i64| {
            let end = (at / slide_ms + 1) * slide_ms;
            events.iter().filter(|ts| (end - duration_ms..end).contains(ts)).count() as i64
        };
        let want = [("1h", count(HOUR_MS, 60_000)), ("24h", count(24 * HOUR_MS, 600_000))];
        prop_assert_eq!(tag.windows, want.map(|(name, count)| (name.to_owned(), count)));
        prop_assert_eq!((tag.name.as_str(), tag.display.as_str()), ("sunset", "SunSet"));
        prop_assert_eq!((tag.scope.as_str(), tag.total), ("region=eu", 77));
        prop_assert_eq!((tag.first_seen_ms, tag.last_seen_ms), (5, 6));
    }

    #[test]
    fn arbitrary_buckets_give_counts_or_an_error(recent in vec(any::<u8>(), 0..40)) {
        match evaluate(&row(&recent, 40 * HOUR_MS), &windows(), None) {
            Ok(tag) => prop_assert_eq!(tag.windows.len(), 2),
            Err(error) => prop_assert!(error.to_string().contains("sunset"), "{}", error),
        }
    }
}

#[test]
fn view_finds_tags_with_posts_in_their_scope() {
    let mut job = Job::start(memory(), 1, 0).unwrap();
    job.commit(&Batch::of_tags(20, &[(1, 3), (2, 0), (3, 4)])).unwrap();
    job.commit(&Batch::of_tags(30, &[(3, 0)])).unwrap();
    let view = CommitView::new(job.latest.current());
    let as_of = view.as_of();
    assert_eq!((as_of.commit, as_of.as_of_ms), (3, Some(30)));
    assert_eq!(as_of.version, job.last.header.version);
    let (scope, name) = key_of(1);
    // The rows of these tests have invalid buckets, so a row that is found gives an error.
    let found = view.tag(&scope, &name);
    assert!(matches!(&found, Err(StoreError::Row(tag)) if *tag == name), "{found:?}");
    for k in [2, 3, 99] {
        let (scope, name) = key_of(k);
        assert_eq!(view.tag(&scope, &name).unwrap(), None, "none of {name}'s posts is left");
    }
    assert_eq!(view.tag("", &name).unwrap(), None, "it is another scope's");
}

#[test]
fn empty_state_has_no_commit() {
    let follower = Follower::new(memory());
    let mut context = Context::from_waker(Waker::noop());
    let answer = follower.as_of().as_mut().poll(&mut context);
    assert!(matches!(answer, Poll::Ready(Err(StoreError::Empty))), "{answer:?}");
}
