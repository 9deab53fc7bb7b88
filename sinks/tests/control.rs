//! Power that goes before any effect of asking for something: what was acknowledged is there whole,
//! nothing is there in part, and whoever asks again gets a number of their own.
#![allow(clippy::unwrap_used, clippy::panic)]

use schemas::control::{Asker, Control};
use simulate::disk::{Choices, PowerDisk};
use sinks::commits::{controls, pending, queue};

fn asker(who: &str) -> Asker {
    Asker { who: who.to_owned(), ..Asker::default() }
}

#[test]
fn what_was_asked_for_survives_a_loss_of_power_whole_or_not_at_all() {
    let (scope, key, display) = (String::new(), "sun".to_owned(), "Sun".to_owned());
    let records = [Control::Republish { scope, key, display }];
    let mut states = 0;
    for effects in 0.. {
        let disk = PowerDisk::dying_at(effects);
        let ask = |who: &str| queue(&*disk, who, &asker(who), &records).ok();
        let acknowledged: Vec<_> =
            ["a", "b"].iter().filter_map(|who| Some((ask(who)?, *who))).collect();
        let mut choices = Choices::default();
        loop {
            let left = disk.after_loss(&mut choices);
            states += 1;
            for (number, who) in &acknowledged {
                assert_eq!(controls(&*left, *number).unwrap().0, asker(who));
            }
            let numbers = pending(&*left, 0).unwrap();
            for number in &numbers {
                assert_eq!(
                    controls(&*left, *number).unwrap().1,
                    records,
                    "after {effects} effects"
                );
            }
            let again = queue(&*left, "a", &asker("a"), &records).unwrap();
            assert!(!numbers.contains(&again) && numbers.last().is_none_or(|last| *last < again));
            assert_eq!(controls(&*left, again).unwrap(), (asker("a"), records.to_vec()));
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
