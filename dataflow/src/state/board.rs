//! The top tags of one window in one scope, without ranking all tags at every commit.
//!
//! A board keeps some candidates and a threshold: every tag that is no candidate ranks behind the
//! threshold. Touched tags are offered, and counts of untouched ones can only fall, so that stays
//! true until fewer than K candidates remain before the threshold; then the board asks for a scan.
//! The rank is by count descending, then by key bytes ascending.

use std::cmp::Ordering;
use std::collections::HashMap;

use schemas::hash::KeyHash;

/// Candidates kept for each place on the board.
const SPARE: usize = 4;

/// A tag that may be on the board.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) count: i64,
    pub(crate) tag: Box<str>,
    pub(crate) display: Box<str>,
}

impl Candidate {
    /// The rank: `Less` comes first.
    fn rank(&self, other: &Self) -> Ordering {
        rank((self.count, &self.tag), (other.count, &other.tag))
    }
}

fn rank(a: (i64, &str), b: (i64, &str)) -> Ordering {
    b.0.cmp(&a.0).then_with(|| a.1.cmp(b.1))
}

/// A board's candidates.
#[derive(Debug)]
pub(crate) struct Board {
    places: usize,
    candidates: HashMap<KeyHash, Candidate>,
    /// Tags that rank behind this may be missing; none: no tag with a count is missing.
    threshold: Option<(i64, Box<str>)>,
}

impl Board {
    /// An empty board with `places` places.
    pub(crate) fn new(places: usize) -> Self {
        Self { places, candidates: HashMap::new(), threshold: None }
    }

    /// Takes a tag's present count into account.
    pub(crate) fn offer(&mut self, hash: KeyHash, count: i64, tag: &str, display: &str) {
        let behind = |(least, key): &(i64, Box<str>)| {
            count < *least || rank((count, tag), (*least, key)) == Ordering::Greater
        };
        if count <= 0 || self.threshold.as_ref().is_some_and(behind) {
            self.candidates.remove(&hash);
            return;
        }
        match self.candidates.get_mut(&hash) {
            Some(known) => {
                known.count = count;
                if *known.display != *display {
                    known.display = display.into();
                }
            }
            None => {
                let new = Candidate { count, tag: tag.into(), display: display.into() };
                self.candidates.insert(hash, new);
                if self.candidates.len() > 2 * SPARE * self.places {
                    self.prune();
                }
            }
        }
    }

    /// Keeps the best candidates only.
    fn prune(&mut self) {
        let mut all: Vec<(KeyHash, Candidate)> = self.candidates.drain().collect();
        all.sort_unstable_by(|a, b| a.1.rank(&b.1));
        all.truncate(SPARE * self.places);
        self.threshold = all.last().map(|(_, last)| (last.count, last.tag.clone()));
        self.candidates = all.into_iter().collect();
    }

    /// Counts the candidates anew with `count_of`, where time has passed; those behind the
    /// threshold go. False where a scan is needed: see [`Self::refill`].
    pub(crate) fn recount(&mut self, count_of: impl Fn(KeyHash) -> i64) -> bool {
        let threshold = &self.threshold;
        self.candidates.retain(|hash, candidate| {
            candidate.count = count_of(*hash);
            let at = (candidate.count, &*candidate.tag);
            let before = |(least, key): &(i64, Box<str>)| rank(at, (*least, key)).is_le();
            candidate.count > 0 && threshold.as_ref().is_none_or(before)
        });
        self.threshold.is_none() || self.candidates.len() >= self.places
    }

    /// Forgets everything, to be offered all tags anew.
    pub(crate) fn refill(&mut self) {
        self.candidates.clear();
        self.threshold = None;
    }

    /// The board: at most `places` candidates, the first first.
    pub(crate) fn top(&self) -> Vec<Candidate> {
        let mut all: Vec<&Candidate> = self.candidates.values().collect();
        all.sort_unstable_by(|a, b| a.rank(b));
        all.into_iter().take(self.places).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn hash(tag: u8) -> KeyHash {
        KeyHash { hi: 0, lo: u64::from(tag) }
    }

    fn name(tag: u8) -> String {
        format!("t{tag}")
    }

    proptest! {
        /// Rounds of touched tags whose counts move anywhere, and of time that only lets counts
        /// fall; after each the board equals a sort of everything.
        #[test]
        fn equals_a_sort(
            places in 1_usize..4,
            rounds in proptest::collection::vec(
                (proptest::collection::vec((0_u8..60, 0_i64..9), 0..25), any::<bool>()), 1..20),
        ) {
            let mut board = Board::new(places);
            let mut counts: BTreeMap<u8, i64> = BTreeMap::new();
            let mut scans = 0;
            for (touched, time_passes) in rounds {
                if time_passes {
                    counts.values_mut().for_each(|c| *c = *c * 2 / 3);
                }
                for (tag, count) in touched {
                    counts.insert(tag, count);
                    board.offer(hash(tag), count, &name(tag), &name(tag));
                }
                let count_of = |h: KeyHash| counts.get(&(h.lo as u8)).copied().unwrap_or(0);
                if !board.recount(count_of) {
                    scans += 1;
                    board.refill();
                    for (tag, count) in &counts {
                        board.offer(hash(*tag), *count, &name(*tag), &name(*tag));
                    }
                    prop_assert!(board.recount(count_of), "a scan suffices");
                }
                let mut want: Vec<(i64, String)> =
                    counts.iter().filter(|(_, c)| **c > 0).map(|(t, c)| (*c, name(*t))).collect();
                want.sort_by(|a, b| rank((a.0, &a.1), (b.0, &b.1)));
                want.truncate(places);
                let top = board.top().into_iter();
                let got: Vec<_> = top.map(|c| (c.count, c.tag.to_string())).collect();
                prop_assert_eq!(got, want, "after {} scans", scans);
            }
        }
    }
}
