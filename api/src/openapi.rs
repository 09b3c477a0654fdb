//! `GET /api/openapi.json`: what may be asked and what comes back, for programs and for the page at `/api`.
//!
//! What is declared in `queries/` is in it with its types, bounds and columns. `schemathesis` holds it against a running api
//! (`tests/real/reference.rs`).

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema as Columns};
use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use serde_json::json;
use tidegate_engine::settings::Settings;
use tidegate_engine::sql::Catalog;
use tidegate_engine::sql::endpoint::{Endpoint, Parameter as Declared};
use tidegate_engine::sql::planned::Table;
use utoipa::openapi::path::{HttpMethod, Operation, OperationBuilder, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::schema::{
    AdditionalProperties, ComponentsBuilder, KnownFormat, Object, ObjectBuilder, SchemaFormat, SchemaType, Type,
};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    ArrayBuilder, Content, InfoBuilder, OpenApi, OpenApiBuilder, Paths, Ref, RefOr, Required, Response,
    ResponseBuilder, Schema,
};

use crate::adhoc::format::Format;
use crate::cache::is_known;
use crate::router::ROWS_MAX;

/// Where it is.
pub const PATH: &str = "/api/openapi.json";

const ADHOC: &str = "ad-hoc SQL";
const VIEWS: &str = "views";
const ENDPOINTS: &str = "endpoints";
const OPERATING: &str = "operating";
/// What is said of each of them.
const TAGS: [(&str, &str); 4] = [
    (ADHOC, "Any question over sources, views and Tidegate's own tables, within limits."),
    (VIEWS, "The views that are declared, their newest rows, and what was not taken in."),
    (ENDPOINTS, "What is declared with CREATE ENDPOINT."),
    (OPERATING, "For whoever keeps it running."),
];

const BEARER: &str = "token";

/// What the codes of refusals mean that any path may give.
const STATUSES: [(u16, &str); 13] = [
    (400, "The question is not possible as it stands: `code`, `detail` and `hint` say why and what to do."),
    (401, "The api's token is missing or wrong."),
    (403, "Addressed by a foreign name, asked by a page of another origin, or a query that would change something."),
    (404, "There is none of this name."),
    (406, "The rows cannot be written in this form."),
    (408, "The body did not come in time."),
    (409, "Cancelled, or another query has this id."),
    (413, "The text is too long."),
    (415, "A body of this type is not read."),
    (429, "As many queries run and wait as may."),
    (500, "It reads or gives more than it may, or a fault of ours."),
    (503, "The database, or a worker, is not there. `Retry-After` says when to ask again."),
    (504, "No answer in time."),
];

/// The document as text, and the route to it.
pub fn routes<S: Clone + Send + Sync + 'static>(catalog: &Catalog, settings: &Settings) -> Result<Router<S>, String> {
    let text: Arc<str> = document(catalog, settings).to_json().map_err(|error| error.to_string())?.into();
    let tag = format!("\"{}\"", &blake3::hash(text.as_bytes()).to_hex()[..32]);
    let answer = move |headers: HeaderMap| {
        let known = is_known(&tag, &headers);
        let head = [(header::CACHE_CONTROL, "no-cache".to_string()), (header::ETAG, tag.clone())];
        let response = match known {
            true => (StatusCode::NOT_MODIFIED, head).into_response(),
            false => (head, [(header::CONTENT_TYPE, "application/json")], text.to_string()).into_response(),
        };
        std::future::ready(response)
    };
    Ok(Router::new().route(PATH, get(answer)))
}

/// The document of what is declared.
pub fn document(catalog: &Catalog, settings: &Settings) -> OpenApi {
    let has_token = !settings.api.token.is_empty();
    let tables: Vec<&Table> = catalog.views.iter().map(|view| &view.table).collect();
    let views: Vec<&str> = catalog.views.iter().map(|view| view.name.as_str()).collect();
    let (mut paths, mut taken) = (Paths::new(), HashSet::new());
    for asked in fixed(&views, settings).into_iter().chain(catalog.endpoints.iter().map(|e| declared(e, &tables))) {
        let guarded = has_token && !asked.open;
        let security = guarded.then(|| [SecurityRequirement::new::<_, _, &str>(BEARER, [])]);
        let mut operation: Operation = asked.operation.securities(security).build();
        // Paths that differ in a sign alone would share a name.
        if let Some(id) = &mut operation.operation_id {
            while !taken.insert(id.clone()) {
                id.push_str("_2");
            }
        }
        let admitted: &[u16] = if asked.open { &[] } else { &[403] };
        let known: &[u16] = if guarded { &[401] } else { &[] };
        for status in asked.refusals.iter().chain(admitted).chain(known) {
            operation.responses.responses.insert(status.to_string(), refusal(*status));
        }
        paths.add_path_operation(asked.path, vec![asked.method], operation);
    }
    let mut components = schemas();
    if has_token {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("The token of `api.token`."));
        components = components.security_scheme(BEARER, SecurityScheme::Http(scheme.build()));
    }
    let about =
        "Minute windows and other views over Kafka topics, as they stand in the database; and any question over them.";
    let info = InfoBuilder::new().title("Tidegate").version(env!("CARGO_PKG_VERSION")).description(Some(about));
    let tags = TAGS.map(|(name, what)| TagBuilder::new().name(name).description(Some(what)).build());
    OpenApiBuilder::new().info(info.build()).paths(paths).components(Some(components.build())).tags(Some(tags)).build()
}

/// One way to ask.
struct Asked {
    method: HttpMethod,
    path: String,
    operation: OperationBuilder,
    /// Statuses of problem documents.
    refusals: &'static [u16],
    /// Whether it is answered without the token, and for whoever asks.
    open: bool,
}

fn ask(tag: &str, id: &str, summary: &str, description: &str) -> OperationBuilder {
    let operation = OperationBuilder::new().tag(tag).operation_id(Some(id)).summary(Some(summary));
    operation.description(Some(description))
}

/// What there is without anything being declared.
fn fixed(views: &[&str], settings: &Settings) -> Vec<Asked> {
    let of = |method, path: &str, operation, refusals| Asked {
        method,
        path: path.to_string(),
        operation,
        refusals,
        open: false,
    };
    let open = |path: &str, operation| Asked { open: true, ..of(HttpMethod::Get, path, operation, &[]) };
    let query: &[u16] = &[400, 408, 409, 413, 415, 429, 500, 503, 504];
    let sql = "The sources (their recent rows and archive), the views and `tidegate.progress`, `.windows`, `.queries`, \
               `.dead_letters` are tables. A query only reads. The form of the answer is that of `format`, or of `Accept`.";
    let limits = format!(
        "It may take {} ms, give {} rows and {} MiB; {} run at a time.",
        settings.adhoc.timeout_ms,
        settings.adhoc.rows_max,
        settings.adhoc.bytes_max >> 20,
        settings.adhoc.running,
    );
    let sql = format!("{sql} {limits}");
    let view = || {
        parameter("name", ParameterIn::Path, "The view.", string("A view.").enum_values(Some(views.iter().copied())))
    };
    let newest = |what: &str| {
        let limit = bounded(1, ROWS_MAX as i64).default(Some(json!(100)));
        parameter("limit", ParameterIn::Query, what, limit)
    };
    let ok = flag("Whether the database answers.");
    let health = ObjectBuilder::new().property("ok", ok).property("error", string("Why not.")).required("ok").build();
    let ready = record(vec![
        ("ready", flag("Whether the database answers and every view has begun.").into()),
        ("waiting", list(string("What is waited for."))),
    ]);
    vec![
        of(
            HttpMethod::Get,
            "/api/v1/sql",
            ask(ADHOC, "getSql", "Ask a query", &sql)
                .parameter(needed(parameter(
                    "sql",
                    ParameterIn::Query,
                    "The query.",
                    string("SQL.").min_length(Some(1)).examples(["SELECT 1 AS one"]),
                )))
                .parameters(Some(options(settings)))
                .parameter(query_id())
                .response("200", rows_answer()),
            query,
        ),
        of(
            HttpMethod::Post,
            "/api/v1/sql",
            ask(ADHOC, "postSql", "Ask a query, with parameters", &sql)
                .parameter(query_id())
                .request_body(Some(question(settings)))
                .response("200", rows_answer()),
            query,
        ),
        of(
            HttpMethod::Delete,
            "/api/v1/sql/{id}",
            ask(ADHOC, "cancelSql", "Cancel a query", "Whoever asked it is told so.")
                .parameter(parameter("id", ParameterIn::Path, "The query's id.", uuid()))
                .response("204", Response::new("It is cancelled.")),
            &[400, 404],
        ),
        of(
            HttpMethod::Get,
            "/api/v1/queries",
            ask(VIEWS, "getQueries", "The views", "Columns, windows, what is final, and where records went.")
                .response("200", said("The views.", component("Queries"))),
            &[500, 503],
        ),
        of(
            HttpMethod::Get,
            "/api/v1/queries/{name}/rows",
            kept(ask(VIEWS, "getRows", "A view's newest rows", "In the order of its key, the newest last."))
                .parameter(view())
                .parameter(newest("How many."))
                .response("200", said("The rows.", component("Rows"))),
            &[400, 404, 500, 503],
        ),
        of(
            HttpMethod::Get,
            "/api/v1/queries/{name}/stream",
            ask(
                VIEWS,
                "getStream",
                "A view's rows as they change",
                "Server-sent events, until somebody ends them: first the newest rows, then those that commits change.",
            )
            .parameter(view())
            .response(
                "200",
                ResponseBuilder::new()
                    .description("Events named `rows`.")
                    .content("text/event-stream", Content::new(Some(string("Events.")))),
            ),
            &[404, 503],
        ),
        of(
            HttpMethod::Get,
            "/api/v1/dead-letters",
            ask(
                VIEWS,
                "getDeadLetters",
                "The newest dead letters",
                "What was rejected or late: where it is in Kafka, why, and what it said.",
            )
            .parameter(newest("How many."))
            .response("200", said("The dead letters.", component("DeadLetters"))),
            &[400, 500, 503],
        ),
        open(
            "/health",
            ask(OPERATING, "getHealth", "Whether it lives", "Whether the database answers.")
                .response("200", said("It does.", health.clone()))
                .response("503", said("It does not.", health)),
        ),
        open(
            "/readyz",
            ask(OPERATING, "getReady", "Whether it is ready", "Whether every declared view has begun.")
                .response("200", said("All have.", ready.clone()))
                .response("503", said("Not yet.", ready)),
        ),
        of(
            HttpMethod::Get,
            "/prometheus",
            ask(OPERATING, "getMetrics", "Metrics", "The api's own, and those that are declared with CREATE GAUGE.")
                .response(
                    "200",
                    ResponseBuilder::new()
                        .description("In the format that Prometheus reads.")
                        .content("text/plain", Content::new(Some(string("Metrics.")))),
                ),
            &[500],
        ),
        of(
            HttpMethod::Get,
            PATH,
            ask(OPERATING, "getOpenApi", "This document", "OpenAPI 3.1.")
                .response("200", said("The document.", ObjectBuilder::new()))
                .response("304", Response::new("Whoever asks has it.")),
            &[],
        ),
    ]
}

/// A declared endpoint.
fn declared(endpoint: &Endpoint, tables: &[&Table]) -> Asked {
    let path = &endpoint.path;
    let id = path.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    // It has been planned before; what could not be would have no types here.
    let (fields, rows) = endpoint.columns(tables).unwrap_or((Columns::empty(), Columns::empty()));
    let mut answer: Vec<(&str, RefOr<Schema>)> = Vec::new();
    for ((name, _), field) in endpoint.fields.iter().zip(fields.fields()) {
        answer.push((name, value(field)));
    }
    let row = record(rows.fields().iter().map(|field| (field.name().as_str(), value(field))).collect());
    answer.push(("rows", list(row)));
    let response = forms(ResponseBuilder::new().description("The rows, as of the newest commit."), record(answer));
    let parameters: Vec<Parameter> = endpoint.parameters.iter().map(asked_for).collect();
    let what = "Declared with CREATE ENDPOINT. `Accept` chooses the form; every form but JSON has the rows alone.";
    let operation = kept(ask(ENDPOINTS, &format!("get{id}"), &format!("The rows of {path}"), what));
    let operation = operation.parameters(Some(parameters)).response("200", response);
    let refusals = &[400, 406, 500, 503, 504];
    Asked { method: HttpMethod::Get, path: path.clone(), operation, refusals, open: false }
}

/// A declared parameter.
fn asked_for(declared: &Declared) -> Parameter {
    let data_type = declared.data_type();
    let typed = |text: &str| match data_type {
        DataType::Boolean => json!(text == "true"),
        _ if is_text(&data_type) => json!(text),
        _ => serde_json::from_str(text).unwrap_or_else(|_| json!(text)),
    };
    let mut schema = of_type(&data_type);
    if let Some((least, greatest)) = &declared.between {
        let number = |text: &str| text.parse::<f64>().ok();
        schema = match (least.parse::<isize>(), greatest.parse::<isize>()) {
            (Ok(least), Ok(greatest)) => schema.minimum(Some(least)).maximum(Some(greatest)),
            _ => schema.minimum(number(least)).maximum(number(greatest)),
        };
    }
    if !declared.choices.is_empty() {
        schema = schema.enum_values(Some(declared.choices.iter().map(|choice| typed(choice))));
    }
    if let Some(Some(default)) = &declared.default {
        schema = schema.default(Some(typed(default)));
    }
    // Its schema says all that is known of it.
    let asked = parameter(&declared.name, ParameterIn::Query, "", schema);
    if declared.default.is_none() { needed(asked) } else { asked }
}

/// The greatest number that is rounded to one of 32 bits.
const FLOAT_MAX: f64 = 340_282_356_779_733_661_637_539_395_458_142_568_448.0;

/// A value of a column in JSON.
fn value(field: &Arc<Field>) -> RefOr<Schema> {
    let mut schema: Object = match field.data_type() {
        // As exact as they are.
        DataType::Decimal128(..) | DataType::Decimal256(..) | DataType::Float32 => {
            ObjectBuilder::new().schema_type(Type::Number).build()
        }
        DataType::Timestamp(_, None) => string("A time of no zone.").build(),
        DataType::Timestamp(_, Some(_)) => {
            string("A time.").format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime))).build()
        }
        other => of_type(other).build(),
    };
    if let SchemaType::Type(one) = schema.schema_type {
        schema.schema_type = SchemaType::Array(vec![one, Type::Null]);
    }
    schema.into()
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// Values of a type, with the bounds that it has.
fn of_type(data_type: &DataType) -> ObjectBuilder {
    let number = || ObjectBuilder::new().schema_type(Type::Number);
    match data_type {
        DataType::Int8 => bounded(i8::MIN.into(), i8::MAX.into()),
        DataType::Int16 => bounded(i16::MIN.into(), i16::MAX.into()),
        DataType::Int32 => bounded(i32::MIN.into(), i32::MAX.into()),
        DataType::Int64 => bounded(i64::MIN, i64::MAX),
        other if other.is_integer() => ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)),
        DataType::Float32 => number().minimum(Some(-FLOAT_MAX)).maximum(Some(FLOAT_MAX)),
        DataType::Float64 => number().format(Some(SchemaFormat::KnownFormat(KnownFormat::Double))),
        DataType::Decimal128(precision, scale) => {
            let most = 10f64.powi(i32::from(*precision) - i32::from(*scale));
            number().exclusive_minimum(Some(-most)).exclusive_maximum(Some(most))
        }
        DataType::Boolean => ObjectBuilder::new().schema_type(Type::Boolean),
        DataType::Date32 => {
            ObjectBuilder::new().schema_type(Type::String).format(Some(SchemaFormat::KnownFormat(KnownFormat::Date)))
        }
        // Those that any reader writes alike; nanoseconds, as a cast has them, reach from 1677 to 2262.
        DataType::Timestamp(..) => ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some(r"^(1[7-9]|2[01])\d\d-(0[1-9]|1[0-2])-(0[1-9]|1\d|2[0-8])T([01]\d|2[0-3]):[0-5]\d:[0-5]\dZ$"))
            .examples(["2026-01-01T12:00:00Z"]),
        _ => ObjectBuilder::new().schema_type(Type::String),
    }
}

fn bounded(least: i64, greatest: i64) -> ObjectBuilder {
    let integer = ObjectBuilder::new().schema_type(Type::Integer);
    integer.minimum(Some(least as isize)).maximum(Some(greatest as isize))
}

fn string(what: &str) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).description(Some(what))
}

fn flag(what: &str) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Boolean).description(Some(what))
}

fn count(what: &str) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Integer).description(Some(what))
}

fn uuid() -> ObjectBuilder {
    string("A UUID.").format(Some(SchemaFormat::Custom("uuid".to_string())))
}

/// Or NULL.
fn maybe(schema: ObjectBuilder) -> ObjectBuilder {
    let mut object: Object = schema.build();
    if let SchemaType::Type(one) = object.schema_type {
        object.schema_type = SchemaType::Array(vec![one, Type::Null]);
    }
    ObjectBuilder::from(object)
}

fn time(what: &str) -> ObjectBuilder {
    string(what).format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
}

fn list(of: impl Into<RefOr<Schema>>) -> RefOr<Schema> {
    ArrayBuilder::new().items(of.into()).into()
}

/// An object that has all of these.
fn record(members: Vec<(&str, RefOr<Schema>)>) -> RefOr<Schema> {
    let object = ObjectBuilder::new().schema_type(Type::Object);
    members.into_iter().fold(object, |object, (name, of)| object.property(name, of).required(name)).into()
}

fn component(name: &str) -> RefOr<Schema> {
    Ref::from_schema_name(name).into()
}

fn parameter(name: &str, place: ParameterIn, what: &str, schema: ObjectBuilder) -> Parameter {
    let required = if place == ParameterIn::Path { Required::True } else { Required::False };
    let parameter = ParameterBuilder::new().name(name).parameter_in(place).required(required);
    parameter.description((!what.is_empty()).then_some(what)).schema(Some(schema)).build()
}

fn needed(parameter: Parameter) -> Parameter {
    ParameterBuilder::from(parameter).required(Required::True).build()
}

fn said(what: &str, schema: impl Into<RefOr<Schema>>) -> ResponseBuilder {
    ResponseBuilder::new().description(what).content("application/json", Content::new(Some(schema)))
}

/// A refusal, as RFC 9457 has it.
fn refusal(status: u16) -> RefOr<Response> {
    let what = STATUSES.iter().find(|(known, _)| *known == status).map_or("", |(_, what)| *what);
    let content = Content::new(Some(component("Problem")));
    ResponseBuilder::new().description(what).content("application/problem+json", content).into()
}

/// An answer in every form that there is.
fn forms(response: ResponseBuilder, json: RefOr<Schema>) -> ResponseBuilder {
    let others = [
        (Format::JsonLines, string("An object on each line.")),
        (Format::Csv, string("With a line of names.")),
        (Format::Arrow, string("An Arrow IPC stream.").format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)))),
        (Format::Parquet, string("A Parquet file.").format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)))),
    ];
    let response = response.content(Format::Json.media(), Content::new(Some(json)));
    others
        .into_iter()
        .fold(response, |response, (format, schema)| response.content(format.media(), Content::new(Some(schema))))
}

fn rows_answer() -> ResponseBuilder {
    forms(ResponseBuilder::new().description("The rows."), component("Answer"))
}

/// What may be kept until the next commit.
fn kept(operation: OperationBuilder) -> OperationBuilder {
    operation
        .response("304", Response::new("Whoever asks has it: `If-None-Match` names the `ETag` of the newest answer."))
}

fn query_id() -> Parameter {
    parameter("x-tidegate-query-id", ParameterIn::Header, "Names the query, so that it can be cancelled.", uuid())
}

/// What a query may be asked with, beside its text.
fn options(settings: &Settings) -> [Parameter; 3] {
    let [format, limit, timeout] = wanted(settings);
    [
        parameter("format", ParameterIn::Query, "The form of the answer.", format),
        parameter("limit", ParameterIn::Query, "How many rows are enough.", limit),
        parameter("timeout_ms", ParameterIn::Query, "How long it may take.", timeout),
    ]
}

fn wanted(settings: &Settings) -> [ObjectBuilder; 3] {
    let most = i64::try_from(settings.adhoc.timeout_ms).unwrap_or(i64::MAX);
    [
        string("The form of the answer.").enum_values(Some(["json", "jsonl", "csv", "arrow", "parquet"])),
        bounded(1, i64::try_from(settings.adhoc.rows_max).unwrap_or(i64::MAX))
            .description(Some("How many rows are enough.")),
        bounded(1, most).description(Some("How long it may take, in milliseconds.")),
    ]
}

/// A query in a body.
fn question(settings: &Settings) -> RequestBody {
    let [format, limit, timeout] = wanted(settings);
    let params = ObjectBuilder::new()
        .schema_type(SchemaType::Array(vec![Type::Object, Type::Array, Type::Null]))
        .description(Some("Values of `$1`, `$2`, … as a list, or of `$name` as an object."));
    let object = ObjectBuilder::new()
        .property(
            "sql",
            string("The query.").min_length(Some(1)).examples(["SELECT count(*) AS views FROM tidegate.queries"]),
        )
        .property("params", params)
        .property("format", maybe(format))
        .property("limit", maybe(limit))
        .property("timeout_ms", maybe(timeout))
        .required("sql")
        .additional_properties(Some(AdditionalProperties::FreeForm(false)));
    RequestBodyBuilder::new()
        .required(Some(Required::True))
        .content("application/json", Content::new(Some(object)))
        .content(
            "text/plain",
            Content::new(Some(string("The query alone.").min_length(Some(1)).examples(["SELECT 1 AS one"]))),
        )
        .build()
}

/// Schemas that have names.
fn schemas() -> ComponentsBuilder {
    let problem = ObjectBuilder::new()
        .property("type", string("Always about:blank: `code` says more."))
        .property("title", string("What the status means."))
        .property("status", count("The status."))
        .property("code", string("What it is, for programs.").pattern(Some("^TG-[A-Z0-9-]+$")))
        .property("detail", string("What it is, for people."))
        .property("hint", maybe(string("What to do.")))
        .property("line", count("Where in the query."))
        .property("column", count("Where in this line."))
        .property("query_id", uuid());
    let problem = ["type", "title", "status", "code", "detail"].into_iter().fold(problem, ObjectBuilder::required);
    let column = |more: Vec<(&'static str, RefOr<Schema>)>| {
        let named = vec![("name", string("Its name.").into()), ("type", string("Its type, as Arrow names it.").into())];
        record(named.into_iter().chain(more).collect())
    };
    let any = || ObjectBuilder::new().schema_type(SchemaType::AnyValue);
    let answer = record(vec![
        ("query_id", uuid().into()),
        ("columns", list(column(Vec::new()))),
        ("rows", list(ArrayBuilder::new().items(RefOr::from(any())))),
        ("row_count", count("How many.").into()),
        ("truncated", flag("Whether `limit` has cut some off.").into()),
        ("stats", record(vec![("elapsed_ms", ObjectBuilder::new().schema_type(Type::Number).into())])),
    ]);
    let counts = ["decoded", "filtered", "accepted", "late", "failed"];
    let progress = counts.into_iter().fold(
        ObjectBuilder::new().property("closed_until", maybe(time("Windows that end at or before this are final."))),
        |progress, name| progress.property(name, count("Records.")).required(name),
    );
    let view = record(vec![
        ("name", string("Its name.").into()),
        ("source", string("What it reads.").into()),
        ("what", string("What it is, in a line.").into()),
        ("columns", list(column(vec![("key", flag("Whether it belongs to the key.").into())]))),
        ("progress", maybe(progress.schema_type(Type::Object).required("closed_until")).into()),
    ]);
    let rows = record(vec![
        ("row_count", count("How many.").into()),
        ("rows", list(ObjectBuilder::new().schema_type(Type::Object))),
    ]);
    let letter = record(vec![
        ("pipeline", string("The source.").into()),
        ("view", string("The view that did not take it; empty where the source did not.").into()),
        ("topic", string("Its topic.").into()),
        ("partition", count("Its partition.").into()),
        ("offset", count("Its offset.").into()),
        ("reason", string("Why.").into()),
        ("count", count("How many like it; the offset is the first one's.").into()),
        ("detail", string("What exactly.").into()),
        ("recorded_at", time("When it was found.").into()),
        ("payload", maybe(string("What it said.")).into()),
    ]);
    ComponentsBuilder::new()
        .schema("Problem", problem)
        .schema("Answer", answer)
        .schema("Queries", record(vec![("queries", list(view))]))
        .schema("Rows", rows)
        .schema("DeadLetters", record(vec![("dead_letters", list(letter))]))
}
