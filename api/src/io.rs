//! A connection whose writes must make progress and whose lines end as they must.
//!
//! Invariants: a client that reads nothing is let go, where hyper alone would wait for ever; a line
//! that ends without a carriage return ends the connection with 400. Servers that let such lines
//! pass read other requests out of the same bytes than those that do not. No request here has a
//! body, so that every byte is part of a head.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use crate::limits::WRITE_WAIT;
use crate::room::Seat;

/// Bytes read at once. Most heads are smaller.
const READ_BYTES: usize = 4096;
/// No head may contain it, so that the parser refuses one in which it stands for a bare line feed.
const REFUSED: u8 = 0;

/// A stream that fails if a client reads nothing for [`WRITE_WAIT`].
pub(crate) struct PatientIo {
    inner: TokioIo<TcpStream>,
    /// When a waiting write fails.
    deadline: Pin<Box<Sleep>>,
    waiting: bool,
    seat: Arc<Seat>,
    /// The last byte that was read.
    last: u8,
}

impl PatientIo {
    pub(crate) fn new(stream: TcpStream, seat: Arc<Seat>) -> Self {
        let deadline = Box::pin(tokio::time::sleep(WRITE_WAIT));
        Self { inner: TokioIo::new(stream), deadline, waiting: false, seat, last: 0 }
    }

    /// Replaces bare line feeds.
    fn strict(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            let bare = *byte == b'\n' && self.last != b'\r';
            self.last = *byte;
            if bare {
                *byte = REFUSED;
            }
        }
    }

    /// Turns a write that waits for too long into an error.
    fn bounded<T>(
        &mut self,
        context: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.waiting = false;
            return polled;
        }
        if !self.waiting {
            self.waiting = true;
            #[expect(clippy::disallowed_methods, reason = "a socket's deadline is real time")]
            let now: Instant = std::time::Instant::now().into();
            self.deadline.as_mut().reset(now + WRITE_WAIT);
        }
        match self.deadline.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Read for PatientIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = [0; READ_BYTES];
        let room = buffer.remaining().min(READ_BYTES);
        let mut read = ReadBuf::new(&mut bytes[..room]);
        ready!(Pin::new(&mut self.inner).poll_read(context, read.unfilled()))?;
        let length = read.filled().len();
        self.strict(&mut bytes[..length]);
        buffer.put_slice(&bytes[..length]);
        Poll::Ready(Ok(()))
    }
}

impl Write for PatientIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.bounded(context, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(context);
        if matches!(polled, Poll::Ready(Ok(()))) {
            self.seat.sent();
        }
        self.bounded(context, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_shutdown(context);
        self.bounded(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.bounded(context, polled)
    }
}
