//! A view at work, without servers: its rows against the same query in plain DataFusion over the accepted rows.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use arrow::util::display::array_value_to_string;
use datafusion::prelude::SessionContext;
use tidegate_engine::batch::Record;
use tidegate_engine::decode::{Decoder, Future};
use tidegate_engine::sql::Catalog;
use tidegate_engine::time::{self, Watermarks};
use tidegate_engine::view::{End, View};

const SOURCE: &str = "CREATE SOURCE events (ts TIMESTAMP WITH TIME ZONE, shop VARCHAR, n INT, price DECIMAL(10,2), \
double_n INT AS (n * 2), at_offset BIGINT METADATA FROM 'offset', WATERMARK FOR ts AS ts - INTERVAL '10 seconds') \
WITH (connector='kafka', topic='t', format='json', scan.startup.mode='earliest');";

/// Runs a view over payloads of one partition, in epochs of this size; its table as text, sorted.
fn run(query: &str, payloads: &[String], epoch: usize) -> (Vec<String>, Vec<RecordBatch>, usize) {
    let text = format!("{SOURCE} CREATE MATERIALIZED VIEW v AS {query};");
    let catalog = Catalog::of_texts(&[("q.sql".to_string(), text)], |_| None).unwrap_or_else(|e| panic!("{e:?}"));
    let source = &catalog.sources[0];
    let plan = Arc::new(catalog.views.into_iter().next().unwrap());
    let key: Vec<String> = plan.table.key().map(|column| column.name.clone()).collect();
    let mut decoder = Decoder::new(source).unwrap();
    let mut marks = Watermarks::new(source.source.bound_us);
    let mut view = View::new(plan, time::NONE, &[]).unwrap();
    let (mut table, mut decoded, mut late, mut offset) = (std::collections::BTreeMap::new(), Vec::new(), 0, 0);
    let mut frontier = time::NONE;
    for (seq, chunk) in payloads.chunks(epoch).enumerate() {
        let records: Vec<Record<'_>> = chunk
            .iter()
            .map(|payload| {
                offset += 1;
                Record {
                    partition: 0,
                    offset,
                    timestamp_us: None,
                    append_time: false,
                    key: None,
                    payload: Some(payload.as_bytes()),
                }
            })
            .collect();
        let rows = decoder.decode(&records, Future::Judge { wall_us: i64::MAX }).unwrap().rows;
        let mut rejects = Vec::new();
        if let Some(rows) = rows {
            let rows = marks.stamp(rows, decoder.time_column(), &source.schema).unwrap();
            view.absorb(&rows, frontier, Some(&mut rejects)).unwrap();
            decoded.push(rows);
        }
        late += rejects.len();
        let next = time::frontier(frontier, [(marks.of(0), true)].into_iter());
        let end = End { seq: seq as i64 + 1, frontier: next, greatest: i64::MAX, emit: true };
        let changes = view.finish(end).unwrap().changes;
        if let Some(changes) = changes {
            for row in lines(&changes.upserts, &key) {
                table.insert(row.0, row.1);
            }
            for deleted in changes.deletes.iter().flat_map(|keys| lines(keys, &key)) {
                assert!(table.remove(&deleted.0).is_some(), "a row was deleted that was not there");
            }
        }
        frontier = next;
    }
    (table.into_values().collect(), decoded, late)
}

fn lines(batch: &RecordBatch, key: &[String]) -> Vec<(String, String)> {
    let text = |row: usize, keep: &dyn Fn(&str) -> bool| {
        let fields = batch.schema();
        let cells = fields.fields().iter().enumerate().filter(|(_, field)| keep(field.name()));
        cells
            .map(|(column, _)| {
                let array = batch.column(column);
                if array.is_null(row) { "NULL".to_string() } else { array_value_to_string(array, row).unwrap() }
            })
            .collect::<Vec<_>>()
            .join("|")
    };
    (0..batch.num_rows()).map(|row| (text(row, &|name| key.iter().any(|k| k == name)), text(row, &|_| true))).collect()
}

/// The same in one piece, by DataFusion alone, over the rows that are not late.
fn batch(query: &str, decoded: &[RecordBatch]) -> Vec<String> {
    let context = SessionContext::new();
    let table = datafusion::datasource::MemTable::try_new(decoded[0].schema(), vec![decoded.to_vec()]).unwrap();
    context.register_table("all_events", Arc::new(table)).unwrap();
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
        let window = "arrow_cast(date_bin(INTERVAL '1 minute', ts), 'Timestamp(Microsecond, Some(\"+00:00\"))')";
        let accepted = format!(
            "CREATE VIEW accepted AS SELECT *, {window} AS window_start, {window} + INTERVAL '1 minute' AS window_end FROM all_events \
             WHERE arrow_cast(date_bin(INTERVAL '1 minute', ts) + INTERVAL '1 minute', 'Timestamp(Microsecond, None)') > arrow_cast(_wm, 'Timestamp(Microsecond, None)')"
        );
        context.sql(&accepted).await.unwrap();
        let batches = context.sql(query).await.unwrap().collect().await.unwrap();
        let mut rows: Vec<String> = batches.iter().flat_map(|batch| lines(batch, &[])).map(|(_, row)| row).collect();
        rows.sort();
        rows
    })
}

/// Events of ten minutes, out of order, some late, some with NULLs.
fn payloads() -> Vec<String> {
    (0..600i64)
        .map(|i| {
            let second = i - if i % 37 == 0 { 150 } else { i * 7 % 9 };
            let (minute, second) = ((second + 600) / 60, (second + 600) % 60);
            let shop = if i % 11 == 0 { "null".to_string() } else { format!("\"shop {}\"", i % 5) };
            let n = if i % 13 == 0 { "null".to_string() } else { (i % 50).to_string() };
            format!(
                "{{\"ts\":\"2026-01-01T00:{minute:02}:{second:02}Z\",\"shop\":{shop},\"n\":{n},\"price\":{}.{:02}}}",
                i % 90,
                i % 100
            )
        })
        .collect()
}

#[test]
fn streaming_equals_batch_for_any_cut_into_epochs() {
    let payloads = payloads();
    let queries = [
        "SELECT window_start, shop, count(*) AS c, count(n) AS cn, sum(n) AS s, sum(price) AS p, min(n) AS lo, max(shop) AS hi FROM {} GROUP BY window_start, shop",
        "SELECT window_start, window_end, count(*) FILTER (WHERE n > 20) AS many, bool_and(n > 3) AS all_big, bit_xor(n) AS x FROM {} GROUP BY window_start, window_end",
        "SELECT window_end, shop, n % 3 AS third, sum(double_n) AS d, max(at_offset) AS last FROM {} WHERE n IS NOT NULL GROUP BY 1, 2, 3",
        "SELECT shop, window_start, coalesce(sum(CASE WHEN n > 10 THEN price END), 0) AS big FROM {} GROUP BY shop, window_start HAVING sum(n) BETWEEN 20 AND 200",
        "SELECT window_start, avg(n) AS mean, sum(CAST(price AS DOUBLE)) AS f FROM (SELECT * FROM {} WHERE shop IS NOT NULL) x GROUP BY window_start",
        "WITH priced AS (SELECT window_start, price FROM {} WHERE price > 5) SELECT window_start, count(*) AS c, max(price) AS top FROM priced GROUP BY window_start",
    ];
    for query in queries {
        for epoch in [1, 7, 100, 600] {
            let (mut streamed, decoded, late) =
                run(&query.replace("{}", "TUMBLE(events, ts, INTERVAL '1 minute')"), &payloads, epoch);
            streamed.sort();
            assert!(late > 5, "the data has late rows");
            assert_eq!(streamed, batch(&query.replace("{}", "accepted"), &decoded), "{query} in epochs of {epoch}");
        }
    }
}

#[test]
fn both_spellings_and_both_native_functions_are_the_same_window() {
    let payloads = payloads();
    let spellings = [
        "SELECT window_start AS w, shop, count(*) AS c FROM TUMBLE(events, ts, INTERVAL '1 minute') GROUP BY window_start, shop",
        "SELECT window_start AS w, shop, count(*) AS c FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, shop",
        "SELECT window_start AS w, shop, count(*) AS c FROM TABLE(TUMBLE(DATA => TABLE events, TIMECOL => DESCRIPTOR(ts), SIZE => INTERVAL '60' SECOND)) GROUP BY window_start, shop",
        "SELECT window_start AS w, shop, count(*) AS c FROM TUMBLE(events, ts, INTERVAL '1 minute', INTERVAL '2 minutes') AS e GROUP BY window_start, e.shop",
        "SELECT window_start AS w, shop, count(*) AS c FROM TUMBLE(events, ts, INTERVAL '1 minute') GROUP BY ALL EMIT ON UPDATE",
        "SELECT date_bin(INTERVAL '1 minute', ts) AS w, shop, count(*) AS c FROM events GROUP BY 1, 2 EMIT ON UPDATE",
        "SELECT date_trunc('minute', ts) AS w, shop, count(*) AS c FROM events GROUP BY date_trunc('minute', ts), shop",
    ];
    let (first, _, late) = run(spellings[0], &payloads, 50);
    for spelling in &spellings[1..] {
        let (rows, _, own_late) = run(spelling, &payloads, 50);
        assert_eq!((&rows, own_late), (&first, late), "{spelling}");
    }
}

#[test]
fn an_expression_that_fails_on_one_row_costs_that_row() {
    let payloads: Vec<String> =
        (0..20).map(|i| format!("{{\"ts\":\"2026-01-01T00:00:{i:02}Z\",\"n\":{}}}", i % 4)).collect();
    let (rows, _, failed) = run(
        "SELECT window_start, sum(12 / n) AS s, count(*) AS c FROM TUMBLE(events, ts, INTERVAL '1 minute') GROUP BY window_start",
        &payloads,
        20,
    );
    assert_eq!(failed, 5);
    assert_eq!(rows, ["2026-01-01T00:00:00Z|110|15"]);
}
