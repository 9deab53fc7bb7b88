//! Where a job's results go, as one address: `cql://HOST:PORT[,HOST:PORT]/KEYSPACE`.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::credentials::hide_credentials;
use super::value::HostPort;

/// A keyspace of a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreUri {
    /// Servers to contact first, at least one.
    pub nodes: Vec<HostPort>,
    /// The keyspace of the tables.
    pub keyspace: String,
}

/// Why a text is not a store.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StoreUriError {
    /// It is not written like one.
    #[error("{0:?} is not a store ({1}); write cql://HOST:PORT[,HOST:PORT]/KEYSPACE")]
    Form(String, &'static str),
    /// Its keyspace has an invalid name.
    #[error(transparent)]
    Keyspace(#[from] KeyspaceError),
}

/// A text that is not a keyspace name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is not a keyspace name; use up to 48 of A-Z a-z 0-9 _, first a letter")]
pub struct KeyspaceError(String);

/// Checks a keyspace's name: one that both databases accept and that cannot inject CQL.
pub(super) fn keyspace(name: &str) -> Result<String, KeyspaceError> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let first = name.starts_with(|c: char| c.is_ascii_alphabetic());
    if first && name.len() <= 48 && name.chars().all(good) {
        return Ok(name.to_owned());
    }
    Err(KeyspaceError(hide_credentials(name).into_owned()))
}

impl StoreUri {
    /// The keyspace `name` of these servers.
    pub fn new(nodes: Vec<HostPort>, name: &str) -> Result<Self, KeyspaceError> {
        Ok(Self { nodes, keyspace: keyspace(name)? })
    }
}

impl FromStr for StoreUri {
    type Err = StoreUriError;

    fn from_str(text: &str) -> Result<Self, StoreUriError> {
        // No message may repeat a password.
        let shown = hide_credentials(text);
        let error = |why| StoreUriError::Form(shown.clone().into_owned(), why);
        if text.contains('@') {
            return Err(error(
                "user and password come from TAGFLOW_CQL_USER and TAGFLOW_CQL_PASSWORD",
            ));
        }
        let rest =
            text.strip_prefix("cql://").ok_or_else(|| error("it does not begin with cql://"))?;
        let (nodes, name) = rest.split_once('/').ok_or_else(|| error("no keyspace"))?;
        let nodes = nodes.split(',').map(str::parse).collect::<Result<Vec<_>, _>>();
        let nodes = nodes.map_err(|_| error("a server is not HOST:PORT"))?;
        Ok(Self { nodes, keyspace: keyspace(name)? })
    }
}

impl fmt::Display for StoreUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes: Vec<_> = self.nodes.iter().map(ToString::to_string).collect();
        write!(f, "cql://{}/{}", nodes.join(","), self.keyspace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_parsed_and_displayed() {
        for text in ["cql://127.0.0.1:9042/tags", "cql://a:1,[::1]:2/Tags_2"] {
            assert_eq!(text.parse::<StoreUri>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn errors_name_the_part() {
        let form = "write cql://HOST:PORT[,HOST:PORT]/KEYSPACE";
        for (text, what, hint) in [
            ("", "it does not begin with cql://", form),
            ("127.0.0.1:9042/tags", "it does not begin with cql://", form),
            ("cql://127.0.0.1:9042", "no keyspace", form),
            ("cql://127.0.0.1/tags", "a server is not HOST:PORT", form),
            ("cql:///tags", "a server is not HOST:PORT", form),
            ("cql://u:secret@a:1/tags", "TAGFLOW_CQL_PASSWORD", form),
            ("scylla://u:se@cret@a:1/tags", "TAGFLOW_CQL_PASSWORD", form),
            ("u:secret@a:1", "TAGFLOW_CQL_PASSWORD", form),
            ("cql://a:1/tags?password=secret", "is not a keyspace name", "first a letter"),
            ("cql://a:1/", "is not a keyspace name", "first a letter"),
            ("cql://a:1/2tags", "is not a keyspace name", "first a letter"),
            ("cql://a:1/tags/x", "is not a keyspace name", "first a letter"),
            ("cql://a:1/tags;drop", "is not a keyspace name", "first a letter"),
        ] {
            let error = text.parse::<StoreUri>().unwrap_err().to_string();
            assert!(error.contains(what) && error.ends_with(hint), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
