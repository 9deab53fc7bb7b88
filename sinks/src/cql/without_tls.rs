//! A build without encryption: whoever asks for it is told.

use scylla::client::session::TlsContext;

use super::{CqlError, Tls};

/// What connections are encrypted with.
pub(super) fn context(_: &Tls) -> Result<TlsContext, CqlError> {
    let what = "this build has no TLS for databases: build it with --features cql-tls";
    Err(CqlError::Fatal(what.to_owned()))
}
