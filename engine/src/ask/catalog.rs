//! The catalog of Postgres, as far as there is something to tell: our tables, their columns, their types.
//!
//! Clients read it to list tables and to know what columns are. It is made anew for each statement that asks for it, of
//! what [`Relations`] say, and never read from a database.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::catalog::MemorySchemaProvider;
use datafusion::common::TableReference;
use datafusion::datasource::MemTable;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};
use datafusion::prelude::SessionContext;

use super::adhoc::Relations;
use super::system;
use crate::error::{Error, Result};
use crate::recent::HIDDEN_OF_TABLE;
use crate::sql::pg::types::{self, pg_type};
use crate::sql::pg::{self, DATABASE, SCHEMAS, UNSEEN};

/// Each table with its columns: `i` is a number, `b` a flag, `t` a text; with what it is in every row, where that is always
/// the same. Those that have no row here have none at all.
const TABLES: &str = "
pg_catalog.pg_namespace oid:i nspname:t nspowner:i=10 nspacl:t
pg_catalog.pg_class oid:i relname:t relnamespace:i reltype:i=0 reloftype:i=0 relowner:i=10 relam:i=2 relfilenode:i=0 reltablespace:i=0 relpages:i=0 reltuples:i=-1 relallvisible:i=0 reltoastrelid:i=0 relhasindex:b=f relisshared:b=f relpersistence:t=p relkind:t relnatts:i relchecks:i=0 relhasrules:b=f relhastriggers:b=f relhassubclass:b=f relrowsecurity:b=f relforcerowsecurity:b=f relispopulated:b=t relreplident:t=d relispartition:b=f relacl:t reloptions:t relpartbound:t
pg_catalog.pg_attribute attrelid:i attname:t atttypid:i attstattarget:i=-1 attlen:i attnum:i attndims:i=0 atttypmod:i attbyval:b=f attstorage:t=p attcompression:t= attalign:t=i attnotnull:b atthasdef:b=f atthasmissing:b=f attidentity:t= attgenerated:t= attisdropped:b=f attislocal:b=t attinhcount:i=0 attcollation:i=0 attacl:t attoptions:t
pg_catalog.pg_type oid:i typname:t typnamespace:i=11 typowner:i=10 typlen:i typbyval:b=f typtype:t=b typcategory:t typispreferred:b=f typisdefined:b=t typdelim:t=, typrelid:i=0 typelem:i typarray:i typinput:t= typoutput:t= typnotnull:b=f typbasetype:i=0 typtypmod:i=-1 typndims:i=0 typcollation:i=0 typdefault:t
pg_catalog.pg_database oid:i=1 datname:t datdba:i=10 encoding:i=6 datlocprovider:t=c datistemplate:b=f datallowconn:b=t datconnlimit:i=-1 datcollate:t=C datctype:t=C daticulocale:t datlocale:t daticurules:t datcollversion:t datacl:t dattablespace:i=1663
pg_catalog.pg_roles oid:i=10 rolname:t rolsuper:b=f rolinherit:b=t rolcreaterole:b=f rolcreatedb:b=f rolcanlogin:b=t rolreplication:b=f rolconnlimit:i=-1 rolpassword:t rolvaliduntil:t rolbypassrls:b=f rolconfig:t
pg_catalog.pg_am oid:i amname:t amhandler:t= amtype:t
pg_catalog.pg_settings name:t setting:t unit:t category:t= short_desc:t= context:t=internal vartype:t=string
pg_catalog.pg_tablespace oid:i=1663 spcname:t spcowner:i=10 spcacl:t spcoptions:t
pg_catalog.pg_attrdef oid:i adrelid:i adnum:i adbin:t
pg_catalog.pg_description objoid:i classoid:i objsubid:i description:t
pg_catalog.pg_shdescription objoid:i classoid:i description:t
pg_catalog.pg_index indexrelid:i indrelid:i indnatts:i indnkeyatts:i indisunique:b indnullsnotdistinct:b indisprimary:b indisexclusion:b indimmediate:b indisclustered:b indisvalid:b indisready:b indislive:b indisreplident:b indkey:t indcollation:t indclass:t indoption:t indexprs:t indpred:t
pg_catalog.pg_constraint oid:i conname:t connamespace:i contype:t condeferrable:b condeferred:b convalidated:b conrelid:i contypid:i conindid:i conparentid:i confrelid:i confupdtype:t confdeltype:t confmatchtype:t conislocal:b coninhcount:i connoinherit:b conkey:t confkey:t conbin:t
pg_catalog.pg_inherits inhrelid:i inhparent:i inhseqno:i inhdetachpending:b
pg_catalog.pg_trigger oid:i tgrelid:i tgname:t tgisinternal:b tgenabled:t
pg_catalog.pg_rewrite oid:i rulename:t ev_class:i ev_type:t
pg_catalog.pg_sequence seqrelid:i seqtypid:i seqstart:i seqincrement:i seqmax:i seqmin:i seqcache:i seqcycle:b
pg_catalog.pg_policy oid:i polname:t polrelid:i polcmd:t polpermissive:b polroles:t polqual:t polwithcheck:t
pg_catalog.pg_statistic_ext oid:i stxrelid:i stxname:t stxnamespace:i stxkind:t stxstattarget:i
pg_catalog.pg_publication oid:i pubname:t puballtables:b
pg_catalog.pg_publication_rel oid:i prpubid:i prrelid:i prqual:t prattrs:t
pg_catalog.pg_publication_namespace oid:i pnpubid:i pnnspid:i
pg_catalog.pg_subscription oid:i subname:t
pg_catalog.pg_proc oid:i proname:t pronamespace:i proowner:i prolang:i prokind:t prorettype:i proargtypes:t pronargs:i prosrc:t provolatile:t
pg_catalog.pg_enum oid:i enumtypid:i enumsortorder:i enumlabel:t
pg_catalog.pg_range rngtypid:i rngsubtype:i
pg_catalog.pg_collation oid:i collname:t collnamespace:i collprovider:t collencoding:i
pg_catalog.pg_opclass oid:i opcmethod:i opcname:t opcnamespace:i opcdefault:b
pg_catalog.pg_extension oid:i extname:t extowner:i extnamespace:i extversion:t
pg_catalog.pg_auth_members roleid:i member:i grantor:i admin_option:b
pg_catalog.pg_foreign_table ftrelid:i ftserver:i ftoptions:t
pg_catalog.pg_foreign_server oid:i srvname:t
pg_catalog.pg_language oid:i lanname:t
pg_catalog.pg_depend classid:i objid:i objsubid:i refclassid:i refobjid:i refobjsubid:i deptype:t
pg_catalog.pg_locks locktype:t relation:i pid:i mode:t granted:b
pg_catalog.pg_stat_activity datname:t pid:i usename:t application_name:t state:t query:t
pg_catalog.pg_stat_user_tables relid:i schemaname:t relname:t n_live_tup:i
pg_catalog.pg_tables schemaname:t tablename:t tableowner:t=tidegate tablespace:t hasindexes:b=f hasrules:b=f hastriggers:b=f rowsecurity:b=f
pg_catalog.pg_views schemaname:t viewname:t viewowner:t definition:t
pg_catalog.pg_matviews schemaname:t matviewname:t matviewowner:t definition:t
pg_catalog.pg_indexes schemaname:t tablename:t indexname:t tablespace:t indexdef:t
information_schema.schemata catalog_name:t=tidegate schema_name:t schema_owner:t=tidegate
information_schema.tables table_catalog:t=tidegate table_schema:t table_name:t table_type:t=BASE_TABLE is_insertable_into:t=NO is_typed:t=NO
information_schema.columns table_catalog:t=tidegate table_schema:t table_name:t column_name:t ordinal_position:i column_default:t is_nullable:t data_type:t character_maximum_length:i numeric_precision:i numeric_scale:i datetime_precision:i udt_catalog:t=tidegate udt_schema:t=pg_catalog udt_name:t is_identity:t=NO is_generated:t=NEVER is_updatable:t=NO
information_schema.views table_catalog:t table_schema:t table_name:t view_definition:t
information_schema.table_constraints constraint_catalog:t constraint_schema:t constraint_name:t table_schema:t table_name:t constraint_type:t
information_schema.key_column_usage constraint_catalog:t constraint_schema:t constraint_name:t table_schema:t table_name:t column_name:t ordinal_position:i
information_schema.referential_constraints constraint_catalog:t constraint_schema:t constraint_name:t unique_constraint_name:t
information_schema.constraint_column_usage table_schema:t table_name:t column_name:t constraint_schema:t constraint_name:t
information_schema.routines routine_schema:t routine_name:t routine_type:t specific_name:t
";

/// Numbers of schemas.
const NAMESPACES: [(i64, &str); 4] =
    [(11, "pg_catalog"), (2200, "public"), (UNSEEN - 1, system::SCHEMA), (13_000, "information_schema")];

/// The number of the first table of ours.
const FIRST: i64 = 16_384;

/// A value that is the row's own.
#[derive(Debug, Clone)]
enum Own {
    Number(i64),
    Flag(bool),
    Text(String),
}

type Row = HashMap<&'static str, Own>;

fn row<const N: usize>(values: [(&'static str, Own); N]) -> Row {
    values.into_iter().collect()
}

fn text(value: impl Into<String>) -> Own {
    Own::Text(value.into())
}

/// A column of a table of the catalog.
struct Column {
    name: &'static str,
    kind: char,
    fixed: Option<&'static str>,
}

/// The tables: schema, name, columns.
fn tables() -> impl Iterator<Item = (&'static str, &'static str, Vec<Column>)> {
    TABLES.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (schema, name) = words.next()?.split_once('.')?;
        let column = |word: &'static str| {
            let (name, rest) = word.split_once(':')?;
            let kind = rest.chars().next()?;
            Some(Column { name, kind, fixed: rest.get(1..).and_then(|rest| rest.strip_prefix('=')) })
        };
        Some((schema, name, words.filter_map(column).collect()))
    })
}

/// A table that people may ask.
struct Shown {
    oid: i64,
    schema: &'static str,
    name: String,
    columns: SchemaRef,
}

/// The catalog of these relations.
pub struct PgCatalog {
    shown: Vec<Shown>,
}

impl PgCatalog {
    /// Of these.
    pub fn of(relations: &Relations) -> Self {
        let mut shown = Vec::new();
        let (mut seen, mut unseen) = (FIRST, UNSEEN);
        for table in &relations.tables {
            let (schema, name, number) = match system::name_of(table) {
                Some(name) => (system::SCHEMA, name, &mut unseen),
                None => ("public", table.name.as_str(), &mut seen),
            };
            let fields =
                table.columns.iter().map(|column| Field::new(&column.name, column.data_type.clone(), column.nullable));
            let columns = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
            shown.push(Shown { oid: *number, schema, name: name.to_string(), columns });
            *number += 1;
        }
        for source in &relations.sources {
            let fields = source.reader.schema().fields().iter();
            let fields = fields.filter(|field| !HIDDEN_OF_TABLE.contains(&field.name().as_str())).cloned();
            let columns = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
            shown.push(Shown { oid: seen, schema: "public", name: source.name.clone(), columns });
            seen += 1;
        }
        Self { shown }
    }

    /// The rows of a table.
    fn rows(&self, schema: &str, name: &str) -> Vec<Row> {
        let number = Own::Number;
        let namespace = |schema: &str| NAMESPACES.iter().find(|(_, known)| *known == schema).map_or(0, |(oid, _)| *oid);
        let columns = || {
            self.shown.iter().flat_map(|table| {
                table.columns.fields().iter().enumerate().map(move |(at, field)| (table, at as i64 + 1, field))
            })
        };
        match (schema, name) {
            ("pg_catalog", "pg_namespace") => {
                NAMESPACES.iter().map(|(oid, name)| row([("oid", number(*oid)), ("nspname", text(*name))])).collect()
            }
            ("pg_catalog", "pg_class") => {
                let of = |table: &Shown| {
                    row([
                        ("oid", number(table.oid)),
                        ("relname", text(&table.name)),
                        ("relnamespace", number(namespace(table.schema))),
                        ("relkind", text("r")),
                        ("relnatts", number(table.columns.fields().len() as i64)),
                    ])
                };
                self.shown.iter().map(of).collect()
            }
            ("pg_catalog", "pg_attribute") => columns()
                .map(|(table, at, field)| {
                    let known = pg_type(field.data_type());
                    row([
                        ("attrelid", number(table.oid)),
                        ("attname", text(field.name())),
                        ("atttypid", number(known.oid.into())),
                        ("attlen", number(known.size.into())),
                        ("attnum", number(at)),
                        ("atttypmod", number(known.modifier.into())),
                        ("attnotnull", Own::Flag(!field.is_nullable())),
                    ])
                })
                .collect(),
            ("pg_catalog", "pg_type") => {
                let of = |known: &types::Row| {
                    let single = row([
                        ("oid", number(known.oid.into())),
                        ("typname", text(known.name)),
                        ("typlen", number(known.size.into())),
                        ("typcategory", text(known.category)),
                        ("typelem", number(0)),
                        ("typarray", number(known.list.into())),
                    ]);
                    let list = row([
                        ("oid", number(known.list.into())),
                        ("typname", text(format!("_{}", known.name))),
                        ("typlen", number(-1)),
                        ("typcategory", text("A")),
                        ("typelem", number(known.oid.into())),
                        ("typarray", number(0)),
                    ]);
                    [Some(single), (known.list != 0).then_some(list)]
                };
                types::ROWS.iter().flat_map(of).flatten().collect()
            }
            ("pg_catalog", "pg_database") => vec![row([("datname", text(DATABASE))])],
            ("pg_catalog", "pg_roles") => vec![row([("rolname", text(DATABASE))])],
            ("pg_catalog", "pg_am") => vec![row([("oid", number(2)), ("amname", text("heap")), ("amtype", text("t"))])],
            ("pg_catalog", "pg_tablespace") => vec![row([("spcname", text("pg_default"))])],
            ("pg_catalog", "pg_settings") => {
                [("max_index_keys", "32"), ("server_version", pg::VERSION), ("search_path", "public")]
                    .map(|(name, setting)| row([("name", text(name)), ("setting", text(setting))]))
                    .to_vec()
            }
            ("pg_catalog", "pg_tables") => self
                .shown
                .iter()
                .map(|table| row([("schemaname", text(table.schema)), ("tablename", text(&table.name))]))
                .collect(),
            ("information_schema", "schemata") => {
                NAMESPACES.iter().map(|(_, name)| row([("schema_name", text(*name))])).collect()
            }
            ("information_schema", "tables") => self
                .shown
                .iter()
                .map(|table| row([("table_schema", text(table.schema)), ("table_name", text(&table.name))]))
                .collect(),
            ("information_schema", "columns") => columns()
                .map(|(table, at, field)| {
                    let known = pg_type(field.data_type());
                    let named = types::ROWS.iter().find(|row| row.oid == known.oid);
                    let mut row = row([
                        ("table_schema", text(table.schema)),
                        ("table_name", text(&table.name)),
                        ("column_name", text(field.name())),
                        ("ordinal_position", number(at)),
                        ("is_nullable", text(if field.is_nullable() { "YES" } else { "NO" })),
                        ("data_type", text(named.map_or("ARRAY", |row| row.sql))),
                        ("udt_name", text(named.map_or("_text", |row| row.name))),
                    ]);
                    if known.oid == types::oid::NUMERIC && known.modifier >= 4 {
                        let packed = i64::from(known.modifier - 4);
                        row.insert("numeric_precision", number(packed >> 16));
                        row.insert("numeric_scale", number(packed & 0x7ff));
                    }
                    row
                })
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Makes its tables and functions known to a session.
    pub fn register(&self, context: &SessionContext) -> Result<()> {
        let Some(catalog) = context.catalog(super::adhoc::DEFAULT_CATALOG) else {
            return Err(Error::bug("a session has no catalog"));
        };
        for schema in SCHEMAS {
            catalog.register_schema(schema, Arc::new(MemorySchemaProvider::new()))?;
        }
        for (schema, name, columns) in tables() {
            let batch = batch(&columns, &self.rows(schema, name))?;
            let table = MemTable::try_new(batch.schema(), vec![vec![batch]])?;
            context.register_table(TableReference::partial(schema, name), Arc::new(table))?;
        }
        let of_type = |arguments: &[ColumnarValue]| {
            let [oids, modifiers] = numbers(arguments)?;
            let written = oids
                .iter()
                .zip(&modifiers)
                .map(|(oid, modifier)| oid.map(|oid| types::written(oid, modifier.unwrap_or(-1))));
            texts(written)
        };
        let names: HashMap<i64, String> = self
            .shown
            .iter()
            .map(|table| match table.schema {
                "public" => (table.oid, table.name.clone()),
                schema => (table.oid, format!("{schema}.{}", table.name)),
            })
            .collect();
        let of_relation = move |arguments: &[ColumnarValue]| {
            let [oids] = numbers(arguments)?;
            texts(oids.iter().map(|oid| oid.map(|oid| names.get(&oid).cloned().unwrap_or_else(|| oid.to_string()))))
        };
        let quoted = |arguments: &[ColumnarValue]| {
            let arrays = ColumnarValue::values_to_arrays(arguments)?;
            let plain = |name: &str| {
                name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
                    && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            };
            let quote =
                |name: &str| if plain(name) { name.to_string() } else { format!("\"{}\"", name.replace('"', "\"\"")) };
            let names = arrays.first().map(|names| names.as_string::<i32>());
            texts(names.into_iter().flatten().map(|name| name.map(quote)))
        };
        let numbers_of = |count| vec![DataType::Int64; count];
        let [format_type, quote_ident, regclass] = pg::FUNCTIONS;
        context.register_udf(create_udf(
            format_type,
            numbers_of(2),
            DataType::Utf8,
            Volatility::Immutable,
            Arc::new(of_type),
        ));
        context.register_udf(create_udf(
            regclass,
            numbers_of(1),
            DataType::Utf8,
            Volatility::Immutable,
            Arc::new(of_relation),
        ));
        context.register_udf(create_udf(
            quote_ident,
            vec![DataType::Utf8],
            DataType::Utf8,
            Volatility::Immutable,
            Arc::new(quoted),
        ));
        Ok(())
    }
}

impl pg::Names for PgCatalog {
    fn relation(&self, name: &str) -> Option<i64> {
        let name = name.trim_start_matches("public.").replace('"', "");
        // Those of the catalog itself, which descriptions are looked up by.
        if let Some(at) = tables().position(|(schema, table, _)| name == table || name == format!("{schema}.{table}")) {
            return Some(1_000 + at as i64);
        }
        let is = |table: &&Shown| match table.schema {
            "public" => table.name == name,
            schema => format!("{schema}.{}", table.name) == name,
        };
        self.shown.iter().find(is).map(|table| table.oid)
    }

    fn table(&self, schema: &str, name: &str) -> Option<bool> {
        let is_known = tables().any(|(of, table, _)| of == schema && table == name);
        is_known.then(|| !self.rows(schema, name).is_empty())
    }

    fn is_number(&self, column: &str) -> bool {
        tables().any(|(_, _, columns)| columns.iter().any(|known| known.name == column && known.kind == 'i'))
    }
}

/// The arguments of a call as numbers.
fn numbers<const N: usize>(arguments: &[ColumnarValue]) -> datafusion::error::Result<[Int64Array; N]> {
    let arrays = ColumnarValue::values_to_arrays(arguments)?;
    let arrays: Vec<Int64Array> = arrays.iter().map(|array| array.as_primitive::<Int64Type>().clone()).collect();
    arrays
        .try_into()
        .map_err(|_| DataFusionError::Execution("a function of the catalog has other arguments".to_string()))
}

fn texts(values: impl Iterator<Item = Option<String>>) -> datafusion::error::Result<ColumnarValue> {
    Ok(ColumnarValue::Array(Arc::new(StringArray::from_iter(values))))
}

/// The rows of a table as a batch.
fn batch(columns: &[Column], rows: &[Row]) -> Result<RecordBatch> {
    let schema = Schema::new(
        columns
            .iter()
            .map(|column| {
                let data_type = match column.kind {
                    'i' => DataType::Int64,
                    'b' => DataType::Boolean,
                    _ => DataType::Utf8,
                };
                Field::new(column.name, data_type, true)
            })
            .collect::<Vec<_>>(),
    );
    let arrays = columns.iter().map(|column| -> ArrayRef {
        let own = |row: &Row| row.get(column.name).cloned();
        let fixed = column.fixed;
        match column.kind {
            'i' => Arc::new(Int64Array::from_iter(rows.iter().map(|row| match own(row) {
                Some(Own::Number(value)) => Some(value),
                _ => fixed.and_then(|fixed| fixed.parse().ok()),
            }))),
            'b' => Arc::new(BooleanArray::from_iter(rows.iter().map(|row| match own(row) {
                Some(Own::Flag(value)) => Some(value),
                _ => fixed.map(|fixed| fixed == "t"),
            }))),
            _ => Arc::new(StringArray::from_iter(rows.iter().map(|row| match own(row) {
                Some(Own::Text(value)) => Some(value),
                // A space stands between columns here.
                _ => fixed.map(|fixed| if fixed == "BASE_TABLE" { "BASE TABLE" } else { fixed }.to_string()),
            }))),
        }
    });
    Ok(RecordBatch::try_new(Arc::new(schema), arrays.collect())?)
}
