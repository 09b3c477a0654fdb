//! `tidegate sql`: a console for people, and one statement after the other for scripts; a client of the api.
//!
//! ```text
//!  -c TEXT · -f FILE · standard input ─► statements ─► POST /api/v1/sql ─► a table, or what the api sends
//!  a terminal ─► line: history, several lines, completion ──┘
//! ```

mod line;
mod table;

use std::fmt;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use tidegate_engine::settings::Settings;
use tidegate_engine::sql::session::statements;

use line::{Line, Read as Entered};

/// Longer than any query may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Options of `tidegate sql`.
#[derive(Debug, Args)]
pub struct Options {
    /// Where the api listens, such as http://127.0.0.1:8000; what the settings say, if nothing is said.
    #[arg(long, value_name = "URL", env = "TIDEGATE_API")]
    api: Option<String>,
    /// Answer these statements and end.
    #[arg(short, long, value_name = "SQL", conflicts_with = "file")]
    command: Option<String>,
    /// Answer the statements of a file and end; - is standard input.
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The form of answers.
    #[arg(long, value_enum, default_value_t = Form::Table)]
    format: Form,
    /// Rows at most.
    #[arg(long, value_name = "ROWS")]
    limit: Option<usize>,
    /// Say how long each took.
    #[arg(long)]
    timing: bool,
}

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// Columns under their names.
    Table,
    /// One object.
    Json,
    /// An object on each line.
    Jsonl,
    /// With a line of names.
    Csv,
    /// An Arrow IPC stream.
    Arrow,
    /// A Parquet file.
    Parquet,
}

impl Form {
    fn name(self) -> &'static str {
        match self {
            Self::Table | Self::Json => "json",
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
            Self::Arrow => "arrow",
            Self::Parquet => "parquet",
        }
    }
}

/// Why there is no answer.
#[derive(Debug)]
struct Refused {
    text: String,
    /// Line and column of the statement.
    place: Option<(u64, u64)>,
}

impl From<String> for Refused {
    fn from(text: String) -> Self {
        Self { text, place: None }
    }
}

impl Refused {
    /// With the line that it is about, and a mark under the place.
    fn shown<'a>(&'a self, statement: &'a str) -> impl fmt::Display + 'a {
        fmt::from_fn(move |f| {
            if let Some((line, column)) = self.place
                && let Some(text) = statement.lines().nth(line.saturating_sub(1) as usize)
            {
                writeln!(f, "{text}\n{:>width$}", "^", width = column as usize)?;
            }
            f.write_str(&self.text)
        })
    }
}

/// The api, as the console asks it.
struct Api {
    agent: ureq::Agent,
    address: String,
    token: String,
}

impl Api {
    fn new(config: Option<&Path>, options: &Options) -> Result<Self, String> {
        let settings = Settings::load(config).map_err(|error| error.to_string())?;
        let address = options.api.clone().unwrap_or_else(|| format!("http://{}", settings.api.listen));
        if !address.starts_with("http://") {
            return Err(format!("TG-CONSOLE: {address}: the api speaks http (name it as http://host:port)"));
        }
        let agent = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).http_status_as_error(false).build();
        let address = address.trim_end_matches('/').to_string();
        Ok(Self { agent: agent.new_agent(), address, token: settings.api.token })
    }

    /// The answer to a statement, in a form.
    fn ask(&self, sql: &str, format: &str, limit: Option<usize>) -> Result<Vec<u8>, Refused> {
        let url = format!("{}/api/v1/sql", self.address);
        let question = json!({ "sql": sql, "format": format, "limit": limit });
        let asked = self.agent.post(&url).header("Content-Type", "application/json");
        let asked =
            if self.token.is_empty() { asked } else { asked.header("Authorization", format!("Bearer {}", self.token)) };
        let told = |error: ureq::Error| {
            Refused::from(format!("TG-CONSOLE: {url}: {error} (is the api running? --api names it)"))
        };
        let mut answer = asked.send(question.to_string()).map_err(told)?;
        let status = answer.status();
        let body = answer.body_mut().with_config().limit(u64::MAX).read_to_vec().map_err(told)?;
        if status.is_success() {
            return Ok(body);
        }
        let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
        let text = |name: &str| problem.get(name).and_then(Value::as_str).map(str::to_string);
        let code = text("code").unwrap_or_else(|| status.to_string());
        let hint = text("hint").map_or_else(String::new, |hint| format!(" ({hint})"));
        let place = |name: &str| problem.get(name).and_then(Value::as_u64);
        Err(Refused {
            text: format!("{code}: {}{hint}", text("detail").unwrap_or_default()),
            place: place("line").zip(place("column")),
        })
    }
}

/// Answers.
pub fn run(config: Option<&Path>, options: &Options) -> ExitCode {
    let api = match Api::new(config, options) {
        Ok(api) => api,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let text = match (&options.command, &options.file) {
        (Some(text), _) => Ok(Some(text.clone())),
        (None, Some(file)) if file.as_os_str() == "-" => piped().map(Some),
        (None, Some(file)) => {
            std::fs::read_to_string(file).map(Some).map_err(|error| format!("{}: {error}", file.display()))
        }
        (None, None) if std::io::stdin().is_terminal() => Ok(None),
        (None, None) => piped().map(Some),
    };
    let done = match text {
        Ok(Some(text)) => all(&api, options, &text),
        Ok(None) => converse(&api, options),
        Err(error) => Err(format!("TG-CONSOLE: {error}")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn piped() -> Result<String, String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(|error| format!("standard input: {error}"))?;
    Ok(text)
}

/// The statements of a text, until one is refused.
fn all(api: &Api, options: &Options, text: &str) -> Result<(), String> {
    let statements = statements(text).map_err(|error| error.to_string())?;
    for statement in statements {
        answer(api, &statement.text, options.format, options.limit, options.timing)
            .map_err(|refused| refused.shown(&statement.text).to_string())?;
    }
    Ok(())
}

fn answer(api: &Api, sql: &str, form: Form, limit: Option<usize>, timing: bool) -> Result<(), Refused> {
    let started = Instant::now();
    let body = api.ask(sql, form.name(), limit)?;
    let mut out = std::io::stdout().lock();
    let written = if form == Form::Table {
        let answer: Value =
            serde_json::from_slice(&body).map_err(|error| format!("TG-CONSOLE: the answer is no JSON: {error}"))?;
        out.write_all(table::of(&answer).as_bytes())
    } else {
        out.write_all(&body).and_then(|()| if form == Form::Json { out.write_all(b"\n") } else { Ok(()) })
    };
    // Whoever reads no more, such as head, has what it wanted.
    let _ = written.and_then(|()| out.flush());
    if timing {
        eprintln!("Time: {:.1} ms", started.elapsed().as_secs_f64() * 1e3);
    }
    Ok(())
}

const HELP: &str = "\
  statements end with ;          \\d  the tables        \\d NAME  the columns of one
  \\format NAME  table json jsonl csv        \\timing  on and off        \\q  the end
";

/// The statements of somebody at a terminal.
fn converse(api: &Api, options: &Options) -> Result<(), String> {
    let mut line = Line::new().map_err(|error| format!("TG-CONSOLE: {error}"))?;
    let (mut form, mut timing) = (options.format, options.timing);
    println!("tidegate {} at {}; \\? for help", env!("CARGO_PKG_VERSION"), api.address);
    match words(api) {
        Ok(words) => line.know(words),
        Err(refused) => eprintln!("{}", refused.text),
    }
    loop {
        let text = match line.read().map_err(|error| format!("TG-CONSOLE: {error}"))? {
            Entered::End => return Ok(()),
            Entered::Nothing => continue,
            Entered::Text(text) => text,
        };
        let mut parts = text.trim().trim_end_matches(';').split_whitespace();
        let said = match (parts.next().unwrap_or_default(), parts.next()) {
            ("\\q" | "exit" | "quit", None) => return Ok(()),
            ("\\?" | "help", None) => {
                print!("{HELP}");
                Ok(())
            }
            ("\\timing", None) => {
                timing = !timing;
                println!("timing is {}", if timing { "on" } else { "off" });
                Ok(())
            }
            ("\\format", Some(name)) => match Form::from_str(name, true) {
                Ok(Form::Arrow | Form::Parquet) | Err(_) => Err("there are table, json, jsonl and csv".to_string()),
                Ok(other) => {
                    form = other;
                    Ok(())
                }
            },
            ("\\d" | "\\dt", None) => told(answer(api, TABLES, form, None, false), TABLES),
            ("\\d" | "\\d+", Some(name)) => {
                let sql = columns_of(name);
                told(answer(api, &sql, form, None, false), &sql)
            }
            (word, _) if word.starts_with('\\') => Err(format!("there is no command {word}; \\? for help")),
            _ => match statements(&text) {
                Ok(all) => all.iter().try_for_each(|statement| {
                    told(answer(api, &statement.text, form, options.limit, timing), &statement.text)
                }),
                Err(error) => Err(error.to_string()),
            },
        };
        if let Err(error) = said {
            eprintln!("{error}");
        }
    }
}

fn told(answered: Result<(), Refused>, statement: &str) -> Result<(), String> {
    answered.map_err(|refused| refused.shown(statement).to_string())
}

const TABLES: &str = "SELECT table_schema AS schema, table_name AS name FROM information_schema.tables ORDER BY 1, 2";

/// The columns of a table, by its name with or without a schema.
fn columns_of(name: &str) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let (schema, table) = name.split_once('.').unwrap_or(("public", name));
    format!(
        "SELECT column_name AS column, data_type AS type, is_nullable AS nullable FROM information_schema.columns \
         WHERE table_schema = {} AND table_name = {} ORDER BY ordinal_position",
        quoted(schema),
        quoted(table)
    )
}

/// The names of tables and columns.
fn words(api: &Api) -> Result<Vec<String>, Refused> {
    let sql = "SELECT table_schema, table_name, column_name FROM information_schema.columns";
    let answer: Value = serde_json::from_slice(&api.ask(sql, "json", None)?).unwrap_or_default();
    let mut words = Vec::new();
    for row in answer.get("rows").and_then(Value::as_array).into_iter().flatten() {
        let text = |at: usize| row.get(at).and_then(Value::as_str).unwrap_or_default();
        let table = if text(0) == "public" { text(1).to_string() } else { format!("{}.{}", text(0), text(1)) };
        words.extend([table, text(2).to_string()]);
    }
    words.sort();
    words.dedup();
    Ok(words)
}
