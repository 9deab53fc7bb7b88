//! What goes wrong with a database, sorted by what to do about it: wait, set the row aside, or
//! change something.

use std::fmt;

use scylla::errors::{
    ConnectionError, ConnectionPoolError, ConnectionSetupRequestErrorKind, DbError, ExecutionError,
    MetadataError, NewSessionError, PrepareError, RequestAttemptError,
};
use thiserror::Error;

/// Why the database cannot be used now.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CqlError {
    /// It does not answer, or cannot do it now, which the text says. Temporary.
    #[error("{0}")]
    Unavailable(String),
    /// Something must be changed first.
    #[error("{0}")]
    Fatal(String),
}

impl CqlError {
    /// It does not answer.
    pub(super) fn silent(why: impl fmt::Display) -> Self {
        Self::Unavailable(silent(why))
    }

    /// Its answer cannot be understood.
    pub(super) fn unclear(why: impl fmt::Display) -> Self {
        Self::Unavailable(format!("the answer of the database makes no sense: {why}"))
    }
}

fn silent(why: impl fmt::Display) -> String {
    format!("the database does not answer: {why}")
}

/// What is known about a request that failed, and a sentence that says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// It may have happened; the database is overloaded.
    Overload(String),
    /// It may have happened; the connection is gone.
    Broken(String),
    /// It would fail again: this row is at fault.
    Refused(String),
    /// Every request would fail.
    Fatal(String),
}

impl From<&ExecutionError> for Failed {
    fn from(error: &ExecutionError) -> Self {
        match error {
            ExecutionError::LastAttemptError(error) => Self::from(error),
            ExecutionError::PrepareError(PrepareError::AllAttemptsFailed { first_attempt }) => {
                Self::from(first_attempt)
            }
            ExecutionError::RequestTimeout(_) => {
                Self::Overload(format!("the database does not answer in time: {error}"))
            }
            // The values do not fit the statement, or the key is too long for the protocol.
            ExecutionError::BadQuery(_) => Self::Refused(error.to_string()),
            _ => Self::Broken(silent(error)),
        }
    }
}

impl From<&RequestAttemptError> for Failed {
    fn from(error: &RequestAttemptError) -> Self {
        use RequestAttemptError as E;
        match error {
            E::DbError(error, message) => from_database(error, message),
            E::SerializationError(_) | E::CqlRequestSerialization(_) => {
                Self::Refused(error.to_string())
            }
            E::UnableToAllocStreamId => {
                Self::Overload(format!("the connections to the database are full: {error}"))
            }
            _ => Self::Broken(silent(error)),
        }
    }
}

fn from_database(error: &DbError, message: &str) -> Failed {
    let text = format!("{error}: {message}");
    match error {
        DbError::Invalid => Failed::Refused(message.to_owned()),
        DbError::AuthenticationError if is_starting(message) => {
            Failed::Broken(format!("the database is starting: {text}"))
        }
        DbError::AuthenticationError | DbError::Unauthorized => Failed::Fatal(format!(
            "{text}; check TAGFLOW_CQL_USER, its password and its permissions"
        )),
        DbError::SyntaxError | DbError::ConfigError => Failed::Fatal(text),
        _ => Failed::Overload(format!("the database cannot do it now: {text}")),
    }
}

/// Whether the database cannot read its own users yet, because it is starting. The server gives no
/// code for that, only this text.
fn is_starting(message: &str) -> bool {
    message.contains("Unable to perform") || message.contains("Cannot achieve consistency")
}

impl From<Failed> for CqlError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Overload(why) | Failed::Broken(why) => Self::Unavailable(why),
            Failed::Refused(why) | Failed::Fatal(why) => Self::Fatal(why),
        }
    }
}

impl From<ExecutionError> for CqlError {
    fn from(error: ExecutionError) -> Self {
        Failed::from(&error).into()
    }
}

impl From<PrepareError> for CqlError {
    fn from(error: PrepareError) -> Self {
        Failed::from(&ExecutionError::PrepareError(error)).into()
    }
}

impl From<NewSessionError> for CqlError {
    fn from(error: NewSessionError) -> Self {
        let text = error.to_string();
        match &error {
            NewSessionError::MetadataError(MetadataError::ConnectionPoolError(
                ConnectionPoolError::Broken { last_connection_error },
            )) => from_connection(last_connection_error, text),
            NewSessionError::MetadataError(_)
            | NewSessionError::FailedToResolveAnyHostname(_)
            | NewSessionError::UseKeyspaceError(_) => Self::silent(text),
            _ => Self::Fatal(text),
        }
    }
}

fn from_connection(error: &ConnectionError, text: String) -> CqlError {
    let ConnectionError::ConnectionSetupRequestError(setup) = error else {
        return CqlError::silent(text);
    };
    match &setup.error {
        ConnectionSetupRequestErrorKind::DbError(error, message) => {
            from_database(error, message).into()
        }
        ConnectionSetupRequestErrorKind::MissingAuthentication => CqlError::Fatal(
            "the database requires a login: set TAGFLOW_CQL_USER and TAGFLOW_CQL_PASSWORD".into(),
        ),
        _ => CqlError::silent(text),
    }
}
