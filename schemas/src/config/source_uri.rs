//! Where a topic's records come from, as one word: `kafka://…`, `file:…`, `stdin:`,
//! `generator:?…`. Files and command lines write it alike.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

use super::error::instead;
use super::value::{HostPort, text};

/// Where a topic's records come from.
#[derive(Clone, Debug, PartialEq)]
pub enum SourceUri {
    /// A Kafka topic: `kafka://HOST:PORT[,HOST:PORT]/TOPIC`.
    Kafka {
        /// Servers to ask first, at least one.
        brokers: Vec<HostPort>,
        /// The topic's name there.
        topic: String,
    },
    /// A file, or a folder of files: `file:PATH`, or a bare path.
    File(PathBuf),
    /// Standard input: `stdin:` or `-`.
    Stdin,
    /// Generated posts: `generator:?rate=1000&seed=7`.
    Generator(GeneratorSource),
}

/// What posts to generate.
#[derive(Clone, Debug, PartialEq)]
pub struct GeneratorSource {
    /// `rate`: posts a second in real time; none: as fast as they are read.
    pub rate_per_s: Option<u64>,
    /// `posts`: how many; none: without end.
    pub posts: Option<u64>,
    /// `seed`: all randomness comes from it.
    pub seed: u64,
    /// `tags-mean`: the mean number of tags of a post.
    pub tags_mean: f64,
    /// `vocabulary`: the number of different tags.
    pub vocabulary: u64,
    /// `zipf`: popularity by Zipf with this exponent; none: a double power law.
    pub zipf: Option<f64>,
    /// `duplicates`: the share of records that deliver an earlier event again.
    pub duplicates: f64,
    /// `late`: the share of events that are late, by up to an hour.
    pub late: f64,
    /// `future`: the share of events dated an hour into the future.
    pub future: f64,
    /// `bursts`: whether some tag bursts every ten minutes.
    pub bursts: bool,
    /// `hot-tag`: the share of events whose first tag is one and the same, from outside the
    /// vocabulary.
    pub hot_tag: f64,
    /// `partitions`: how many parts workers may read side by side.
    pub partitions: u64,
}

impl Default for GeneratorSource {
    fn default() -> Self {
        Self {
            rate_per_s: None,
            posts: None,
            seed: 1,
            tags_mean: 7.0,
            vocabulary: 1_000_000,
            zipf: None,
            duplicates: 0.02,
            late: 0.0,
            future: 0.0,
            bursts: false,
            hot_tag: 0.0,
            partitions: 1,
        }
    }
}

/// Why a text names no source.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SourceError {
    /// Something before a colon that is no kind of source.
    #[error("unknown kind of source {0:?}{1}")]
    Kind(String, String),
    /// A `kafka:` that is not followed by servers and a topic.
    #[error("{0:?} is no Kafka topic ({1}); write kafka://HOST:PORT[,HOST:PORT]/TOPIC")]
    Kafka(String, &'static str),
    /// A file without a path, or with a host.
    #[error("{0:?} names no file here; write file:PATH")]
    File(String),
    /// Standard input with something behind it.
    #[error("{0:?}: standard input is just stdin:")]
    Stdin(String),
    /// A `generator:` that is not followed by parameters.
    #[error("{0:?}: write the parameters of a generator as generator:?rate=1000&seed=7")]
    Generator(String),
    /// An unknown parameter.
    #[error("a generator has no parameter {0:?}{1}")]
    Parameter(String, String),
    /// A parameter that is there twice.
    #[error("generator parameter {0:?} is given twice")]
    Twice(String),
    /// A parameter's value that cannot be used.
    #[error("generator parameter {0:?}: {1:?} is not {2}")]
    Value(&'static str, String, String),
}

text!(SourceUri, "^(kafka://.+/.+|file:.+|stdin:|generator:([?].*)?|[^:/]+|[^:/]*/.*)$");

impl FromStr for SourceUri {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        let (kind, rest) = match text.split_once(':') {
            None if text == "-" => ("stdin", ""),
            None => ("file", text),
            // A colon behind a slash is part of a path.
            Some((before, _)) if before.contains('/') => ("file", text),
            Some(parts) => parts,
        };
        match kind {
            "kafka" => kafka(text, rest),
            "file" => match rest.strip_prefix("//") {
                // file:///var/posts is /var/posts, but file://posts would be the host "posts".
                Some(path) if !path.starts_with('/') => Err(SourceError::File(text.to_owned())),
                None if rest.is_empty() => Err(SourceError::File(text.to_owned())),
                path => Ok(Self::File(PathBuf::from(path.unwrap_or(rest)))),
            },
            "stdin" if rest.is_empty() => Ok(Self::Stdin),
            "stdin" => Err(SourceError::Stdin(text.to_owned())),
            "generator" => match rest.strip_prefix('?') {
                None if !rest.is_empty() => Err(SourceError::Generator(text.to_owned())),
                parameters => generator(parameters.unwrap_or_default()).map(Self::Generator),
            },
            _ => {
                let kind = format!("{kind}:");
                let hint = instead(&kind, &["kafka:", "file:", "stdin:", "generator:"]);
                Err(SourceError::Kind(kind, hint))
            }
        }
    }
}

fn kafka(text: &str, rest: &str) -> Result<SourceUri, SourceError> {
    // What stands before an @ may be a password, which no message may repeat.
    let shown = text.rsplit_once('@').map_or(text, |(_, behind)| behind);
    let error = |why| SourceError::Kafka(shown.to_owned(), why);
    if shown != text {
        return Err(error(
            "user and password come from TAGFLOW_KAFKA_SASL_USERNAME and TAGFLOW_KAFKA_SASL_PASSWORD",
        ));
    }
    let rest = rest.strip_prefix("//").ok_or_else(|| error("no // behind kafka:"))?;
    let (brokers, topic) = rest.split_once('/').ok_or_else(|| error("no topic"))?;
    let brokers = brokers.split(',').map(str::parse).collect::<Result<Vec<_>, _>>();
    let brokers = brokers.map_err(|_| error("a server that is no HOST:PORT"))?;
    let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    // Kafka keeps "." and ".." out.
    if topic.len() > 249 || !topic.chars().all(good) || topic.trim_matches('.').is_empty() {
        return Err(error("no name that Kafka allows for a topic"));
    }
    Ok(SourceUri::Kafka { brokers, topic: topic.to_owned() })
}

/// The names of a generator's parameters.
const PARAMETERS: [&str; 12] = [
    "rate",
    "posts",
    "seed",
    "tags-mean",
    "vocabulary",
    "zipf",
    "duplicates",
    "late",
    "future",
    "bursts",
    "hot-tag",
    "partitions",
];

fn generator(text: &str) -> Result<GeneratorSource, SourceError> {
    let mut source = GeneratorSource::default();
    let mut seen = Vec::new();
    for part in text.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let Some(name) = PARAMETERS.into_iter().find(|known| *known == name) else {
            let hint = instead(name, &PARAMETERS);
            return Err(SourceError::Parameter(name.to_owned(), hint));
        };
        if seen.contains(&name) {
            return Err(SourceError::Twice(name.to_owned()));
        }
        seen.push(name);
        let share = || number(name, value, 0.0..=0.9);
        match name {
            "rate" => source.rate_per_s = Some(number(name, value, 1..=1_000_000)?),
            "posts" => source.posts = Some(number(name, value, 1..=u64::MAX)?),
            "seed" => source.seed = number(name, value, 0..=u64::MAX)?,
            "tags-mean" => source.tags_mean = number(name, value, 0.0..=40.0)?,
            "vocabulary" => source.vocabulary = number(name, value, 1..=1 << 40)?,
            "zipf" => source.zipf = Some(number(name, value, 0.0..=10.0)?),
            "duplicates" => source.duplicates = share()?,
            "late" => source.late = share()?,
            "future" => source.future = share()?,
            "hot-tag" => source.hot_tag = number(name, value, 0.0..=1.0)?,
            "partitions" => source.partitions = number(name, value, 1..=1024)?,
            _ => {
                let error = || SourceError::Value(name, value.to_owned(), "true or false".into());
                source.bursts = value.parse().map_err(|_| error())?;
            }
        }
    }
    Ok(source)
}

/// A parameter's value, which must lie in `range`.
fn number<T: FromStr + PartialOrd + fmt::Display>(
    name: &'static str,
    value: &str,
    range: RangeInclusive<T>,
) -> Result<T, SourceError> {
    let number = value.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| {
        let range = format!("a number from {} to {}", range.start(), range.end());
        SourceError::Value(name, value.to_owned(), range)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources() {
        let file = |path: &str| SourceUri::File(path.into());
        let server = |host: &str, port| HostPort { host: host.to_owned(), port };
        for (text, want) in [
            ("posts.ndjson", file("posts.ndjson")),
            ("./12:30/posts", file("./12:30/posts")),
            ("file:posts", file("posts")),
            ("file:/var/posts", file("/var/posts")),
            ("file:///var/posts", file("/var/posts")),
            ("-", SourceUri::Stdin),
            ("stdin:", SourceUri::Stdin),
            ("generator:", SourceUri::Generator(GeneratorSource::default())),
            (
                "kafka://a:9092,[::1]:9093/posts.v1",
                SourceUri::Kafka {
                    brokers: vec![server("a", 9092), server("[::1]", 9093)],
                    topic: "posts.v1".to_owned(),
                },
            ),
        ] {
            assert_eq!(text.parse(), Ok(want), "{text}");
        }
    }

    #[test]
    fn parameters_of_a_generator() {
        let text = "generator:?rate=1000&posts=5&seed=7&tags-mean=2.5&vocabulary=50&zipf=1.1\
                    &duplicates=0.1&late=0.2&future=0.3&bursts=true&hot-tag=0.9&partitions=3";
        let want = GeneratorSource {
            rate_per_s: Some(1000),
            posts: Some(5),
            seed: 7,
            tags_mean: 2.5,
            vocabulary: 50,
            zipf: Some(1.1),
            duplicates: 0.1,
            late: 0.2,
            future: 0.3,
            bursts: true,
            hot_tag: 0.9,
            partitions: 3,
        };
        assert_eq!(text.parse(), Ok(SourceUri::Generator(want)));
    }

    #[test]
    fn mistakes_name_the_part() {
        let kafka = "write kafka://HOST:PORT[,HOST:PORT]/TOPIC";
        let kinds = r#"use one of "kafka:", "file:", "stdin:", "generator:""#;
        let example = "write the parameters of a generator as generator:?rate=1000&seed=7";
        for (text, said, cure) in [
            ("", "names no file here", "write file:PATH"),
            ("file:", "names no file here", "write file:PATH"),
            ("file://host", "names no file here", "write file:PATH"),
            ("stdin:x", "standard input", "is just stdin:"),
            ("generater:?rate=1", "unknown kind of source", r#"did you mean "generator:"?"#),
            ("https://a/b", r#"unknown kind of source "https:""#, kinds),
            ("kafka:a:1/b", "no // behind kafka:", kafka),
            ("kafka://a:1", "no topic", kafka),
            ("kafka://a:1,b/c", "a server that is no HOST:PORT", kafka),
            ("kafka://a:0/c", "a server that is no HOST:PORT", kafka),
            ("kafka://::1:9/c", "a server that is no HOST:PORT", kafka),
            ("kafka:///c", "a server that is no HOST:PORT", kafka),
            ("kafka://a:1/b/c", "no name that Kafka allows for a topic", kafka),
            ("kafka://a:1/..", "no name that Kafka allows for a topic", kafka),
            ("generator:rate=1", "generator:rate=1", example),
            ("generator:?sead=1", r#"no parameter "sead""#, r#"did you mean "seed"?"#),
            ("generator:?seed=1&seed=2", r#"parameter "seed""#, "is given twice"),
            ("generator:?rate=0", r#""rate": "0""#, "is not a number from 1 to 1000000"),
            ("generator:?late=nan", r#""late": "nan""#, "is not a number from 0 to 0.9"),
            ("generator:?partitions=0", r#""0""#, "is not a number from 1 to 1024"),
            ("generator:?bursts", r#""bursts": """#, "is not true or false"),
        ] {
            let error = text.parse::<SourceUri>().unwrap_err().to_string();
            assert!(error.contains(said) && error.ends_with(cure), "{text}: {error}");
        }
    }
}
