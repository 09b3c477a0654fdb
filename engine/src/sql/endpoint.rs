//! `CREATE ENDPOINT` and `CREATE GAUGE`: what people and Prometheus may ask of the views' tables.
//!
//! ```sql
//! CREATE ENDPOINT '/streams/top' (minutes INT DEFAULT 60 BETWEEN 1 AND 1440, by VARCHAR DEFAULT 'a' IN ('a', 'b'))
//!   FIELD latest AS (SELECT max(window_start) FROM v)      -- a value beside the rows, any number of them
//! AS SELECT …;
//! CREATE GAUGE rows_recent HELP 'Rows of the last minutes.' AS SELECT shop, count(*) FROM v GROUP BY shop;
//! ```

use std::fmt;

use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef, TimeUnit};
use datafusion::scalar::ScalarValue;
use sqlparser::ast;
use sqlparser::tokenizer::Token;

use super::planned::Table;
use super::question::{Literal, Question, Values};
use super::source::arrow_type;
use super::statement::Cursor;
use crate::error::{Error, Result};
use crate::metrics::names;

/// A path that answers with the rows of a query.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Its path.
    pub path: String,
    /// What may follow `?`.
    pub parameters: Vec<Parameter>,
    /// Values beside the rows.
    pub fields: Vec<(String, Question)>,
    /// The rows.
    pub rows: Question,
}

/// A query whose numbers Prometheus reads.
#[derive(Debug, Clone)]
pub struct Gauge {
    /// Its name.
    pub name: String,
    /// What it says.
    pub help: String,
    /// A row for each set of labels: text columns, and one number.
    pub rows: Question,
}

/// A parameter of an endpoint.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// Its type as it was written.
    pub sql_type: ast::DataType,
    kind: Kind,
    /// What it is when it is not given; without it, it must be given.
    pub default: Option<Option<String>>,
    /// The least and the greatest value.
    pub between: Option<(String, String)>,
    /// The values that there are.
    pub choices: Vec<String>,
}

/// How a parameter's text is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Integer,
    Number,
    Boolean,
    Text,
    Time,
}

impl Kind {
    fn of(declared: &ast::DataType) -> Option<Self> {
        Some(match arrow_type(declared)? {
            DataType::Int16 | DataType::Int32 | DataType::Int64 => Self::Integer,
            DataType::Float32 | DataType::Float64 | DataType::Decimal128(..) => Self::Number,
            DataType::Boolean => Self::Boolean,
            DataType::Utf8View => Self::Text,
            DataType::Timestamp(..) | DataType::Date32 => Self::Time,
            _ => return None,
        })
    }

    /// A text as a value of the declared type, if it is one.
    fn read(self, text: &str, declared: &ast::DataType) -> Option<ScalarValue> {
        if self == Self::Boolean && !matches!(text, "true" | "false") {
            return None;
        }
        let data_type = match arrow_type(declared)? {
            // As a cast in SQL has it.
            DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Nanosecond, zone),
            other => other,
        };
        let value = ScalarValue::Utf8(Some(text.to_string())).cast_to(&data_type).ok()?;
        let is_finite = match value {
            ScalarValue::Float32(Some(float)) => float.is_finite(),
            ScalarValue::Float64(Some(float)) => float.is_finite(),
            _ => true,
        };
        (is_finite && !value.is_null()).then_some(value)
    }

    fn wants(self) -> &'static str {
        match self {
            Self::Integer => "a whole number",
            Self::Number => "a number",
            Self::Boolean => "true or false",
            Self::Text => "a text",
            Self::Time => "a time such as 2026-01-01T12:00:00Z",
        }
    }
}

impl Parameter {
    /// The type of its values.
    pub fn data_type(&self) -> DataType {
        arrow_type(&self.sql_type).unwrap_or(DataType::Utf8View)
    }

    /// The value of a text, or what is wrong with it.
    pub fn value(&self, text: &str) -> Result<Literal, String> {
        let read = |text: &str| self.kind.read(text, &self.sql_type);
        let Some(value) = read(text) else {
            return Err(format!("{}={text} is not {}", self.name, self.kind.wants()));
        };
        if !self.choices.is_empty() && !self.choices.iter().any(|choice| read(choice).as_ref() == Some(&value)) {
            return Err(format!("{}={text} is not one of {}", self.name, self.choices.join(", ")));
        }
        if let Some((least, greatest)) = &self.between
            && !(read(least).is_some_and(|least| least <= value) && read(greatest).is_some_and(|most| value <= most))
        {
            return Err(format!("{}={text} is not between {least} and {greatest}", self.name));
        }
        Ok(Literal { text: Some(text.to_string()), sql_type: self.sql_type.clone() })
    }

    /// Any value that it may have, to plan with.
    fn sample(&self) -> Literal {
        let text = match (&self.default, &self.between, self.choices.first()) {
            (Some(default), ..) => default.clone(),
            (None, Some((least, _)), _) => Some(least.clone()),
            (None, None, Some(choice)) => Some(choice.clone()),
            (None, None, None) => None,
        };
        Literal { text, sql_type: self.sql_type.clone() }
    }
}

impl fmt::Display for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}", self.name, self.kind.wants())?;
        if let Some((least, greatest)) = &self.between {
            write!(f, " from {least} to {greatest}")?;
        }
        if !self.choices.is_empty() {
            write!(f, ", one of {}", self.choices.join(", "))?;
        }
        match &self.default {
            Some(Some(default)) => write!(f, ", else {default}"),
            Some(None) => write!(f, ", or is left out"),
            None => Ok(()),
        }
    }
}

impl Endpoint {
    /// The values of what is asked; what is wrong with it names the parameter.
    pub fn values(&self, asked: &[(String, String)]) -> Result<Values, String> {
        let mut values = Values::new();
        for (name, text) in asked {
            let Some(parameter) = self.parameters.iter().find(|parameter| parameter.name == *name) else {
                let names: Vec<&str> = self.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
                let known = if names.is_empty() {
                    "there is none".to_string()
                } else {
                    format!("there are {}", names.join(", "))
                };
                return Err(format!("there is no parameter {name} ({known})"));
            };
            if values.insert(name.clone(), parameter.value(text)?).is_some() {
                return Err(format!("parameter {name} is given twice"));
            }
        }
        for parameter in &self.parameters {
            if values.contains_key(&parameter.name) {
                continue;
            }
            let Some(default) = &parameter.default else {
                return Err(format!("parameter {} is missing; it is {}", parameter.name, parameter.kind.wants()));
            };
            let literal = Literal { text: default.clone(), sql_type: parameter.sql_type.clone() };
            values.insert(parameter.name.clone(), literal);
        }
        Ok(values)
    }

    /// The columns of its answers: one for each field, and those of the rows.
    pub fn columns(&self, tables: &[&Table]) -> Result<(Schema, Schema), Vec<Error>> {
        let samples = self.samples();
        let fields = self.fields.iter().map(|(_, question)| question.check(tables, &samples));
        let fields: Vec<SchemaRef> = fields.collect::<Result<_, _>>()?;
        let fields = fields.iter().filter_map(|schema| schema.fields().first().cloned());
        Ok((Schema::new(fields.collect::<Vec<FieldRef>>()), self.rows.check(tables, &samples)?.as_ref().clone()))
    }

    /// Values to plan with.
    fn samples(&self) -> Values {
        self.parameters.iter().map(|p| (p.name.clone(), p.sample())).collect()
    }

    /// Plans its queries; every fault of them.
    pub fn check(&self, tables: &[&Table]) -> Result<(), Vec<Error>> {
        let samples = self.samples();
        let mut faults = Vec::new();
        for (name, question) in &self.fields {
            match question.check(tables, &samples) {
                Ok(schema) if schema.fields().len() == 1 => {}
                Ok(schema) => faults.push(
                    fault(question, format!("field {name} has {} columns", schema.fields().len()))
                        .hint("select one value"),
                ),
                Err(more) => faults.extend(more),
            }
        }
        faults.extend(self.rows.check(tables, &samples).err().unwrap_or_default());
        let asked = || self.fields.iter().map(|(_, question)| question).chain([&self.rows]);
        for parameter in &self.parameters {
            if !asked().any(|question| question.parameters.contains(&parameter.name)) {
                faults.push(
                    fault(&self.rows, format!("no query uses parameter {}", parameter.name))
                        .hint(format!("write ${}, or leave it out", parameter.name)),
                );
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }
}

impl Gauge {
    /// Plans its query, which must have one number.
    pub fn check(&self, tables: &[&Table]) -> Result<(), Vec<Error>> {
        let schema = self.rows.check(tables, &Values::new())?;
        self.number(&schema).map(|_| ()).map_err(|error| vec![error])
    }

    /// The column of the number; the others are labels.
    pub fn number(&self, schema: &Schema) -> Result<usize> {
        let is_number = |index: &usize| schema.field(*index).data_type().is_numeric();
        let numbers: Vec<usize> = (0..schema.fields().len()).filter(is_number).collect();
        let [number] = numbers[..] else {
            return Err(fault(&self.rows, format!("it has {} columns that are numbers", numbers.len()))
                .hint("select one number, and texts for labels"));
        };
        for (index, field) in schema.fields().iter().enumerate() {
            let is_text = matches!(field.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
            let is_label =
                is_metric_name(field.name()) && !field.name().contains(':') && !field.name().starts_with("__");
            if index != number && !(is_text && is_label) {
                return Err(fault(&self.rows, format!("column {} cannot be a label", field.name()))
                    .hint("a label is a text whose name has letters, digits and _, and does not begin with __"));
            }
        }
        Ok(number)
    }
}

fn fault(question: &Question, message: String) -> Error {
    Error::query("TG-SQL-ENDPOINT", format!("{}: {message}", question.what)).at(
        &question.file,
        question.line,
        question.column,
    )
}

fn is_metric_name(name: &str) -> bool {
    let rest = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    name.starts_with(|c: char| rest(c) && !c.is_ascii_digit()) && name.chars().all(rest)
}

/// Paths that are Tidegate's own.
const OUR_PATHS: [&str; 6] = ["/health", "/readyz", "/prometheus", "/api", "/app.js", "/app.css"];

/// Parses from behind `CREATE ENDPOINT`.
pub(super) fn parse(cursor: &mut Cursor<'_>) -> Result<Endpoint> {
    let place = cursor.index();
    let path = cursor.string()?;
    let refuse = |cursor: &Cursor<'_>, why: &str, hint: &str| {
        cursor.error_at(place, "TG-SQL-ENDPOINT", format!("endpoint {path}: {why}")).hint(hint)
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.~/".contains(c);
    if !path.starts_with('/')
        || path.len() < 2
        || path.ends_with('/')
        || path.split('/').skip(1).any(|part| matches!(part, "" | "." | ".."))
        || !path.chars().all(plain)
    {
        return Err(refuse(
            cursor,
            "its path is not possible",
            "write it as '/streams/top', with letters, digits, - and _",
        ));
    }
    if let Some(ours) = OUR_PATHS.iter().find(|ours| path == **ours || path.starts_with(&format!("{ours}/"))) {
        return Err(refuse(cursor, &format!("{ours} is Tidegate's own"), "choose another path"));
    }
    let what = format!("endpoint {path}");
    let mut parameters: Vec<Parameter> = Vec::new();
    if cursor.take(&Token::LParen) {
        loop {
            let at = cursor.index();
            let parameter = parse_parameter(cursor, &what)?;
            if parameters.iter().any(|other| other.name == parameter.name) {
                let told = format!("{what}: parameter {} is declared twice", parameter.name);
                return Err(cursor.error_at(at, "TG-SQL-ENDPOINT", told));
            }
            parameters.push(parameter);
            if !cursor.take(&Token::Comma) {
                break;
            }
        }
        cursor.expect(&Token::RParen)?;
    }
    let mut fields: Vec<(String, Question)> = Vec::new();
    while cursor.words(&["field"]) {
        let at = cursor.index();
        let name = cursor.name()?;
        if name == "rows" || fields.iter().any(|(other, _)| *other == name) {
            return Err(cursor.error_at(at, "TG-SQL-ENDPOINT", format!("{what}: field {name} is taken")));
        }
        cursor.expect_words(&["as"])?;
        cursor.expect(&Token::LParen)?;
        let end = cursor.closing();
        fields.push((name, Question::parse(cursor, &what, end)?));
        cursor.expect(&Token::RParen)?;
    }
    cursor.expect_words(&["as"])?;
    let rows = Question::parse(cursor, &what, cursor.len())?;
    Ok(Endpoint { path, parameters, fields, rows })
}

/// Parses `name TYPE [DEFAULT literal] [BETWEEN literal AND literal | IN (literal, …)]`.
fn parse_parameter(cursor: &mut Cursor<'_>, what: &str) -> Result<Parameter> {
    let name = cursor.name()?;
    let place = cursor.index();
    let refuse = |cursor: &Cursor<'_>, at: usize, why: String| {
        cursor.error_at(at, "TG-SQL-ENDPOINT", format!("{what}: parameter {name}{why}"))
    };
    let sql_type = cursor.parse(|parser| parser.parse_data_type())?;
    let kind = Kind::of(&sql_type).ok_or_else(|| {
        refuse(cursor, place, format!(": type {sql_type} is not supported"))
            .hint("types are SMALLINT, INT, BIGINT, REAL, DOUBLE, DECIMAL(p,s), VARCHAR, BOOLEAN, DATE, TIMESTAMP, TIMESTAMP WITH TIME ZONE")
    })?;
    let mut parameter =
        Parameter { name: name.clone(), sql_type, kind, default: None, between: None, choices: Vec::new() };
    let mut default_at = place;
    loop {
        let at = cursor.index();
        let again = |cursor: &Cursor<'_>, is_there: bool, word: &str| match is_there {
            true => Err(refuse(cursor, at, format!(" has {word} twice"))),
            false => Ok(()),
        };
        if cursor.words(&["default"]) {
            again(cursor, parameter.default.is_some(), "DEFAULT")?;
            default_at = cursor.index();
            parameter.default = Some(if cursor.words(&["null"]) { None } else { Some(literal(cursor)?) });
        } else if cursor.words(&["between"]) {
            again(cursor, parameter.between.is_some(), "BETWEEN")?;
            let least = literal(cursor)?;
            cursor.expect_words(&["and"])?;
            parameter.between = Some((least, literal(cursor)?));
            if !matches!(kind, Kind::Integer | Kind::Number) {
                return Err(refuse(cursor, at, " is no number, and so has no BETWEEN".to_string()));
            }
        } else if cursor.words(&["in"]) {
            again(cursor, !parameter.choices.is_empty(), "IN")?;
            cursor.expect(&Token::LParen)?;
            loop {
                parameter.choices.push(literal(cursor)?);
                if !cursor.take(&Token::Comma) {
                    break;
                }
            }
            cursor.expect(&Token::RParen)?;
        } else {
            break;
        }
    }
    let bounds = parameter.between.iter().flat_map(|(least, greatest)| [least, greatest]);
    for text in bounds.chain(&parameter.choices) {
        if kind.read(text, &parameter.sql_type).is_none() {
            return Err(refuse(cursor, place, format!(": {text} is not {}", kind.wants())));
        }
    }
    if let Some((least, greatest)) = &parameter.between
        && kind.read(least, &parameter.sql_type) > kind.read(greatest, &parameter.sql_type)
    {
        return Err(refuse(cursor, place, format!(": {least} is greater than {greatest}")));
    }
    if let Some(Some(default)) = &parameter.default
        && let Err(why) = parameter.value(default)
    {
        return Err(cursor.error_at(default_at, "TG-SQL-ENDPOINT", format!("{what}: the default {why}")));
    }
    Ok(parameter)
}

/// A number, a text, or TRUE or FALSE, as a text.
fn literal(cursor: &mut Cursor<'_>) -> Result<String> {
    let sign = if cursor.take(&Token::Minus) { "-" } else { "" };
    for word in ["true", "false"] {
        if sign.is_empty() && cursor.words(&[word]) {
            return Ok(word.to_string());
        }
    }
    if let Some(Token::Number(number, _)) = cursor.peek() {
        let (number, token) = (number.clone(), Token::Number(number.clone(), false));
        cursor.expect(&token)?;
        return Ok(format!("{sign}{number}"));
    }
    cursor.string()
}

/// Parses from behind `CREATE GAUGE`.
pub(super) fn parse_gauge(cursor: &mut Cursor<'_>) -> Result<Gauge> {
    let place = cursor.index();
    let name = cursor.name()?;
    if !is_metric_name(&name) || name.starts_with("tidegate_") || name == DB_OK {
        return Err(cursor
            .error_at(place, "TG-SQL-ENDPOINT", format!("gauge name {name} is not possible"))
            .hint(format!("a name has letters, digits and _, does not begin with tidegate_, and is not {DB_OK}")));
    }
    let help_place = cursor.index() + 1;
    let help = if cursor.words(&["help"]) { cursor.string()? } else { format!("Declared by CREATE GAUGE {name}.") };
    if help.is_empty() {
        return Err(cursor.error_at(help_place, "TG-SQL-ENDPOINT", format!("gauge {name}: its HELP is empty")));
    }
    cursor.expect_words(&["as"])?;
    let rows = Question::parse(cursor, &format!("gauge {name}"), cursor.len())?;
    Ok(Gauge { name, help, rows })
}

/// The gauge of our own that stands among the declared ones: whether they could be asked.
pub const DB_OK: &str = names::API_DB_OK.name;
