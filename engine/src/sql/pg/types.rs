//! The types of Postgres that we have columns of, by their numbers and names.

use arrow::datatypes::DataType;

/// A type as clients know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PgType {
    /// Its number in `pg_type`.
    pub oid: u32,
    /// Bytes of a value; -1 where they differ.
    pub size: i16,
    /// What is said besides, such as the precision of a NUMERIC; -1 for nothing.
    pub modifier: i32,
}

/// A row of `pg_type`.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Its number.
    pub oid: u32,
    /// Its name.
    pub name: &'static str,
    /// The name that SQL has for it.
    pub sql: &'static str,
    /// Bytes of a value.
    pub size: i16,
    /// What it is of: B(oolean), N(umber), S(tring), D(ate), T(imespan), U(ser-defined).
    pub category: &'static str,
    /// The type of lists of it.
    pub list: u32,
}

const fn row(oid: u32, name: &'static str, sql: &'static str, size: i16, category: &'static str, list: u32) -> Row {
    Row { oid, name, sql, size, category, list }
}

/// Numbers that are named elsewhere.
pub mod oid {
    /// BOOLEAN.
    pub const BOOL: u32 = 16;
    /// BYTEA.
    pub const BYTEA: u32 = 17;
    /// A name of the catalog.
    pub const NAME: u32 = 19;
    /// BIGINT.
    pub const INT8: u32 = 20;
    /// SMALLINT.
    pub const INT2: u32 = 21;
    /// INTEGER.
    pub const INT4: u32 = 23;
    /// TEXT.
    pub const TEXT: u32 = 25;
    /// A number of the catalog.
    pub const OID: u32 = 26;
    /// REAL.
    pub const FLOAT4: u32 = 700;
    /// DOUBLE PRECISION.
    pub const FLOAT8: u32 = 701;
    /// A literal of which nothing is known.
    pub const UNKNOWN: u32 = 705;
    /// CHAR(n).
    pub const BPCHAR: u32 = 1042;
    /// VARCHAR.
    pub const VARCHAR: u32 = 1043;
    /// DATE.
    pub const DATE: u32 = 1082;
    /// TIME.
    pub const TIME: u32 = 1083;
    /// TIMESTAMP.
    pub const TIMESTAMP: u32 = 1114;
    /// TIMESTAMP WITH TIME ZONE.
    pub const TIMESTAMPTZ: u32 = 1184;
    /// INTERVAL.
    pub const INTERVAL: u32 = 1186;
    /// NUMERIC.
    pub const NUMERIC: u32 = 1700;
    /// UUID.
    pub const UUID: u32 = 2950;
}

/// All of them.
pub const ROWS: [Row; 20] = [
    row(oid::BOOL, "bool", "boolean", 1, "B", 1000),
    row(oid::BYTEA, "bytea", "bytea", -1, "U", 1001),
    row(oid::NAME, "name", "name", 64, "S", 1003),
    row(oid::INT8, "int8", "bigint", 8, "N", 1016),
    row(oid::INT2, "int2", "smallint", 2, "N", 1005),
    row(oid::INT4, "int4", "integer", 4, "N", 1007),
    row(oid::TEXT, "text", "text", -1, "S", 1009),
    row(oid::OID, "oid", "oid", 4, "N", 1028),
    row(oid::FLOAT4, "float4", "real", 4, "N", 1021),
    row(oid::FLOAT8, "float8", "double precision", 8, "N", 1022),
    row(oid::UNKNOWN, "unknown", "unknown", -2, "X", 0),
    row(oid::BPCHAR, "bpchar", "character", -1, "S", 1014),
    row(oid::VARCHAR, "varchar", "character varying", -1, "S", 1015),
    row(oid::DATE, "date", "date", 4, "D", 1182),
    row(oid::TIME, "time", "time without time zone", 8, "D", 1183),
    row(oid::TIMESTAMP, "timestamp", "timestamp without time zone", 8, "D", 1115),
    row(oid::TIMESTAMPTZ, "timestamptz", "timestamp with time zone", 8, "D", 1185),
    row(oid::INTERVAL, "interval", "interval", 16, "T", 1187),
    row(oid::NUMERIC, "numeric", "numeric", -1, "N", 1231),
    row(oid::UUID, "uuid", "uuid", 16, "U", 2951),
];

/// The number of a type that has this name.
pub fn by_name(name: &str) -> Option<u32> {
    let name = name.trim().trim_start_matches("pg_catalog.").trim_matches('"');
    ROWS.iter().find(|row| row.name == name || row.sql == name).map(|row| row.oid)
}

/// The type that values of a list have.
pub fn of_list(list: u32) -> Option<u32> {
    ROWS.iter().find(|row| row.list == list && list != 0).map(|row| row.oid)
}

/// A type as SQL writes it, such as `numeric(38,2)`.
pub fn written(oid: i64, modifier: i64) -> String {
    let known = |oid: i64| ROWS.iter().find(|row| i64::from(row.oid) == oid);
    match (known(oid), u32::try_from(oid).ok().and_then(of_list)) {
        (Some(row), _) if row.oid == oid::NUMERIC && modifier >= 4 => {
            let packed = modifier - 4;
            format!("numeric({},{})", packed >> 16, packed & 0x7ff)
        }
        (Some(row), _) => row.sql.to_string(),
        (None, Some(of)) => format!("{}[]", written(i64::from(of), -1)),
        (None, None) => "-".to_string(),
    }
}

/// The type that a column has for clients.
pub fn pg_type(data_type: &DataType) -> PgType {
    let of = |oid, size| PgType { oid, size, modifier: -1 };
    match data_type {
        DataType::Boolean => of(oid::BOOL, 1),
        DataType::Int8 | DataType::UInt8 | DataType::Int16 => of(oid::INT2, 2),
        DataType::UInt16 | DataType::Int32 => of(oid::INT4, 4),
        DataType::UInt32 | DataType::Int64 | DataType::UInt64 => of(oid::INT8, 8),
        DataType::Float16 | DataType::Float32 => of(oid::FLOAT4, 4),
        DataType::Float64 => of(oid::FLOAT8, 8),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => {
            let modifier = (i32::from(*precision) << 16 | i32::from(*scale & 0x7f)) + 4;
            PgType { modifier, ..of(oid::NUMERIC, -1) }
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            of(oid::BYTEA, -1)
        }
        DataType::Date32 | DataType::Date64 => of(oid::DATE, 4),
        DataType::Time32(_) | DataType::Time64(_) => of(oid::TIME, 8),
        DataType::Timestamp(_, None) => of(oid::TIMESTAMP, 8),
        DataType::Timestamp(_, Some(_)) => of(oid::TIMESTAMPTZ, 8),
        DataType::Interval(_) | DataType::Duration(_) => of(oid::INTERVAL, 16),
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            let values = pg_type(field.data_type()).oid;
            let list = ROWS.iter().find(|row| row.oid == values && row.list != 0).map(|row| row.list);
            of(list.unwrap_or(oid::TEXT), -1)
        }
        DataType::Dictionary(_, values) => pg_type(values),
        // Nothing else has a number of its own: it is shown as a text.
        _ => of(oid::TEXT, -1),
    }
}
