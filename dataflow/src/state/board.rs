//! The top tags of one window in one scope, without ranking all tags at every commit.
//!
//! A count falls as time passes, and rises when time reaches events that were dated ahead. So a tag
//! has a score: what it counts now, and an upper bound on what it can count later if nothing is
//! added. The bound only falls. A board keeps some candidates and a threshold: no other tag has a
//! bound above the threshold. The top is exact until fewer than K candidates count at least the
//! threshold; then the board asks for a scan of all tags.
//! The rank is by count descending, then by key bytes ascending.
//!
//! Invariant: a tag with a bound above the threshold is a candidate.

use std::cmp::Ordering;
use std::hash::{BuildHasherDefault, Hasher};

use hashbrown::HashMap;
use schemas::hash::KeyHash;

/// Candidates kept for each place on the board.
const CANDIDATES_PER_PLACE: usize = 4;

/// What decides where a tag ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Score {
    /// What it counts now.
    pub(crate) count: i64,
    /// The most that it can count, now or later, if nothing is added.
    pub(crate) bound: i64,
}

impl Score {
    /// The score if time stood still.
    pub(crate) fn now(self) -> Self {
        Self { bound: self.count, ..self }
    }
}

/// A tag that may be on the board.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) count: i64,
    bound: i64,
    pub(crate) tag: Box<str>,
    pub(crate) display: Box<str>,
}

/// Keyed hashes are already uniform, so the last word serves as the hash.
#[derive(Clone, Copy, Debug, Default)]
struct LastWord(u64);

impl Hasher for LastWord {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.0 = self.0.rotate_left(8) ^ u64::from(*b));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

type Candidates = HashMap<KeyHash, Candidate, BuildHasherDefault<LastWord>>;

fn rank(a: (i64, &str), b: (i64, &str)) -> Ordering {
    b.0.cmp(&a.0).then_with(|| a.1.cmp(b.1))
}

/// A board's candidates.
#[derive(Debug)]
pub(crate) struct Board {
    places: usize,
    candidates: Candidates,
    /// The best rank that a tag can have which is not a candidate. `None` if every tag is one.
    threshold: Option<(i64, Box<str>)>,
}

/// Whether a tag with this count ranks behind the threshold.
fn is_behind(threshold: Option<&(i64, Box<str>)>, count: i64, tag: &str) -> bool {
    threshold.is_some_and(|(least, key)| rank((count, tag), (*least, key)).is_gt())
}

impl Board {
    /// An empty board with `places` places.
    pub(crate) fn new(places: usize) -> Self {
        Self { places, candidates: Candidates::default(), threshold: None }
    }

    /// Takes a tag's present score into account.
    pub(crate) fn offer(&mut self, hash: KeyHash, score: Score, tag: &str, display: &str) {
        let Score { count, bound } = score;
        debug_assert!(count <= bound, "tag {tag:?} counts {count}, and {bound} at most");
        if bound <= 0 || is_behind(self.threshold.as_ref(), bound, tag) {
            self.candidates.remove(&hash);
            return;
        }
        match self.candidates.get_mut(&hash) {
            Some(known) => {
                (known.count, known.bound) = (count, bound);
                if *known.display != *display {
                    known.display = display.into();
                }
            }
            None => {
                let new = Candidate { count, bound, tag: tag.into(), display: display.into() };
                self.candidates.insert(hash, new);
                if self.candidates.len() > 2 * CANDIDATES_PER_PLACE * self.places {
                    self.prune();
                }
            }
        }
    }

    /// Removes a tag whose name changes.
    pub(crate) fn forget(&mut self, hash: KeyHash) {
        self.candidates.remove(&hash);
    }

    /// Whether the top is exact, although candidates may count less than they did.
    pub(crate) fn is_exact(&self) -> bool {
        let Some(threshold) = &self.threshold else { return true };
        let candidates = self.candidates.values().filter(|c| c.count > 0);
        let above = candidates.filter(|c| !is_behind(Some(threshold), c.count, &c.tag));
        above.count() >= self.places
    }

    /// Keeps only the best candidates.
    fn prune(&mut self) {
        let mut all: Vec<(KeyHash, Candidate)> = self.candidates.drain().collect();
        all.sort_unstable_by(|(_, a), (_, b)| rank((a.bound, &a.tag), (b.bound, &b.tag)));
        all.truncate(CANDIDATES_PER_PLACE * self.places);
        self.threshold = all.last().map(|(_, last)| (last.bound, last.tag.clone()));
        self.candidates = all.into_iter().collect();
    }

    /// Updates the candidates to their present scores, and drops those whose bound has fallen below
    /// the threshold. Returns whether the top is exact. If not, see [`Self::refill`].
    pub(crate) fn refresh(&mut self, score_of: impl Fn(KeyHash) -> Score) -> bool {
        let threshold = self.threshold.as_ref();
        let mut above = 0;
        self.candidates.retain(|hash, candidate| {
            let Score { count, bound } = score_of(*hash);
            (candidate.count, candidate.bound) = (count, bound);
            above += usize::from(count > 0 && !is_behind(threshold, count, &candidate.tag));
            bound > 0 && !is_behind(threshold, bound, &candidate.tag)
        });
        threshold.is_none() || above >= self.places
    }

    /// Empties the board so that all tags can be offered anew. Returns a board for the present top,
    /// which is to be offered every tag with its score [now](Score::now).
    pub(crate) fn refill(&mut self) -> Self {
        self.candidates.clear();
        self.threshold = None;
        Self::new(self.places)
    }

    /// The top tags in order, at most one for each place.
    pub(crate) fn top(&self) -> Vec<Candidate> {
        let counted = self.candidates.values().filter(|candidate| candidate.count > 0);
        let mut all: Vec<&Candidate> = counted.collect();
        all.sort_unstable_by(|a, b| rank((a.count, &a.tag), (b.count, &b.tag)));
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
        /// In each round some counts change at random, and time may pass: some posts dated ahead
        /// begin to count, and some that counted expire. After each round the board equals a
        /// sort of all tags.
        #[test]
        fn top_equals_a_sort_of_all_tags(
            places in 1_usize..4,
            rounds in proptest::collection::vec(
                (proptest::collection::vec((0_u8..60, 0_i64..9, 0_i64..9), 0..25), any::<bool>()),
                1..20),
        ) {
            let mut board = Board::new(places);
            // What each tag counts now, and what is dated ahead.
            let mut tags: BTreeMap<u8, (i64, i64)> = BTreeMap::new();
            let score = |(count, ahead): (i64, i64)| Score { count, bound: count + ahead };
            let mut scans = 0;
            for (touched, time_passes) in rounds {
                if time_passes {
                    for (count, ahead) in tags.values_mut() {
                        let begins = *ahead * 2 / 3;
                        (*count, *ahead) = (*count * 2 / 3 + begins, *ahead - begins);
                    }
                }
                for (tag, count, ahead) in touched {
                    tags.insert(tag, (count, ahead));
                    board.offer(hash(tag), score((count, ahead)), &name(tag), &name(tag));
                }
                let of = |h: KeyHash| tags.get(&(h.lo as u8)).copied().map(score);
                let mut now = None;
                if !board.refresh(|h| of(h).unwrap_or_default()) {
                    scans += 1;
                    let mut this = board.refill();
                    for (tag, at) in &tags {
                        let (hash, name, at) = (hash(*tag), name(*tag), score(*at));
                        this.offer(hash, at.now(), &name, &name);
                        board.offer(hash, at, &name, &name);
                    }
                    now = Some(this);
                }
                let counted = tags.iter().filter(|(_, (count, _))| *count > 0);
                let mut want: Vec<(i64, String)> =
                    counted.map(|(tag, (count, _))| (*count, name(*tag))).collect();
                want.sort_by(|a, b| rank((a.0, &a.1), (b.0, &b.1)));
                want.truncate(places);
                let top = now.as_ref().unwrap_or(&board).top().into_iter();
                let got: Vec<_> = top.map(|c| (c.count, c.tag.to_string())).collect();
                prop_assert_eq!(got, want, "after {} scans", scans);
            }
        }
    }
}
