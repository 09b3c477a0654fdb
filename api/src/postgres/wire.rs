//! A connection: messages in, messages out, and no more of either than we are ready to hold.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::time::Duration;

use bytes::BytesMut;
use pgwire::messages::{DecodeContext, PgWireBackendMessage, PgWireFrontendMessage, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{broken, refused};
use crate::adhoc::wire::Told;

/// The longest message of a client that is known; and of one that is not yet.
pub const MESSAGE_MAX: usize = 1 << 20;
pub const UNKNOWN_MAX: usize = 16 << 10;

/// What is written is sent when it is so long.
const SEND_BYTES: usize = 64 << 10;

/// How long a client may take nothing of its answer.
const READ_PATIENCE: Duration = Duration::from_secs(30);

/// A plain connection, or one under TLS.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Why a connection ends.
#[derive(Debug)]
pub enum Gone {
    /// The other side has gone, or does not read.
    Silent,
    /// It is told why.
    Told(Told),
}

impl From<io::Error> for Gone {
    fn from(_: io::Error) -> Self {
        Self::Silent
    }
}

/// A connection.
pub struct Wire {
    stream: Pin<Box<dyn Stream>>,
    input: BytesMut,
    output: BytesMut,
    context: DecodeContext,
    /// The longest message that is read.
    pub message_max: usize,
}

impl Wire {
    /// Of which nothing was read but this.
    pub fn new(stream: Box<dyn Stream>, read: &[u8]) -> Self {
        let mut context = DecodeContext::new(ProtocolVersion::PROTOCOL3_2);
        context.awaiting_frontend_ssl = false;
        let (stream, input) = (Pin::from(stream), BytesMut::from(read));
        Self { stream, input, output: BytesMut::new(), context, message_max: UNKNOWN_MAX }
    }

    /// Once the start-up message has been read: all others say what they are.
    pub fn started(&mut self, version: ProtocolVersion) {
        self.context.awaiting_frontend_startup = false;
        self.context.protocol_version = version;
    }

    /// The next message of the client.
    pub async fn next(&mut self) -> Result<PgWireFrontendMessage, Gone> {
        loop {
            if let Some(message) = self.buffered()? {
                return Ok(message);
            }
            self.more().await?;
        }
    }

    /// A message that has come whole.
    fn buffered(&mut self) -> Result<Option<PgWireFrontendMessage>, Gone> {
        // The first message has no letter.
        let letter = usize::from(!self.context.awaiting_frontend_startup);
        let Some(length) = self.input.get(letter..letter + 4) else { return Ok(None) };
        let length = length.iter().fold(0usize, |sum, byte| sum << 8 | usize::from(*byte));
        if length < 4 || length > self.message_max {
            let why = format!("a message has {length} bytes; the limit is {}", self.message_max);
            return Err(Gone::Told(broken(why)));
        }
        if self.input.len() < letter + length {
            return Ok(None);
        }
        let mut frame = self.input.split_to(letter + length);
        // The library reads what the message says of itself, whatever that is.
        let decoded = catch_unwind(AssertUnwindSafe(|| PgWireFrontendMessage::decode(&mut frame, &self.context)));
        match decoded {
            Ok(Ok(Some(message))) => Ok(Some(message)),
            Ok(Err(error)) => Err(Gone::Told(broken(error.to_string()))),
            Ok(Ok(None)) | Err(_) => Err(Gone::Told(broken("a message is not what it says"))),
        }
    }

    /// Reads some more; an error at the end.
    async fn more(&mut self) -> Result<(), Gone> {
        // Nothing is held back while we wait.
        self.send().await?;
        match self.stream.read_buf(&mut self.input).await? {
            0 => Err(Gone::Silent),
            _ => Ok(()),
        }
    }

    /// Waits for something, as long as the client is there.
    pub async fn wait<T>(&mut self, something: impl Future<Output = T>) -> Result<T, Gone> {
        tokio::pin!(something);
        loop {
            tokio::select! {
                biased;
                done = &mut something => return Ok(done),
                // What it says meanwhile is kept for later, up to a limit.
                read = self.stream.read_buf(&mut self.input), if self.input.len() < MESSAGE_MAX => {
                    if read? == 0 {
                        return Err(Gone::Silent);
                    }
                }
            }
        }
    }

    /// Writes a message; it is sent with others.
    pub fn put(&mut self, message: PgWireBackendMessage) -> Result<(), Gone> {
        let before = self.output.len();
        message.encode(&mut self.output).map_err(|error| {
            self.output.truncate(before);
            Gone::Told(refused("TG-INTERNAL", error.to_string()))
        })
    }

    /// Sends what was written, if it is much.
    pub async fn send_much(&mut self) -> Result<(), Gone> {
        if self.output.len() >= SEND_BYTES { self.send().await } else { Ok(()) }
    }

    /// Sends what was written.
    pub async fn send(&mut self) -> Result<(), Gone> {
        if self.output.is_empty() {
            return Ok(());
        }
        let writing = async {
            self.stream.write_all(&self.output).await?;
            self.stream.flush().await
        };
        tokio::time::timeout(READ_PATIENCE, writing).await.map_err(|_| Gone::Silent)??;
        self.output.clear();
        Ok(())
    }

    /// Says good-bye.
    pub async fn close(&mut self) {
        // Whoever has gone hears neither.
        let _ = self.send().await;
        let _ = self.stream.shutdown().await;
    }
}
