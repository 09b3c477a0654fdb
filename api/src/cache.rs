//! Answers that are kept until the next commit.
//!
//! ```text
//!  question ─ which commits are the newest? ─┬─ those of a kept answer ── that one
//!             (one look for all who wait)    └─ others ── it is computed, once for all who ask the same
//! ```
//!
//! An answer is never older than its question: the look begins after the question has come. It tells of commits alone, and
//! so an answer is kept for a second at most: `now()` goes on, and `retention` deletes rows without a commit.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use prometheus::{IntCounterVec, Registry};
use tidegate_engine::metrics::{Registrar, names};
use tidegate_engine::store::Store;
use tokio::sync::OnceCell;

/// How long an answer is kept at most.
const KEPT: Duration = Duration::from_secs(1);
/// So many answers, and so many bytes.
const ANSWERS_MAX: usize = 1_024;
const BYTES_MAX: usize = 64 << 20;
/// How long a look may take before answers are computed without one.
const LOOK_PATIENCE: Duration = Duration::from_secs(1);

/// Kept answers over one store.
pub struct Cache {
    store: Arc<dyn Store>,
    /// Questions that have come.
    came: AtomicU64,
    look: tokio::sync::Mutex<Look>,
    /// By the digest of the question, which may be long.
    kept: Mutex<HashMap<blake3::Hash, Arc<Entry>>>,
    answers: IntCounterVec,
}

/// The newest commits as a look has seen them, which began after so many questions had come.
#[derive(Default)]
struct Look {
    serves: u64,
    commits: Option<Arc<Vec<String>>>,
}

/// An answer, or the place where it will be.
struct Entry {
    commits: Arc<Vec<String>>,
    since: Instant,
    answer: OnceCell<Kept>,
}

impl Entry {
    /// Whether it answers a question that has seen these commits. One that is still being computed does: it has begun
    /// with the same rows.
    fn serves(&self, commits: &[String]) -> bool {
        *self.commits == commits && (self.since.elapsed() < KEPT || !self.answer.initialized())
    }

    /// Whether it is worth its place: it is new, or somebody waits for it.
    fn is_of_use(self: &Arc<Self>) -> bool {
        self.since.elapsed() < KEPT || !self.answer.initialized() && Arc::strong_count(self) > 1
    }
}

/// What was answered.
#[derive(Clone)]
struct Kept {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    tag: Option<HeaderValue>,
}

/// Whether whoever asks has what this tag names.
pub fn is_known(tag: &str, asked: &HeaderMap) -> bool {
    let known = asked.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()).unwrap_or_default();
    // What stands between may have made the tag a weak one.
    known.split(',').any(|known| known.trim().trim_start_matches("W/") == tag)
}

impl Kept {
    async fn of(response: Response) -> Self {
        let (head, body) = response.into_parts();
        // It is whole already.
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
        let tag = head.status.is_success().then(|| format!("\"{}\"", &blake3::hash(&body).to_hex()[..32]));
        let tag = tag.and_then(|tag| HeaderValue::from_str(&tag).ok());
        Self { status: head.status, headers: head.headers, body, tag }
    }

    /// The answer to whoever may have it already.
    fn response(&self, asked: &HeaderMap) -> Response {
        let is_known = self.tag.as_ref().and_then(|tag| tag.to_str().ok()).is_some_and(|tag| is_known(tag, asked));
        let mut response = if is_known {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            (self.status, self.body.clone()).into_response()
        };
        for (name, value) in &self.headers {
            if !is_known || name != header::CONTENT_TYPE {
                response.headers_mut().insert(name.clone(), value.clone());
            }
        }
        if let Some(tag) = &self.tag {
            response.headers_mut().insert(header::ETAG, tag.clone());
            // Whoever keeps it has to ask whether it is still so.
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        }
        response
    }
}

impl Cache {
    /// Of answers over this store.
    pub fn new(store: Arc<dyn Store>, registry: &Registry) -> Result<Arc<Self>, prometheus::Error> {
        let answers = Registrar(registry).counter(&names::API_ANSWERS)?;
        Ok(Arc::new(Self { store, came: AtomicU64::new(0), look: Default::default(), kept: Mutex::default(), answers }))
    }

    /// The answer to this question: a kept one, or this one.
    pub async fn answer<F>(&self, question: String, asked: &HeaderMap, compute: impl FnOnce() -> F) -> Response
    where
        F: Future<Output = Response>,
    {
        let Some(commits) = self.commits().await else {
            self.answers.with_label_values(&["computed"]).inc();
            return Kept::of(compute().await).await.response(asked);
        };
        let question = blake3::hash(question.as_bytes());
        let entry = self.entry(question, commits);
        let mut how = "kept";
        let kept = entry.answer.get_or_init(|| {
            how = "computed";
            async move { Kept::of(compute().await).await }
        });
        let response = kept.await.response(asked);
        self.answers.with_label_values(&[how]).inc();
        if how == "computed" {
            self.tidy(question, &entry);
        }
        response
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<blake3::Hash, Arc<Entry>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the answer is or will be.
    fn entry(&self, question: blake3::Hash, commits: Arc<Vec<String>>) -> Arc<Entry> {
        let mut kept = self.kept();
        if let Some(entry) = kept.get(&question).filter(|entry| entry.serves(&commits)) {
            return entry.clone();
        }
        if kept.len() >= ANSWERS_MAX {
            kept.retain(|_, entry| entry.is_of_use());
        }
        let entry = Arc::new(Entry { commits, since: Instant::now(), answer: OnceCell::new() });
        if kept.len() < ANSWERS_MAX {
            kept.insert(question, entry.clone());
        }
        entry
    }

    /// Lets go of what went wrong and of what is old, and of all where it is too much.
    fn tidy(&self, question: blake3::Hash, entry: &Arc<Entry>) {
        let is_whole = entry.answer.get().is_some_and(|kept| kept.tag.is_some());
        let mut kept = self.kept();
        if !is_whole && kept.get(&question).is_some_and(|held| Arc::ptr_eq(held, entry)) {
            kept.remove(&question);
        }
        kept.retain(|_, entry| entry.is_of_use());
        let bytes: usize = kept.values().filter_map(|entry| entry.answer.get()).map(|kept| kept.body.len()).sum();
        if bytes > BYTES_MAX {
            kept.clear();
        }
    }

    /// The newest commits, as of a moment after now; none if the database does not tell.
    async fn commits(&self) -> Option<Arc<Vec<String>>> {
        let ticket = self.came.fetch_add(1, Ordering::SeqCst) + 1;
        let mut look = self.look.lock().await;
        if look.serves < ticket {
            let serves = self.came.load(Ordering::SeqCst);
            let commits = tokio::time::timeout(LOOK_PATIENCE, self.store.commits()).await;
            let commits = commits.ok().and_then(Result::ok).map(Arc::new);
            *look = Look { serves, commits };
        }
        look.commits.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tidegate_engine::store::memory::MemoryStore;

    use super::*;

    /// Commits by claiming: each owner's epoch is another moment.
    async fn commit(store: &MemoryStore) {
        let lease = store.lease("p", &|| false).await.unwrap().unwrap();
        lease.claim("t", "id").await.unwrap();
    }

    async fn body(response: Response) -> String {
        String::from_utf8(axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap().to_vec()).unwrap()
    }

    struct Asked {
        store: MemoryStore,
        cache: Arc<Cache>,
        computed: AtomicUsize,
    }

    impl Asked {
        fn new() -> Self {
            let store = MemoryStore::default();
            let cache = Cache::new(Arc::new(store.clone()), &Registry::new()).unwrap();
            Self { store, cache, computed: AtomicUsize::new(0) }
        }

        async fn ask(&self, question: &str, known: &str, status: StatusCode) -> Response {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, known.parse().unwrap());
            let compute = || async {
                // Others come meanwhile.
                tokio::time::sleep(Duration::from_millis(20)).await;
                (status, self.computed.fetch_add(1, Ordering::SeqCst).to_string()).into_response()
            };
            self.cache.answer(question.to_string(), &headers, compute).await
        }
    }

    #[tokio::test]
    async fn an_answer_is_computed_once_for_a_commit() {
        let asked = Asked::new();
        commit(&asked.store).await;
        let all = futures::future::join_all((0..20).map(|_| asked.ask("a", "", StatusCode::OK))).await;
        for response in all {
            assert_eq!(body(response).await, "0");
        }
        assert_eq!(body(asked.ask("a", "", StatusCode::OK).await).await, "0");
        assert_eq!(body(asked.ask("b", "", StatusCode::OK).await).await, "1");
        commit(&asked.store).await;
        assert_eq!(body(asked.ask("a", "", StatusCode::OK).await).await, "2");
        tokio::time::sleep(KEPT).await;
        assert_eq!(body(asked.ask("a", "", StatusCode::OK).await).await, "3", "time has gone on");
    }

    #[tokio::test]
    async fn what_goes_wrong_is_not_kept() {
        let asked = Asked::new();
        for told in ["0", "1"] {
            let response = asked.ask("a", "", StatusCode::SERVICE_UNAVAILABLE).await;
            assert_eq!((response.status(), body(response).await.as_str()), (StatusCode::SERVICE_UNAVAILABLE, told));
        }
        assert!(asked.cache.kept().is_empty());
    }

    #[tokio::test]
    async fn what_somebody_has_is_not_sent_again() {
        let asked = Asked::new();
        let first = asked.ask("a", "", StatusCode::OK).await;
        assert_eq!(first.headers()[header::CACHE_CONTROL], "no-cache");
        let tag = first.headers()[header::ETAG].to_str().unwrap().to_string();
        for (known, status) in [(tag.clone(), 304), (format!("W/{tag}, \"b\""), 304), ("\"b\"".to_string(), 200)] {
            let response = asked.ask("a", &known, StatusCode::OK).await;
            assert_eq!(response.status().as_u16(), status, "{known}");
            assert_eq!(response.headers()[header::ETAG], tag.as_str());
        }
    }

    #[tokio::test]
    async fn no_more_is_kept_than_may_be() {
        let asked = Asked::new();
        let questions: Vec<String> = (0..ANSWERS_MAX + 10).map(|number| number.to_string()).collect();
        futures::future::join_all(questions.iter().map(|question| asked.ask(question, "", StatusCode::OK))).await;
        assert_eq!(asked.cache.kept().len(), ANSWERS_MAX);
        tokio::time::sleep(KEPT).await;
        asked.ask("one more", "", StatusCode::OK).await;
        assert_eq!(asked.cache.kept().len(), 1);
    }

    #[tokio::test]
    async fn a_question_that_nobody_waits_for_any_more_takes_no_place() {
        let asked = Asked::new();
        let questions: Vec<String> = (0..ANSWERS_MAX).map(|number| number.to_string()).collect();
        let all = futures::future::join_all(questions.iter().map(|question| asked.ask(question, "", StatusCode::OK)));
        assert!(tokio::time::timeout(Duration::from_millis(10), all).await.is_err(), "they have been answered");
        assert_eq!(asked.cache.kept().len(), ANSWERS_MAX);
        tokio::time::sleep(KEPT).await;
        asked.ask("one more", "", StatusCode::OK).await;
        assert_eq!(asked.cache.kept().len(), 1);
    }
}
