//! What the API answers, as a table of contents, and the answers themselves.
//!
//! ```text
//!  GET /, /app.js, /app.css           the page (see `page`)
//!  GET /api, /api/reference.js        what may be asked, for people
//!  GET /api/openapi.json              the same for programs (see `openapi`)
//!  GET /health                       {"ok":true}, or 503 with the reason
//!  GET /readyz                       whether the database answers and every declared view has begun
//!  GET /prometheus                   our own metrics, and the gauges that are declared
//!  GET …                             the endpoints that are declared (see `declared`)
//!  GET, POST /api/v1/sql             ad-hoc SQL (see `sql`)
//!  GET /api/v1/queries               the views: columns, windows, what is final, where records went
//!  GET /api/v1/queries/{name}/rows   the newest rows of a view's table   ?limit=
//!  GET /api/v1/queries/{name}/stream the rows that commits change, as they do (see `stream`)
//!  GET /api/v1/dead-letters          the newest dead letters             ?limit=
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{MatchedPath, Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Encoder, HistogramVec, Registry, TextEncoder};
use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_engine::ask::Asker;
use tidegate_engine::error::{Error, Kind};
use tidegate_engine::metrics::{Registrar, names};
use tidegate_engine::settings::Settings;
use tidegate_engine::show;
use tidegate_engine::sql::Catalog;
use tidegate_engine::sql::endpoint::Gauge;
use tidegate_engine::sql::planned::{PlannedView, Table};
use tidegate_engine::store::Store;
use tidegate_engine::time::{NONE, clock};
use tokio::runtime::Handle;

use crate::adhoc::{AdHoc, Served};
use crate::admit::{Admission, admit};
use crate::cache::Cache;
use crate::declared::{self, Answers};
use crate::openapi;
use crate::page;
use crate::sql;
use crate::stream::{self, Streams};

/// Rows in one answer, if nothing is said and at most.
const ROWS: usize = 100;
pub const ROWS_MAX: usize = 10_000;

/// How long the database may take to answer before it is told as down.
const STATUS_PATIENCE: Duration = Duration::from_secs(3);

/// What computes beside the threads that listen, so that these always can.
pub struct Threads {
    /// Endpoints and gauges, whose queries may compute for long without looking up.
    pub answers: Handle,
    /// Rows of tables for ad-hoc queries.
    pub scans: Handle,
}

/// What every answer draws from.
pub struct Shared {
    store: Arc<dyn Store>,
    views: Vec<PlannedView>,
    answers: Answers,
    cache: Arc<Cache>,
    gauges: Arc<[Gauge]>,
    registry: Registry,
    seconds: HistogramVec,
    /// Whether whoever asks whether it lives hears why not: where there is a token, they need none.
    tells: bool,
}

/// What answers, and what must be told of the end.
pub struct Doors {
    /// HTTP.
    pub router: Router,
    /// Ad-hoc queries, which another protocol asks as well.
    pub adhoc: Arc<AdHoc>,
    /// Those who listen.
    pub streams: Arc<Streams>,
}

/// The routes over a store.
pub fn router(
    store: Arc<dyn Store>,
    catalog: Catalog,
    settings: &Settings,
    threads: &Threads,
) -> Result<Doors, String> {
    let registry = Registry::new();
    let add = Registrar(&registry);
    let seconds = add.histogram(&names::API_SECONDS).map_err(|error| error.to_string())?;
    let build = add.gauge(&names::API_BUILD_INFO).map_err(|error| error.to_string())?;
    build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    let tables: Vec<Table> = catalog.views.iter().map(|view| view.table.clone()).collect();
    let served = Served::new(&catalog, settings)?;
    let adhoc = AdHoc::start(store.clone(), served, settings.adhoc.clone(), &registry, threads.scans.clone());
    let adhoc = adhoc.map_err(|error| error.to_string())?;
    let answers = Answers::new(Asker::new(store.clone(), tables), threads.answers.clone());
    let cache = Cache::new(store.clone(), &registry).map_err(|error| error.to_string())?;
    let endpoints = declared::routes(&answers, &cache, &catalog.endpoints);
    let openapi = openapi::routes(&catalog, settings)?;
    let (views, gauges) = (catalog.views, catalog.gauges.into());
    let streams = Streams::new(store.clone(), &views);
    let tells = settings.api.token.is_empty();
    let shared = Arc::new(Shared { store, views, answers, cache, gauges, registry, seconds, tells });
    let router = Router::new()
        .merge(page::routes())
        .merge(openapi)
        .merge(endpoints)
        .merge(sql::routes(adhoc.clone()))
        .merge(stream::routes(streams.clone()))
        .route("/health", get(health))
        .route("/readyz", get(readyz))
        .route("/prometheus", get(metrics))
        .route("/api/v1/queries", get(queries))
        .route("/api/v1/queries/{name}/rows", get(rows))
        .route("/api/v1/dead-letters", get(dead_letters))
        .fallback(|| async {
            problem(
                StatusCode::NOT_FOUND,
                "TG-API-PATH",
                "there is no such path",
                Some("GET /api/v1/queries lists the views"),
            )
        })
        .method_not_allowed_fallback(|| async {
            problem(StatusCode::METHOD_NOT_ALLOWED, "TG-API-METHOD", "this method is not answered here", None)
        })
        .layer(middleware::from_fn_with_state(Admission::new(&settings.api), admit))
        .layer(middleware::from_fn_with_state(shared.clone(), observed))
        .with_state(shared);
    Ok(Doors { router, adhoc, streams })
}

async fn observed(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_string();
    let started = Instant::now();
    let response = next.run(request).await;
    let status = response.status().as_u16().to_string();
    shared.seconds.with_label_values(&[path.as_str(), status.as_str()]).observe(started.elapsed().as_secs_f64());
    response
}

/// An error as RFC 9457 has it.
pub fn problem(status: StatusCode, code: &str, detail: &str, hint: Option<&str>) -> Response {
    problem_of(status, &problem_body(status, code, detail, hint))
}

/// What such an error says; more members may be added to it.
pub fn problem_body(status: StatusCode, code: &str, detail: &str, hint: Option<&str>) -> Value {
    json!({
        "type": "about:blank", "title": status.canonical_reason(), "status": status.as_u16(),
        "code": code, "detail": detail, "hint": hint,
    })
}

/// The answer that says so.
pub fn problem_of(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
}

/// An error of the engine as RFC 9457 has it.
pub fn failed(error: &Error) -> Response {
    let status =
        if error.kind == Kind::Wait { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::INTERNAL_SERVER_ERROR };
    problem(status, error.code, &error.message, error.hint.as_deref())
}

fn answered(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

fn time(us: i64) -> Value {
    if us == NONE { Value::Null } else { Value::String(clock::rfc3339(us)) }
}

// Whoever asks a thousand times a second whether it lives costs the database one look for all of them.

async fn health(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    shared.cache.answer("health".to_string(), &headers, || lives(&shared)).await
}

async fn lives(shared: &Shared) -> Response {
    match shared.store.status().await {
        Ok(_) => answered(StatusCode::OK, &json!({"ok": true})),
        Err(error) if shared.tells => {
            answered(StatusCode::SERVICE_UNAVAILABLE, &json!({"ok": false, "error": error.to_string()}))
        }
        Err(error) => answered(StatusCode::SERVICE_UNAVAILABLE, &json!({"ok": false, "error": error.code})),
    }
}

async fn readyz(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    shared.cache.answer("readyz".to_string(), &headers, || is_ready(&shared)).await
}

async fn is_ready(shared: &Shared) -> Response {
    let waiting: Vec<String> = match shared.store.status().await {
        Err(error) if shared.tells => vec![error.to_string()],
        Err(error) => vec![error.code.to_string()],
        Ok(status) => {
            let begun = |view: &&PlannedView| !status.views.iter().any(|v| v.view == view.name);
            let told = |view: &PlannedView| match shared.tells {
                true => format!("view {} has not begun", view.name),
                false => "a view has not begun".to_string(),
            };
            shared.views.iter().filter(begun).map(told).collect()
        }
    };
    let code = if waiting.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    answered(code, &json!({"ready": waiting.is_empty(), "waiting": waiting}))
}

/// Our own metrics as they are now, and the declared ones as of the newest commit.
async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let declared = shared.cache.answer("gauges".to_string(), &HeaderMap::new(), || gauges(&shared)).await;
    if !declared.status().is_success() {
        return declared;
    }
    let declared = axum::body::to_bytes(declared.into_body(), usize::MAX).await.map_err(|error| error.to_string());
    let mut text = Vec::new();
    let encoded = TextEncoder::new().encode(&shared.registry.gather(), &mut text).map_err(|error| error.to_string());
    match encoded.and(declared) {
        Ok(declared) => {
            text.extend(declared);
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
        }
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, "TG-INTERNAL", &error, None),
    }
}

async fn gauges(shared: &Shared) -> Response {
    let status = tokio::time::timeout(STATUS_PATIENCE, shared.store.status()).await;
    let db_ok = status.is_ok_and(|status| status.is_ok());
    let mut text = Vec::new();
    let declared = declared::gauges(&shared.answers, &shared.gauges, db_ok).await;
    match declared.and_then(|declared| TextEncoder::new().encode(&declared, &mut text)) {
        Ok(()) => text.into_response(),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, "TG-INTERNAL", &error.to_string(), None),
    }
}

async fn queries(State(shared): State<Arc<Shared>>) -> Response {
    let status = match shared.store.status().await {
        Ok(status) => status,
        Err(error) => return failed(&error),
    };
    let view = |plan: &PlannedView| {
        let columns: Vec<Value> = plan
            .table
            .columns
            .iter()
            .map(|c| json!({"name": c.name, "type": c.data_type.to_string(), "key": c.key_of.is_some()}))
            .collect();
        let progress = status.views.iter().find(|v| v.view == plan.name).map(|v| {
            json!({
                "closed_until": time(v.closed_until), "decoded": v.counts.decoded, "filtered": v.counts.filtered,
                "accepted": v.counts.accepted, "late": v.counts.late, "failed": v.counts.failed,
            })
        });
        json!({"name": plan.name, "source": plan.source, "what": plan.summary(), "columns": columns, "progress": progress})
    };
    let views: Vec<Value> = shared.views.iter().map(view).collect();
    answered(StatusCode::OK, &json!({"queries": views}))
}

/// What may follow `?`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    limit: Option<usize>,
}

type Asked = Result<Query<Page>, QueryRejection>;

/// How many rows are wanted, or what is wrong with the question.
fn limit(asked: Asked) -> Result<usize, String> {
    let Query(page) = asked.map_err(|error| error.body_text())?;
    match page.limit.unwrap_or(ROWS) {
        limit @ 1..=ROWS_MAX => Ok(limit),
        other => Err(format!("limit={other} is not possible")),
    }
}

fn wrong_parameter(why: &str) -> Response {
    let hint = format!("write ?limit=N with N from 1 to {ROWS_MAX}");
    problem(StatusCode::BAD_REQUEST, "TG-API-PARAMETER", why, Some(&hint))
}

async fn rows(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    asked: Asked,
) -> Response {
    let limit = match limit(asked) {
        Ok(limit) => limit,
        Err(why) => return wrong_parameter(&why),
    };
    let Some(view) = shared.views.iter().find(|view| view.name == name) else {
        let names: Vec<&str> = shared.views.iter().map(|view| view.name.as_str()).collect();
        let hint = format!("there are: {}", names.join(", "));
        return problem(StatusCode::NOT_FOUND, "TG-VIEW", &format!("there is no view {name}"), Some(&hint));
    };
    let question = format!("rows of {name}, {limit}");
    shared.cache.answer(question, &headers, || newest(&shared.store, &view.table, limit)).await
}

async fn newest(store: &Arc<dyn Store>, table: &Table, limit: usize) -> Response {
    let rows = store.rows(table, Some(limit)).await;
    match rows.and_then(|rows| Ok((show::json(&rows)?, rows.num_rows()))) {
        Err(error) => failed(&error),
        Ok((text, count)) => {
            // The rows are JSON already; parsing them again would cost decimals their digits.
            let mut body = format!("{{\"row_count\":{count},\"rows\":").into_bytes();
            body.extend(text);
            body.push(b'}');
            (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], body).into_response()
        }
    }
}

async fn dead_letters(State(shared): State<Arc<Shared>>, asked: Asked) -> Response {
    let limit = match limit(asked) {
        Ok(limit) => limit,
        Err(why) => return wrong_parameter(&why),
    };
    match shared.store.dead_letters(limit).await {
        Err(error) => failed(&error),
        Ok(letters) => {
            let letters: Vec<Value> = letters
                .iter()
                .map(|l| {
                    json!({
                        "pipeline": l.pipeline, "view": l.view, "topic": l.topic, "partition": l.partition, "offset": l.offset,
                        "reason": l.reason, "count": l.count, "detail": l.detail, "recorded_at": time(l.recorded_at),
                        "payload": l.payload.as_deref().map(String::from_utf8_lossy),
                    })
                })
                .collect();
            answered(StatusCode::OK, &json!({"dead_letters": letters}))
        }
    }
}
