//! A random case as plain data: a source, its views, and what happens to them. It knows its own text: the declarations
//! and the lines of a golden file.

/// A column's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Time,
    Text,
    Int,
    BigInt,
    /// DECIMAL(10,2).
    Decimal,
    Double,
    Bool,
}

impl Type {
    pub fn sql(self) -> &'static str {
        match self {
            Self::Time => "TIMESTAMP WITH TIME ZONE",
            Self::Text => "VARCHAR",
            Self::Int => "INT",
            Self::BigInt => "BIGINT",
            Self::Decimal => "DECIMAL(10,2)",
            Self::Double => "DOUBLE PRECISION",
            Self::Bool => "BOOLEAN",
        }
    }
}

/// The columns that a payload may have, the event time first.
pub const COLUMNS: [(&str, Type); 9] = [
    ("ts", Type::Time),
    ("g", Type::Text),
    ("t", Type::Text),
    ("n", Type::Int),
    ("big", Type::BigInt),
    ("p", Type::Decimal),
    ("d", Type::Double),
    ("b", Type::Bool),
    ("seen", Type::Time),
];

/// Columns that the record itself carries: their name, their type, and what they come from.
pub const METADATA: [(&str, Type, &str); 3] =
    [("k", Type::Text, "key"), ("part", Type::Int, "partition"), ("off", Type::BigInt, "offset")];

/// What the computed column `c` may be; the model computes each by itself.
pub const COMPUTED: [(Type, &str); 5] = [
    (Type::BigInt, "n * 2"),
    (Type::Text, "upper(t)"),
    (Type::Decimal, "CASE WHEN b THEN p END"),
    (Type::Text, "coalesce(t, g, '-')"),
    (Type::BigInt, "100 / n"),
];

/// What WHERE and FILTER may be; the model evaluates each by itself.
pub const PREDICATES: [&str; 10] = [
    "n > 1",
    "n <> 0",
    "n IS NOT NULL",
    "g = 'a'",
    "b",
    "NOT b",
    "p >= 1.5",
    "d < 0.5",
    "n % 2 = 0 OR t IS NULL",
    "big <> 0 AND t <> 'x'",
];

/// What a view may group by, beside its window.
pub const KEYS: [&str; 11] = [
    "g",
    "t",
    "n",
    "b",
    "p",
    "seen",
    "c",
    "n % 3",
    "coalesce(g, '-')",
    "CASE WHEN n > 1 THEN 'many' ELSE 'few' END",
    "k",
];

/// How exact an aggregate's answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Bit for bit.
    Exact,
    /// A sum or mean of floats: bit for bit where one partition is read and a window has one pane, else but for the last bits.
    Folded,
    /// But for the last bits of a float.
    Float,
}

/// Where an aggregate may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Anywhere,
    /// It keeps every value.
    OnClose,
    /// The same, in the order of reading.
    OnCloseInOrder,
    /// An estimate.
    InWindows,
}

/// An aggregate: `?` is where a FILTER may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aggregate {
    pub sql: &'static str,
    pub class: Class,
    pub place: Place,
}

const fn exact(sql: &'static str) -> Aggregate {
    Aggregate { sql, class: Class::Exact, place: Place::Anywhere }
}

const fn float(sql: &'static str) -> Aggregate {
    Aggregate { sql, class: Class::Float, place: Place::Anywhere }
}

const fn folded(sql: &'static str) -> Aggregate {
    Aggregate { sql, class: Class::Folded, place: Place::Anywhere }
}

const fn growing(sql: &'static str, place: Place) -> Aggregate {
    Aggregate { sql, class: Class::Exact, place }
}

/// The aggregate that fails where `n` is 0.
pub const FAILING: &str = "sum(100 / n)?";

/// What a view may aggregate.
pub const AGGREGATES: [Aggregate; 41] = [
    exact("count(*)?"),
    exact("count(n)?"),
    exact("sum(n)?"),
    exact("sum(big)?"),
    exact("sum(p)?"),
    exact("min(n)?"),
    exact("max(big)?"),
    exact("min(p)?"),
    exact("min(t)?"),
    exact("max(g)?"),
    exact("min(d)?"),
    exact("max(d)?"),
    exact("max(seen)?"),
    exact("bool_and(b)?"),
    exact("bool_or(b)?"),
    exact("bit_xor(n)?"),
    exact("count(DISTINCT t)?"),
    exact("count(DISTINCT n)?"),
    exact("count(DISTINCT p)?"),
    exact("count(DISTINCT d)?"),
    exact("count(DISTINCT b)?"),
    exact("count(c)?"),
    exact("max(c)?"),
    exact("max(off)?"),
    exact("sum(part)?"),
    // Not `n + 1`: DataFusion rewrites it to a sum and a count, and then refuses a query that has that count already.
    exact("sum(n * 3)?"),
    exact("sum(CASE WHEN b THEN n ELSE 0 END)?"),
    exact("coalesce(sum(p)?, 0)"),
    exact("count(*)? * 2 - count(n)"),
    exact("CASE WHEN count(*)? > 2 THEN max(t) ELSE min(g) END"),
    exact(FAILING),
    folded("sum(d)?"),
    folded("avg(d)?"),
    float("avg(n)?"),
    exact("avg(p)?"),
    float("var_pop(n)?"),
    float("covar_pop(n, d)?"),
    growing("median(n)?", Place::OnClose),
    growing("string_agg(t, '+')?", Place::OnCloseInOrder),
    growing("array_to_string(array_agg(n)?, ',')", Place::OnCloseInOrder),
    growing("approx_distinct(t)?", Place::InWindows),
];

/// What HAVING may be. No sum of floats: its last bits may decide.
pub const HAVINGS: [&str; 8] = [
    "count(*) > 1",
    "count(*) % 2 = 1",
    "sum(n) > 2",
    "min(t) = 'x'",
    "sum(n) IS NULL OR sum(n) < 3",
    "count(DISTINCT t) = 1",
    "max(d) < 0.25",
    "bool_or(b)",
];

/// What a view without an aggregate may select; the last one fails where `n` is 0.
pub const SELECTED: [&str; 8] = ["g", "upper(t)", "n + 1", "p", "d", "seen", "c", "100 / n"];

/// A view's windows; times are in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Windows {
    Tumble {
        size: i64,
        offset: i64,
    },
    Hop {
        slide: i64,
        size: i64,
        offset: i64,
    },
    Cumulate {
        step: i64,
        size: i64,
        offset: i64,
    },
    /// `date_bin` over the event time.
    DateBin {
        size: i64,
    },
    /// `date_trunc('minute', …)`.
    DateTrunc,
    Running,
    Stateless,
}

/// A view.
#[derive(Debug, Clone)]
pub struct View {
    pub name: String,
    pub windows: Windows,
    pub on_close: bool,
    /// Of [`PREDICATES`].
    pub filter: Option<usize>,
    /// Which times of its window are selected: start, end, last microsecond.
    pub edges: [bool; 3],
    /// Of [`KEYS`], or of [`SELECTED`] where there is no aggregate.
    pub keys: Vec<&'static str>,
    pub aggregates: Vec<(Aggregate, Option<usize>)>,
    pub having: Option<&'static str>,
}

/// A column of a view's table: the expression, and how exact it is.
#[derive(Debug, Clone)]
pub struct Selected {
    pub name: String,
    pub sql: String,
    pub class: Class,
    pub is_key: bool,
    /// Whether it is in the query; the store adds the others.
    pub is_written: bool,
}

impl View {
    /// The expression of its window's start, if that is what the query says.
    fn native(&self) -> Option<String> {
        match self.windows {
            Windows::DateBin { size } => Some(format!("date_bin(INTERVAL '{size} seconds', ts)")),
            Windows::DateTrunc => Some("date_trunc('minute', ts)".to_string()),
            _ => None,
        }
    }

    /// The columns of its table that are asked for.
    pub fn columns(&self) -> Vec<Selected> {
        let key = |name: &str, sql: &str, is_written| Selected {
            name: name.to_string(),
            sql: sql.to_string(),
            class: Class::Exact,
            is_key: true,
            is_written,
        };
        let mut columns = Vec::new();
        if self.windows == Windows::Stateless {
            columns.push(key("_partition", "_partition", false));
            columns.push(key("_offset", "_offset", false));
            for (index, sql) in self.keys.iter().enumerate() {
                columns.push(Selected { is_key: false, ..key(&format!("s{index}"), sql, true) });
            }
            return columns;
        }
        if let Some(native) = self.native() {
            columns.push(key("w", &native, true));
        }
        for (edge, chosen) in ["window_start", "window_end", "window_time"].into_iter().zip(self.edges) {
            if chosen {
                columns.push(key(edge, edge, true));
            }
        }
        for (index, sql) in self.keys.iter().enumerate() {
            columns.push(key(&format!("k{index}"), sql, true));
        }
        for (index, (aggregate, filter)) in self.aggregates.iter().enumerate() {
            let filter = filter.map(|filter| format!(" FILTER (WHERE {})", PREDICATES[filter])).unwrap_or_default();
            columns.push(Selected {
                name: format!("a{index}"),
                sql: aggregate.sql.replace('?', &filter),
                class: aggregate.class,
                is_key: false,
                is_written: true,
            });
        }
        columns
    }

    /// The query over a relation, with or without its WHERE.
    pub fn query(&self, from: &str, filtered: bool) -> String {
        let columns = self.columns();
        let written = || columns.iter().filter(|column| column.is_written);
        let list: Vec<String> = written().map(|column| format!("{} AS {}", column.sql, column.name)).collect();
        let mut text = format!("SELECT {} FROM {from}", list.join(", "));
        if let Some(filter) = self.filter.filter(|_| filtered) {
            text.push_str(&format!(" WHERE {}", PREDICATES[filter]));
        }
        let keys: Vec<&str> = written().filter(|column| column.is_key).map(|column| column.sql.as_str()).collect();
        if !keys.is_empty() {
            text.push_str(&format!(" GROUP BY {}", keys.join(", ")));
        }
        if let Some(having) = self.having {
            text.push_str(&format!(" HAVING {having}"));
        }
        text
    }

    /// How it is declared.
    pub fn declaration(&self) -> String {
        let seconds = |name: &str, lengths: &[i64], offset: i64| {
            let mut text = format!("{name}(s, ts");
            for length in lengths {
                text.push_str(&format!(", INTERVAL '{length} seconds'"));
            }
            if offset != 0 {
                text.push_str(&format!(", INTERVAL '{offset} seconds'"));
            }
            text + ")"
        };
        let from = match self.windows {
            Windows::Tumble { size, offset } => seconds("TUMBLE", &[size], offset),
            Windows::Hop { slide, size, offset } => seconds("HOP", &[slide, size], offset),
            Windows::Cumulate { step, size, offset } => seconds("CUMULATE", &[step, size], offset),
            _ => "s".to_string(),
        };
        let emit = if self.on_close { " EMIT ON WINDOW CLOSE" } else { "" };
        format!("CREATE MATERIALIZED VIEW {} AS\n{}{emit};", self.name, self.query(&from, true))
    }

    /// Whether a record on which `n` is 0 fails.
    pub fn fails_on_zero(&self) -> bool {
        self.keys.contains(&SELECTED[SELECTED.len() - 1])
            || self.aggregates.iter().any(|(aggregate, _)| aggregate.sql == FAILING)
    }
}

/// A source.
#[derive(Debug, Clone)]
pub struct Source {
    /// The watermark's bound, in seconds.
    pub bound: i64,
    /// Which of [`COLUMNS`] are NOT NULL.
    pub required: [bool; COLUMNS.len()],
    /// Of [`COMPUTED`].
    pub computed: Option<usize>,
    /// The wall clock at the beginning, in seconds behind [`START_US`], if it matters.
    pub wall: Option<i64>,
}

/// 2026-01-01T12:00:00Z: no event time is much before.
pub const START_US: i64 = 1_767_268_800_000_000;

/// The source's idle timeout and how far ahead of the clock an event time may be, in seconds.
pub const IDLE: i64 = 60;
pub const SKEW: i64 = 30;

impl Source {
    pub fn declaration(&self) -> String {
        let mut columns = Vec::new();
        for ((name, column_type), required) in COLUMNS.iter().zip(self.required) {
            columns.push(format!("{name} {}{}", column_type.sql(), if required { " NOT NULL" } else { "" }));
        }
        for (name, column_type, from) in METADATA {
            columns.push(format!("{name} {} METADATA FROM '{from}'", column_type.sql()));
        }
        if let Some(computed) = self.computed {
            columns.push(format!("c {} AS ({})", COMPUTED[computed].0.sql(), COMPUTED[computed].1));
        }
        let bound = if self.bound == 0 { String::new() } else { format!(" - INTERVAL '{} seconds'", self.bound) };
        format!(
            "CREATE SOURCE s ({}, WATERMARK FOR ts AS ts{bound})\nWITH (connector = 'kafka', topic = 's', format = 'json', \
             scan.startup.mode = 'earliest', idle_timeout = '{IDLE} seconds', max_future_skew = '{SKEW} seconds');",
            columns.join(", ")
        )
    }
}

/// What a record carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    None,
    /// As it stands: an object, or anything that is none.
    Text(String),
    Bytes(&'static [u8]),
}

/// A record.
#[derive(Debug, Clone)]
pub struct Record {
    pub partition: usize,
    pub key: Option<&'static str>,
    pub payload: Payload,
}

impl Record {
    /// Its payload's bytes.
    pub fn bytes(&self) -> Option<&[u8]> {
        match &self.payload {
            Payload::None => None,
            Payload::Text(text) => Some(text.as_bytes()),
            Payload::Bytes(bytes) => Some(bytes),
        }
    }

    fn line(&self) -> String {
        let key = self.key.map(|key| format!("key={key} ")).unwrap_or_default();
        let payload = match &self.payload {
            Payload::None => "tombstone".to_string(),
            // A verb's line is trimmed, and an object that stands alone needs no `raw`.
            Payload::Text(text) if text.starts_with("{\"ts\"") && text.ends_with('}') => text.clone(),
            Payload::Text(text) => format!("raw {text}"),
            Payload::Bytes(bytes) => {
                format!("hex {}", bytes.iter().map(|byte| format!("{byte:02X}")).collect::<String>())
            }
        };
        format!("feed s/{} {key}{payload}", self.partition)
    }
}

/// What happens.
#[derive(Debug, Clone)]
pub enum Step {
    Feed(Record),
    Commit {
        checkpoint: bool,
    },
    /// All memory is lost, and before it, perhaps, the state in the store.
    Crash {
        state_lost: bool,
    },
    Restart,
    /// Seconds pass.
    Advance(i64),
    /// The last view is declared only now.
    AddView,
    /// The tables are looked at.
    Check,
}

/// A case.
#[derive(Debug, Clone)]
pub struct Case {
    pub source: Source,
    pub views: Vec<View>,
    pub partitions: usize,
    pub steps: Vec<Step>,
}

impl Case {
    /// Whether the last view is declared later than the others.
    pub fn adds_view(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::AddView))
    }

    /// The same without one of its steps, or without one of its views.
    pub fn smaller(&self) -> Vec<Self> {
        // The last two commit, and look.
        let mut cases: Vec<Self> = (0..self.steps.len() - 2).rev().map(|step| self.without_step(step)).collect();
        if self.views.len() > 1 && !self.adds_view() {
            cases.extend((0..self.views.len()).map(|view| {
                let mut case = self.clone();
                case.views.remove(view);
                case
            }));
        }
        cases
    }

    fn without_step(&self, step: usize) -> Self {
        let mut case = self.clone();
        case.steps.remove(step);
        case
    }

    /// The statement that everything begins with.
    pub fn declarations(&self) -> String {
        let at_first = self.views.len() - usize::from(self.adds_view());
        let mut text = self.source.declaration();
        for view in &self.views[..at_first] {
            text.push('\n');
            text.push_str(&view.declaration());
        }
        text
    }

    /// The verbs before the first step.
    pub fn preparations(&self) -> String {
        let wall = self.source.wall.map(|wall| format!("\nnow {}", rfc3339(START_US + wall * 1_000_000)));
        format!("partitions s {}{}", self.partitions, wall.unwrap_or_default())
    }

    /// A step as a statement of a golden file.
    pub fn statement(&self, step: &Step) -> String {
        match step {
            Step::Feed(record) => record.line(),
            Step::Commit { checkpoint: false } => "commit".to_string(),
            Step::Commit { checkpoint: true } => "checkpoint".to_string(),
            Step::Crash { .. } => "crash".to_string(),
            Step::Restart => "restart".to_string(),
            Step::Advance(seconds) => format!("advance {seconds} seconds"),
            Step::AddView => format!("{}\nrestart", self.views[self.views.len() - 1].declaration()),
            Step::Check => String::new(),
        }
    }
}

/// A time as golden files show it.
pub fn rfc3339(us: i64) -> String {
    let time = chrono::DateTime::from_timestamp_micros(us).expect("a time of our days");
    time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)
}
