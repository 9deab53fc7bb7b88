//! Where a topic's records come from, as one address: `kafka://…`, `file:…`, `stdin:` or
//! `generator:?…`. Files and command lines share the syntax.

use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

use super::credentials::hide_credentials;
use super::error::instead;
use super::generator::{GeneratorSource, ParameterError};
use super::value::{HostPort, text};

/// Where a topic's records come from.
#[derive(Clone, Debug, PartialEq)]
pub enum SourceUri {
    /// A Kafka topic: `kafka://HOST:PORT[,HOST:PORT]/TOPIC`.
    Kafka {
        /// Servers to contact first, at least one.
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

/// Why a text is not a source.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SourceError {
    /// An unknown word before the colon.
    #[error("unknown kind of source {0:?}{1}")]
    Kind(String, String),
    /// `kafka:` without servers and a topic.
    #[error("{0:?} is not a Kafka topic ({1}); write kafka://HOST:PORT[,HOST:PORT]/TOPIC")]
    Kafka(String, &'static str),
    /// A user and a password, which only a topic can need.
    #[error("{0:?}: a source has no user and password")]
    Credentials(String),
    /// A file without a path, or with a host.
    #[error("{0:?} does not name a local file; write file:PATH")]
    File(String),
    /// `stdin:` followed by something.
    #[error("{0:?}: write standard input as stdin:, without anything after it")]
    Stdin(String),
    /// `generator:` followed by something other than parameters.
    #[error("{0:?}: write the parameters of a generator as generator:?rate=1000&seed=7")]
    Generator(String),
    /// A parameter of a generator that cannot be used.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
}

text!(SourceUri, "^(kafka://.+/.+|file:.+|stdin:|generator:([?].*)?|[^:/]+|[^:/]*/.*)$");

impl FromStr for SourceUri {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        let (kind, rest) = match text.split_once(':') {
            None if text == "-" => ("stdin", ""),
            None => ("file", text),
            // A colon after a slash is part of a path.
            Some((before, _)) if before.contains('/') => ("file", text),
            Some(parts) => parts,
        };
        let shown = hide_credentials(text).into_owned();
        match kind {
            "kafka" => kafka(text, rest),
            // What follows might be a password that was pasted with its server.
            _ if *shown != *text => Err(SourceError::Credentials(shown)),
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
                parameters => Ok(Self::Generator(parameters.unwrap_or("").parse()?)),
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
    // No message may repeat a password.
    let shown = hide_credentials(text);
    let error = |why| SourceError::Kafka(shown.clone().into_owned(), why);
    if text.contains('@') {
        return Err(error(
            "user and password come from TAGFLOW_KAFKA_SASL_USERNAME and TAGFLOW_KAFKA_SASL_PASSWORD",
        ));
    }
    let rest = rest.strip_prefix("//").ok_or_else(|| error("no // after kafka:"))?;
    let (brokers, topic) = rest.split_once('/').ok_or_else(|| error("no topic"))?;
    let brokers = brokers.split(',').map(str::parse).collect::<Result<Vec<_>, _>>();
    let brokers = brokers.map_err(|_| error("a server is not HOST:PORT"))?;
    let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    // Kafka does not allow "." and "..".
    if topic.len() > 249 || !topic.chars().all(good) || topic.trim_matches('.').is_empty() {
        return Err(error("Kafka does not allow that topic name"));
    }
    Ok(SourceUri::Kafka { brokers, topic: topic.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::super::generator::PostShape;
    use super::*;

    #[test]
    fn every_kind_of_source_is_parsed() {
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
    fn generator_parameters_are_parsed() {
        let text = "generator:?rate=1000&posts=5&seed=7&tags-mean=2.5&vocabulary=50&zipf=1.1\
                    &duplicates=0.1&late=0.2&future=0.3&bursts=true&hot-tag=0.9&partitions=3";
        let shape = PostShape {
            seed: 7,
            tags_mean: 2.5,
            vocabulary: 50,
            zipf: Some(1.1),
            duplicates: 0.1,
            late: 0.2,
            future: 0.3,
            bursts: true,
            hot_tag: 0.9,
        };
        let want = GeneratorSource { rate_per_s: Some(1000), posts: Some(5), partitions: 3, shape };
        assert_eq!(text.parse(), Ok(SourceUri::Generator(want)));
    }

    #[test]
    fn errors_name_the_part() {
        let kafka = "write kafka://HOST:PORT[,HOST:PORT]/TOPIC";
        let kinds = r#"use one of "kafka:", "file:", "stdin:", "generator:""#;
        let example = "write the parameters of a generator as generator:?rate=1000&seed=7";
        for (text, what, hint) in [
            ("", "does not name a local file", "write file:PATH"),
            ("file:", "does not name a local file", "write file:PATH"),
            ("file://host", "does not name a local file", "write file:PATH"),
            ("stdin:x", "standard input", "stdin:, without anything after it"),
            ("generater:?rate=1", "unknown kind of source", r#"did you mean "generator:"?"#),
            ("https://a/b", r#"unknown kind of source "https:""#, kinds),
            ("kafka:a:1/b", "no // after kafka:", kafka),
            ("kafka://a:1", "no topic", kafka),
            ("kafka://a:1,b/c", "a server is not HOST:PORT", kafka),
            ("kafka://a:0/c", "a server is not HOST:PORT", kafka),
            ("kafka://::1:9/c", "a server is not HOST:PORT", kafka),
            ("kafka:///c", "a server is not HOST:PORT", kafka),
            ("kafka://a:1/b/c", "Kafka does not allow that topic name", kafka),
            ("kafka://user:secret@a:1/b", "TAGFLOW_KAFKA_SASL_PASSWORD", kafka),
            ("kafka://a:1/b?sasl.password=secret", "Kafka does not allow that topic name", kafka),
            ("kafka:user:secret@a:1/b", "TAGFLOW_KAFKA_SASL_PASSWORD", kafka),
            ("file://user:secret@a/b", r#""file://…@a/b""#, "has no user and password"),
            ("user:secret@a:1/b", r#""…@a:1/b""#, "has no user and password"),
            ("stdin:user:secret@a", r#""…@a""#, "has no user and password"),
            ("kafka://a:1/..", "Kafka does not allow that topic name", kafka),
            ("generator:rate=1", "generator:rate=1", example),
            ("generator:?sead=1", r#"no parameter "sead""#, r#"did you mean "seed"?"#),
            ("generator:?seed=1&seed=2", r#"parameter "seed""#, "is given twice"),
            ("generator:?rate=0", "rate must be", "from 1 to 1000000"),
            ("generator:?rate=x", r#""rate": "x""#, "is not a number"),
            ("generator:?late=nan", "late must be", "a share from 0 to 0.9"),
            ("generator:?partitions=0", "partitions must be", "from 1 to 1024"),
            ("generator:?bursts", r#""bursts": """#, "is not true or false"),
        ] {
            let error = text.parse::<SourceUri>().unwrap_err().to_string();
            assert!(error.contains(what) && error.ends_with(hint), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
