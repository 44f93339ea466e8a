//! The receiving half of a connection.

use std::io::{ErrorKind, IoSliceMut};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::tcp::OwnedReadHalf;

use crate::decoder::Decoder;
use crate::{Frame, NetError};

/// Receives frames. Dropping a pending [`FrameReceiver::recv`] loses nothing.
pub struct FrameReceiver {
    half: OwnedReadHalf,
    decoder: Decoder,
    peer: String,
}

impl FrameReceiver {
    pub(crate) fn new(half: OwnedReadHalf, decoder: Decoder, peer: String) -> FrameReceiver {
        FrameReceiver { half, decoder, peer }
    }

    pub(crate) fn handshake_done(&mut self) {
        self.decoder.handshake_done();
    }

    /// Address of the other end.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// The connection ends when bytes sent on it are not acknowledged by the other machine for this long.
    ///
    /// # Errors
    /// The system refuses to set it.
    pub fn give_up_after(&self, time: Duration) -> Result<(), NetError> {
        let failed = |source| NetError::Io { peer: self.peer.clone(), source };
        crate::handshake::give_up_after(self.half.as_ref(), time).map_err(failed)
    }

    /// The next frame; `None` when the other side has closed between two frames.
    ///
    /// # Errors
    /// The connection broke or is damaged; no further frame will come.
    pub async fn recv(&mut self) -> Result<Option<Frame>, NetError> {
        loop {
            if let Some(frame) = self.decoder.next()? {
                return Ok(Some(frame));
            }
            let n = self.read().await.map_err(|source| NetError::Io { peer: self.peer.clone(), source })?;
            if n == 0 {
                return if self.decoder.at_boundary() {
                    Ok(None)
                } else {
                    Err(NetError::Closed { peer: self.peer.clone(), reason: "in the middle of a frame".into() })
                };
            }
            self.decoder.filled(n);
        }
    }

    /// A frame that has already arrived in whole, without waiting.
    ///
    /// # Errors
    /// As [`FrameReceiver::recv`].
    pub fn try_next(&mut self) -> Result<Option<Frame>, NetError> {
        self.decoder.next()
    }

    async fn read(&mut self) -> std::io::Result<usize> {
        loop {
            let [rest, buf] = self.decoder.space();
            if rest.is_empty() {
                return self.half.read(buf).await;
            }
            self.half.readable().await?;
            match self.half.try_read_vectored(&mut [IoSliceMut::new(rest), IoSliceMut::new(buf)]) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }
}
