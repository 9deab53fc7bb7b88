//! The options of generated posts, declared once for `generator:` addresses, `tagflow generate` and
//! the job.

use std::str::FromStr;

use thiserror::Error;

use super::error::instead;

/// What generated posts look like.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "clap", derive(clap::Args))]
pub struct PostShape {
    /// The seed of all randomness
    #[cfg_attr(feature = "clap", arg(long, value_name = "S"))]
    #[cfg_attr(feature = "clap", arg(default_value_t = PostShape::default().seed))]
    pub seed: u64,
    /// The mean number of tags per post
    #[cfg_attr(feature = "clap", arg(long, value_name = "M"))]
    #[cfg_attr(feature = "clap", arg(default_value_t = PostShape::default().tags_mean))]
    pub tags_mean: f64,
    /// The number of different tags
    #[cfg_attr(feature = "clap", arg(long, value_name = "V"))]
    #[cfg_attr(feature = "clap", arg(default_value_t = PostShape::default().vocabulary))]
    pub vocabulary: u64,
    /// Draw tags from a Zipf law with this exponent instead of a double power law
    #[cfg_attr(feature = "clap", arg(long, value_name = "S"))]
    pub zipf: Option<f64>,
    /// The share of records that deliver an earlier event again
    #[cfg_attr(feature = "clap", arg(long, value_name = "SHARE"))]
    #[cfg_attr(feature = "clap", arg(default_value_t = PostShape::default().duplicates))]
    pub duplicates: f64,
    /// The share of events that are up to an hour late
    #[cfg_attr(feature = "clap", arg(long, value_name = "SHARE"))]
    #[cfg_attr(feature = "clap", arg(default_value_t = PostShape::default().late))]
    pub late: f64,
    /// The share of events dated an hour into the future
    #[cfg_attr(feature = "clap", arg(long, value_name = "SHARE"))]
    #[cfg_attr(feature = "clap", arg(default_value_t = PostShape::default().future))]
    pub future: f64,
    /// Let one tag burst every ten minutes of event time
    #[cfg_attr(feature = "clap", arg(long))]
    pub bursts: bool,
    /// The share of events whose first tag is replaced by one hot tag outside the vocabulary
    #[cfg_attr(feature = "clap", arg(long, value_name = "SHARE"))]
    #[cfg_attr(feature = "clap", arg(default_value_t = PostShape::default().hot_tag))]
    pub hot_tag: f64,
}

impl Default for PostShape {
    fn default() -> Self {
        Self {
            seed: 1,
            tags_mean: 7.0,
            vocabulary: 1_000_000,
            zipf: None,
            duplicates: 0.02,
            late: 0.0,
            future: 0.0,
            bursts: false,
            hot_tag: 0.0,
        }
    }
}

/// A number outside its range.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{name} must be {range}")]
pub struct OutOfRange {
    /// The option.
    pub name: &'static str,
    /// Its range.
    pub range: &'static str,
}

impl OutOfRange {
    /// Fails with the first option that is not good.
    fn first(options: &[(&'static str, bool, &'static str)]) -> Result<(), Self> {
        match options.iter().find(|(_, is_good, _)| !is_good) {
            Some((name, _, range)) => Err(Self { name, range }),
            None => Ok(()),
        }
    }
}

impl PostShape {
    /// Fails if a number lies outside its range.
    pub fn check(&self) -> Result<(), OutOfRange> {
        let share = |share: f64| (0.0..=0.9).contains(&share);
        let zipf = self.zipf.is_none_or(|exponent| (0.0..=10.0).contains(&exponent));
        OutOfRange::first(&[
            ("duplicates", share(self.duplicates), "a share from 0 to 0.9"),
            ("late", share(self.late), "a share from 0 to 0.9"),
            ("future", share(self.future), "a share from 0 to 0.9"),
            ("hot-tag", (0.0..=1.0).contains(&self.hot_tag), "a share from 0 to 1"),
            ("tags-mean", (0.0..=40.0).contains(&self.tags_mean), "from 0 to 40"),
            ("vocabulary", (1..=1 << 40).contains(&self.vocabulary), "from 1 to 2^40"),
            ("zipf", zipf, "an exponent from 0 to 10"),
        ])
    }
}

/// What a `generator:` address says: `generator:?rate=1000&seed=7`.
#[derive(Clone, Debug, PartialEq)]
pub struct GeneratorSource {
    /// `rate`: posts a second in real time; `None` means as fast as they are read.
    pub rate_per_s: Option<u64>,
    /// `posts`: how many; `None` means endless.
    pub posts: Option<u64>,
    /// `partitions`: how many parts workers may read side by side.
    pub partitions: u64,
    /// The other parameters: what the posts look like.
    pub shape: PostShape,
}

impl Default for GeneratorSource {
    fn default() -> Self {
        Self { rate_per_s: None, posts: None, partitions: 1, shape: PostShape::default() }
    }
}

/// Why the parameters of a `generator:` address cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ParameterError {
    /// An unknown parameter.
    #[error("a generator has no parameter {0:?}{1}")]
    Unknown(String, String),
    /// A parameter that is given twice.
    #[error("generator parameter {0:?} is given twice")]
    Twice(String),
    /// A value that cannot be read.
    #[error("generator parameter {0:?}: {1:?} is not {2}")]
    Value(&'static str, String, &'static str),
    /// A value outside its range.
    #[error("generator parameter {0}")]
    OutOfRange(#[from] OutOfRange),
}

/// Sets a parameter; false if its value cannot be read.
type Set = fn(&mut GeneratorSource, &str) -> bool;

const PARAMETERS: [(&str, Set); 12] = [
    ("rate", |source, value| set_some(&mut source.rate_per_s, value)),
    ("posts", |source, value| set_some(&mut source.posts, value)),
    ("seed", |source, value| set(&mut source.shape.seed, value)),
    ("tags-mean", |source, value| set(&mut source.shape.tags_mean, value)),
    ("vocabulary", |source, value| set(&mut source.shape.vocabulary, value)),
    ("zipf", |source, value| set_some(&mut source.shape.zipf, value)),
    ("duplicates", |source, value| set(&mut source.shape.duplicates, value)),
    ("late", |source, value| set(&mut source.shape.late, value)),
    ("future", |source, value| set(&mut source.shape.future, value)),
    ("bursts", |source, value| set(&mut source.shape.bursts, value)),
    ("hot-tag", |source, value| set(&mut source.shape.hot_tag, value)),
    ("partitions", |source, value| set(&mut source.partitions, value)),
];

fn set<T: FromStr>(parameter: &mut T, value: &str) -> bool {
    value.parse().is_ok_and(|value| {
        *parameter = value;
        true
    })
}

fn set_some<T: FromStr>(parameter: &mut Option<T>, value: &str) -> bool {
    *parameter = value.parse().ok();
    parameter.is_some()
}

impl FromStr for GeneratorSource {
    type Err = ParameterError;

    /// Reads what follows `generator:?`.
    fn from_str(text: &str) -> Result<Self, ParameterError> {
        let mut source = Self::default();
        let mut seen = Vec::new();
        for part in text.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let Some((name, set)) = PARAMETERS.into_iter().find(|(known, _)| *known == name) else {
                let hint = instead(name, &PARAMETERS.map(|(name, _)| name));
                return Err(ParameterError::Unknown(name.to_owned(), hint));
            };
            if seen.contains(&name) {
                return Err(ParameterError::Twice(name.to_owned()));
            }
            seen.push(name);
            if !set(&mut source, value) {
                let expected = if name == "bursts" { "true or false" } else { "a number" };
                return Err(ParameterError::Value(name, value.to_owned(), expected));
            }
        }
        source.check()?;
        Ok(source)
    }
}

impl GeneratorSource {
    fn check(&self) -> Result<(), OutOfRange> {
        let rate = self.rate_per_s.is_none_or(|rate| (1..=1_000_000).contains(&rate));
        OutOfRange::first(&[
            ("rate", rate, "from 1 to 1000000"),
            ("posts", self.posts != Some(0), "at least 1"),
            ("partitions", (1..=1024).contains(&self.partitions), "from 1 to 1024"),
        ])?;
        self.shape.check()
    }
}
