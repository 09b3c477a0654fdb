//! `/api/v1/sql`: ad-hoc SQL over HTTP.
//!
//! ```text
//!  POST   /api/v1/sql        {"sql", "params", "format", "limit", "timeout_ms"}, or the text alone
//!  GET    /api/v1/sql?sql=   the same, with format, limit and timeout_ms
//!  DELETE /api/v1/sql/{id}   cancels; the id is in the header of the answer, or was sent with the question
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use futures::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_engine::sql::guard::{Given, Parameters};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::adhoc::format::{self, EXACT_DIGITS, Format};
use crate::adhoc::wire::{Blame, Told};
use crate::adhoc::{AdHoc, Answer, Request};
use crate::router::{problem, problem_body, problem_of};

/// The longest body: a text of the longest query as JSON, and parameters.
const BODY_MAX: usize = 1 << 20;

/// How much of a longer one is read.
const DRAINED_MAX: usize = 16 << 20;
/// How long it may take to come.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

/// Names the query: in an answer, and in a question by whoever wants to cancel it.
static QUERY_ID: HeaderName = HeaderName::from_static("x-tidegate-query-id");
/// Whether there were more rows than wanted, where the form of the answer has no place for it.
static TRUNCATED: HeaderName = HeaderName::from_static("x-tidegate-truncated");

/// The routes.
pub fn routes<S: Clone + Send + Sync + 'static>(adhoc: Arc<AdHoc>) -> Router<S> {
    Router::new()
        .route("/api/v1/sql", get(get_sql).post(post_sql))
        .route("/api/v1/sql/{id}", delete(cancel))
        .with_state(adhoc)
}

/// A question as JSON, or as what follows `?`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    #[serde(default)]
    sql: String,
    params: Option<Value>,
    format: Option<String>,
    limit: Option<usize>,
    timeout_ms: Option<u64>,
}

type Options = Result<Query<Question>, QueryRejection>;

fn wrong(why: impl Into<String>, hint: &str) -> Told {
    Told::new(Blame::Query, "TG-API-PARAMETER", why).hint(hint)
}

const HINT: &str = "there are sql, params, format, limit and timeout_ms";

fn options(asked: Options) -> Result<Question, Told> {
    let Query(question) = asked.map_err(|error| wrong(error.body_text(), HINT))?;
    if question.params.is_some() {
        return Err(wrong("params cannot follow ?", "send them by POST, as JSON"));
    }
    Ok(question)
}

async fn get_sql(State(adhoc): State<Arc<AdHoc>>, headers: HeaderMap, asked: Options) -> Response {
    let question = options(asked).and_then(|question| {
        if question.sql.is_empty() { Err(wrong("sql is missing", "write ?sql=SELECT…")) } else { Ok(question) }
    });
    answered(&adhoc, &headers, question).await
}

async fn post_sql(State(adhoc): State<Arc<AdHoc>>, headers: HeaderMap, asked: Options, body: Body) -> Response {
    let question = match options(asked) {
        Ok(options) => whole(body).await.and_then(|body| posted(options, &headers, &body)),
        Err(why) => Err(why),
    };
    answered(&adhoc, &headers, question).await
}

/// A body, if it comes in time and is not too long. What is too long is read a while and let go, so that its sender hears
/// the answer.
async fn whole(body: Body) -> Result<Vec<u8>, Told> {
    let read = async {
        let (mut whole, mut length, mut parts) = (Vec::new(), 0, body.into_data_stream());
        while let Some(part) = parts.next().await {
            let part = part.map_err(|error| wrong(error.to_string(), "send the whole body"))?;
            length += part.len();
            if length <= BODY_MAX {
                whole.extend(part);
            } else if length > DRAINED_MAX {
                break;
            }
        }
        if length <= BODY_MAX {
            return Ok(whole);
        }
        Err(Told::new(Blame::Query, "TG-QUERY-TEXT", format!("the body has more than {BODY_MAX} bytes")))
    };
    tokio::time::timeout(BODY_PATIENCE, read).await.unwrap_or_else(|_| {
        let why = format!("the body did not come within {BODY_PATIENCE:?}");
        Err(Told::new(Blame::Query, "TG-API-SLOW", why).hint("send it at once"))
    })
}

/// A question in a body, with what follows `?` where it is the text alone.
fn posted(options: Question, headers: &HeaderMap, body: &[u8]) -> Result<Question, Told> {
    if headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(Told::new(Blame::Query, "TG-API-MEDIA", "a compressed body is not read").hint("send it as it is"));
    }
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let media = text(header::CONTENT_TYPE).unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match media.as_str() {
        "application/json" => {
            if !options.sql.is_empty()
                || options.format.is_some()
                || options.limit.is_some()
                || options.timeout_ms.is_some()
            {
                return Err(wrong("what follows ? belongs into the JSON", HINT));
            }
            let question = serde_json::from_slice::<Question>(body).map_err(|error| wrong(error.to_string(), HINT))?;
            if question.sql.is_empty() { Err(wrong("sql is missing", HINT)) } else { Ok(question) }
        }
        // What curl says when nobody tells it otherwise is taken for the text that it is.
        "" | "text/plain" | "application/sql" | "application/x-www-form-urlencoded" => {
            if !options.sql.is_empty() {
                return Err(wrong("there is a query behind ? and one in the body", "send one of them"));
            }
            let sql = String::from_utf8(body.to_vec()).map_err(|_| wrong("the body is no UTF-8", "send UTF-8"))?;
            Ok(Question { sql, ..options })
        }
        other => {
            let why = format!("a body of type {other} is not read");
            Err(Told::new(Blame::Query, "TG-API-MEDIA", why).hint("send application/json or text/plain"))
        }
    }
}

/// Values by name: a list gives `$1`, `$2` and so on.
fn parameters(params: Option<Value>) -> Result<Parameters, Told> {
    let pairs: Vec<(String, Value)> = match params {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(values)) => (1..).map(|n: usize| n.to_string()).zip(values).collect(),
        Some(Value::Object(values)) => values.into_iter().collect(),
        Some(_) => return Err(wrong("params is neither a list nor an object", "send [1, \"a\"] or {\"name\": 1}")),
    };
    let given = |value: Value| match value {
        Value::Null => Some(Given::Null),
        Value::Bool(value) => Some(Given::Boolean(value)),
        // Digits beyond these have been lost when the body was read.
        Value::Number(value) if value.is_f64() && digits(&value) > EXACT_DIGITS => None,
        Value::Number(value) => Some(Given::Number(value.to_string())),
        Value::String(value) if !value.contains('\0') => Some(Given::Text(value)),
        _ => None,
    };
    let mut parameters = Parameters::new();
    for (name, value) in pairs {
        let Some(value) = given(value) else {
            let hint = "send a text without NUL, a number of at most 15 digits (others as texts), true, false or null";
            return Err(wrong(format!("params: {name} is no plain value"), hint));
        };
        parameters.insert(name, value);
    }
    Ok(parameters)
}

/// How many digits a number has.
fn digits(number: &serde_json::Number) -> usize {
    let text = number.to_string();
    text.split('e').next().unwrap_or_default().trim_end_matches(".0").bytes().filter(u8::is_ascii_digit).count()
}

async fn answered(adhoc: &Arc<AdHoc>, headers: &HeaderMap, question: Result<Question, Told>) -> Response {
    let asked = headers.get(&QUERY_ID).map(|id| id.to_str().ok().and_then(|id| Uuid::parse_str(id).ok()));
    let id = asked.flatten().unwrap_or_else(Uuid::new_v4);
    let response = match question {
        _ if asked == Some(None) => {
            refused(&wrong("the query's id is no UUID", "leave it out, or send a new UUID"), id)
        }
        Err(why) => refused(&why, id),
        Ok(question) => answer(adhoc, headers, question, id).await.unwrap_or_else(|why| refused(&why, id)),
    };
    let mut response = response;
    if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
        response.headers_mut().insert(QUERY_ID.clone(), value);
    }
    response
}

async fn answer(adhoc: &Arc<AdHoc>, headers: &HeaderMap, question: Question, id: Uuid) -> Result<Response, Told> {
    let format = match &question.format {
        Some(name) => Format::named(name)?,
        None => Format::accepted(headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default()),
    };
    let parameters = parameters(question.params)?;
    let asked_limit = question.limit.is_some();
    let request = Request { sql: question.sql, parameters, limit: question.limit, timeout_ms: question.timeout_ms };
    let mut answer = adhoc.ask(id, request).await?;
    format.check(&answer.schema)?;
    let media = [(header::CONTENT_TYPE, format.media())];
    if format == Format::JsonLines {
        return Ok((media, lines(answer, asked_limit)).into_response());
    }
    let batches = answer.all().await?;
    let (schema, bytes_max) = (answer.schema.clone(), answer.bytes_max());
    // Writing tens of megabytes would hold up other answers.
    let written = tokio::task::spawn_blocking(move || {
        let count: usize = batches.iter().map(arrow::array::RecordBatch::num_rows).sum();
        format::whole(format, &schema, &batches, bytes_max).map(|text| (text, count))
    });
    let (text, count) = written.await.map_err(|error| Told::new(Blame::Us, "TG-INTERNAL", error.to_string()))??;
    if format != Format::Json {
        let truncated = HeaderValue::from_static(if answer.truncated { "true" } else { "false" });
        return Ok((media, [(TRUNCATED.clone(), truncated)], text).into_response());
    }
    let elapsed = answer.started.elapsed();
    let head = json!({"query_id": id.to_string(), "columns": format::columns(&answer.schema)}).to_string();
    let tail = json!({
        "row_count": count, "truncated": answer.truncated, "stats": {"elapsed_ms": milliseconds(elapsed)},
    });
    let head = head.trim_end_matches('}');
    let body =
        [head.as_bytes(), b",\"rows\":", &text, b",", tail.to_string().trim_start_matches('{').as_bytes()].concat();
    Ok((media, body).into_response())
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1_000_000.0).round() / 1_000.0
}

/// Lines as they come. What goes wrong on the way, or stays behind, is told in the last one. A client that does not read
/// them in time has its answer cut off: it may not hold a worker for as long as it likes.
fn lines(mut answer: Answer, asked_limit: bool) -> Body {
    let (lines, mut sent) = mpsc::channel::<Bytes>(2);
    let whole = Arc::new(AtomicBool::new(false));
    let ended = whole.clone();
    tokio::spawn(async move {
        let mut left = answer.bytes_max();
        loop {
            let next = tokio::select! {
                next = answer.next() => next,
                () = lines.closed() => return,
            };
            let line = match next {
                Ok(Some(batch)) => {
                    let written = format::whole(Format::JsonLines, &answer.schema, &[batch], left);
                    left -= written.as_ref().map_or(0, Vec::len);
                    written.map(|line| Some(Bytes::from(line)))
                }
                Ok(None) if answer.truncated && !asked_limit => {
                    let why = format!("the answer has more than {} rows", answer.rows_max());
                    let told = Told::new(Blame::Query, "TG-QUERY-ROWS", why);
                    Err(told.hint("ask for fewer with limit, or narrow the query"))
                }
                Ok(None) => Ok(None),
                Err(why) => Err(why),
            };
            let (line, last) = match line {
                Ok(Some(line)) => (line, false),
                Ok(None) => break,
                Err(why) => (Bytes::from(format!("{}\n", json!({"error": body(&why, None)}))), true),
            };
            // Its time may be over while there is room for the line that says so.
            let sent = tokio::select! {
                biased;
                sent = lines.send(line) => sent.is_ok(),
                () = answer.over() => false,
            };
            if !sent {
                return;
            }
            if last {
                break;
            }
        }
        ended.store(true, Ordering::Relaxed);
    });
    let mut cut = false;
    let stream = futures::stream::poll_fn(move |context| {
        sent.poll_recv(context).map(|line| match line {
            Some(line) => Some(Ok(line)),
            None if whole.load(Ordering::Relaxed) || cut => None,
            None => {
                cut = true;
                Some(Err(std::io::Error::other("the client did not read its answer in time")))
            }
        })
    });
    Body::from_stream(stream)
}

/// What an error says.
fn body(why: &Told, id: Option<Uuid>) -> Value {
    let mut body = problem_body(status(why), &why.code, &why.message, why.hint.as_deref());
    if let Some((line, column)) = why.place {
        body["line"] = line.into();
        body["column"] = column.into();
    }
    if let Some(id) = id {
        body["query_id"] = id.to_string().into();
    }
    body
}

fn status(why: &Told) -> StatusCode {
    match why.code.as_str() {
        "TG-QUERY-READ-ONLY" => StatusCode::FORBIDDEN,
        "TG-QUERY-TEXT" => StatusCode::PAYLOAD_TOO_LARGE,
        "TG-QUERY-TIMEOUT" => StatusCode::GATEWAY_TIMEOUT,
        "TG-QUERY-CANCELLED" | "TG-QUERY-ID" => StatusCode::CONFLICT,
        "TG-QUERY-BUSY" => StatusCode::TOO_MANY_REQUESTS,
        "TG-API-SLOW" => StatusCode::REQUEST_TIMEOUT,
        "TG-API-MEDIA" => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        _ => match why.blame {
            Blame::Query => StatusCode::BAD_REQUEST,
            Blame::Wait => StatusCode::SERVICE_UNAVAILABLE,
            Blame::Us => StatusCode::INTERNAL_SERVER_ERROR,
        },
    }
}

fn refused(why: &Told, id: Uuid) -> Response {
    if why.blame == Blame::Us {
        tracing::error!("query {id}: {}: {}", why.code, why.message);
    }
    let mut response = problem_of(status(why), &body(why, Some(id)));
    if why.blame == Blame::Wait {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

async fn cancel(State(adhoc): State<Arc<AdHoc>>, Path(id): Path<String>) -> Response {
    let id = match Uuid::parse_str(&id) {
        Ok(id) => id,
        Err(_) => return refused(&wrong("the query's id is no UUID", "take it from x-tidegate-query-id"), Uuid::nil()),
    };
    if adhoc.cancel(id) {
        return StatusCode::NO_CONTENT.into_response();
    }
    problem(StatusCode::NOT_FOUND, "TG-QUERY-ID", &format!("there is no query {id}"), Some("it may have ended"))
}
