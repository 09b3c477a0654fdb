//! `GET /api/v1/queries/{name}/stream`: the rows of a view that commits change, as server-sent events.
//!
//! ```text
//!  event: rows
//!  id: 1041                                                     the commit up to which it tells
//!  data: {"commit":1041,"columns":[…],"rows":[[…]]}             first the newest rows, then those that have changed
//! ```
//!
//! One task looks at a view for all who listen to it: twice a second whether there was a commit, and then at its newest rows.
//! What it has not seen like that before has changed. It ends with the last who listens.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::row::{RowConverter, SortField};
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::stream;
use tidegate_engine::error::Result;
use tidegate_engine::sql::planned::{PlannedView, Table};
use tidegate_engine::store::Store;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, watch};

use crate::adhoc::format::{self, Format};
use crate::adhoc::wire::Told;
use crate::router::problem;

/// The newest rows of a view that are watched.
const WATCHED: usize = 1_000;
/// How often it is looked for a commit.
const LOOK: Duration = Duration::from_millis(500);
/// How many may listen at a time.
const LISTENERS_MAX: usize = 64;
/// The most bytes of an event.
const EVENT_MAX: usize = 8 << 20;
/// Events that a listener may be behind before it begins anew.
const BEHIND: usize = 16;
/// So often something is said, if nothing happens.
const ALIVE: Duration = Duration::from_secs(15);

/// Rows as of a commit.
#[derive(Clone)]
struct Seen {
    commit: i64,
    rows: RecordBatch,
}

/// What is seen of a view.
struct Feed {
    changes: broadcast::Sender<Arc<Seen>>,
    /// All of its newest rows.
    latest: watch::Sender<Option<Arc<Seen>>>,
}

/// A view that can be listened to.
#[derive(Clone)]
struct View {
    name: String,
    source: String,
    table: Table,
}

/// Whoever listens to views.
pub struct Streams {
    store: Arc<dyn Store>,
    views: Vec<View>,
    feeds: Mutex<HashMap<String, Weak<Feed>>>,
    places: Arc<Semaphore>,
    ending: watch::Sender<bool>,
}

/// The route.
pub fn routes<S: Clone + Send + Sync + 'static>(streams: Arc<Streams>) -> Router<S> {
    Router::new().route("/api/v1/queries/{name}/stream", get(listen)).with_state(streams)
}

impl Streams {
    /// Of these views.
    pub fn new(store: Arc<dyn Store>, views: &[PlannedView]) -> Arc<Self> {
        let view = |view: &PlannedView| View {
            name: view.name.clone(),
            source: view.source.clone(),
            table: view.table.clone(),
        };
        let views = views.iter().map(view).collect();
        let (feeds, places) = (Mutex::default(), Arc::new(Semaphore::new(LISTENERS_MAX)));
        Arc::new(Self { store, views, feeds, places, ending: watch::Sender::new(false) })
    }

    /// Ends all of them: an answer without an end would be waited for.
    pub fn end(&self) {
        self.ending.send_replace(true);
    }

    fn feeds(&self) -> MutexGuard<'_, HashMap<String, Weak<Feed>>> {
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The feed of a view, which begins with the first who listens.
    fn feed(self: &Arc<Self>, view: &View) -> Arc<Feed> {
        let mut feeds = self.feeds();
        if let Some(feed) = feeds.get(&view.name).and_then(Weak::upgrade) {
            return feed;
        }
        let feed = Arc::new(Feed { changes: broadcast::Sender::new(BEHIND), latest: watch::Sender::new(None) });
        feeds.insert(view.name.clone(), Arc::downgrade(&feed));
        tokio::spawn(look(self.store.clone(), view.clone(), Arc::downgrade(&feed)));
        feed
    }
}

/// Looks at a view while somebody listens.
async fn look(store: Arc<dyn Store>, view: View, feed: Weak<Feed>) {
    let mut known = Known::default();
    let mut commit = -1;
    while feed.strong_count() > 0 {
        match changed(store.as_ref(), &view, &mut known, commit).await {
            Ok(None) => {}
            Ok(Some((all, changed))) => {
                let Some(feed) = feed.upgrade() else { return };
                commit = all.commit;
                // Nobody listens to changes before it has seen all.
                feed.latest.send_replace(Some(Arc::new(all)));
                if changed.rows.num_rows() > 0 {
                    let _ = feed.changes.send(Arc::new(changed));
                }
            }
            Err(error) => tracing::warn!("what listeners of {} hear stands still: {error}", view.name),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The newest rows, and those of them that are not known, if there was a commit.
async fn changed(store: &dyn Store, view: &View, known: &mut Known, before: i64) -> Result<Option<(Seen, Seen)>> {
    let status = store.status().await?;
    let of = status.pipelines.iter().find(|pipeline| pipeline.pipeline == view.source);
    let commit = of.map_or(0, |pipeline| pipeline.commits);
    if commit == before {
        return Ok(None);
    }
    let rows = store.rows(&view.table, Some(WATCHED)).await?;
    let keys: Vec<usize> =
        view.table.columns.iter().enumerate().filter(|(_, column)| column.key_of.is_some()).map(|(at, _)| at).collect();
    let new = known.new_ones(&rows, &keys)?;
    let changed = take_record_batch(&rows, &new)?;
    Ok(Some((Seen { commit, rows }, Seen { commit, rows: changed })))
}

/// Rows as they were last seen, by their keys.
#[derive(Default)]
struct Known(HashMap<Box<[u8]>, Box<[u8]>>);

impl Known {
    /// The rows that are not there like that; then they are, and no others.
    fn new_ones(&mut self, rows: &RecordBatch, keys: &[usize]) -> Result<UInt32Array> {
        let bytes = |columns: &[ArrayRef]| -> Result<Vec<Box<[u8]>>> {
            let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
            let converted = RowConverter::new(fields)?.convert_columns(columns)?;
            Ok(converted.iter().map(|row| Box::from(row.as_ref())).collect())
        };
        let all = bytes(rows.columns())?;
        let key_columns: Vec<ArrayRef> = keys.iter().map(|at| rows.column(*at).clone()).collect();
        let keys = if keys.is_empty() { all.clone() } else { bytes(&key_columns)? };
        let is_new = |at: &usize| self.0.get(&keys[*at]) != Some(&all[*at]);
        let new: Vec<u32> = (0..all.len()).filter(is_new).map(|at| at as u32).collect();
        self.0 = keys.into_iter().zip(all).collect();
        Ok(UInt32Array::from(new))
    }
}

/// A listener, and how far it has heard.
struct Listener {
    feed: Arc<Feed>,
    changes: broadcast::Receiver<Arc<Seen>>,
    heard: Option<i64>,
    ending: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
}

impl Listener {
    /// What it hears next; nothing at the end.
    async fn next(&mut self) -> Option<Arc<Seen>> {
        let mut ending = self.ending.clone();
        tokio::select! {
            seen = self.heard() => seen,
            _ = ending.wait_for(|ending| *ending) => None,
        }
    }

    async fn heard(&mut self) -> Option<Arc<Seen>> {
        loop {
            let Some(heard) = self.heard else {
                let mut latest = self.feed.latest.subscribe();
                let seen = latest.wait_for(Option::is_some).await.ok()?.clone()?;
                self.heard = Some(seen.commit);
                return Some(seen);
            };
            match self.changes.recv().await {
                Ok(seen) if seen.commit > heard => {
                    self.heard = Some(seen.commit);
                    return Some(seen);
                }
                Ok(_) => {}
                // It has not kept up, and hears all of it once more.
                Err(broadcast::error::RecvError::Lagged(_)) => self.heard = None,
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

/// Rows as an event.
fn event(seen: &Seen) -> std::result::Result<Event, Told> {
    let schema = seen.rows.schema();
    let rows = format::whole(Format::Json, &schema, std::slice::from_ref(&seen.rows), EVENT_MAX)?;
    let columns = serde_json::Value::from(format::columns(&schema));
    let rows = String::from_utf8_lossy(&rows);
    let data = format!("{{\"commit\":{},\"columns\":{columns},\"rows\":{rows}}}", seen.commit);
    Ok(Event::default().event("rows").id(seen.commit.to_string()).data(data))
}

async fn listen(State(streams): State<Arc<Streams>>, Path(name): Path<String>) -> Response {
    let Some(view) = streams.views.iter().find(|view| view.name == name) else {
        let names: Vec<&str> = streams.views.iter().map(|view| view.name.as_str()).collect();
        let hint = format!("there are: {}", names.join(", "));
        return problem(StatusCode::NOT_FOUND, "TG-VIEW", &format!("there is no view {name}"), Some(&hint));
    };
    let Ok(place) = streams.places.clone().try_acquire_owned() else {
        let why = format!("{LISTENERS_MAX} listen, which is the limit");
        return problem(StatusCode::SERVICE_UNAVAILABLE, "TG-API-LISTENERS", &why, Some("GET …/rows asks once"));
    };
    let feed = streams.feed(view);
    let (changes, ending) = (feed.changes.subscribe(), streams.ending.subscribe());
    let listener = Listener { feed, changes, heard: None, ending, _place: place };
    let events = stream::unfold(listener, |mut listener| async {
        let seen = listener.next().await?;
        // Rows that cannot be written are told, and the rest goes on.
        let event = event(&seen)
            .unwrap_or_else(|why| Event::default().event("problem").data(format!("{}: {}", why.code, why.message)));
        Some((Ok::<Event, std::convert::Infallible>(event), listener))
    });
    let alive = KeepAlive::new().interval(ALIVE);
    ([("x-accel-buffering", "no")], Sse::new(events).keep_alive(alive)).into_response()
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};

    use super::*;

    #[test]
    fn what_has_changed_is_told_once() {
        let rows = |of: &[(&str, i64)]| {
            let keys: ArrayRef = Arc::new(StringArray::from_iter_values(of.iter().map(|row| row.0)));
            let values: ArrayRef = Arc::new(Int64Array::from_iter_values(of.iter().map(|row| row.1)));
            RecordBatch::try_from_iter([("k", keys), ("v", values)]).unwrap()
        };
        let mut known = Known::default();
        let mut told = |of: &[(&str, i64)]| known.new_ones(&rows(of), &[0]).unwrap().values().to_vec();
        assert_eq!(told(&[("a", 1), ("b", 2)]), [0, 1]);
        assert!(told(&[("a", 1), ("b", 2)]).is_empty());
        assert_eq!(told(&[("a", 1), ("b", 3), ("c", 1)]), [1, 2]);
        // One that had gone is there again.
        assert!(told(&[("b", 3)]).is_empty());
        assert_eq!(told(&[("a", 1), ("b", 3)]), [0]);
    }
}
