//! `CREATE SOURCE`: a topic as a table.
//!
//! `CREATE TABLE … WITH (connector = …)` means the same, so that Flink's text runs unchanged.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow::datatypes::{DataType, TimeUnit};
use sqlparser::ast::{self, ExactNumberInfo, TimezoneInfo};
use sqlparser::tokenizer::Token;

use super::statement::{Cursor, interval_us};
use crate::batch::{HIDDEN, INGESTED};
use crate::error::{Error, Result};

/// A source as it was declared.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its name, and that of its pipeline.
    pub name: String,
    /// The file that declares it.
    pub file: String,
    /// Its columns, in the order of the declaration.
    pub columns: Vec<Column>,
    /// The event-time column.
    pub time_column: String,
    /// How far behind the greatest event time the watermark stays, in microseconds.
    pub bound_us: i64,
    /// What stands in `WITH`.
    pub options: Options,
    /// Everything above in a normal form, for fingerprints.
    pub normal: String,
}

/// A column of a source.
#[derive(Debug, Clone)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type; a computed column may leave it to its expression.
    pub data_type: Option<DataType>,
    /// Whether it may be NULL.
    pub nullable: bool,
    /// Where its values come from.
    pub origin: Origin,
    /// Where it is declared.
    pub line: u64,
    /// Where it is declared.
    pub column: u64,
}

/// Where a column's values come from.
#[derive(Debug, Clone)]
pub enum Origin {
    /// A field of the payload with the column's name.
    Payload,
    /// An expression over the other columns.
    Computed {
        /// The expression.
        expr: Box<ast::Expr>,
        /// Its text, for fingerprints.
        normal: String,
    },
    /// The record itself.
    Metadata(Metadata),
}

/// What a record carries besides its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metadata {
    /// The key, as text.
    Key,
    /// The broker's or the producer's timestamp.
    Timestamp,
    /// The partition.
    Partition,
    /// The offset.
    Offset,
}

/// Where a pipeline begins when it has never committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Startup {
    /// At the oldest record that Kafka still has.
    Earliest,
    /// At the records that arrive from now on.
    Latest,
}

/// What a source's `WITH` may hold.
#[derive(Debug, Clone)]
pub struct Options {
    /// The topic.
    pub topic: String,
    /// Where to begin.
    pub startup: Startup,
    /// After this long at the end of its partition, a partition no longer holds the watermark.
    pub idle_timeout: Duration,
    /// An event time further ahead than this is rejected.
    pub max_future_skew: Duration,
    /// A partition whose watermark leads the slowest by more than this is paused.
    pub max_drift: Duration,
    /// Whether its rows are archived.
    pub archive: bool,
    /// Settings handed to the Kafka client.
    pub kafka: BTreeMap<String, String>,
}

const KNOWN_OPTIONS: &str =
    "connector, topic, format, scan.startup.mode, idle_timeout, max_future_skew, max_drift, archive, kafka.*";

/// Settings of the Kafka client on which exactly-once rests. They are ours.
const OUR_KAFKA_SETTINGS: [&str; 9] = [
    "auto.offset.reset",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.partition.eof",
    "isolation.level",
    "check.crcs",
    "allow.auto.create.topics",
    "group.id",
    "bootstrap.servers",
];

/// Parses from behind `CREATE SOURCE` or `CREATE TABLE`; every fault, as far as the text can be read.
pub fn parse(cursor: &mut Cursor<'_>) -> Result<Source, Vec<Error>> {
    let mut faults = Vec::new();
    match read(cursor, &mut faults) {
        Ok(Some(source)) if faults.is_empty() => return Ok(source),
        Ok(_) => {}
        Err(error) => faults.push(error),
    }
    Err(faults)
}

/// The source, unless its faults leave none.
fn read(cursor: &mut Cursor<'_>, faults: &mut Vec<Error>) -> Result<Option<Source>> {
    let name = cursor.name()?;
    cursor.expect(&Token::LParen)?;
    let mut columns: Vec<Column> = Vec::new();
    let mut watermark = None;
    loop {
        let place = cursor.index();
        if cursor.words(&["watermark", "for"]) {
            if watermark.is_some() {
                faults.push(cursor.error_at(place, "TG-SQL-SOURCE", format!("source {name} has two watermarks")));
            }
            watermark = Some(parse_watermark(cursor, faults)?);
        } else if cursor.words(&["primary", "key"]) {
            return Err(cursor
                .error_at(place, "TG-SQL-NOT-YET", format!("source {name}: PRIMARY KEY is not supported on a source"))
                .hint("a source is a log of records; views have keys"));
        } else {
            let column = parse_column(cursor, faults)?;
            if HIDDEN.contains(&column.name.as_str()) || column.name == INGESTED || column.name.starts_with("__") {
                let told = format!("column name {} is reserved", column.name);
                faults.push(cursor.error_at(place, "TG-SQL-SOURCE", told));
            }
            if columns.iter().any(|other| other.name == column.name) {
                let told = format!("source {name} has column {} twice", column.name);
                faults.push(cursor.error_at(place, "TG-SQL-SOURCE", told));
            }
            columns.push(column);
        }
        if !cursor.take(&Token::Comma) {
            break;
        }
    }
    cursor.expect(&Token::RParen)?;
    let with_place = cursor.index();
    let options = parse_options(cursor, &name, faults)?;
    cursor.end()?;
    let Some((time_column, bound_us, time_place)) = watermark else {
        return Err(cursor
            .error_at(with_place, "TG-SQL-SOURCE", format!("source {name} has no watermark"))
            .hint("add WATERMARK FOR ts AS ts - INTERVAL '10 seconds', with your event-time column for ts"));
    };
    let Some(options) = options else { return Ok(None) };
    match columns.iter().find(|column| column.name == time_column) {
        None => {
            return Err(cursor.error_at(
                time_place,
                "TG-SQL-SOURCE",
                format!("the watermark's column {time_column} is not a column of {name}"),
            ));
        }
        Some(column) if !matches!(column.data_type, None | Some(DataType::Timestamp(_, _))) => {
            return Err(cursor
                .error_at(
                    time_place,
                    "TG-SQL-SOURCE",
                    format!("the watermark's column {time_column} is not a timestamp"),
                )
                .hint("declare it as TIMESTAMP WITH TIME ZONE, or compute a timestamp column from it"));
        }
        Some(_) => {}
    }
    let normal = normal_form(&name, &columns, &time_column, bound_us, &options);
    Ok(Some(Source { name, file: cursor.file().to_string(), columns, time_column, bound_us, options, normal }))
}

fn normal_form(name: &str, columns: &[Column], time_column: &str, bound_us: i64, options: &Options) -> String {
    let mut text = format!("source {name} topic {} watermark {time_column} {bound_us}", options.topic);
    for column in columns {
        let origin = match &column.origin {
            Origin::Payload => String::new(),
            Origin::Computed { normal, .. } => format!(" as {normal}"),
            Origin::Metadata(metadata) => format!(" from {metadata:?}"),
        };
        text.push_str(&format!("\n{} {:?} {}{origin}", column.name, column.data_type, column.nullable));
    }
    text
}

fn parse_column(cursor: &mut Cursor<'_>, faults: &mut Vec<Error>) -> Result<Column> {
    let place = cursor.index();
    let (line, col) = cursor.place();
    let name = cursor.name()?;
    let mut data_type = None;
    if !cursor.peek_words(&["as"]) {
        let type_place = cursor.index();
        let declared = cursor.parse(|parser| parser.parse_data_type())?;
        data_type = arrow_type(&declared);
        if data_type.is_none() {
            faults.push(
                cursor
                    .error_at(type_place, "TG-SQL-TYPE", format!("column {name}: type {declared} is not supported"))
                    .hint("supported are VARCHAR, BOOLEAN, SMALLINT, INT, BIGINT, REAL, DOUBLE, DECIMAL(p,s), DATE, TIMESTAMP [WITH TIME ZONE]"),
            );
        }
    }
    let (mut nullable, mut origin) = (true, Origin::Payload);
    loop {
        if cursor.words(&["not", "null"]) {
            nullable = false;
        } else if cursor.words(&["null"]) {
            nullable = true;
        } else if cursor.words(&["as"]) {
            cursor.expect(&Token::LParen)?;
            let from = cursor.index();
            let expr = Box::new(cursor.parse(|parser| parser.parse_expr())?);
            origin = Origin::Computed { expr, normal: cursor.normal(from, cursor.index()) };
            cursor.expect(&Token::RParen)?;
        } else if cursor.words(&["metadata"]) {
            match parse_metadata(cursor, &name)? {
                Ok(metadata) => origin = Origin::Metadata(metadata),
                Err(fault) => faults.push(fault),
            }
        } else {
            break;
        }
    }
    if let (Origin::Metadata(metadata), Some(declared)) = (&origin, &data_type) {
        let expected = metadata.data_type();
        if *declared != expected {
            let told = format!("column {name}: metadata {metadata:?} has another type than {declared}");
            let hint = format!("declare it as {}", metadata.sql_type());
            faults.push(cursor.error_at(place, "TG-SQL-TYPE", told).hint(hint));
        }
    }
    Ok(Column { name, data_type, nullable, origin, line, column: col })
}

/// The inner error is a fault of what was read, and not of the reading.
fn parse_metadata(cursor: &mut Cursor<'_>, name: &str) -> Result<Result<Metadata>> {
    let place = cursor.index();
    let field = if cursor.words(&["from"]) { cursor.string()? } else { name.to_string() };
    let way_out = "use key, timestamp, partition or offset";
    let fault = |code, told: String| Err(cursor.error_at(place, code, format!("column {name}: {told}")).hint(way_out));
    Ok(match field.as_str() {
        "key" => Ok(Metadata::Key),
        "timestamp" => Ok(Metadata::Timestamp),
        "partition" => Ok(Metadata::Partition),
        "offset" => Ok(Metadata::Offset),
        "headers" => fault("TG-SQL-NOT-YET", "metadata 'headers' is not supported yet".to_string()),
        other => fault("TG-SQL-SOURCE", format!("there is no metadata {other:?}")),
    })
}

impl Metadata {
    /// The only type that the column may have.
    pub fn data_type(self) -> DataType {
        match self {
            Self::Key => DataType::Utf8View,
            Self::Timestamp => event_time_type(),
            Self::Partition => DataType::Int32,
            Self::Offset => DataType::Int64,
        }
    }

    fn sql_type(self) -> &'static str {
        match self {
            Self::Key => "VARCHAR",
            Self::Timestamp => "TIMESTAMP WITH TIME ZONE",
            Self::Partition => "INT",
            Self::Offset => "BIGINT",
        }
    }
}

/// The type of `TIMESTAMP WITH TIME ZONE`.
pub fn event_time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()))
}

/// `ts AS ts` or `ts AS ts - INTERVAL '…'`, from behind `WATERMARK FOR`.
fn parse_watermark(cursor: &mut Cursor<'_>, faults: &mut Vec<Error>) -> Result<(String, i64, usize)> {
    let place = cursor.index();
    let column = cursor.name()?;
    cursor.expect_words(&["as"])?;
    let expr_place = cursor.index();
    let expr = cursor.parse(|parser| parser.parse_expr())?;
    let is_column =
        |e: &ast::Expr| matches!(e, ast::Expr::Identifier(ident) if super::statement::normal(ident) == column);
    let bound = match &expr {
        e if is_column(e) => Some(0),
        ast::Expr::BinaryOp { left, op: ast::BinaryOperator::Minus, right } if is_column(left) => interval_us(right),
        _ => None,
    };
    let bound = bound.filter(|bound| *bound >= 0);
    if bound.is_none() {
        let told = format!("the watermark {expr} is not supported");
        let hint = format!("write {column} - INTERVAL '10 seconds', or {column} alone");
        faults.push(cursor.error_at(expr_place, "TG-SQL-SOURCE", told).hint(hint));
    }
    Ok((column, bound.unwrap_or_default(), place))
}

/// The type of values of this SQL type, if there is one.
pub(super) fn arrow_type(declared: &ast::DataType) -> Option<DataType> {
    use ast::DataType as Sql;
    Some(match declared {
        Sql::Varchar(_) | Sql::CharacterVarying(_) | Sql::Text | Sql::String(_) => DataType::Utf8View,
        Sql::Bool | Sql::Boolean => DataType::Boolean,
        Sql::SmallInt(_) => DataType::Int16,
        Sql::Int(_) | Sql::Integer(_) => DataType::Int32,
        Sql::BigInt(_) => DataType::Int64,
        Sql::Real | Sql::Float4 | Sql::Float32 => DataType::Float32,
        Sql::Double(_) | Sql::DoublePrecision | Sql::Float8 | Sql::Float64 | Sql::Float(ExactNumberInfo::None) => {
            DataType::Float64
        }
        Sql::Decimal(info) | Sql::Numeric(info) => decimal(info)?,
        Sql::Date => DataType::Date32,
        Sql::Timestamp(precision, zone) if precision.is_none_or(|p| p <= 6) => match zone {
            TimezoneInfo::WithTimeZone | TimezoneInfo::Tz => event_time_type(),
            TimezoneInfo::None | TimezoneInfo::WithoutTimeZone => DataType::Timestamp(TimeUnit::Microsecond, None),
        },
        Sql::Custom(name, precision)
            if name.to_string().eq_ignore_ascii_case("timestamp_ltz")
                && precision.first().is_none_or(|p| p.parse().is_ok_and(|p: u8| p <= 6)) =>
        {
            event_time_type()
        }
        _ => return None,
    })
}

fn decimal(info: &ExactNumberInfo) -> Option<DataType> {
    let (precision, scale) = match *info {
        ExactNumberInfo::PrecisionAndScale(p, s) => (p, s),
        ExactNumberInfo::Precision(p) => (p, 0),
        ExactNumberInfo::None => return None,
    };
    let (precision, scale) = (u8::try_from(precision).ok()?, i8::try_from(scale).ok()?);
    (1..=38).contains(&precision).then_some(())?;
    (0..=precision as i8).contains(&scale).then_some(DataType::Decimal128(precision, scale))
}

/// The options, unless one that is required is missing or wrong.
fn parse_options(cursor: &mut Cursor<'_>, name: &str, faults: &mut Vec<Error>) -> Result<Option<Options>> {
    let place = cursor.index();
    if !cursor.words(&["with"]) {
        faults.push(cursor.error_at(
            place,
            "TG-SQL-SOURCE",
            format!("source {name} has no WITH (connector = 'kafka', topic = …)"),
        ));
        return Ok(None);
    }
    let given = cursor.options()?;
    let mut fault = |at: usize, code, told: String, way_out: String| {
        faults.push(cursor.error_at(at, code, format!("source {name}: {told}")).hint(way_out));
    };
    let mut required = |key: &str, example: &str| match given.get(key) {
        Some((value, at)) => Some((value.as_str(), *at)),
        None => {
            fault(place, "TG-SQL-SOURCE", format!("WITH lacks {key}"), format!("add {key} = {example}"));
            None
        }
    };
    let (connector, format) = (required("connector", "'kafka'"), required("format", "'json'"));
    let topic = required("topic", "'my.topic'");
    let startup = required("scan.startup.mode", "'earliest' or 'latest'; it applies to the very first start only");
    for (key, found, allowed) in [("connector", connector, "kafka"), ("format", format, "json")] {
        if let Some((value, at)) = found.filter(|(value, _)| *value != allowed) {
            let told = format!("{key} = '{value}' is not supported");
            fault(at, "TG-SQL-NOT-YET", told, format!("use '{allowed}'"));
        }
    }
    let startup = match startup {
        Some(("earliest" | "earliest-offset", _)) => Some(Startup::Earliest),
        Some(("latest" | "latest-offset", _)) => Some(Startup::Latest),
        Some((other, at)) => {
            let told = format!("scan.startup.mode = '{other}' is not supported");
            fault(at, "TG-SQL-SOURCE", told, "use 'earliest' or 'latest'".to_string());
            None
        }
        None => None,
    };
    let archive = match given.get("archive").map(|(value, at)| (value.as_str(), *at)) {
        None | Some(("none", _)) => false,
        Some(("parquet", _)) => true,
        Some((other, at)) => {
            let told = format!("archive = '{other}' is not supported");
            fault(at, "TG-SQL-SOURCE", told, "use 'parquet', or leave it out".to_string());
            false
        }
    };
    let mut duration = |key: &str, default: Duration| {
        let Some((value, at)) = given.get(key) else { return default };
        match super::statement::parse_interval_us(value).filter(|us| *us > 0) {
            Some(us) => Duration::from_micros(us.unsigned_abs()),
            None => {
                let told = format!("{key} = '{value}' is not a duration");
                fault(*at, "TG-SQL-SOURCE", told, "write it as '90 seconds'".to_string());
                default
            }
        }
    };
    let idle_timeout = duration("idle_timeout", Duration::from_secs(60));
    let max_future_skew = duration("max_future_skew", Duration::from_secs(3600));
    let max_drift = duration("max_drift", Duration::from_secs(300));
    let mut kafka = BTreeMap::new();
    for (key, (value, at)) in &given {
        if let Some(setting) = key.strip_prefix("kafka.") {
            if OUR_KAFKA_SETTINGS.contains(&setting) {
                let way_out = match setting {
                    "bootstrap.servers" => "set kafka.brokers in tidegate.toml or KAFKA_BROKERS",
                    _ => "exactly-once rests on it; leave it out",
                };
                let told = format!("kafka setting {setting} is Tidegate's own");
                fault(*at, "TG-SQL-SOURCE", told, way_out.to_string());
            }
            kafka.insert(setting.to_string(), value.clone());
        } else if !KNOWN_OPTIONS.split(", ").any(|known| known == key) {
            fault(*at, "TG-SQL-SOURCE", format!("unknown option {key}"), format!("options are {KNOWN_OPTIONS}"));
        }
    }
    let (Some((topic, _)), Some(startup)) = (topic, startup) else { return Ok(None) };
    Ok(Some(Options { topic: topic.to_string(), startup, idle_timeout, max_future_skew, max_drift, archive, kafka }))
}
