//! Statements over the catalog of Postgres, made plain: what drivers and tools ask by themselves before people ask anything.
//!
//! ```text
//!  SELECT … FROM pg_catalog.pg_class c … WHERE c.relname OPERATOR(pg_catalog.~) '^(x)$'   as psql asks it
//!  └─► a query that DataFusion plans over the few tables of [`crate::ask::catalog`], in which most of a catalog is empty
//! ```
//!
//! Clients ask for indexes, policies, publications, of which there are none here. So the part of a statement that reads a
//! table that is always empty is cut out whole, with all that only Postgres understands in it: it gives no rows. What
//! is left has operators, casts and functions of Postgres, each of which is replaced by what it says.

pub mod types;

use std::ops::ControlFlow;

use sqlparser::ast::{
    AccessExpr, BinaryOperator, CastKind, DataType, ExactNumberInfo, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArgumentList, FunctionArguments, Ident, JoinOperator, ObjectName, ObjectNamePart, Query, Select,
    SelectItem, SetExpr, Subscript, TableFactor, Value, Visit, VisitMut, Visitor, VisitorMut,
};
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Token, TokenWithSpan};

use super::statement::normal;
use super::text::DIALECT;
use crate::error::{Error, Result};

/// The version of Postgres that we say we are.
pub const VERSION: &str = "15.0";

/// The one database.
pub const DATABASE: &str = "tidegate";

/// Schemas whose tables are the catalog's.
pub const SCHEMAS: [&str; 2] = ["pg_catalog", "information_schema"];

/// Functions that a statement may call once it is plain.
pub const FUNCTIONS: [&str; 3] = ["tidegate_format_type", "tidegate_quote_ident", "tidegate_regclass"];

/// Numbers of tables from here on are none of the search path.
pub const UNSEEN: i64 = 100_000;

/// What the catalog has.
pub trait Names: Sync {
    /// The number of a table.
    fn relation(&self, name: &str) -> Option<i64>;
    /// Whether there is a table of the catalog, by its schema and name; and whether it has rows.
    fn table(&self, schema: &str, name: &str) -> Option<bool>;
    /// Whether a column of the catalog is a number.
    fn is_number(&self, column: &str) -> bool;
}

/// Functions by which a statement shows that it is about the catalog, beside those that begin with `pg_`.
const CALLS: [&str; 20] = [
    "version",
    "current_database",
    "current_schema",
    "current_schemas",
    "current_setting",
    "set_config",
    "to_regtype",
    "to_regclass",
    "quote_ident",
    "format_type",
    "obj_description",
    "col_description",
    "shobj_description",
    "has_schema_privilege",
    "has_table_privilege",
    "has_database_privilege",
    "has_column_privilege",
    "has_any_column_privilege",
    "has_function_privilege",
    "has_sequence_privilege",
];

/// Words that are calls without brackets.
const NAMES: [&str; 4] = ["current_user", "session_user", "current_catalog", "current_role"];

/// Whether a statement is about the catalog: it calls a function of it, or names one of its tables.
pub fn mentions(tokens: &[TokenWithSpan], names: &dyn Names) -> bool {
    let word = |at: usize| match tokens.get(at).map(|token| &token.token) {
        Some(Token::Word(word)) if word.quote_style.is_none() => word.value.to_lowercase(),
        Some(Token::Word(word)) => word.value.clone(),
        _ => String::new(),
    };
    let is = |at: usize, expected: &Token| tokens.get(at).is_some_and(|token| token.token == *expected);
    (0..tokens.len()).any(|at| {
        let word = word(at);
        let calls = is(at + 1, &Token::LParen) && (word.starts_with("pg_") || CALLS.contains(&word.as_str()));
        let names_schema = is(at + 1, &Token::Period) && SCHEMAS.contains(&word.as_str());
        // What is a part of a name, or given as one, is a column.
        let alone = (at == 0 || !is(at - 1, &Token::Period)) && !is(at + 1, &Token::Period);
        let names_table = word.starts_with("pg_") && alone && names.table("pg_catalog", &word).is_some();
        calls || names_schema || names_table || alone && NAMES.contains(&word.as_str())
    })
}

/// Whether all tables that a statement reads are the catalog's, or its own.
fn reads_only_catalog(query: &Query, names: &dyn Names) -> bool {
    struct Reading<'a>(&'a dyn Names, Vec<String>);
    impl Visitor for Reading<'_> {
        type Break = ();

        fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
            self.1.extend(query.with.iter().flat_map(|with| &with.cte_tables).map(|cte| normal(&cte.alias.name)));
            ControlFlow::Continue(())
        }

        fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
            let TableFactor::Table { name, args: None, .. } = factor else { return ControlFlow::Continue(()) };
            let parts: Vec<String> = name.0.iter().filter_map(ObjectNamePart::as_ident).map(normal).collect();
            let known = match parts.as_slice() {
                [table] => self.1.contains(table) || self.0.table("pg_catalog", table).is_some(),
                [schema, table] => self.0.table(schema, table).is_some(),
                _ => false,
            };
            if known { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        }
    }
    Visit::visit(query, &mut Reading(names, Vec::new())).is_continue()
}

/// Makes a statement plain.
pub fn make_plain(query: &mut Query, names: &dyn Names) -> Result<()> {
    let whole = reads_only_catalog(query, names);
    let mut plain = Plain { names, whole };
    match VisitMut::visit(query, &mut plain) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Plain<'a> {
    names: &'a dyn Names,
    /// Whether all of it is of the catalog. What people ask about their own tables means what it says: only calls are
    /// replaced in it.
    whole: bool,
}

// Expressions are made as trees and never as texts: what somebody gave as a value stands in them.

fn value(value: Value) -> Expr {
    Expr::Value(value.with_empty_span())
}

fn text(of: &str) -> Expr {
    value(Value::SingleQuotedString(of.to_string()))
}

fn number(of: i64) -> Expr {
    value(Value::Number(of.to_string(), false))
}

fn flag(of: bool) -> Expr {
    value(Value::Boolean(of))
}

fn cast(expr: Expr, data_type: DataType) -> Expr {
    Expr::Cast { kind: CastKind::Cast, expr: Box::new(expr), data_type, array: false, format: None }
}

fn null(of: DataType) -> Expr {
    cast(value(Value::Null), of)
}

const TEXT: DataType = DataType::Varchar(None);
const NUMBER: DataType = DataType::BigInt(None);

fn called(name: &str, arguments: Vec<Expr>) -> Expr {
    let args = arguments.into_iter().map(|argument| FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))).collect();
    let list = FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() };
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(list),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// The last part of a name, in small letters unless it is quoted.
fn last(name: &ObjectName) -> String {
    name.0.last().and_then(ObjectNamePart::as_ident).map(normal).unwrap_or_default()
}

/// The text that an expression is, whatever it is cast to.
fn literal(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) => Some(text.clone()),
            Value::Number(number, _) => Some(number.clone()),
            _ => None,
        },
        Expr::Cast { expr, .. } | Expr::Nested(expr) | Expr::Collate { expr, .. } => literal(expr),
        _ => None,
    }
}

/// The arguments of a call.
fn arguments(function: &Function) -> Vec<Expr> {
    let FunctionArguments::List(list) = &function.args else { return Vec::new() };
    let plain = list.args.iter().filter_map(|argument| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
        _ => None,
    });
    plain.collect()
}

const AGGREGATES: [&str; 9] = ["avg", "count", "min", "max", "sum", "string_agg", "array_agg", "bool_and", "bool_or"];

/// Whether an expression is an aggregate, or has one in it.
fn has_aggregate(expr: &Expr) -> bool {
    struct Looking;
    impl Visitor for Looking {
        type Break = ();

        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            match expr {
                Expr::Function(call) if call.over.is_none() && AGGREGATES.contains(&last(&call.name).as_str()) => {
                    ControlFlow::Break(())
                }
                _ => ControlFlow::Continue(()),
            }
        }
    }
    Visit::visit(expr, &mut Looking).is_break()
}

/// Whether it is one and nothing else: over nothing it has one row, of NULL or 0.
fn is_aggregate(expr: &Expr) -> bool {
    match expr {
        Expr::Function(function) => function.over.is_none() && AGGREGATES.contains(&last(&function.name).as_str()),
        Expr::Cast { expr, .. } | Expr::Nested(expr) => is_aggregate(expr),
        _ => false,
    }
}

/// The name that a column has without an alias.
fn name_of(expr: &Expr) -> String {
    match expr {
        Expr::Identifier(ident) => normal(ident),
        Expr::CompoundIdentifier(idents) => idents.last().map(normal).unwrap_or_default(),
        Expr::Function(function) => last(&function.name),
        Expr::Cast { expr, .. } | Expr::Nested(expr) | Expr::Collate { expr, .. } => name_of(expr),
        Expr::Case { .. } => "case".to_string(),
        Expr::Exists { .. } => "exists".to_string(),
        Expr::Subquery(query) => match query.body.as_ref() {
            SetExpr::Select(select) => match select.projection.first() {
                Some(SelectItem::UnnamedExpr(expr)) => name_of(expr),
                Some(SelectItem::ExprWithAlias { alias, .. }) => normal(alias),
                _ => "?column?".to_string(),
            },
            _ => "?column?".to_string(),
        },
        _ => "?column?".to_string(),
    }
}

impl Plain<'_> {
    /// Whether a table gives no rows, whatever is asked of it.
    fn is_empty(&self, factor: &TableFactor) -> bool {
        match factor {
            TableFactor::Table { name, args: None, .. } => {
                let parts: Vec<String> = name.0.iter().filter_map(ObjectNamePart::as_ident).map(normal).collect();
                let (schema, table) = match parts.as_slice() {
                    [table] if table.starts_with("pg_") => ("pg_catalog", table),
                    [schema, table] => (schema.as_str(), table),
                    _ => return false,
                };
                self.names.table(schema, table) == Some(false)
            }
            // What a list unfolds to: all lists of ours are empty.
            TableFactor::Table { name, args: Some(_), .. } | TableFactor::Function { name, .. } => {
                !matches!(last(name).as_str(), "generate_series" | "tumble" | "hop" | "cumulate")
            }
            TableFactor::UNNEST { .. } => true,
            TableFactor::Derived { subquery, .. } => match subquery.body.as_ref() {
                SetExpr::Select(select) => self.has_no_rows(select),
                _ => false,
            },
            TableFactor::NestedJoin { table_with_joins, .. } => {
                self.is_empty(&table_with_joins.relation)
                    || table_with_joins
                        .joins
                        .iter()
                        .any(|join| is_inner(&join.join_operator) && self.is_empty(&join.relation))
            }
            _ => false,
        }
    }

    fn reads_nothing(&self, select: &Select) -> bool {
        select.from.iter().any(|table| {
            let joined = table.joins.iter().any(|join| is_inner(&join.join_operator) && self.is_empty(&join.relation));
            let keeps = table.joins.iter().any(|join| {
                matches!(
                    join.join_operator,
                    JoinOperator::Right(_) | JoinOperator::RightOuter(_) | JoinOperator::FullOuter(_)
                )
            });
            !keeps && (joined || self.is_empty(&table.relation))
        })
    }

    fn has_no_rows(&self, select: &Select) -> bool {
        self.reads_nothing(select) && (has_groups(select) || !aggregates(select))
            // Folded already.
            || matches!(&select.selection, Some(Expr::Value(value)) if value.value == Value::Boolean(false))
    }

    /// A SELECT of nothing, with the same columns.
    fn folded(&self, select: &Select) -> Option<Select> {
        if !self.reads_nothing(select) {
            return None;
        }
        let one_row = aggregates(select) && !has_groups(select);
        let mut seen: Vec<String> = Vec::new();
        let mut columns = Vec::new();
        for item in &select.projection {
            let (name, expr) = match item {
                SelectItem::UnnamedExpr(expr) => (name_of(expr), expr),
                SelectItem::ExprWithAlias { expr, alias } => (normal(alias), expr),
                _ => return None,
            };
            let unique = match seen.iter().filter(|known| **known == name).count() {
                0 => name.clone(),
                count => format!("{name}_{count}"),
            };
            seen.push(name);
            if one_row && !is_aggregate(expr) {
                return None;
            }
            let is_count = one_row && matches!(expr, Expr::Function(function) if last(&function.name) == "count");
            let shown = if is_count { "0" } else { "CAST(NULL AS VARCHAR)" };
            columns.push(format!("{shown} AS {}", Ident::with_quote('"', unique)));
        }
        let end = if one_row { "" } else { " WHERE false" };
        selected(&format!("SELECT {}{end}", columns.join(", ")))
    }

    fn select(&self, select: &mut Select) {
        // The parts of the search path, as Grafana asks for them.
        let unfolds_path = select.from.iter().any(|table| match &table.relation {
            TableFactor::Table { name, args: Some(_), .. } | TableFactor::Function { name, .. } => {
                last(name) == "generate_series"
            }
            _ => false,
        }) && select.to_string().contains("search_path");
        if unfolds_path {
            if let Some(path) = selected(PATH) {
                *select = path;
            }
            return;
        }
        if let Some(folded) = self.folded(select) {
            *select = folded;
            return;
        }
        named(select);
        for table in &mut select.from {
            let joined = table.joins.iter_mut().map(|join| &mut join.relation);
            for factor in std::iter::once(&mut table.relation).chain(joined) {
                self.factor(factor);
            }
        }
    }

    fn factor(&self, factor: &mut TableFactor) {
        let (name, alias, called) = match factor {
            TableFactor::Table { name, alias, args, .. } => (name, alias, args.is_some()),
            TableFactor::Function { name, alias, .. } => (name, alias, true),
            _ => return,
        };
        if called && last(name) == "generate_series" {
            // Over a list that has one value.
            let column = alias
                .as_ref()
                .and_then(|alias| alias.columns.first())
                .map_or("n".to_string(), |column| normal(&column.name));
            let table = alias.as_ref().map_or("n".to_string(), |alias| normal(&alias.name));
            let (column, table) = (Ident::with_quote('"', column), Ident::with_quote('"', table));
            if let Some(select) = selected(&format!("SELECT * FROM (SELECT 1 AS {column}) AS {table}"))
                && let Some(one) = select.from.into_iter().next()
            {
                *factor = one.relation;
            }
            return;
        }
        // One without a schema is the catalog's.
        let is_ours = |part: &ObjectNamePart| part.as_ident().is_some_and(|ident| normal(ident).starts_with("pg_"));
        if let [part] = name.0.as_slice()
            && is_ours(part)
        {
            let table = Ident::with_quote('"', last(name));
            if alias.is_none() {
                *alias = Some(sqlparser::ast::TableAlias {
                    explicit: true,
                    name: table.clone(),
                    columns: Vec::new(),
                    at: None,
                });
            }
            *name = ObjectName::from(vec![Ident::new("pg_catalog"), table]);
        }
    }

    fn call(&self, function: &mut Function) -> Result<Option<Expr>> {
        // Functions over lists mean what they say where there are lists.
        let own = ["array_to_string", "array_length", "array_upper", "array_lower", "string_to_array", "array"];
        if !self.whole && own.contains(&last(&function.name).as_str()) {
            return Ok(None);
        }
        let name = last(&function.name);
        let schema = function.name.0.first().and_then(ObjectNamePart::as_ident).map(normal).unwrap_or_default();
        if function.name.0.len() > 1 && SCHEMAS.contains(&schema.as_str()) {
            function.name = ObjectName::from(vec![Ident::new(name.clone())]);
        }
        let given = arguments(function);
        let first = given.first().cloned();
        let renamed = |name: &str, function: &Function| {
            Some(Expr::Function(Function { name: ObjectName::from(vec![Ident::new(name)]), ..function.clone() }))
        };
        Ok(match name.as_str() {
            "version" => Some(text(&format!("PostgreSQL {VERSION} (Tidegate {})", env!("CARGO_PKG_VERSION")))),
            "current_database" | "current_catalog" => Some(text(DATABASE)),
            "current_schema" => Some(text("public")),
            "current_schemas" => Some(text("{pg_catalog,public}")),
            "current_user" | "session_user" | "user" | "current_role" | "pg_get_userbyid" => Some(text(DATABASE)),
            "current_setting" | "set_config" => {
                Some(text(match first.as_ref().and_then(literal).unwrap_or_default().as_str() {
                    "server_version_num" => "150000",
                    "server_version" => VERSION,
                    "search_path" => "public",
                    "max_index_keys" => "32",
                    _ => "",
                }))
            }
            "pg_table_is_visible" => first.map(|of| {
                let (left, right) = (Box::new(Expr::Nested(Box::new(of))), Box::new(number(UNSEEN)));
                Expr::Nested(Box::new(Expr::BinaryOp { left, op: BinaryOperator::Lt, right }))
            }),
            "pg_type_is_visible" | "pg_function_is_visible" | "pg_collation_is_visible" => Some(flag(true)),
            "pg_relation_is_publishable" | "pg_is_in_recovery" => Some(flag(false)),
            name if name.starts_with("has_") && name.ends_with("_privilege") => Some(flag(true)),
            "pg_encoding_to_char" => Some(text("UTF8")),
            "pg_backend_pid" => Some(number(1)),
            "to_regtype" | "to_regclass" => {
                let known = first.as_ref().and_then(literal).and_then(|text| match name.as_str() {
                    "to_regtype" => types::by_name(&text).map(i64::from),
                    _ => self.names.relation(&text),
                });
                Some(known.map_or_else(|| null(NUMBER), number))
            }
            "format_type" => match given.as_slice() {
                [of] => Some(called("tidegate_format_type", vec![of.clone(), number(-1)])),
                _ => renamed("tidegate_format_type", function),
            },
            "quote_ident" => renamed("tidegate_quote_ident", function),
            "array" => Some(null(TEXT)),
            "parse_ident" | "string_to_array" => None,
            "array_length" | "array_upper" | "array_lower" => first.map(|of| match parts(&of) {
                Some(parts) => number(if name == "array_lower" { 1 } else { parts.len() as i64 }),
                None => null(NUMBER),
            }),
            "pg_size_pretty"
            | "pg_get_expr"
            | "obj_description"
            | "col_description"
            | "shobj_description"
            | "pg_get_constraintdef"
            | "pg_get_indexdef"
            | "pg_get_viewdef"
            | "pg_get_serial_sequence"
            | "pg_get_function_result"
            | "pg_get_function_arguments"
            | "pg_get_function_identity_arguments"
            | "array_to_string"
            | "json_build_object"
            | "pg_get_statisticsobjdef_columns"
            | "pg_tablespace_location" => Some(null(TEXT)),
            "pg_table_size" | "pg_total_relation_size" | "pg_relation_size" | "pg_database_size" => Some(null(NUMBER)),
            "pg_advisory_unlock_all" => Some(null(TEXT)),
            _ => None,
        })
    }

    /// What an expression of this type is, without its type.
    fn cast(&self, inner: &Expr, data_type: &DataType) -> Result<Option<Expr>> {
        let name = match data_type {
            DataType::Custom(name, _) => last(name),
            DataType::Regclass => "regclass".to_string(),
            DataType::Array(_) => return Ok(Some(inner.clone())),
            _ => return Ok(None),
        };
        let named = |found: Option<i64>, of: &str, text: &str| {
            found.map(number).ok_or_else(|| Error::query("TG-QUERY-TABLE", format!("there is no {of} {text}")))
        };
        let literal = literal(inner);
        // One that was made from a number is that number.
        let number_of = |inner: &Expr| match inner {
            Expr::Function(function) if last(&function.name) == "tidegate_regclass" => {
                arguments(function).into_iter().next()
            }
            _ => None,
        };
        let as_type = |data_type: DataType| Some(cast(inner.clone(), data_type));
        Ok(match (name.as_str(), literal) {
            ("oid", _) => Some(number_of(inner).or_else(|| as_type(NUMBER)).unwrap_or_else(|| inner.clone())),
            ("regclass", Some(name)) if name.parse::<i64>().is_err() => {
                Some(named(self.names.relation(&name), "table", &name)?)
            }
            ("regclass", Some(oid)) => oid.parse().ok().map(|oid| called("tidegate_regclass", vec![number(oid)])),
            ("regclass", None) if is_null(inner) => Some(null(NUMBER)),
            ("regclass", None) => Some(called("tidegate_regclass", vec![inner.clone()])),
            ("regtype", Some(name)) if name.parse::<i64>().is_err() => {
                Some(named(types::by_name(&name).map(i64::from), "type", &name)?)
            }
            ("regtype", _) => Some(called("tidegate_format_type", vec![inner.clone(), number(-1)])),
            ("regproc", Some(name)) => Some(text(&name)),
            ("regproc" | "regnamespace" | "regrole", _) => as_type(TEXT),
            ("name" | "char" | "bpchar" | "text" | "varchar" | "cstring", _) => as_type(TEXT),
            ("int2" | "int4" | "int8" | "smallint" | "integer" | "bigint", _) => as_type(NUMBER),
            ("bool", _) => as_type(DataType::Boolean),
            ("float8", _) => as_type(DataType::Double(ExactNumberInfo::None)),
            _ => Some(inner.clone()),
        })
    }

    fn expr(&self, expr: &mut Expr) -> Result<()> {
        let replaced = match expr {
            Expr::Function(function) => self.call(function)?,
            _ if !self.whole => None,
            Expr::Cast { expr: inner, data_type, .. } => self.cast(inner, data_type)?,
            Expr::Collate { expr: inner, .. } => Some(inner.as_ref().clone()),
            Expr::Subquery(query) => scalar(query),
            Expr::Exists { subquery, negated } => match subquery.body.as_ref() {
                SetExpr::Select(select) if self.has_no_rows(select) => Some(flag(*negated)),
                _ => None,
            },
            // The search path, which is the only thing that is asked for like this.
            Expr::InSubquery { expr: of, subquery, negated } if is_path(subquery) => {
                Some(Expr::InList { expr: of.clone(), list: vec![text("public")], negated: *negated })
            }
            Expr::AnyOp { left, compare_op: BinaryOperator::Eq, right, .. } => Some(one_of(left, right, false)),
            Expr::AllOp { left, compare_op: BinaryOperator::NotEq, right } => Some(one_of(left, right, true)),
            Expr::AnyOp { .. } | Expr::AllOp { .. } => Some(null(DataType::Boolean)),
            Expr::CompoundFieldAccess { root, access_chain } => Some(element(root, access_chain)),
            Expr::Like { pattern, escape_char: escape @ Some(_), .. } => {
                let character = escape.take().map(|value| value.value);
                if let Some(Value::SingleQuotedString(character)) = character {
                    // The engine knows one character that does that.
                    **pattern = called("replace", vec![pattern.as_ref().clone(), text(&character), text("\\")]);
                }
                None
            }
            Expr::BinaryOp { left, op, right } => {
                if let BinaryOperator::PGCustomBinaryOperator(parts) = op {
                    *op = match parts.last().map(String::as_str) {
                        Some("~") => BinaryOperator::PGRegexMatch,
                        Some("!~") => BinaryOperator::PGRegexNotMatch,
                        Some("~*") => BinaryOperator::PGRegexIMatch,
                        Some("=") => BinaryOperator::Eq,
                        Some("<>") => BinaryOperator::NotEq,
                        _ => op.clone(),
                    };
                }
                // A literal has the type of the column.
                let parsed =
                    |of: &Expr| literal(of).and_then(|text| text.parse().ok()).map(|found| Box::new(number(found)));
                match (self.is_number(left), self.is_number(right)) {
                    (true, false) => *right = parsed(right).unwrap_or_else(|| right.clone()),
                    (false, true) => *left = parsed(left).unwrap_or_else(|| left.clone()),
                    _ => {}
                }
                None
            }
            Expr::InList { expr: of, list, .. } if self.is_number(of) => {
                for value in list {
                    if let Some(parsed) = literal(value).and_then(|text| text.parse().ok()) {
                        *value = number(parsed);
                    }
                }
                None
            }
            _ => None,
        };
        if let Some(replaced) = replaced {
            *expr = replaced;
        }
        Ok(())
    }

    fn is_number(&self, expr: &Expr) -> bool {
        match expr {
            Expr::Identifier(ident) => self.names.is_number(&normal(ident)),
            Expr::CompoundIdentifier(idents) => idents.last().is_some_and(|ident| self.names.is_number(&normal(ident))),
            Expr::Nested(inner) => self.is_number(inner),
            _ => false,
        }
    }
}

/// Whether a query is what the search path was folded to.
fn is_path(query: &Query) -> bool {
    matches!(query.body.as_ref(), SetExpr::Select(select) if select.from.is_empty() && select.to_string() == PATH)
}

/// The search path as a query.
const PATH: &str = "SELECT 'public' AS s";

fn is_inner(operator: &JoinOperator) -> bool {
    matches!(operator, JoinOperator::Join(_) | JoinOperator::Inner(_) | JoinOperator::CrossJoin(_))
}

fn aggregates(select: &Select) -> bool {
    select.projection.iter().any(|item| match item {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => has_aggregate(expr),
        _ => false,
    })
}

fn has_groups(select: &Select) -> bool {
    match &select.group_by {
        sqlparser::ast::GroupByExpr::All(_) => true,
        sqlparser::ast::GroupByExpr::Expressions(of, _) => !of.is_empty(),
    }
}

/// Gives columns without an alias the names that Postgres gives them, each its own.
fn named(select: &mut Select) {
    let mut seen: Vec<String> = Vec::new();
    for item in &mut select.projection {
        match item {
            SelectItem::UnnamedExpr(Expr::Identifier(_) | Expr::CompoundIdentifier(_)) => {}
            SelectItem::UnnamedExpr(expr) => {
                let name = name_of(expr);
                let count = seen.iter().filter(|known| **known == name).count();
                let unique = if count == 0 { name.clone() } else { format!("{name}_{count}") };
                seen.push(name);
                *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias: Ident::with_quote('"', unique) };
            }
            SelectItem::ExprWithAlias { alias, .. } => seen.push(normal(alias)),
            _ => {}
        }
    }
}

/// A SELECT that is written here.
fn selected(text: &str) -> Option<Select> {
    let parsed = Parser::new(&DIALECT).try_with_sql(text).and_then(|mut parser| parser.parse_query());
    match *parsed.ok()?.body {
        SetExpr::Select(select) => Some(*select),
        _ => None,
    }
}

fn is_null(expr: &Expr) -> bool {
    match expr {
        Expr::Value(value) => matches!(value.value, Value::Null | Value::Placeholder(_)),
        Expr::Cast { expr, .. } => is_null(expr),
        _ => false,
    }
}

/// A subquery that stands for one value: NULL if it has none, and the only one of those that it may have.
fn scalar(query: &Query) -> Option<Expr> {
    let SetExpr::Select(select) = query.body.as_ref() else { return None };
    let is_folded = matches!(&select.selection, Some(Expr::Value(value)) if value.value == Value::Boolean(false));
    if is_folded {
        return Some(null(TEXT));
    }
    // One that says itself which of several it means is left to do so.
    if aggregates(select) || has_groups(select) || query.limit_clause.is_some() || query.order_by.is_some() {
        return None;
    }
    let [SelectItem::UnnamedExpr(value) | SelectItem::ExprWithAlias { expr: value, .. }] = select.projection.as_slice()
    else {
        return None;
    };
    let mut query = query.clone();
    if let SetExpr::Select(select) = query.body.as_mut() {
        select.projection = vec![SelectItem::UnnamedExpr(called("max", vec![value.clone()]))];
    }
    Some(Expr::Subquery(Box::new(query)))
}

/// The values of a list that is written as a text, or is one of ours.
fn parts(expr: &Expr) -> Option<Vec<String>> {
    let split = |text: &str, at: char| text.split(at).map(|part| part.trim().trim_matches('"').to_string()).collect();
    match expr {
        Expr::Function(function) if last(&function.name) == "parse_ident" => {
            Some(split(&arguments(function).first().and_then(literal)?, '.'))
        }
        Expr::Function(function) if last(&function.name) == "string_to_array" => {
            Some(split(&arguments(function).first().and_then(literal)?, ','))
        }
        Expr::Nested(inner) => parts(inner),
        other => {
            let text = literal(other)?;
            let inner = text.strip_prefix('{')?.strip_suffix('}')?;
            Some(if inner.is_empty() { Vec::new() } else { split(inner, ',') })
        }
    }
}

/// Whether a value is one of a list: of one that is written, or of a column, and those are empty.
fn one_of(left: &Expr, right: &Expr, negated: bool) -> Expr {
    let list = match right {
        Expr::Array(array) => array.elem.clone(),
        Expr::Nested(inner) => return one_of(left, inner, negated),
        other => match parts(other) {
            Some(parts) => parts.iter().map(|part| text(part)).collect(),
            None => return null(DataType::Boolean),
        },
    };
    if list.is_empty() {
        return flag(negated);
    }
    Expr::InList { expr: Box::new(left.clone()), list, negated }
}

/// An element of a list that is written; of any other there is none.
fn element(root: &Expr, access: &[AccessExpr]) -> Expr {
    let index = match access {
        [AccessExpr::Subscript(Subscript::Index { index })] => index,
        _ => return null(TEXT),
    };
    let Some(parts) = parts(root) else { return null(TEXT) };
    let at = literal(index).and_then(|index| index.parse::<usize>().ok());
    // Where it is counted, what is counted is the search path.
    let found = match at {
        Some(at) => at.checked_sub(1).and_then(|at| parts.get(at)),
        None => parts.iter().find(|part| *part == "public"),
    };
    found.map_or_else(|| null(TEXT), |part| text(part))
}

impl VisitorMut for Plain<'_> {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        if !self.whole {
            return ControlFlow::Continue(());
        }
        let mut bodies = vec![query.body.as_mut()];
        while let Some(body) = bodies.pop() {
            match body {
                SetExpr::Select(select) => self.select(select),
                SetExpr::SetOperation { left, right, .. } => bodies.extend([left.as_mut(), right.as_mut()]),
                _ => {}
            }
        }
        // What a part that is cut out was sorted by is not there any more.
        let folded = matches!(query.body.as_ref(), SetExpr::Select(select) if self.has_no_rows(select));
        if folded {
            query.order_by = None;
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        match self.expr(expr) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }
}
