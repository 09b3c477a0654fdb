//! What `queries/` declares for people and for Prometheus: endpoints as routes, gauges as metrics.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, Opts, Registry};
use tidegate_engine::ask::{Asker, Sample};
use tidegate_engine::error::{Error, Kind, Result};
use tidegate_engine::metrics::names;
use tidegate_engine::sql::endpoint::{Endpoint, Gauge};
use tidegate_engine::sql::question::Values;
use tidegate_engine::time::clock;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::adhoc::format::{Format, whole};
use crate::cache::Cache;
use crate::router::{failed, problem};

/// How long an answer may take, and its parts: the database shall be heard before the answer is given up.
const PATIENCE: Duration = Duration::from_secs(10);
const QUERY_PATIENCE: Duration = Duration::from_secs(8);

/// How long all gauges together may take: Prometheus gives up after 10 s.
const GAUGES_PATIENCE: Duration = Duration::from_secs(5);

/// The longest answer in another form than JSON.
const BYTES_MAX: usize = 64 << 20;

/// Answers that are computed at a time.
const ANSWERS_MAX: usize = 4;

/// Answers, on threads of their own: a query that computes and computes must not keep the api from saying so.
#[derive(Clone)]
pub struct Answers {
    asker: Arc<Asker>,
    threads: Handle,
    turns: Arc<Semaphore>,
}

impl Answers {
    /// Answers by this asker on these threads.
    pub fn new(asker: Asker, threads: Handle) -> Self {
        Self { asker: Arc::new(asker), threads, turns: Arc::new(Semaphore::new(ANSWERS_MAX)) }
    }

    /// Computes something there, as soon as it is its turn; none if it does not end in time.
    async fn compute<T, F>(&self, patience: Duration, work: impl FnOnce(Arc<Asker>) -> F) -> Option<Result<T>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let (turns, work) = (self.turns.clone(), work(self.asker.clone()));
        let mut task = self.threads.spawn(async move {
            let _turn = turns.acquire_owned().await;
            work.await
        });
        match tokio::time::timeout(patience, &mut task).await {
            Ok(Ok(result)) => Some(result),
            Ok(Err(error)) => Some(Err(Error::bug(format!("an answer's task ended: {error}")))),
            Err(_) => {
                task.abort();
                None
            }
        }
    }
}

/// The routes of the endpoints.
pub fn routes<S: Clone + Send + Sync + 'static>(
    answers: &Answers,
    cache: &Arc<Cache>,
    endpoints: &[Endpoint],
) -> Router<S> {
    endpoints.iter().fold(Router::new(), |router, endpoint| {
        let (endpoint, from) = (Arc::new(endpoint.clone()), (answers.clone(), cache.clone()));
        let path = endpoint.path.clone();
        router.route(&path, get(move |headers: HeaderMap, asked: Asked| answer(from, endpoint, headers, asked)))
    })
}

type Asked = Result<Query<Vec<(String, String)>>, QueryRejection>;

async fn answer(
    (answers, cache): (Answers, Arc<Cache>),
    endpoint: Arc<Endpoint>,
    headers: HeaderMap,
    asked: Asked,
) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let format = Format::accepted(accept);
    let asked = asked.map_err(|error| error.body_text());
    match asked.and_then(|Query(pairs)| Ok((endpoint.values(&pairs)?, pairs))) {
        Ok((values, pairs)) => {
            let question = format!("{} {format} {pairs:?}", endpoint.path);
            cache.answer(question, &headers, || computed(answers, endpoint, values, format)).await
        }
        Err(why) => {
            let known: Vec<String> = endpoint.parameters.iter().map(ToString::to_string).collect();
            let none = format!("{} has no parameters", endpoint.path);
            let hint = if known.is_empty() { none } else { known.join("; ") };
            problem(StatusCode::BAD_REQUEST, "TG-API-PARAMETER", &why, Some(&hint))
        }
    }
}

async fn computed(answers: Answers, endpoint: Arc<Endpoint>, values: Values, format: Format) -> Response {
    let path = endpoint.path.clone();
    let computed = answers.compute(PATIENCE, |asker| async move {
        let answer = asker.answer(&endpoint, &values, clock::wall_us(), QUERY_PATIENCE).await?;
        // The other forms have no place for what stands beside the rows.
        match format {
            Format::Json => Ok(Ok(answer.json()?)),
            format => Ok(whole(format, &answer.rows.schema(), std::slice::from_ref(&answer.rows), BYTES_MAX)),
        }
    });
    match computed.await {
        Some(Ok(Ok(body))) => {
            ([(header::CONTENT_TYPE, format.media()), (header::VARY, "accept")], body).into_response()
        }
        Some(Ok(Err(why))) => problem(StatusCode::NOT_ACCEPTABLE, &why.code, &why.message, why.hint.as_deref()),
        Some(Err(error)) => {
            tracing::warn!("GET {path}: {error}");
            failed(&error)
        }
        None => {
            tracing::warn!("GET {path}: no answer within {PATIENCE:?}");
            let told = format!("endpoint {path} did not answer within {PATIENCE:?}");
            problem(StatusCode::GATEWAY_TIMEOUT, "TG-API-TIMEOUT", &told, Some("narrow its query"))
        }
    }
}

/// What the gauges say now. One that has no value is told in the log, and takes no other with it; the database's own is
/// always there.
pub async fn gauges(
    answers: &Answers,
    gauges: &Arc<[Gauge]>,
    mut db_ok: bool,
) -> Result<Vec<MetricFamily>, prometheus::Error> {
    let registry = Registry::new();
    let asked = (0..gauges.len()).filter(|_| db_ok).map(|index| {
        let gauges = gauges.clone();
        answers.compute(GAUGES_PATIENCE, move |asker| async move {
            asker.samples(&gauges[index], clock::wall_us(), GAUGES_PATIENCE).await
        })
    });
    for (gauge, samples) in gauges.iter().zip(futures::future::join_all(asked).await) {
        let told = match samples {
            Some(Ok(samples)) => family(gauge, &samples).and_then(|family| match family {
                Some(family) => registry.register(Box::new(family)),
                None => Ok(()),
            }),
            Some(Err(error)) => {
                db_ok &= error.kind != Kind::Wait;
                tracing::warn!("gauge {} has no value: {error}", gauge.name);
                continue;
            }
            None => {
                tracing::warn!("gauge {} has no value: no answer within {GAUGES_PATIENCE:?}", gauge.name);
                continue;
            }
        };
        if let Err(error) = told {
            tracing::warn!("gauge {} has no value: {error}", gauge.name);
        }
    }
    let ok = prometheus::Gauge::new(names::API_DB_OK.name, names::API_DB_OK.help)?;
    ok.set(f64::from(u8::from(db_ok)));
    registry.register(Box::new(ok))?;
    Ok(registry.gather())
}

/// A gauge's samples as Prometheus reads them; none if it has none.
fn family(gauge: &Gauge, samples: &[Sample]) -> Result<Option<GaugeVec>, prometheus::Error> {
    let Some(first) = samples.first() else { return Ok(None) };
    let names: Vec<&str> = first.labels.keys().map(String::as_str).collect();
    let family = GaugeVec::new(Opts::new(&gauge.name, &gauge.help), &names)?;
    for sample in samples {
        let labels: Vec<&str> = sample.labels.values().map(String::as_str).collect();
        family.get_metric_with_label_values(&labels)?.set(sample.value);
    }
    Ok(Some(family))
}
