//! How popular a generated tag is: Zipf, or the double power law of real hashtags.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, RngExt};
use rand_distr::{Distribution, Zipf};

/// The law's exponents and the rank where it bends, fitted to a day of hashtags (Chen et al.).
const GAMMA_1: f64 = 0.81;
const GAMMA_2: f64 = 1.41;
const BEND: f64 = 18_145.0;

/// A distribution over the ranks from 1 to the size of the vocabulary.
#[derive(Clone, Debug)]
pub(super) enum Popularity {
    Zipf(Zipf<f64>),
    Double(Double),
}

/// The double power law as a density over [1, vocabulary + 1).
#[derive(Clone, Debug)]
pub(super) struct Double {
    vocabulary: u64,
    bend: f64,
    /// The weights before and after the bend.
    head: f64,
    tail: f64,
}

impl Popularity {
    /// The law of a shape that has been checked.
    pub(super) fn new(zipf: Option<f64>, vocabulary: u64) -> Self {
        match zipf.map(|exponent| Zipf::new(vocabulary as f64, exponent)) {
            Some(Ok(zipf)) => Self::Zipf(zipf),
            Some(Err(error)) => unreachable!("{error}: checked by PostShape::check"),
            None => Self::Double(Double::new(vocabulary)),
        }
    }

    pub(super) fn rank(&self, random: &mut Xoshiro256PlusPlus) -> u64 {
        match self {
            Self::Zipf(zipf) => zipf.sample(random) as u64,
            Self::Double(double) => double.rank(random),
        }
    }
}

impl Double {
    fn new(vocabulary: u64) -> Self {
        assert!(vocabulary > 0, "an empty vocabulary: checked by PostShape::check");
        let end = vocabulary as f64 + 1.0;
        let bend = BEND.min(end);
        let head = (bend.powf(1.0 - GAMMA_1) - 1.0) / (1.0 - GAMMA_1);
        let height = bend.powf(GAMMA_2 - GAMMA_1);
        let tail = height * (bend.powf(1.0 - GAMMA_2) - end.powf(1.0 - GAMMA_2)) / (GAMMA_2 - 1.0);
        Self { vocabulary, bend, head, tail }
    }

    /// Inverts the distribution function.
    fn rank(&self, random: &mut impl Rng) -> u64 {
        let at = random.random::<f64>() * (self.head + self.tail);
        let x = if at < self.head {
            (1.0 + at * (1.0 - GAMMA_1)).powf(1.0 / (1.0 - GAMMA_1))
        } else {
            let height = self.bend.powf(GAMMA_2 - GAMMA_1);
            let left = self.bend.powf(1.0 - GAMMA_2) - (at - self.head) * (GAMMA_2 - 1.0) / height;
            left.powf(1.0 / (1.0 - GAMMA_2))
        };
        (x as u64).clamp(1, self.vocabulary)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    /// The slope of log count over log rank between two ranks, counted in bands around them.
    fn slope(counts: &[u32], low: usize, high: usize) -> f64 {
        let near = |rank: usize| {
            let band = &counts[rank..=rank + rank / 4];
            f64::from(band.iter().sum::<u32>()) / band.len() as f64
        };
        (near(low) / near(high)).ln() / (high as f64 / low as f64).ln()
    }

    fn counts(popularity: &Popularity, vocabulary: usize) -> Vec<u32> {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(3);
        let mut counts = vec![0; vocabulary + 1];
        for _ in 0..4_000_000 {
            counts[popularity.rank(&mut random) as usize] += 1;
        }
        assert_eq!(counts[0], 0);
        counts
    }

    #[test]
    fn double_power_law_bends() {
        let counts = counts(&Popularity::new(None, 1_000_000), 1_000_000);
        let (head, tail) = (slope(&counts, 30, 3000), slope(&counts, 40_000, 400_000));
        assert!((head - GAMMA_1).abs() < 0.08, "{head}");
        assert!((tail - GAMMA_2).abs() < 0.15, "{tail}");
    }

    #[test]
    fn zipf_has_its_exponent() {
        let counts = counts(&Popularity::new(Some(1.05), 100_000), 100_000);
        let all = slope(&counts, 10, 1000);
        assert!((all - 1.05).abs() < 0.08, "{all}");
    }
}
