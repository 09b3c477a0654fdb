//! The batch computation in plain Postgres SQL: it decodes the payloads, judges each record, and finds its windows by
//! asking all of them.
//!
//! ```text
//!   raw ─ decode ─► judged ─┬─► rejected                    per view: verdict ─► its windows ─► the view's own SELECT
//!                           └─► marked, by its partition's watermark
//! ```

use std::fmt::Write;

use super::case::*;

/// What is made once: a record's fields, or why it has none.
pub const DECODE: &str = r#"
CREATE FUNCTION decode_record(payload bytea, OUT reason text, OUT has_nul boolean, OUT ts timestamptz, OUT g text, OUT t text,
                              OUT n int, OUT big bigint, OUT p numeric(10,2), OUT d float8, OUT b boolean, OUT seen timestamptz)
LANGUAGE plpgsql AS $$
DECLARE
  j json;
  whole text;
  is_time text := '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$';
BEGIN
  has_nul := false;
  IF payload IS NULL THEN reason := 'null-payload'; RETURN; END IF;
  BEGIN
    -- Postgres does not look into a text with this escape, and the other fields count.
    whole := convert_from(payload, 'UTF8');
    has_nul := position('\u0000' IN whole) > 0;
    j := replace(whole, '\u0000', '')::json;
    IF json_typeof(j) <> 'object'
       OR EXISTS (SELECT FROM unnest(ARRAY['ts', 'g', 't', 'seen']) f WHERE json_typeof(j->f) NOT IN ('null', 'string'))
       OR EXISTS (SELECT FROM unnest(ARRAY['n', 'big', 'p', 'd']) f WHERE json_typeof(j->f) NOT IN ('null', 'number', 'string'))
       OR json_typeof(j->'b') NOT IN ('null', 'boolean')
       OR NOT j->>'ts' ~ is_time OR NOT j->>'seen' ~ is_time
    THEN reason := 'malformed'; RETURN; END IF;
    ts := (j->>'ts')::timestamptz;
    seen := (j->>'seen')::timestamptz;
    n := trunc((j->>'n')::numeric)::int;
    big := trunc((j->>'big')::numeric)::bigint;
    p := (j->>'p')::numeric(10,2);
    d := (j->>'d')::float8;
    b := (j->>'b')::boolean;
    t := j->>'t';
    g := j->>'g';
  EXCEPTION WHEN others THEN reason := 'malformed';
  END;
END $$;
"#;

/// Everything that a check must find, as one query of JSON arrays: of a view's rows, of its counts, of dead letters.
pub fn expected(case: &Case, log: &[Vec<&Record>]) -> String {
    let mut text = String::from("WITH raw(part, off, k, payload) AS (VALUES (-1, -1::bigint, NULL, NULL::bytea)");
    for (partition, records) in log.iter().enumerate() {
        for (offset, record) in records.iter().enumerate() {
            let key = record.key.map_or("NULL".to_string(), |key| format!("'{key}'"));
            let payload = record.bytes().map_or("NULL".to_string(), |bytes| {
                bytes.iter().fold("'\\x".to_string(), |hex, byte| format!("{hex}{byte:02x}")) + "'"
            });
            let _ = write!(text, ", ({partition}, {offset}, {key}, {payload})");
        }
    }
    text.push(')');
    text.push_str(&judged(&case.source));
    let _ = write!(
        text,
        ", marks AS (SELECT part, max(us) - {bound} AS mark FROM marked GROUP BY part)
         , frontier AS (SELECT CASE WHEN count(*) = {partitions} THEN min(mark) END AS closed FROM marks)
         , greatest AS (SELECT max(us) AS seen_until FROM marked)",
        bound = case.source.bound * 1_000_000,
        partitions = case.partitions,
    );
    for view in &case.views {
        text.push_str(&judged_by(view));
    }
    text.push_str(
        "\nSELECT json_build_array('rejected', part, off, rejected)::text FROM judged WHERE rejected IS NOT NULL",
    );
    for view in &case.views {
        let name = &view.name;
        let columns: Vec<String> = view.columns().iter().map(|column| format!("q.{}", column.name)).collect();
        let _ = write!(
            text,
            "\nUNION ALL SELECT json_build_array('row', '{name}', {columns})::text FROM ({query}) q
             UNION ALL SELECT json_build_array('published', '{name}', count(*))::text FROM {name}_windows
             UNION ALL SELECT json_build_array('letter', '{name}', part, off, verdict)::text FROM {name}_rows WHERE verdict NOT IN ('accepted', 'filtered')
             UNION ALL SELECT json_build_array('counts', '{name}', count(*), count(*) FILTER (WHERE verdict = 'filtered'),
               count(*) FILTER (WHERE verdict = 'accepted'), count(*) FILTER (WHERE verdict = 'late'),
               count(*) FILTER (WHERE verdict IN ('query-error', 'key-too-long')))::text FROM {name}_rows",
            columns = columns.join(", "),
            query = query(view),
        );
    }
    text
}

/// The view's own SELECT, over its rows with their windows.
fn query(view: &View) -> String {
    let text = view.query(&format!("{}_windows", view.name), false);
    // Postgres has no origin that goes without saying.
    let text = text.replace("seconds', ts)", "seconds', ts, '1970-01-01T00:00:00Z')");
    match view.windows {
        Windows::Stateless => text.replacen("SELECT ", "SELECT part AS _partition, off AS _offset, ", 1),
        _ => text,
    }
}

/// Each record with what the source makes of it, and each row with the watermark that judges it.
fn judged(source: &Source) -> String {
    let missing: Vec<String> = COLUMNS[1..]
        .iter()
        .zip(&source.required[1..])
        .filter(|(_, required)| **required)
        .map(|((name, _), _)| format!("{name} IS NULL"))
        .collect();
    let missing = if missing.is_empty() { "false".to_string() } else { missing.join(" OR ") };
    let computed = source.computed.map(|computed| COMPUTED[computed].1);
    let fails = if computed == Some("100 / n") { "n = 0" } else { "false" };
    let computed = computed.map_or("NULL::text".to_string(), |text| text.replace("/ n", "/ nullif(n, 0)"));
    let wall = source.wall.map_or("NULL".to_string(), |wall| (START_US + (wall + SKEW) * 1_000_000).to_string());
    format!(
        r#"
, read AS (SELECT part, off, k COLLATE "C" AS k, reason, has_nul, ts, g COLLATE "C" AS g, t COLLATE "C" AS t, n, big, p, d, b, seen,
                  (extract(epoch FROM ts) * 1000000)::bigint AS us
           FROM raw, decode_record(payload) WHERE part >= 0)
, computed AS (SELECT *, {computed} AS c FROM read)
, judged AS (SELECT *, CASE WHEN reason IS NOT NULL THEN reason WHEN {fails} THEN 'computed-error' WHEN {missing} THEN 'missing'
                            WHEN has_nul THEN 'nul-character' WHEN ts IS NULL THEN 'null-time' WHEN us > {wall} THEN 'future' END AS rejected FROM computed)
, marked AS (SELECT *, max(us) OVER (PARTITION BY part ORDER BY off ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) - {bound} AS mark
             FROM judged WHERE rejected IS NULL)"#,
        bound = source.bound * 1_000_000,
    )
}

/// Where a view's windows lie, in microseconds: every start, the distances of the ends from it, and the pane of a time.
fn windows_of(view: &View) -> Option<(String, String, String)> {
    let us = |seconds: i64| seconds * 1_000_000;
    let (size, every, ends, pane, offset) = match view.windows {
        Windows::Tumble { size, offset } => (size, size, size, format!("{}", us(size)), offset),
        Windows::Hop { slide, size, offset } => {
            (size, slide, size, format!("gcd({}, {})", us(slide), us(size)), offset)
        }
        Windows::Cumulate { step, size, offset } => (size, size, step, format!("{}", us(step)), offset),
        Windows::DateBin { size } => (size, size, size, format!("{}", us(size)), 0),
        Windows::DateTrunc => (60, 60, 60, format!("{}", us(60)), 0),
        Windows::Running | Windows::Stateless => return None,
    };
    // All that can hold a time of a case: an hour's, from well before its first.
    let first = (START_US - us(600 + size)).div_euclid(us(every)) * us(every) + us(offset);
    let starts = format!("generate_series({first}::bigint, {}, {})", START_US + us(3_600), us(every));
    let lengths = format!("generate_series({}::bigint, {}, {})", us(ends), us(size), us(ends));
    // The first pane begins with some window's start, before all times.
    let pane_end = format!("us - mod(us - {first}, {pane}) + {pane}");
    Some((starts, lengths, pane_end))
}

/// What a view makes of each row, and the accepted ones with their windows.
fn judged_by(view: &View) -> String {
    let name = &view.name;
    let filter = view.filter.map_or("true", |filter| PREDICATES[filter]);
    let fails = if view.fails_on_zero() { "n = 0" } else { "false" };
    let long = match view.windows {
        Windows::Stateless => "false".to_string(),
        _ => {
            let texts = view.keys.iter().filter(|key| ["g", "t", "k", "c", "coalesce(g, '-')"].contains(*key));
            let long: Vec<String> = texts.map(|key| format!("octet_length(({key})::text) > 1024")).collect();
            if long.is_empty() { "false".to_string() } else { long.join(" OR ") }
        }
    };
    let verdict = |is_outside: &str, is_late: &str| {
        format!(
            "\n, {name}_rows AS (SELECT *, CASE WHEN ({filter}) IS NOT TRUE THEN 'filtered' WHEN {fails} THEN 'query-error' \
             WHEN {is_outside} THEN 'filtered' WHEN {is_late} THEN 'late' WHEN {long} THEN 'key-too-long' ELSE 'accepted' END AS verdict FROM marked)"
        )
    };
    let Some((starts, lengths, pane_end)) = windows_of(view) else {
        return verdict("false", "false")
            + &format!("\n, {name}_windows AS (SELECT * FROM {name}_rows WHERE verdict = 'accepted')");
    };
    let all = format!("{starts} AS s, {lengths} AS l");
    let holds = "s <= us AND us < s + l";
    let is_outside = format!("NOT EXISTS (SELECT FROM {all} WHERE {holds})");
    let is_late = format!("({pane_end}) <= mark");
    // An open window of several panes is published once event time has reached its last pane.
    let last_pane = match view.windows {
        Windows::Hop { slide, size, .. } => Some(format!("gcd({}, {})", slide * 1_000_000, size * 1_000_000)),
        Windows::Cumulate { step, .. } => Some(format!("{}", step * 1_000_000)),
        _ => None,
    };
    let open = match last_pane {
        _ if view.on_close => "false".to_string(),
        Some(last_pane) => format!("s + l - {last_pane} <= seen_until"),
        None => "true".to_string(),
    };
    let time = |us: &str| format!("timestamptz 'epoch' + ({us}) * interval '1 microsecond'");
    verdict(&is_outside, &is_late)
        + &format!(
            "\n, {name}_windows AS (SELECT r.*, {start} AS window_start, {end} AS window_end, {last} AS window_time \
             FROM {name}_rows r, frontier, greatest, {all} WHERE verdict = 'accepted' AND {holds} AND (s + l <= closed OR {open}))",
            start = time("s"),
            end = time("s + l"),
            last = time("s + l - 1"),
        )
}
