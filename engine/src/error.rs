//! What can go wrong, sorted by what somebody must do about it.
//!
//! A bad record is not an error: it is a [`crate::batch::Reject`]. An error stops a statement, a pipeline or the
//! process, names its object and its place, and has a stable code that runbooks and alerts may rely on.

use std::fmt;

/// The result of everything in this crate that may fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The answer to "what now?".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The SQL must change.
    FixQuery,
    /// The settings, or the world that they point to, must change.
    FixConfiguration,
    /// It may pass by itself; the pipeline retries and says so.
    Wait,
    /// Another engine owns the pipeline now.
    Fenced,
    /// A decision about data is needed; the message lists the choices.
    Decide,
    /// A fault of Tidegate.
    Bug,
}

/// A place in a file of `queries/`, both counted from one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, as it was named to us.
    pub file: String,
    /// The line.
    pub line: u64,
    /// The column.
    pub column: u64,
}

/// An error with a stable code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What to do about it.
    pub kind: Kind,
    /// The stable code, `TG-…`.
    pub code: &'static str,
    /// The fact, with the object's name.
    pub message: String,
    /// Where, if it is in a file.
    pub place: Option<Place>,
    /// The way out.
    pub hint: Option<String>,
}

impl Error {
    fn new(kind: Kind, code: &'static str, message: impl Into<String>) -> Self {
        Self { kind, code, message: message.into(), place: None, hint: None }
    }

    /// The SQL must change.
    pub fn query(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Kind::FixQuery, code, message)
    }

    /// The configuration must change.
    pub fn configuration(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Kind::FixConfiguration, code, message)
    }

    /// It may pass by itself.
    pub fn wait(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Kind::Wait, code, message)
    }

    /// Another engine owns the pipeline.
    pub fn fenced(message: impl Into<String>) -> Self {
        Self::new(Kind::Fenced, "TG-FENCED", message)
    }

    /// Somebody must decide about data.
    pub fn decide(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Kind::Decide, code, message)
    }

    /// A fault of Tidegate.
    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(Kind::Bug, "TG-INTERNAL", message)
            .hint("this is a fault in Tidegate; please report it with the lines above")
    }

    /// Adds the way out.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts the view's name before the message.
    #[must_use]
    pub fn of_view(mut self, view: &str) -> Self {
        self.message = format!("view {view}: {}", self.message);
        self
    }

    /// An expression over the aggregates of a view, or an aggregate itself, failed on a group: its rows cannot be published.
    pub fn of_group(view: &str, error: datafusion::error::DataFusionError) -> Self {
        Self::decide(
            "TG-QUERY-FAILED",
            format!("view {view}: its query fails on one of its groups: {}", error.strip_backtrace()),
        )
        .hint("nothing of this epoch was committed; give the query a new name and guard the expression, say by nullif(x, 0) or a wider type")
    }

    /// Adds the place, unless a closer one is known.
    #[must_use]
    pub fn at(mut self, file: &str, line: u64, column: u64) -> Self {
        if self.place.is_none() && line > 0 {
            self.place = Some(Place { file: file.to_string(), line, column });
        }
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{}:{}:{}: ", place.file, place.line, place.column)?;
        }
        write!(f, "{}: {}", self.code, self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// DataFusion and Arrow fail on data only where we failed to keep such data away.
impl From<datafusion::error::DataFusionError> for Error {
    fn from(error: datafusion::error::DataFusionError) -> Self {
        Self::bug(format!("the query engine failed: {}", error.strip_backtrace()))
    }
}

impl From<arrow::error::ArrowError> for Error {
    fn from(error: arrow::error::ArrowError) -> Self {
        Self::bug(format!("arrow failed: {error}"))
    }
}
