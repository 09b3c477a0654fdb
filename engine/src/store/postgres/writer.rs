//! A commit is made, however long it takes: retried where it was surely aborted, resolved where nobody knows.

use std::time::Duration;

use async_trait::async_trait;

use super::table::TableSql;
use super::transaction::transact;
use super::{Failed, Postgres, Session, deadline, is_data, is_lost, is_transient, told};
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::sql::planned::Table;
use crate::store::{self, Commit, FoundPiece, GivenReject, Settled, Stop, ViewStart, fenced};

/// How one attempt to commit ended.
enum Attempt {
    Committed,
    /// Surely not committed; the same may be tried again.
    Again(Error),
    /// A row's values were refused; rows must be tried apart.
    Refused(String),
    /// COMMIT was sent and no answer came.
    Unknown(Error),
    /// The fence or a count did not fit.
    Misfit,
    /// It will never succeed as it is.
    Fatal(Error),
}

/// A pipeline's writer: the session, and what it needs to know of the tables.
pub(super) struct PostgresWriter {
    store: Postgres,
    session: Option<Session>,
    pipeline: String,
    /// Of the views, in the order in which commits count them.
    tables: Vec<(String, TableSql)>,
    on_session: Box<dyn Fn(i32) + Send + Sync>,
}

#[async_trait]
impl store::Writer for PostgresWriter {
    async fn topic_id(&mut self, epoch: i64) -> Result<String> {
        let pipeline = self.pipeline.clone();
        self.session().await?.topic_id(&pipeline, epoch).await
    }

    async fn begin_partitions(&mut self, epoch: i64, starts: &[(i32, i64)]) -> Result<()> {
        let pipeline = self.pipeline.clone();
        self.session().await?.begin_partitions(&pipeline, epoch, starts).await
    }

    async fn open_archive(&mut self, epoch: i64, archive: bool) -> Result<(i64, Vec<(i32, i64)>)> {
        let pipeline = self.pipeline.clone();
        self.session().await?.open_archive(&pipeline, epoch, archive).await
    }

    async fn begin_view(&mut self, epoch: i64, start: &ViewStart<'_>) -> Result<()> {
        let pipeline = self.pipeline.clone();
        self.session().await?.begin_view(&pipeline, epoch, start).await
    }

    async fn set_absent(&mut self, epoch: i64, view: &str, since: Option<i64>) -> Result<()> {
        let pipeline = self.pipeline.clone();
        self.session().await?.set_absent(&pipeline, epoch, view, since).await
    }

    async fn open_table(&mut self, table: &Table) -> Result<()> {
        let sql = TableSql::new(table);
        self.session().await?.ensure_table(table, &sql).await?;
        self.tables.push((table.name.clone(), sql));
        Ok(())
    }

    async fn load_state(&mut self) -> Result<Vec<FoundPiece>> {
        let pipeline = self.pipeline.clone();
        self.session().await?.load_state(&pipeline).await
    }

    async fn given_rejects(&mut self, from: &[(i32, i64)]) -> Result<Vec<GivenReject>> {
        let pipeline = self.pipeline.clone();
        self.session().await?.given_rejects(&pipeline, from).await
    }

    async fn commit(&mut self, commit: &Commit, stop: Stop<'_>) -> Result<Settled> {
        let mut apart = false;
        let mut pause = Duration::from_millis(50);
        loop {
            let attempt = match self.session().await {
                Err(error) if error.kind == Kind::Wait => Attempt::Again(error),
                Err(error) => Attempt::Fatal(error),
                Ok(_) => self.attempt(commit, apart).await,
            };
            match attempt {
                Attempt::Committed => {
                    if commit.checkpoint.is_some() {
                        tokio::spawn(sweep(self.store.clone()));
                    }
                    return Ok(Settled::Committed);
                }
                Attempt::Refused(why) => {
                    tracing::warn!(pipeline = commit.pipeline, "the database refuses a row ({why}); trying rows apart");
                    self.roll_back().await;
                    apart = true;
                }
                Attempt::Again(error) => {
                    self.session = None;
                    tracing::warn!(
                        pipeline = commit.pipeline,
                        seq = commit.seq,
                        "commit not made, trying again: {error}"
                    );
                    if stop() {
                        return Ok(Settled::Aborted);
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
                Attempt::Unknown(error) => {
                    self.session = None;
                    tracing::warn!(pipeline = commit.pipeline, seq = commit.seq, "outcome unknown: {error}");
                    return self.resolve(commit, stop).await;
                }
                Attempt::Misfit => {
                    self.roll_back().await;
                    return self.resolve(commit, stop).await;
                }
                Attempt::Fatal(error) => {
                    self.roll_back().await;
                    return Err(error);
                }
            }
        }
    }
}

impl PostgresWriter {
    /// A writer with its first session. `on_session` hears of each new one's backend.
    pub(super) fn new(
        store: Postgres,
        session: Session,
        pipeline: &str,
        on_session: impl Fn(i32) + Send + Sync + 'static,
    ) -> Self {
        on_session(session.pid());
        let on_session = Box::new(on_session);
        Self { store, session: Some(session), pipeline: pipeline.to_string(), tables: Vec::new(), on_session }
    }

    async fn session(&mut self) -> Result<&mut Session> {
        if self.session.is_none() {
            let session = self.store.connect("commit").await?;
            (self.on_session)(session.pid());
            self.session = Some(session);
        }
        self.session.as_mut().ok_or_else(|| Error::bug("a session vanished"))
    }

    async fn roll_back(&mut self) {
        if let Some(session) = &self.session
            && session.batch("ROLLBACK").await.is_err()
        {
            self.session = None;
        }
    }

    /// Asks the database what became of a commit.
    async fn resolve(&mut self, commit: &Commit, stop: Stop<'_>) -> Result<Settled> {
        let pipeline = &commit.pipeline;
        loop {
            let last = match self.session().await {
                Ok(session) => session.last_commit(pipeline).await,
                Err(error) => Err(error),
            };
            match last {
                Err(error) if error.kind == Kind::Wait => {
                    self.session = None;
                    if stop() {
                        return Err(error);
                    }
                    tracing::warn!(pipeline, "cannot resolve commit {} yet: {error}", commit.seq);
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Err(error) => return Err(error),
                Ok((_, _, id)) if id == commit.id => {
                    tracing::info!(pipeline, seq = commit.seq, "resolved=committed");
                    return Ok(Settled::Committed);
                }
                Ok((epoch, _, _)) if epoch != commit.epoch => {
                    tracing::info!(pipeline, seq = commit.seq, "resolved=aborted");
                    return Err(fenced(commit, epoch));
                }
                Ok(_) => {
                    tracing::info!(pipeline, seq = commit.seq, "resolved=aborted");
                    return Ok(Settled::Aborted);
                }
            }
        }
    }

    async fn attempt(&mut self, commit: &Commit, apart: bool) -> Attempt {
        let Some(session) = &mut self.session else { return Attempt::Again(Error::bug("no session")) };
        if let Err(failed) = transact(session, &self.tables, commit, apart).await {
            return match failed {
                Failed::Misfit => Attempt::Misfit,
                Failed::Hangs(error) => Attempt::Again(error),
                Failed::Answered(error) => match error.as_db_error() {
                    Some(db) if is_data(db.code()) && !apart => {
                        Attempt::Refused(format!("{}: {}", db.code().code(), db.message()))
                    }
                    Some(db) if !is_transient(db.code()) => Attempt::Fatal(told(&error)),
                    None if !is_lost(&error) => Attempt::Fatal(told(&error)),
                    _ => Attempt::Again(told(&error)),
                },
            };
        }
        if let Err(error) = failpoint::hit("commit-unsent") {
            return Attempt::Again(error);
        }
        // From here on a lost session leaves the outcome open.
        let sent = deadline(session.timeout, async {
            let answer = session.client.batch_execute("COMMIT");
            if failpoint::armed() {
                // Lets the bytes leave before the point is passed.
                tokio::pin!(answer);
                let first = tokio::time::timeout(Duration::from_micros(300), &mut answer).await;
                failpoint::hit("commit-sent")?;
                match first {
                    Ok(answer) => Ok(answer),
                    Err(_) => Ok(answer.await),
                }
            } else {
                Ok::<_, Error>(answer.await)
            }
        });
        match sent.await {
            Err(error) | Ok(Err(error)) => Attempt::Unknown(error),
            Ok(Ok(Err(error))) if error.as_db_error().is_some_and(|db| !db.code().code().starts_with("57")) => {
                // Deferred constraints are checked here: the server says that it rolled back.
                match error.as_db_error() {
                    Some(db) if is_transient(db.code()) => Attempt::Again(told(&error)),
                    _ => Attempt::Fatal(told(&error)),
                }
            }
            Ok(Ok(Err(error))) => Attempt::Unknown(told(&error)),
            Ok(Ok(Ok(()))) => match failpoint::hit("commit-acked") {
                Ok(()) => Attempt::Committed,
                Err(error) => Attempt::Unknown(error),
            },
        }
    }
}

/// Makes the room of replaced pieces of state free for the next ones. The server would do so once a minute, when the table
/// is many times as large as what lives in it. It never shrinks the table, for which commits would have to wait.
async fn sweep(store: Postgres) {
    let swept = async {
        let reader = store.reader().await?;
        reader.session.batch("VACUUM (SKIP_LOCKED, TRUNCATE false) tidegate.state").await?;
        reader.done();
        Ok::<(), Error>(())
    };
    if let Err(error) = swept.await {
        tracing::debug!("the state's table is not swept: {error}");
    }
}
