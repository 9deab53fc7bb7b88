//! Encryption in a build without it: an error that names the build feature.

use scylla::client::session::TlsContext;

use super::{CqlError, Tls};

/// The TLS context of a session.
pub(super) fn context(_: &Tls) -> Result<TlsContext, CqlError> {
    let what = "this build has no TLS for databases; build it with --features cql-tls";
    Err(CqlError::Fatal(what.to_owned()))
}
