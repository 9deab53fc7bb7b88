//! ScyllaDB and Cassandra as the store: a view of the commits for any number of readers.
//!
//! Invariants: rows carry absolute values and are written at their manifest's version, so writes
//! may be repeated in any order; nothing is deleted; nothing here can block a job.

mod check;
mod concurrency;
mod error;
mod init;
mod job_row;
mod pointer;
mod publisher;
mod reader;
mod scan;
mod schema;
mod session;
mod settings;
#[cfg(feature = "cql-tls")]
mod tls;
#[cfg(not(feature = "cql-tls"))]
#[path = "without_tls.rs"]
mod tls;
mod wave;

pub use check::{Finding, Level, check};
pub use error::CqlError;
pub use init::init;
pub use pointer::promote;
pub use publisher::CqlPublisher;
pub use reader::CqlReader;
pub use scan::CqlScan;
pub use settings::{
    AUTHORITIES_VARIABLE, CqlSettings, Credentials, PASSWORD_FILE_VARIABLE, PASSWORD_VARIABLE, Tls,
    USER_VARIABLE,
};
