//! The statements of a directory, planned together. Every fault of every file is reported at once.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::common::DFSchema;
use datafusion::execution::context::SessionState;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Cast, Expr, ExprSchemable};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::prelude::{SessionConfig, SessionContext};

use super::endpoint::{Endpoint, Gauge};
use super::explain::Relation;
use super::planned::{PlannedSource, PlannedView, Table};
use super::source::{Metadata, Origin, Source, event_time_type};
use super::statement::{self, Statement};
use super::view::ViewText;
use super::{explain, split, text, window};
use crate::batch::HIDDEN;
use crate::error::{Error, Result};
use crate::view::plan::leaf_table;

/// The sources and views of a directory.
#[derive(Debug, Default)]
pub struct Catalog {
    /// By name.
    pub sources: Vec<PlannedSource>,
    /// By name; each on one of the sources.
    pub views: Vec<PlannedView>,
    /// By path; over the views' tables.
    pub endpoints: Vec<Endpoint>,
    /// By name; over the views' tables.
    pub gauges: Vec<Gauge>,
}

impl Catalog {
    /// Reads, parses and plans every `.sql` file below `path`, or the one file that it is.
    pub fn load(path: &Path) -> Result<Self, Vec<Error>> {
        let (texts, errors) = match read_files(path) {
            Ok(texts) => (texts, Vec::new()),
            Err(error) => (Vec::new(), vec![error]),
        };
        match Self::of_texts(&texts, |name| std::env::var(name).ok()) {
            Ok(catalog) if errors.is_empty() => Ok(catalog),
            Ok(_) => Err(errors),
            Err(more) => Err(errors.into_iter().chain(more).collect()),
        }
    }

    /// The same for texts with the names of their files.
    pub fn of_texts(texts: &[(String, String)], variable: impl Fn(&str) -> Option<String>) -> Result<Self, Vec<Error>> {
        let (mut sources, mut views, mut errors) = (Vec::new(), Vec::new(), Vec::new());
        let (mut endpoints, mut gauges) = (Vec::new(), Vec::new());
        // Sources with a fault: that views miss them is no fault of its own.
        let mut broken = Vec::new();
        for (file, content) in texts {
            let (statements, faults) = text::statements(file, content, &variable);
            errors.extend(faults);
            for tokens in statements {
                match statement::parse(&tokens) {
                    Ok(Statement::Source(source)) => sources.push(source),
                    Ok(Statement::View(view)) => views.push(view),
                    Ok(Statement::Endpoint(endpoint)) => endpoints.push(endpoint),
                    Ok(Statement::Gauge(gauge)) => gauges.push(gauge),
                    Err(faults) => {
                        errors.extend(faults);
                        broken.extend(statement::source_name(&tokens));
                    }
                }
            }
        }
        check_names(&sources, &views, &gauges, &mut errors);
        check_paths(&endpoints, &mut errors);
        let session = session();
        let mut planned_sources = Vec::new();
        for source in sources {
            let name = source.name.clone();
            match plan_source(&session, source) {
                Ok(source) => planned_sources.push(source),
                Err(error) => {
                    errors.push(error);
                    broken.push(name);
                }
            }
        }
        let mut planned_views = Vec::new();
        for view in &views {
            match split::plan(&session, &planned_sources, view) {
                Ok(view) => planned_views.push(view),
                Err(faults) => {
                    let is_own =
                        |fault: &Error| !broken.iter().any(|n| fault.message.ends_with(&Relation::Source.missing(n)));
                    errors.extend(faults.into_iter().filter(is_own));
                }
            }
        }
        let tables: Vec<&Table> = planned_views.iter().map(|view: &PlannedView| &view.table).collect();
        let asked = endpoints.iter().filter_map(|endpoint: &Endpoint| endpoint.check(&tables).err());
        let asked = asked.chain(gauges.iter().filter_map(|gauge: &Gauge| gauge.check(&tables).err())).flatten();
        // That they miss a view that has a fault is none of their own.
        let unplanned = views.iter().filter(|view| !tables.iter().any(|table| table.name == view.name));
        let unplanned: Vec<String> = unplanned.map(|view| Relation::View.missing(&view.name)).collect();
        errors.extend(asked.filter(|fault| !unplanned.iter().any(|missing| fault.message.ends_with(missing))));
        if !errors.is_empty() {
            errors.sort_by_key(|error: &Error| error.place.as_ref().map(|p| (p.file.clone(), p.line, p.column)));
            return Err(errors);
        }
        planned_sources.sort_by(|a, b| a.source.name.cmp(&b.source.name));
        planned_views.sort_by(|a: &PlannedView, b| a.name.cmp(&b.name));
        endpoints.sort_by(|a: &Endpoint, b| a.path.cmp(&b.path));
        gauges.sort_by(|a: &Gauge, b| a.name.cmp(&b.name));
        Ok(Self { sources: planned_sources, views: planned_views, endpoints, gauges })
    }
}

/// The longest text of a file.
const FILE_MAX: u64 = 1 << 20;

/// The `.sql` files at or below a path, with their texts. Names that begin with a dot are not read: what mounts files keeps
/// its own there.
pub fn read_files(path: &Path) -> Result<Vec<(String, String)>> {
    let root = path.canonicalize().map_err(|error| unread(path, &error.to_string()))?;
    let mut files = Vec::new();
    sql_files(path, &root, &mut files)?;
    files.sort();
    if files.is_empty() {
        return Err(Error::configuration("TG-QUERIES", format!("there is no .sql file in {}", path.display()))
            .hint("name a directory of CREATE SOURCE and CREATE MATERIALIZED VIEW statements"));
    }
    let read = |file: PathBuf| {
        let long = std::fs::metadata(&file).is_ok_and(|told| told.len() > FILE_MAX);
        if long {
            return Err(unread(&file, &format!("it has more than {} MiB", FILE_MAX >> 20)));
        }
        let text = std::fs::read_to_string(&file).map_err(|error| unread(&file, &error.to_string()))?;
        Ok((file.display().to_string(), text))
    };
    files.into_iter().map(read).collect()
}

fn unread(path: &Path, why: &str) -> Error {
    Error::configuration("TG-QUERIES", format!("cannot read {}: {why}", path.display()))
        .hint("name a directory of .sql files with --queries")
}

fn sql_files(path: &Path, root: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let cannot = |error: std::io::Error| unread(path, &error.to_string());
    if std::fs::metadata(path).map_err(cannot)?.is_file() {
        found.push(path.to_path_buf());
        return Ok(());
    }
    for entry in std::fs::read_dir(path).map_err(cannot)? {
        let entry = entry.map_err(cannot)?;
        let (file, is_link) = (entry.path(), entry.file_type().map_err(cannot)?.is_symlink());
        let is_sql = file.extension().is_some_and(|extension| extension == "sql");
        if entry.file_name().as_encoded_bytes().starts_with(b".") || !(is_sql || file.is_dir()) {
            continue;
        }
        if is_link {
            let target = file.canonicalize().map_err(|error| unread(&file, &error.to_string()))?;
            let why = if target.is_dir() {
                Some("it is a link to a directory; name that one")
            } else if !target.starts_with(root) {
                Some("it is a link that leads out of the directory")
            } else {
                None
            };
            if let Some(why) = why {
                return Err(unread(&file, why));
            }
        }
        sql_files(&file, root, found)?;
    }
    Ok(())
}

fn check_names(sources: &[Source], views: &[ViewText], gauges: &[Gauge], errors: &mut Vec<Error>) {
    let mut seen = HashSet::new();
    let names = sources
        .iter()
        .map(|s| (&s.name, &s.file, 1, 1))
        .chain(views.iter().map(|v| (&v.name, &v.file, v.line, v.column)))
        .chain(gauges.iter().map(|g| (&g.name, &g.rows.file, g.rows.line, g.rows.column)));
    for (name, file, line, column) in names {
        if !seen.insert(name.clone()) {
            errors.push(
                Error::query("TG-SQL-NAME", format!("{name} is declared twice"))
                    .hint("rename or remove one of them")
                    .at(file, line, column),
            );
        }
    }
}

fn check_paths(endpoints: &[Endpoint], errors: &mut Vec<Error>) {
    let mut seen = HashSet::new();
    for endpoint in endpoints {
        if !seen.insert(&endpoint.path) {
            let at = &endpoint.rows;
            errors.push(
                Error::query("TG-SQL-NAME", format!("endpoint {} is declared twice", endpoint.path))
                    .hint("rename or remove one of them")
                    .at(&at.file, at.line, at.column),
            );
        }
    }
}

/// DataFusion's rules but for one, which moves projections below filters: what WHERE or HAVING drops would be computed, and
/// fail.
pub fn physical_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules = PhysicalOptimizer::new().rules;
    rules.retain(|rule| rule.name() != "ProjectionPushdown");
    rules
}

/// The session that plans; its settings are what `docs/architecture.md` says of determinism.
fn session() -> SessionContext {
    let mut config = SessionConfig::new().with_target_partitions(1).with_batch_size(1 << 20);
    let options = config.options_mut();
    options.sql_parser.collect_spans = true;
    options.optimizer.enable_dynamic_filter_pushdown = false;
    let state = SessionStateBuilder::new()
        .with_config(config)
        .with_default_features()
        .with_physical_optimizer_rules(physical_rules())
        .build();
    let context = SessionContext::new_with_state(state);
    context.register_udf(window::udf());
    context
}

fn plan_source(session: &SessionContext, source: Source) -> Result<PlannedSource> {
    let state = session.state();
    let mut fields: Vec<Field> = Vec::new();
    for column in &source.columns {
        if let Some(data_type) = column.data_type.clone().or(match column.origin {
            Origin::Metadata(metadata) => Some(metadata.data_type()),
            _ => None,
        }) {
            let nullable =
                column.nullable && !matches!(column.origin, Origin::Metadata(Metadata::Partition | Metadata::Offset));
            fields.push(Field::new(&column.name, data_type, nullable));
        } else if let Origin::Computed { .. } = column.origin {
            // Its type is that of its expression, which may use the columns that have one.
            fields.push(Field::new(&column.name, DataType::Null, true));
        } else {
            return Err(Error::query("TG-SQL-TYPE", format!("column {} has no type", column.name))
                .hint("write a type behind its name")
                .at(&source.file, column.line, column.column));
        }
    }
    let computed_free = |fields: &[Field]| {
        let kept = fields.iter().zip(&source.columns).filter(|(_, c)| !matches!(c.origin, Origin::Computed { .. }));
        Schema::new(kept.map(|(field, _)| field.clone()).collect::<Vec<_>>())
    };
    let base = DFSchema::try_from_qualified_schema(source.name.as_str(), &computed_free(&fields))?;
    let mut expressions = Vec::new();
    for (index, column) in source.columns.iter().enumerate() {
        let Origin::Computed { expr, .. } = &column.origin else { continue };
        let (expr, data_type) = computed_expression(&state, &base, &expr.to_string(), column.data_type.clone())
            .map_err(|error| {
                let what = format!("column {}", column.name);
                explain::explain(error, &source.file, column.line, column.column, &what, Relation::Source)
            })?;
        fields[index] = Field::new(&column.name, data_type, column.nullable);
        let expr = state.create_physical_expr(simplified(expr, &base)?, &base)?;
        expressions.push((index, split::never_wrapping(&expr, base.as_arrow())?));
    }
    fields.push(Field::new(HIDDEN[0], DataType::Int32, false));
    fields.push(Field::new(HIDDEN[1], DataType::Int64, false));
    fields.push(Field::new(HIDDEN[2], DataType::Int64, false));
    let schema = Arc::new(Schema::new(fields));
    let time = schema.field_with_name(&source.time_column)?;
    if !matches!(time.data_type(), DataType::Timestamp(TimeUnit::Microsecond, _)) {
        return Err(Error::query(
            "TG-SQL-SOURCE",
            format!("the watermark's column {} is of type {}, not a timestamp", time.name(), time.data_type()),
        )
        .hint(format!(
            "cast it: {} {} AS (…)",
            time.name(),
            if *time.data_type() == event_time_type() { "TIMESTAMP" } else { "TIMESTAMP WITH TIME ZONE" }
        ))
        .at(&source.file, 1, 1));
    }
    let provider = leaf_table(&schema).0;
    session.register_table(source.name.as_str(), provider)?;
    Ok(PlannedSource { source, schema, computed: expressions })
}

/// An expression as the optimizer would leave it: some functions, such as `coalesce`, run only in another form.
fn simplified(expr: Expr, schema: &DFSchema) -> datafusion::error::Result<Expr> {
    let schema = Arc::new(schema.clone());
    let simplifier = ExprSimplifier::new(SimplifyContext::builder().with_schema(schema.clone()).build());
    simplifier.simplify(simplifier.coerce(expr, &schema)?)
}

/// A computed column's expression over the columns that are not computed, as the declared type.
fn computed_expression(
    state: &SessionState,
    base: &DFSchema,
    text: &str,
    declared: Option<DataType>,
) -> datafusion::error::Result<(Expr, DataType)> {
    let expr = state.create_logical_expr(text, base)?;
    explain::refuse_unrepeatable(&expr)?;
    let own = expr.get_type(base)?;
    // Times have microseconds everywhere: DataFusion's functions give nanoseconds.
    let declared = declared.or_else(|| match &own {
        DataType::Timestamp(_, zone) => Some(DataType::Timestamp(TimeUnit::Microsecond, zone.clone())),
        _ => None,
    });
    match declared {
        Some(declared) if declared != own => Ok((Expr::Cast(Cast::new(Box::new(expr), declared.clone())), declared)),
        _ => Ok((expr, own)),
    }
}
