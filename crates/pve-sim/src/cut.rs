//! Streams that a fault cuts at a byte.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    faults::{Fault, Stream},
    node::Node,
};

/// A stream of one of these kinds; a node may do without one of them.
pub struct Cut<S> {
    stream: S,
    node: Arc<Node>,
    down: Stream,
    up: Option<Stream>,
    written: u64,
    read: u64,
}

fn gone() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::BrokenPipe, "cut")
}

impl<S> Cut<S> {
    /// `stream`, whose writes are of kind `down` and whose reads are of kind `up`.
    pub fn new(node: Arc<Node>, stream: S, down: Stream, up: Option<Stream>) -> Cut<S> {
        Cut { stream, node, down, up, written: 0, read: 0 }
    }

    /// How many of `more` bytes still pass after `sofar`; nothing if it is cut here.
    fn passes(&self, kind: Stream, sofar: u64, more: usize) -> Option<usize> {
        let cut = self.node.fault(|f| match f {
            Fault::CutAtByte { stream, at } if *stream == kind => {
                let left = at.saturating_sub(sofar);
                Some((left, left == 0))
            }
            _ => None,
        });
        match cut {
            Some(0) => None,
            Some(left) => Some(usize::try_from(left).unwrap_or(more).min(more)),
            None => Some(more),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Cut<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        // A stream that has come so far ends; it does not wait for more.
        if self.up.is_some_and(|kind| self.passes(kind, self.read, 1).is_none()) {
            return Poll::Ready(Err(gone()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        let more = buf.filled().len() - before;
        if let Some(kind) = self.up.filter(|_| more > 0) {
            // What comes after the cut is never seen; the next read fails.
            let passing = self.passes(kind, self.read, more).unwrap_or(0);
            buf.set_filled(before + passing);
            self.read += passing as u64;
            if passing < more {
                cx.waker().wake_by_ref();
            }
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Cut<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let Some(passing) = self.passes(self.down, self.written, buf.len()) else {
            return Poll::Ready(Err(gone()));
        };
        let polled = Pin::new(&mut self.stream).poll_write(cx, &buf[..passing]);
        if let Poll::Ready(Ok(n)) = &polled {
            self.written += *n as u64;
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
