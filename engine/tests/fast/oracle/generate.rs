//! Random cases. Few keys and few times, so that groups meet, windows end and edges are hit; and everything shrinks: to
//! fewer steps, fewer views, plainer values.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::case::*;

/// Any case whose aggregates are among these.
pub fn case(fits: fn(&Aggregate) -> bool) -> impl Strategy<Value = Case> {
    (source(), vec(view(fits), 1..=3), 1..=4usize, vec(raw(), 1..70)).prop_map(assemble)
}

fn source() -> impl Strategy<Value = Source> {
    let required = vec(prop::bool::weighted(0.03), COLUMNS.len());
    (select(vec![0, 5, 10, 30]), required, option::weighted(0.5, 0..COMPUTED.len()), option::weighted(0.15, 0..120i64))
        .prop_map(|(bound, required, computed, wall)| Source {
            bound,
            required: required.try_into().expect("one for each column"),
            computed,
            wall,
        })
}

fn windows() -> impl Strategy<Value = Windows> {
    let offset = || prop_oneof![2 => Just(0), 1 => select(vec![5i64, 15, -5, 60])];
    prop_oneof![
        3 => (select(vec![10i64, 20, 60]), offset()).prop_map(|(size, offset)| Windows::Tumble { size, offset }),
        3 => (select(vec![(10i64, 20i64), (10, 60), (20, 30), (15, 30), (30, 30), (40, 20), (25, 10)]), offset())
            .prop_map(|((slide, size), offset)| Windows::Hop { slide, size, offset }),
        2 => (select(vec![(10i64, 20i64), (10, 60), (20, 60), (30, 30)]), offset())
            .prop_map(|((step, size), offset)| Windows::Cumulate { step, size, offset }),
        1 => select(vec![10i64, 30, 60]).prop_map(|size| Windows::DateBin { size }),
        1 => Just(Windows::DateTrunc),
        2 => Just(Windows::Running),
        1 => Just(Windows::Stateless),
    ]
}

fn view(fits: fn(&Aggregate) -> bool) -> impl Strategy<Value = View> {
    let aggregates: Vec<Aggregate> = AGGREGATES.into_iter().filter(fits).collect();
    let predicate = || option::weighted(0.4, 0..PREDICATES.len());
    (
        windows(),
        prop::bool::weighted(0.3),
        predicate(),
        select(vec![[true, false, false], [true, true, false], [false, true, false], [false, false, true], [true; 3]]),
        subsequence(KEYS.to_vec(), 0..=2),
        subsequence(SELECTED.to_vec(), 1..=4),
        vec((select(aggregates), option::weighted(0.25, 0..PREDICATES.len())), 1..=4),
        option::weighted(0.35, select(HAVINGS.to_vec())),
    )
        .prop_map(|(windows, on_close, filter, edges, keys, selected, aggregates, having)| {
            let is_stateless = windows == Windows::Stateless;
            let mut view = View {
                name: String::new(),
                windows,
                on_close: on_close && !matches!(windows, Windows::Running | Windows::Stateless),
                filter,
                edges,
                keys: if is_stateless { selected } else { keys },
                aggregates: if is_stateless { Vec::new() } else { aggregates },
                having: having.filter(|_| !is_stateless),
            };
            match windows {
                Windows::Tumble { .. } | Windows::Hop { .. } => {}
                // Several windows begin at once.
                Windows::Cumulate { .. } => view.edges[1] |= !view.edges[2],
                _ => view.edges = [false; 3],
            }
            view
        })
}

/// A step that does not know yet where in time it is.
#[derive(Debug, Clone)]
enum Raw {
    Feed(RawRecord),
    Other(Step),
}

#[derive(Debug, Clone)]
struct RawRecord {
    partition: usize,
    /// How far the event time goes on, and how far this record is behind it, in steps of five seconds.
    gap: i64,
    back: i64,
    /// Beside that, in microseconds.
    nudge: i64,
    time: TimeText,
    key: Option<&'static str>,
    fields: Vec<Option<&'static str>>,
    broken: Option<Payload>,
}

/// How the event time is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TimeText {
    Utc,
    /// Two hours east.
    East,
    Null,
    Missing,
    Unreadable,
}

fn raw() -> impl Strategy<Value = Raw> {
    prop_oneof![
        40 => record().prop_map(Raw::Feed),
        6 => any::<bool>().prop_map(|checkpoint| Raw::Other(Step::Commit { checkpoint })),
        4 => Just(Raw::Other(Step::Check)),
        3 => prop::bool::weighted(0.3).prop_map(|state_lost| Raw::Other(Step::Crash { state_lost })),
        1 => Just(Raw::Other(Step::Restart)),
        2 => select(vec![IDLE + 1, IDLE, 20]).prop_map(|seconds| Raw::Other(Step::Advance(seconds))),
        1 => Just(Raw::Other(Step::AddView)),
    ]
}

fn record() -> impl Strategy<Value = RawRecord> {
    let broken = vec![
        Payload::None,
        Payload::Text(String::new()),
        Payload::Text("{\"ts\":\"2026-01-01T12:00:00Z\"".to_string()),
        Payload::Text("{\"n\":1} {\"n\":2}".to_string()),
        Payload::Text("[1]".to_string()),
        Payload::Text("null".to_string()),
        Payload::Text("{\"n\":1}x".to_string()),
        Payload::Bytes(&[0x7B, 0x22, 0x67, 0x22, 0x3A, 0x22, 0xFF, 0x22, 0x7D]),
    ];
    let time = prop_oneof![
        80 => Just(TimeText::Utc),
        8 => Just(TimeText::East),
        1 => Just(TimeText::Null),
        1 => Just(TimeText::Missing),
        1 => Just(TimeText::Unreadable),
    ];
    let fields: Vec<BoxedStrategy<Option<&'static str>>> = COLUMNS[1..].iter().map(|(name, _)| field(name)).collect();
    (
        0..4usize,
        prop_oneof![6 => Just(0i64), 5 => Just(1), 2 => Just(2), 1 => 3..12i64],
        prop_oneof![8 => Just(0i64), 3 => 1..4i64, 2 => 4..20i64],
        prop_oneof![5 => Just(0i64), 1 => select(vec![-1_000i64, 1_000, -1, 1, 2_500_000])],
        time,
        option::weighted(0.3, select(vec!["k1", "k2"])),
        fields,
        option::weighted(0.04, select(broken)),
    )
        .prop_map(|(partition, gap, back, nudge, time, key, fields, broken)| RawRecord {
            partition,
            gap,
            back,
            nudge,
            time,
            key,
            fields,
            broken,
        })
}

/// What stands for a field: a JSON value, or nothing.
fn field(name: &str) -> BoxedStrategy<Option<&'static str>> {
    let (good, rare): (Vec<&'static str>, Vec<&'static str>) = match name {
        "g" => (
            vec!["\"a\"", "\"b\"", "\"\"", "\"ä\"", "null"],
            vec!["\"A\"", "\"a\\u0000\"", "\"LONG\"", "\"LONGx\"", "5"],
        ),
        "t" => (vec!["\"x\"", "\"y\"", "\"zz\"", "\"\"", "null"], vec!["\"X\"", "[\"x\"]", "\"q\\\"\\\\\""]),
        "n" => {
            (vec!["1", "2", "0", "5", "-3", "null"], vec!["\"4\"", "2.7", "3000000000", "\"x\"", "true", "7,\"n\":2"])
        }
        "big" => (
            vec!["1", "0", "-7", "10", "null"],
            vec!["90000000000000000", "-90000000000000000", "\"12\"", "9223372036854775808", "{}"],
        ),
        "p" => (vec!["1.5", "0.01", "-2.25", "10", "null"], vec!["99999999.99", "\"3.10\"", "100000000", "\"abc\""]),
        "d" => (vec!["0.1", "0.2", "0.3", "-1.5", "null"], vec!["1e3", "0", "\"0.7\"", "1e400", "false"]),
        "b" => (vec!["true", "false", "null"], vec!["1", "\"true\""]),
        _ => (
            vec!["\"2026-01-01T12:00:00Z\"", "\"2026-01-01T12:00:00.000001Z\"", "null"],
            vec!["\"2026-01-01T13:00:00+01:00\"", "\"1969-12-31T23:59:59.999Z\"", "\"soon\""],
        ),
    };
    prop_oneof![120 => select(good).prop_map(Some), 12 => Just(None), 1 => select(rare).prop_map(Some)].boxed()
}

/// Gives steps their times, and views what they may have.
fn assemble((source, mut views, partitions, raw): (Source, Vec<View>, usize, Vec<Raw>)) -> Case {
    for (index, view) in views.iter_mut().enumerate() {
        view.name = format!("v{index}");
        suit(view, &source, partitions);
    }
    let may_add = views.len() > 1;
    let (mut steps, mut now, mut added) = (Vec::new(), START_US, false);
    for step in raw {
        match step {
            Raw::Feed(record) => {
                now += record.gap * 5_000_000;
                let time = now - record.back * 5_000_000 + record.nudge;
                steps.push(Step::Feed(assembled(record, time, partitions)));
            }
            Raw::Other(Step::AddView) => {
                if may_add && !added {
                    steps.push(Step::AddView);
                    added = true;
                }
            }
            // Nothing is to be seen that was not committed.
            Raw::Other(Step::Check) => steps.extend([Step::Commit { checkpoint: false }, Step::Check]),
            // A partition is idle once it was at its end, time has passed, and a commit decides it.
            Raw::Other(Step::Advance(seconds)) => {
                let commit = Step::Commit { checkpoint: false };
                steps.extend([commit.clone(), Step::Advance(seconds), commit]);
            }
            Raw::Other(step) => steps.push(step),
        }
    }
    steps.extend([Step::Commit { checkpoint: false }, Step::Check]);
    Case { source, views, partitions, steps }
}

fn assembled(record: RawRecord, time: i64, partitions: usize) -> Record {
    let written = match record.time {
        TimeText::Utc => format!("\"ts\":\"{}\"", rfc3339(time)),
        TimeText::East => {
            format!("\"ts\":\"{}\"", rfc3339(time + 7_200_000_000).replace('Z', "+02:00"))
        }
        TimeText::Null => "\"ts\":null".to_string(),
        TimeText::Missing => "\"other\":[{\"ts\":1}]".to_string(),
        TimeText::Unreadable => "\"ts\":\"yesterday\"".to_string(),
    };
    let mut text = format!("{{{written}");
    for ((name, _), value) in COLUMNS[1..].iter().zip(&record.fields) {
        if let Some(value) = value {
            // A text of 1,024 bytes is a key, one of 1,025 is too long.
            text.push_str(&format!(",\"{name}\":{}", value.replace("LONG", &"x".repeat(1_024))));
        }
    }
    text.push('}');
    Record {
        partition: record.partition % partitions,
        key: record.key,
        payload: record.broken.unwrap_or(Payload::Text(text)),
    }
}

/// Replaces what the view cannot have.
fn suit(view: &mut View, source: &Source, partitions: usize) {
    let is_windowed = !matches!(view.windows, Windows::Running | Windows::Stateless);
    let is_one_pane = !matches!(view.windows, Windows::Hop { .. } | Windows::Cumulate { .. });
    if source.computed.is_none() {
        view.keys.retain(|key| *key != "c");
    }
    if view.windows == Windows::Stateless && view.keys.is_empty() {
        view.keys.push("g");
    }
    // By chance alone too few views with an aggregate that keeps every value would emit on close.
    view.on_close |= is_windowed
        && view
            .aggregates
            .iter()
            .any(|(aggregate, _)| matches!(aggregate.place, Place::OnClose | Place::OnCloseInOrder));
    for (aggregate, _) in &mut view.aggregates {
        let fits = match aggregate.place {
            Place::Anywhere => source.computed.is_some() || !aggregate.sql.contains("(c)"),
            Place::OnClose => view.on_close,
            Place::OnCloseInOrder => view.on_close && is_one_pane && partitions == 1,
            Place::InWindows => is_windowed,
        };
        if !fits {
            *aggregate = AGGREGATES[0];
        }
    }
}
