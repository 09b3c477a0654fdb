//! Who is alive: a session that holds an advisory lock and a heartbeat beside it.
//!
//! It only saves work and makes a takeover quick. What keeps two writers apart is the fence in each commit. A killed
//! owner loses the lock at once; a stopped one keeps it, so a standby also watches the heartbeat, and ends the silent
//! owner's sessions before it takes over.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::writer::PostgresWriter;
use super::{Postgres, Session};
use crate::error::Result;
use crate::store::{Lease, Stop, Stored, Writer};
use crate::time::clock;

/// How often the owner beats, and how often a standby looks.
const BEAT_EVERY: Duration = Duration::from_millis(400);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// After so long without a beat an owner counts as gone. Takeover within 3 s leaves it a second for the rest.
const SILENT_AFTER: Duration = Duration::from_millis(1_600);

/// The lease of one pipeline.
pub(super) struct PostgresLease {
    store: Postgres,
    pipeline: String,
    stop: tokio::sync::watch::Sender<bool>,
    commit_pid: Arc<AtomicI32>,
}

impl PostgresLease {
    /// Waits until this engine may own the pipeline. Ends early, with `None`, when `stopped` answers true.
    pub(super) async fn acquire(store: &Postgres, pipeline: &str, stopped: Stop<'_>) -> Result<Option<Self>> {
        let session = store.connect("lease").await?;
        let mut seen: Option<(i64, Instant)> = None;
        let mut said = false;
        while !session.try_lock(pipeline).await? {
            if stopped() {
                return Ok(None);
            }
            let lease = session.lease(pipeline).await?;
            let beat = lease.as_ref().map_or(-1, |lease| lease.beat);
            match seen {
                Some((last, since)) if last == beat => {
                    if clock::now().duration_since(since) > SILENT_AFTER {
                        tracing::warn!(pipeline, "the owner has been silent for {SILENT_AFTER:?}; ending its sessions");
                        session.end_owner(pipeline).await?;
                        seen = None;
                    }
                }
                _ => seen = Some((beat, clock::now())),
            }
            if !said {
                said = true;
                let owner = lease.map_or_else(|| "another engine".to_string(), |lease| lease.holder);
                tracing::info!(pipeline, "standing by: {owner} owns the pipeline");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        session.beat(pipeline, 0).await?;
        let (stop, watch) = tokio::sync::watch::channel(false);
        let commit_pid = Arc::new(AtomicI32::new(0));
        tokio::spawn(beat(session, store.clone(), pipeline.to_string(), commit_pid.clone(), watch));
        Ok(Some(Self { store: store.clone(), pipeline: pipeline.to_string(), stop, commit_pid }))
    }
}

#[async_trait]
impl Lease for PostgresLease {
    async fn claim(&self, topic: &str, topic_id: &str) -> Result<(Box<dyn Writer>, Stored)> {
        let session = self.store.connect("commit").await?;
        let stored = session.claim(&self.pipeline, topic, topic_id).await?;
        let commit_pid = self.commit_pid.clone();
        // A successor ends the session that commits.
        let on_session = move |pid| commit_pid.store(pid, Ordering::Relaxed);
        Ok((Box::new(PostgresWriter::new(self.store.clone(), session, &self.pipeline, on_session)), stored))
    }
}

impl Drop for PostgresLease {
    fn drop(&mut self) {
        // The receiver may be gone already; then there is nothing to stop.
        let _ = self.stop.send(true);
    }
}

/// Beats until told to stop. A lost session is opened again; the lock is then free or another's, which the fence decides.
async fn beat(
    mut session: Session,
    store: Postgres,
    pipeline: String,
    commit_pid: Arc<AtomicI32>,
    mut stop: tokio::sync::watch::Receiver<bool>,
) {
    loop {
        tokio::select! {
            _ = stop.changed() => return,
            () = tokio::time::sleep(BEAT_EVERY) => {}
        }
        if let Err(error) = session.beat(&pipeline, commit_pid.load(Ordering::Relaxed)).await {
            tracing::warn!(pipeline, "no heartbeat: {error}");
            if let Ok(again) = store.connect("lease").await
                && again.try_lock(&pipeline).await.unwrap_or(false)
            {
                session = again;
            }
        }
    }
}
