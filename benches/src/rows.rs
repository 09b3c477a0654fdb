//! What rows there are.

use crate::queries::Views;
use crate::restart::Found;
use crate::serve;
use crate::topic::Topic;

/// A thousand keys: what most rows read.
pub const USUAL: Topic = Topic::Keys(1_000);

/// What a row measures.
#[derive(Debug, Clone, Copy)]
pub enum Work {
    /// The client alone.
    Consume,
    /// The decoder alone.
    Decode,
    /// Both.
    Floor(Topic),
    /// The engine on a filled topic.
    Whole(Topic, Views),
    /// The same without recent batches.
    Bare(Topic, Views),
    /// So many records a second: how soon they are committed.
    Latency(Views, u64),
    /// So many records a second for a long time.
    Steady(u64),
    /// The start after a crash.
    Restart(Found),
    /// The close of a large window.
    Close(Views),
    /// A client of Postgres, and rows of a commit.
    Commit(&'static str, usize),
    /// One of the questions.
    Ask(usize),
    /// Many who ask for this path.
    Serve(&'static str),
    /// Many who mean harm.
    Harm,
}

/// How often a row is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Often {
    /// As often as is asked for.
    Usual,
    /// Less often: it takes long, and is a figure of seconds.
    Slow,
    /// A single run has many figures.
    Once,
}

impl Work {
    /// The topic that it reads, if others may read it too.
    pub fn topic(self) -> Option<Topic> {
        match self {
            Self::Consume => Some(USUAL),
            Self::Floor(topic) | Self::Whole(topic, _) | Self::Bare(topic, _) => Some(topic),
            _ => None,
        }
    }

    /// How often it is measured.
    pub fn often(self) -> Often {
        match self {
            Self::Latency(..) | Self::Steady(_) | Self::Ask(_) | Self::Serve(_) | Self::Harm => Often::Once,
            Self::Restart(_) | Self::Close(_) => Often::Slow,
            _ => Often::Usual,
        }
    }
}

/// All rows by name.
pub fn all() -> Vec<(String, Work)> {
    let mut rows: Vec<(String, Work)> = vec![
        ("consume".into(), Work::Consume),
        ("decode".into(), Work::Decode),
        ("floor".into(), Work::Floor(USUAL)),
        ("floor/wide".into(), Work::Floor(Topic::Wide)),
    ];
    for keys in [10, 1_000, 100_000] {
        rows.push((format!("whole/keys={keys}"), Work::Whole(Topic::Keys(keys), Views::Minute)));
    }
    rows.push(("whole/keys=1000/no-recent".into(), Work::Bare(USUAL, Views::Minute)));
    rows.push(("whole/example".into(), Work::Whole(USUAL, Views::Example)));
    for count in [1, 5, 20] {
        rows.push((format!("whole/queries={count}"), Work::Whole(USUAL, Views::Dashboards(count))));
    }
    rows.extend([
        ("disorder".into(), Work::Whole(Topic::Disorder, Views::Minute)),
        ("wide".into(), Work::Whole(Topic::Wide, Views::Wide)),
        ("latency/rate=20000".into(), Work::Latency(Views::Minute, 20_000)),
        ("latency/example/rate=5000".into(), Work::Latency(Views::Example, 5_000)),
        ("steady/example/rate=20000".into(), Work::Steady(20_000)),
        ("restart/checkpoint".into(), Work::Restart(Found::Checkpoint)),
        ("restart/rebuild".into(), Work::Restart(Found::Rebuild)),
        (format!("close/groups={}", crate::close::GROUPS), Work::Close(Views::HourOnClose)),
        (format!("close/update/groups={}", crate::close::GROUPS), Work::Close(Views::Hour)),
    ]);
    for count in [0, 1_000, 10_000] {
        for client in ["sqlx", "tokio-postgres"] {
            rows.push((format!("commit/{client}/rows={count}"), Work::Commit(client, count)));
        }
    }
    let asked = crate::ask::QUESTIONS.iter().enumerate();
    rows.extend(asked.map(|(index, (name, _))| (format!("ask/{name}"), Work::Ask(index))));
    rows.push(("serve/rows=20".into(), Work::Serve(serve::ROWS)));
    rows.push(("serve/endpoint=20".into(), Work::Serve(serve::ENDPOINT)));
    rows.push(("latency/harm".into(), Work::Harm));
    rows
}
