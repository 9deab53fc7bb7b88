//! How to reach a database.
//!
//! Invariant: a password never leaves this machine unencrypted, and appears in no message.

use std::path::PathBuf;
use std::{env, fmt, fs};

use schemas::config::{ConsistencyPair, CqlSink, HostPort, StoreUri};

use super::CqlError;

/// The user's name, if the database requires a login.
pub const USER_VARIABLE: &str = "TAGFLOW_CQL_USER";
/// The user's password.
pub const PASSWORD_VARIABLE: &str = "TAGFLOW_CQL_PASSWORD";
/// A file whose first line is the password.
pub const PASSWORD_FILE_VARIABLE: &str = "TAGFLOW_CQL_PASSWORD_FILE";
/// A file of trusted certificates; the system's if it is unset.
pub const AUTHORITIES_VARIABLE: &str = "TAGFLOW_CQL_CA";

/// How to reach a keyspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CqlSettings {
    /// The servers to connect to first, at least one.
    pub nodes: Vec<HostPort>,
    /// The keyspace of the tables.
    pub keyspace: String,
    /// The nearest data centre; only needed if the cluster has several.
    pub datacenter: Option<String>,
    /// The user.
    pub credentials: Option<Credentials>,
    /// How many replicas must answer.
    pub consistency: ConsistencyPair,
    /// How connections are encrypted, if they are.
    pub tls: Option<Tls>,
}

/// A user of the database.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user's name.
    pub user: String,
    /// The user's password.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// How connections are encrypted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// A file of trusted certificates; `None` for those that the system trusts.
    pub authorities: Option<PathBuf>,
}

impl From<&StoreUri> for CqlSettings {
    fn from(uri: &StoreUri) -> Self {
        Self {
            nodes: uri.nodes.clone(),
            keyspace: uri.keyspace.clone(),
            datacenter: None,
            credentials: None,
            consistency: ConsistencyPair::default(),
            tls: None,
        }
    }
}

impl From<&CqlSink> for CqlSettings {
    fn from(sink: &CqlSink) -> Self {
        Self {
            nodes: sink.nodes.clone(),
            keyspace: sink.keyspace.clone(),
            datacenter: sink.datacenter.clone(),
            credentials: None,
            consistency: sink.consistency.clone(),
            tls: sink.tls.then(Tls::default),
        }
    }
}

impl CqlSettings {
    /// Adds what the environment holds: the user and the trusted certificates.
    pub fn with_environment(mut self) -> Result<Self, CqlError> {
        self.credentials = credentials(|name| env::var(name).ok())?;
        if let Some(tls) = &mut self.tls {
            tls.authorities = env::var_os(AUTHORITIES_VARIABLE).map(PathBuf::from);
        }
        self.check()?;
        Ok(self)
    }

    /// Fails if a password would be sent unencrypted.
    pub fn check(&self) -> Result<(), CqlError> {
        assert!(!self.nodes.is_empty(), "a store without servers");
        let is_local = |node: &&HostPort| {
            let host = node.host.trim_start_matches('[').trim_end_matches(']');
            let address = host.parse::<std::net::IpAddr>();
            host == "localhost" || address.is_ok_and(|address| address.is_loopback())
        };
        let Some(far) = self.nodes.iter().find(|node| !is_local(node)) else { return Ok(()) };
        if self.credentials.is_some() && self.tls.is_none() {
            return Err(CqlError::Fatal(format!(
                "a password would go to {far} unencrypted: use --tls (in a dataflow.yaml: tls: \
                 true at the sink), or unset {USER_VARIABLE}"
            )));
        }
        Ok(())
    }

    /// The address of the store, as users write it.
    pub fn uri(&self) -> StoreUri {
        StoreUri { nodes: self.nodes.clone(), keyspace: self.keyspace.clone() }
    }
}

fn credentials(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Credentials>, CqlError> {
    let Some(user) = variable(USER_VARIABLE) else { return Ok(None) };
    let password = match (variable(PASSWORD_VARIABLE), variable(PASSWORD_FILE_VARIABLE)) {
        (Some(password), _) => password,
        (None, Some(file)) => {
            let text = fs::read_to_string(&file).map_err(|error| {
                CqlError::Fatal(format!("{PASSWORD_FILE_VARIABLE}: cannot read {file}: {error}"))
            })?;
            let password = text.lines().next().map(str::to_owned);
            let empty = || CqlError::Fatal(format!("{PASSWORD_FILE_VARIABLE}: {file} is empty"));
            password.ok_or_else(empty)?
        }
        (None, None) => {
            let what = format!(
                "{USER_VARIABLE} is set: set {PASSWORD_VARIABLE} or {PASSWORD_FILE_VARIABLE} too"
            );
            return Err(CqlError::Fatal(what));
        }
    };
    Ok(Some(Credentials { user, password }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(uri: &str) -> CqlSettings {
        CqlSettings::from(&uri.parse::<StoreUri>().unwrap())
    }

    #[test]
    fn password_is_never_sent_unencrypted() {
        let known = Some(Credentials { user: "u".into(), password: "secret".into() });
        let local = CqlSettings { credentials: known, ..at("cql://127.0.0.1:1,[::1]:2/k") };
        local.check().unwrap();
        let far = CqlSettings { nodes: at("cql://127.0.0.1:1,db:2/k").nodes, ..local.clone() };
        let error = far.check().unwrap_err().to_string();
        assert!(error.contains("db:2") && error.contains("--tls"), "{error}");
        assert!(!error.contains("secret") && !format!("{far:?}").contains("secret"));
        CqlSettings { tls: Some(Tls::default()), ..far.clone() }.check().unwrap();
        CqlSettings { credentials: None, ..far }.check().unwrap();
    }

    #[test]
    fn credentials_come_from_the_environment() {
        let of = |pairs: &'static [(&'static str, &'static str)]| {
            credentials(|name| {
                pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(of(&[(PASSWORD_VARIABLE, "p")]).unwrap(), None);
        let known = of(&[(USER_VARIABLE, "u"), (PASSWORD_VARIABLE, "p")]).unwrap().unwrap();
        assert_eq!((known.user.as_str(), known.password.as_str()), ("u", "p"));
        let error = of(&[(USER_VARIABLE, "u")]).unwrap_err().to_string();
        assert!(error.contains(PASSWORD_FILE_VARIABLE), "{error}");
        let missing = [(USER_VARIABLE, "u"), (PASSWORD_FILE_VARIABLE, "no/such/file")];
        let error = of(Box::leak(Box::new(missing))).unwrap_err().to_string();
        assert!(error.contains("no/such/file"), "{error}");
    }
}
