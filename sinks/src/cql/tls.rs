//! Encrypted connections. The server's certificate is always verified, against its address.

use openssl::ssl::{SslContext, SslMethod, SslVerifyMode};
use scylla::client::session::TlsContext;

use super::{CqlError, Tls};

/// The TLS context of a session.
pub(super) fn context(tls: &Tls) -> Result<TlsContext, CqlError> {
    let error = |error: openssl::error::ErrorStack| CqlError::Fatal(format!("TLS: {error}"));
    let mut builder = SslContext::builder(SslMethod::tls_client()).map_err(error)?;
    match &tls.authorities {
        Some(file) => builder.set_ca_file(file).map_err(|error| {
            CqlError::Fatal(format!("TLS: cannot use {}: {error}", file.display()))
        })?,
        None => builder.set_default_verify_paths().map_err(error)?,
    }
    builder.set_verify(SslVerifyMode::PEER);
    Ok(builder.build().into())
}
