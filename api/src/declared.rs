//! What `queries/` declares for people and for Prometheus: endpoints as routes, gauges as metrics.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, Opts, Registry};
use tidegate_engine::ask::Asker;
use tidegate_engine::sql::endpoint::{DB_OK, Endpoint, Gauge};
use tidegate_engine::time::clock;

use crate::router::{failed, problem};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The routes of the endpoints.
pub fn routes<S: Clone + Send + Sync + 'static>(asker: &Arc<Asker>, endpoints: Vec<Endpoint>) -> Router<S> {
    endpoints.into_iter().fold(Router::new(), |router, endpoint| {
        let (path, endpoint, asker) = (endpoint.path.clone(), Arc::new(endpoint), asker.clone());
        router.route(&path, get(move |asked: Asked| answer(asker, endpoint, asked)))
    })
}

type Asked = Result<Query<Vec<(String, String)>>, QueryRejection>;

async fn answer(asker: Arc<Asker>, endpoint: Arc<Endpoint>, asked: Asked) -> Response {
    let asked = asked.map_err(|error| error.body_text()).and_then(|Query(pairs)| endpoint.values(&pairs));
    let values = match asked {
        Ok(values) => values,
        Err(why) => {
            let path = &endpoint.path;
            let known: Vec<String> = endpoint.parameters.iter().map(ToString::to_string).collect();
            let hint = if known.is_empty() { format!("{path} has no parameters") } else { known.join("; ") };
            return problem(StatusCode::BAD_REQUEST, "TG-API-PARAMETER", &why, Some(&hint));
        }
    };
    let answer = asker.answer(&endpoint, &values, clock::wall_us());
    match tokio::time::timeout(PATIENCE, answer).await {
        Err(_) => {
            let told = format!("{} did not answer within {PATIENCE:?}", endpoint.path);
            problem(StatusCode::GATEWAY_TIMEOUT, "TG-API-TIMEOUT", &told, Some("narrow its query"))
        }
        Ok(Err(error)) => failed(&error),
        Ok(Ok(answer)) => match answer.json() {
            Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
            Err(error) => failed(&error),
        },
    }
}

/// What the gauges say now. One that cannot be asked is left out, and told in the log; the database's own is always there.
pub async fn gauges(asker: &Asker, gauges: &[Gauge], db_ok: bool) -> Result<Vec<MetricFamily>, prometheus::Error> {
    let registry = Registry::new();
    let ok = GaugeVec::new(Opts::new(DB_OK, "Whether the database answers."), &[])?;
    ok.with_label_values::<&str>(&[]).set(f64::from(u8::from(db_ok)));
    registry.register(Box::new(ok))?;
    for gauge in gauges.iter().filter(|_| db_ok) {
        let asked = tokio::time::timeout(PATIENCE, asker.samples(gauge, clock::wall_us())).await;
        let samples = match asked {
            Ok(Ok(samples)) => samples,
            Ok(Err(error)) => {
                tracing::warn!("gauge {} has no value: {error}", gauge.name);
                continue;
            }
            Err(_) => {
                tracing::warn!("gauge {} has no value: no answer within {PATIENCE:?}", gauge.name);
                continue;
            }
        };
        let Some(first) = samples.first() else { continue };
        let names: Vec<&str> = first.labels.keys().map(String::as_str).collect();
        let family = GaugeVec::new(Opts::new(&gauge.name, &gauge.help), &names)?;
        for sample in &samples {
            let labels: Vec<&str> = sample.labels.values().map(String::as_str).collect();
            family.get_metric_with_label_values(&labels)?.set(sample.value);
        }
        registry.register(Box::new(family))?;
    }
    Ok(registry.gather())
}
