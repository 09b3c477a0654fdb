//! Sessions that answer people's questions: a few, each used again. Nobody waits behind more than these.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Postgres, Session};
use crate::error::{Error, Result};

/// How many questions are answered at a time.
const READERS_MAX: usize = 8;

/// The sessions of one store.
pub struct Readers {
    idle: Mutex<Vec<Session>>,
    free: Arc<Semaphore>,
    /// One more, for a look at how far commits have come: long answers must not hold up those that are kept.
    look: Arc<Semaphore>,
}

impl Default for Readers {
    fn default() -> Self {
        Self { idle: Mutex::default(), free: Arc::new(Semaphore::new(READERS_MAX)), look: Arc::new(Semaphore::new(1)) }
    }
}

/// A session on loan. What is not [`Reader::done`] with it closes it: nobody knows in which state it was left.
pub struct Reader {
    /// The session.
    pub session: Session,
    readers: Arc<Readers>,
    _turn: OwnedSemaphorePermit,
}

impl Postgres {
    /// Takes a session, as soon as one is free.
    pub(super) async fn reader(&self) -> Result<Reader> {
        self.reader_of(&self.readers.free).await
    }

    /// Takes the one that is kept for short looks.
    pub(super) async fn look(&self) -> Result<Reader> {
        self.reader_of(&self.readers.look).await
    }

    async fn reader_of(&self, free: &Arc<Semaphore>) -> Result<Reader> {
        let turn = super::deadline(self.timeout, free.clone().acquire_owned()).await?;
        let turn = turn.map_err(|_| Error::bug("the readers are gone"))?;
        loop {
            let idle = self.readers.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let session = match idle {
                Some(session) if session.client.is_closed() => continue,
                Some(session) => session,
                None => self.connect("read").await?,
            };
            return Ok(Reader { session, readers: self.readers.clone(), _turn: turn });
        }
    }
}

impl Reader {
    /// Gives the session back, outside of any transaction.
    pub fn done(self) {
        self.readers.idle.lock().unwrap_or_else(PoisonError::into_inner).push(self.session);
    }
}
