//! Control records: power is lost before any effect of submitting some. What was acknowledged is
//! there in whole, nothing is there in part, and a repeated request gets a number of its own. Also
//! what a request publishes.

use crate::common::{Batch, Choices, Faults, Job, PowerDisk, Wire, Write, memory};
use schemas::control::{Author, Control};
use sinks::commits::{controls, manifest_name, pending, queue};
use sinks::publish::{Content, PublishTask};
use sinks::storage::Storage;

fn author(who: &str) -> Author {
    Author { who: who.to_owned(), ..Author::default() }
}

#[test]
fn power_loss_leaves_requests_whole_or_not_at_all() {
    let (scope, key, display) = (String::new(), "sun".to_owned(), "Sun".to_owned());
    let records = [Control::Republish { scope, key, display }];
    let mut states = 0;
    for effects in 0.. {
        let disk = PowerDisk::dying_at(effects);
        let ask = |who: &str| queue(&*disk, who, &author(who), &records).ok();
        let acknowledged: Vec<_> =
            ["a", "b"].iter().filter_map(|who| Some((ask(who)?, *who))).collect();
        let mut choices = Choices::default();
        loop {
            let left = disk.after_loss(&mut choices);
            states += 1;
            for (number, who) in &acknowledged {
                assert_eq!(controls(&*left, *number).unwrap().0, author(who));
            }
            let numbers = pending(&*left, 0).unwrap();
            for number in &numbers {
                assert_eq!(
                    controls(&*left, *number).unwrap().1,
                    records,
                    "after {effects} effects"
                );
            }
            let again = queue(&*left, "a", &author("a"), &records).unwrap();
            assert!(!numbers.contains(&again) && numbers.last().is_none_or(|last| *last < again));
            assert_eq!(controls(&*left, again).unwrap(), (author("a"), records.to_vec()));
            if !choices.move_on() {
                break;
            }
        }
        if acknowledged.len() == 2 {
            assert!(states > 12, "{states} states");
            return;
        }
    }
}

#[test]
fn requests_publish_boards_again_and_nothing_else_does() {
    let mut job = Job::start(memory(), 1, 1000).unwrap();
    let (tags, boards) = ((0..20).map(|k| (k, 1)).collect(), (0..3).map(|k| (k, k)).collect());
    job.commit(&Batch { tags, boards, as_of: 7, ..Batch::default() }).unwrap();
    let wire = Wire::new(Faults::default(), 1);
    let mut task = PublishTask::new("job".into(), wire.clone(), job.storage.clone());
    let mut boards = |job: &Job| {
        wire.line().sent.clear();
        while task.step(&job.latest.current()).unwrap() {}
        let line = wire.line();
        let rows = line.sent.iter().filter_map(|write| match write {
            Write::Row(row) => Some((row.version, matches!(row.content, Content::Tag { .. }))),
            _ => None,
        });
        let (boards, tags): (Vec<_>, Vec<_>) = rows.partition(|(_, is_tag)| !is_tag);
        let newest = job.last.header.version;
        assert!(boards.iter().chain(&tags).all(|(version, _)| *version == newest));
        (boards.len(), tags.len())
    };
    assert_eq!(boards(&job), (3, 20));
    for (commit, control, want) in [(3, 0, 0), (4, 2, 3), (5, 2, 0), (6, 3, 3)] {
        let mut manifest = job.prepare(&Batch::of_tags(commit, &[(1, commit)])).unwrap();
        manifest.body.control = manifest.body.control.max(control);
        job.create(manifest).unwrap();
        assert_eq!(boards(&job), (want, 1), "commit {commit}");
    }
}

#[test]
fn restart_before_publishing_loses_no_request() {
    // After any step of the publisher, whether or not the commit in the store is still kept.
    for (steps, is_kept) in (0..8).flat_map(|steps| [(steps, true), (steps, false)]) {
        let storage = memory();
        let mut job = Job::start(storage.clone(), 1, 1000).unwrap();
        let (tags, boards) = ((0..20).map(|k| (k, 1)).collect(), (0..3).map(|k| (k, k)).collect());
        job.commit(&Batch { tags, boards, as_of: 7, ..Batch::default() }).unwrap();
        let wire = Wire::new(Faults::default(), 1);
        let start = |job: &Job| PublishTask::new("job".into(), wire.clone(), job.storage.clone());
        let mut task = start(&job);
        while task.step(&job.latest.current()).unwrap() {}
        let mut manifest = job.prepare(&Batch::of_tags(8, &[(1, 8)])).unwrap();
        manifest.body.control += 1;
        let asked = job.create(manifest).unwrap().header.version;
        for _ in 0..steps {
            task.step(&job.latest.current()).unwrap();
        }
        // Nothing is requested from the next job.
        let mut job = Job::start(storage.clone(), 2, 0).unwrap();
        job.commit(&Batch::of_tags(9, &[(2, 9)])).unwrap();
        if !is_kept {
            storage.unlink(&manifest_name(2)).unwrap();
        }
        let mut task = start(&job);
        while task.step(&job.latest.current()).unwrap() {}
        assert_eq!(task.done().commit, job.commit_number());
        let line = wire.line();
        let sent = line.store.rows().filter(|row| row.version >= asked);
        let is_tag = sent.map(|row| matches!(row.content, Content::Tag { .. }));
        let (tags, boards): (Vec<_>, Vec<_>) = is_tag.partition(|is_tag| *is_tag);
        assert_eq!((tags.len(), boards.len()), (2, 3), "after {steps} steps, {is_kept}");
    }
}
