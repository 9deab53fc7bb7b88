//! The top tags of one window in one scope, without ranking all tags at every commit.
//!
//! A count falls as time passes, and it rises where events lie ahead of stream time and that comes
//! to them. So a tag stands at what it counts now and at the most that it can come to untouched,
//! which only falls. A board keeps some candidates and a threshold: whatever is no candidate can
//! come to no more than the threshold. That stays true until fewer than K candidates count as much
//! as the threshold now; then the board asks for a scan.
//! The rank is by count descending, then by key bytes ascending.

use std::cmp::Ordering;
use std::hash::{BuildHasherDefault, Hasher};

use hashbrown::HashMap;
use schemas::hash::KeyHash;

/// Candidates kept for each place on the board.
const SPARE: usize = 4;

/// Where a tag stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// What it counts now.
    pub(crate) count: i64,
    /// The most that it can count, now or later, if nothing is added.
    pub(crate) most: i64,
}

impl Standing {
    /// As if time stood still.
    pub(crate) fn now(self) -> Self {
        Self { most: self.count, ..self }
    }
}

/// A tag that may be on the board.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) count: i64,
    most: i64,
    pub(crate) tag: Box<str>,
    pub(crate) display: Box<str>,
}

/// Keyed hashes are uniform as they are: the last word stands for both.
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
    /// Tags that can come to no more than this may be missing; none: no tag is missing.
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

    /// Takes a tag's present standing into account.
    pub(crate) fn offer(&mut self, hash: KeyHash, at: Standing, tag: &str, display: &str) {
        if at.most <= 0 || is_behind(self.threshold.as_ref(), at.most, tag) {
            self.candidates.remove(&hash);
            return;
        }
        let Standing { count, most } = at;
        match self.candidates.get_mut(&hash) {
            Some(known) => {
                (known.count, known.most) = (count, most);
                if *known.display != *display {
                    known.display = display.into();
                }
            }
            None => {
                let new = Candidate { count, most, tag: tag.into(), display: display.into() };
                self.candidates.insert(hash, new);
                if self.candidates.len() > 2 * SPARE * self.places {
                    self.prune();
                }
            }
        }
    }

    /// Forgets a tag whose name changes.
    pub(crate) fn forget(&mut self, hash: KeyHash) {
        self.candidates.remove(&hash);
    }

    /// Whether its top is sure though candidates may count less than they did.
    pub(crate) fn is_sure(&self) -> bool {
        let threshold = self.threshold.as_ref();
        let sure = self.candidates.values();
        let sure = sure.filter(|c| c.count > 0 && !is_behind(threshold, c.count, &c.tag)).count();
        threshold.is_none() || sure >= self.places
    }

    /// Keeps the best candidates only.
    fn prune(&mut self) {
        let mut all: Vec<(KeyHash, Candidate)> = self.candidates.drain().collect();
        all.sort_unstable_by(|(_, a), (_, b)| rank((a.most, &a.tag), (b.most, &b.tag)));
        all.truncate(SPARE * self.places);
        self.threshold = all.last().map(|(_, last)| (last.most, last.tag.clone()));
        self.candidates = all.into_iter().collect();
    }

    /// Lets the candidates stand where they do now that time has passed; those that cannot come to
    /// the threshold go. False where a scan is needed: see [`Self::refill`].
    pub(crate) fn recount(&mut self, standing_of: impl Fn(KeyHash) -> Standing) -> bool {
        let threshold = self.threshold.as_ref();
        let mut sure = 0;
        self.candidates.retain(|hash, candidate| {
            let Standing { count, most } = standing_of(*hash);
            (candidate.count, candidate.most) = (count, most);
            sure += usize::from(count > 0 && !is_behind(threshold, count, &candidate.tag));
            most > 0 && !is_behind(threshold, most, &candidate.tag)
        });
        threshold.is_none() || sure >= self.places
    }

    /// Forgets everything, to be offered all tags anew; and the board that is to be offered them
    /// as they stand [now](Standing::now), for its top.
    pub(crate) fn refill(&mut self) -> Self {
        self.candidates.clear();
        self.threshold = None;
        Self::new(self.places)
    }

    /// The board: at most `places` candidates, the first first.
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
        /// Rounds of touched tags whose counts move anywhere, and of time in which some of what
        /// lies ahead begins to count and some of what counted ends; after each the board equals a
        /// sort of everything.
        #[test]
        fn equals_a_sort(
            places in 1_usize..4,
            rounds in proptest::collection::vec(
                (proptest::collection::vec((0_u8..60, 0_i64..9, 0_i64..9), 0..25), any::<bool>()),
                1..20),
        ) {
            let mut board = Board::new(places);
            // What counts now, and what lies ahead.
            let mut tags: BTreeMap<u8, (i64, i64)> = BTreeMap::new();
            let standing = |(count, ahead): (i64, i64)| Standing { count, most: count + ahead };
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
                    board.offer(hash(tag), standing((count, ahead)), &name(tag), &name(tag));
                }
                let of = |h: KeyHash| tags.get(&(h.lo as u8)).copied().map(standing);
                let mut now = None;
                if !board.recount(|h| of(h).unwrap_or_default()) {
                    scans += 1;
                    let mut this = board.refill();
                    for (tag, at) in &tags {
                        let (hash, name, at) = (hash(*tag), name(*tag), standing(*at));
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
