//! Merges change files but no answers, whenever they run, and even if they come too late.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::common::{Batch, Content, Job, Rng, assert_holds, memory};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use proptest::sample::Index;
use schemas::manifest::Manifest;
use schemas::rows::{Ids, Table, TableName, Tags};
use sinks::commits::{Housekeeper, MergeTask, Merged, Retention, open_table};
use sinks::storage::Storage;

#[derive(Clone, Debug)]
enum Op {
    /// A commit by this many workers.
    Commit(Batch, u64),
    /// A merge that is based on one of the last three commits.
    Merge(usize),
    /// One of the finished merges arrives at the job.
    HandOver(Index),
}

fn any_batch() -> impl Strategy<Value = Batch> {
    let ids = btree_map(any::<u64>(), 5_u32..15, 0..6);
    let tags = btree_map(0_u32..60, -3_i64..100, 0..10);
    let boards = btree_map(0_u32..4, 0_u32..9, 0..2);
    let dead = btree_set(0_u64..1000, 0..2);
    let floor = proptest::option::weighted(0.3, 3_u32..12);
    (tags, boards, ids, dead, 0_i64..1000, floor).prop_map(
        |(tags, boards, mut ids, dead, as_of, floor_hour)| {
            ids.retain(|_, hour| *hour >= floor_hour.unwrap_or_default());
            Batch { tags, boards, ids, dead, as_of, floor_hour }
        },
    )
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (any_batch(), 1_u64..4).prop_map(|(batch, workers)| Op::Commit(batch, workers)),
        3 => (0_usize..3).prop_map(Op::Merge),
        3 => any::<Index>().prop_map(Op::HandOver),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn merges_change_no_answer(ops in vec(any_op(), 1..60)) {
        let mut job = Job::start(memory(), 1, 0).unwrap();
        let mut task = MergeTask::new(job.storage.clone(), job.start.clone());
        let mut commits: Vec<(Manifest, Content)> = vec![(job.last.clone(), Content::default())];
        let mut finished: Vec<Merged> = Vec::new();
        for op in ops {
            match op {
                Op::Commit(batch, workers) => {
                    job.workers = workers;
                    let before = &commits[commits.len() - 1].1;
                    let content = before.after(job.commit_number() + 1, &batch);
                    let manifest = job.commit(&batch).unwrap().clone();
                    assert_holds(&*job.storage, &manifest, &content);
                    commits.push((manifest, content));
                }
                Op::Merge(back) => {
                    let (stale, _) = &commits[commits.len().saturating_sub(1 + back)];
                    finished.extend(task.step(stale).unwrap());
                }
                Op::HandOver(which) if !finished.is_empty() => {
                    job.merges.push(finished.remove(which.index(finished.len())));
                }
                Op::HandOver(_) => {}
            }
        }
        for (manifest, content) in &commits {
            assert_holds(&*job.storage, manifest, content);
        }
    }
}

/// The most segments of one table.
fn most_segments(manifest: &Manifest) -> usize {
    TableName::ALL.iter().map(|table| manifest.segments(*table).count()).max().unwrap()
}

/// Ten seconds of commits, one a second.
const SHORT: Retention = Retention { keep_ms: 10_000, bytes: Some(u64::MAX), grace_ms: 5000 };

/// A commit of a busy job.
fn busy_batch(rng: &mut Rng, commit: u64) -> Batch {
    let tags = (0..8).map(|_| (rng.below(200) as u32, rng.below(1000) as i64)).collect();
    let hour = 10 + commit as u32 / 50;
    let ids = (0..6).map(|_| (rng.bits(), hour - rng.below(4) as u32)).collect();
    Batch {
        tags,
        boards: [(rng.below(6) as u32, commit as u32)].into(),
        ids,
        dead: [commit].into(),
        as_of: commit as i64,
        floor_hour: Some(hour - 4),
    }
}

#[test]
fn segments_stay_few_over_a_thousand_commits() {
    for workers in [1, 3, 8] {
        let mut job = Job::start(memory(), 1, 0).unwrap();
        job.workers = workers;
        let (storage, queue) = (job.storage.clone(), job.merges.clone());
        let mut keeper = Housekeeper::new(storage, &job.start, SHORT, queue, &Arc::default());
        let (mut rng, mut content) = (Rng(workers), Content::default());
        let commits = if workers == 3 { 1000 } else { 200 };
        for commit in 2..commits {
            let batch = busy_batch(&mut rng, commit);
            content = content.after(commit, &batch);
            job.commit(&batch).unwrap();
            keeper.step(&job.last, commit * 1000).unwrap();
            // The segments of two commits come on top: those written and those merged just now.
            let most = most_segments(&job.last);
            assert!(most as u64 <= 8 + 2 * workers, "{most} segments, {workers} workers, {commit}");
        }
        assert!(most_segments(&job.last) <= 24);
        assert_holds(&*job.storage, &job.last, &content);
    }
}

/// The number of id rows of a commit, by hour.
fn hours(storage: &dyn Storage, manifest: &Manifest) -> BTreeMap<u32, u64> {
    let mut hours = BTreeMap::new();
    for segment in open_table::<Ids>(storage, manifest).unwrap() {
        segment.rows.iter().for_each(|(_, row)| *hours.entry(row.hour).or_default() += 1);
    }
    hours
}

#[test]
fn merge_drops_expired_ids() {
    let mut job = Job::start(memory(), 1, 0).unwrap();
    let mut task = MergeTask::new(job.storage.clone(), job.start.clone());
    let ids = |from: u64| (from..from + 10).map(|id| (id, 5 + (id % 10) as u32)).collect();
    for commit in 0..4 {
        let batch = Batch { ids: ids(commit * 10), ..Batch::default() };
        job.commit(&batch).unwrap();
    }
    job.commit(&Batch { floor_hour: Some(8), ..Batch::default() }).unwrap();
    assert_eq!(hours(&*job.storage, &job.last).len(), 10, "nothing is dropped before a merge");
    let merged = task.step(&job.last).unwrap().unwrap();
    assert_eq!((merged.inputs.len(), merged.output.rows), (4, 28));
    assert_eq!((merged.output.first_commit, merged.output.last_commit), (2, 5));
    assert_eq!(merged.output.last_hour, Some(14));
    job.merges.push(merged);
    job.commit(&Batch::default()).unwrap();
    let want: BTreeMap<u32, u64> = (8..15).map(|hour| (hour, 4)).collect();
    assert_eq!(hours(&*job.storage, &job.last), want);
    assert!(task.step(&job.last).unwrap().is_none(), "nothing is left to merge");
}

#[test]
fn floor_before_1970_expires_no_id() {
    let mut job = Job::start(memory(), 1, 0).unwrap();
    let mut task = MergeTask::new(job.storage.clone(), job.start.clone());
    for id in 0..4 {
        job.commit(&Batch { ids: [(id, 5)].into(), ..Batch::default() }).unwrap();
    }
    job.last.body.floor_ms = Some(-86_400_000);
    assert_eq!(task.step(&job.last).unwrap().unwrap().output.rows, 4);
}

#[test]
fn late_merge_is_dropped() {
    let mut job = Job::start(memory(), 1, 0).unwrap();
    let mut task = MergeTask::new(job.storage.clone(), job.start.clone());
    let mut content = Content::default();
    for commit in 2..6 {
        let ids = [(commit, commit as u32)].into();
        let tags = [(1, commit as i64)].into();
        let batch = Batch { tags, ids, ..Batch::default() };
        content = content.after(commit, &batch);
        job.commit(&batch).unwrap();
    }
    let before = job.last.clone();
    let tags = task.step(&before).unwrap().unwrap();
    let mut ahead = before.clone();
    assert!(tags.apply(&mut ahead.body.segments));
    let ids = task.step(&ahead).unwrap().unwrap();
    assert_eq!(ids.output.table, Ids::NAME);
    // Meanwhile the first hours expire, and their files are dropped.
    let batch = Batch { floor_hour: Some(4), ..Batch::default() };
    content = content.after(6, &batch);
    job.commit(&batch).unwrap();
    for merged in [&ids, &tags, &tags] {
        job.merges.push(merged.clone());
    }
    content = content.after(7, &Batch::default());
    job.commit(&Batch::default()).unwrap();
    assert_eq!(job.last.segments(Tags::NAME).count(), 1, "the merge in time was taken up");
    assert_eq!(job.last.segments(Ids::NAME).count(), 2, "the late one was not");
    assert_holds(&*job.storage, &job.last, &content);
    let mut none = Vec::new();
    assert!(!tags.apply(&mut none) && none.is_empty());
}

#[test]
fn damaged_file_stops_a_merge_and_is_named() {
    let storage = memory();
    let mut job = Job::start(storage.clone(), 1, 0).unwrap();
    for commit in 2..6 {
        job.commit(&Batch::of_tags(commit, &[(1, commit)])).unwrap();
    }
    let file = job.last.body.segments[2].name.clone();
    storage.damage(&file, |bytes| bytes[100] ^= 4);
    let mut task = MergeTask::new(storage, job.start.clone());
    let error = task.step(&job.last).unwrap_err().to_string();
    assert!(error.contains(&file), "{error}");
}

#[test]
fn merged_merges_are_taken_up_in_one_commit_or_several() {
    for together in [false, true] {
        let mut job = Job::start(memory(), 1, 0).unwrap();
        let mut task = MergeTask::new(job.storage.clone(), job.start.clone());
        let (mut content, mut ahead) = (Content::default(), job.last.clone());
        let mut waiting = Vec::new();
        for commit in 2..30 {
            let batch = Batch::of_tags(commit, &[(commit as u32 % 7, commit), (50, commit)]);
            content = content.after(commit as u64, &batch);
            if !together || commit % 9 == 0 {
                waiting.drain(..).for_each(|merged| job.merges.push(merged));
            }
            let new = job.commit(&batch).unwrap().body.segments.last().unwrap().clone();
            ahead.body.segments.push(new);
            if let Some(merged) = task.step(&ahead).unwrap() {
                assert!(merged.apply(&mut ahead.body.segments));
                waiting.push(merged);
            }
            assert_holds(&*job.storage, &job.last, &content);
        }
    }
}
