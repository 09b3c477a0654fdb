//! What is refused, with file, line, column and the way out.

use tidegate_engine::sql::Catalog;

const SOURCE: &str = "CREATE SOURCE events (ts TIMESTAMP WITH TIME ZONE, shop VARCHAR NOT NULL, n INT, price DOUBLE, \
WATERMARK FOR ts AS ts - INTERVAL '10 seconds') WITH (connector='kafka', topic='t', format='json', scan.startup.mode='earliest');";

fn refused(text: &str) -> Vec<String> {
    let texts = [("q.sql".to_string(), text.to_string())];
    match Catalog::of_texts(&texts, |_| None) {
        Ok(_) => panic!("this should be refused: {text}"),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

/// A view on line 2 of a file whose first line is the source.
fn view(query: &str) -> String {
    let errors = refused(&format!("{SOURCE}\nCREATE MATERIALIZED VIEW v AS {query};"));
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors.into_iter().next().unwrap()
}

#[test]
fn a_directory_is_read_and_nothing_beside_it() {
    let dir = std::env::temp_dir().join(format!("tidegate-queries-{}", std::process::id()));
    let view = "CREATE MATERIALIZED VIEW v AS SELECT window_start, count(*) AS c FROM TUMBLE(events, ts, INTERVAL '1 minute') GROUP BY window_start;";
    // As a volume of Kubernetes has them: links to a hidden directory, which is not read for itself.
    std::fs::create_dir_all(dir.join("queries/..data")).unwrap();
    std::fs::write(dir.join("queries/..data/a.sql"), format!("{SOURCE}\n{view}")).unwrap();
    std::os::unix::fs::symlink("..data/a.sql", dir.join("queries/a.sql")).unwrap();
    let read = || Catalog::load(&dir.join("queries")).map(|catalog| catalog.views.len());
    assert_eq!(read().unwrap(), 1);
    let refused = |file: &str, why: &str| {
        let errors = read().unwrap_err();
        assert!(errors.len() == 1 && errors[0].message.ends_with(why), "{errors:?}");
        std::fs::remove_file(dir.join("queries").join(file)).unwrap();
    };
    std::fs::write(dir.join("secret"), "CREATE nothing; canary").unwrap();
    std::os::unix::fs::symlink("../secret", dir.join("queries/b.sql")).unwrap();
    refused("b.sql", "b.sql: it is a link that leads out of the directory");
    std::os::unix::fs::symlink(".", dir.join("queries/again")).unwrap();
    refused("again", "again: it is a link to a directory; name that one");
    std::fs::write(dir.join("queries/long.sql"), " ".repeat(10 << 20)).unwrap();
    refused("long.sql", "long.sql: it has more than 1 MiB");
    assert_eq!(read().unwrap(), 1);
    std::fs::remove_dir_all(&dir).unwrap();
}

const FROM: &str = "FROM TUMBLE(events, ts, INTERVAL '1 minute')";

#[test]
fn what_is_not_there_yet_is_refused_by_name() {
    let not_yet = [
        (format!("SELECT window_start, count(*) AS c {FROM} GROUP BY window_start ORDER BY 1"), "ORDER BY"),
        (format!("SELECT window_start, count(*) AS c {FROM} GROUP BY window_start LIMIT 3"), "LIMIT"),
        (format!("SELECT DISTINCT window_start, count(*) AS c {FROM} GROUP BY window_start"), "SELECT DISTINCT"),
        (format!("SELECT window_start, sum(count(*)) OVER () AS c {FROM} GROUP BY window_start"), "OVER"),
        ("SELECT a.shop, count(*) AS c FROM events a JOIN events b ON a.n = b.n GROUP BY a.shop".to_string(), "a join"),
        (
            format!("SELECT max(c) AS m FROM (SELECT window_start, count(*) AS c {FROM} GROUP BY window_start)"),
            "a second aggregate",
        ),
        (
            "SELECT window_start, count(*) AS c FROM SESSION(events, ts, INTERVAL '1 minute') GROUP BY 1".to_string(),
            "the window function SESSION",
        ),
    ];
    for (query, what) in not_yet {
        let error = view(&query);
        assert!(
            error.starts_with("q.sql:2:")
                && error.contains("TG-SQL-NOT-YET")
                && error.contains(what)
                && error.ends_with(')'),
            "{error}\n{query}"
        );
    }
}

#[test]
fn a_misspelt_column_is_named_with_its_place_and_the_right_one() {
    let error = view(&format!("SELECT window_start, count(*) AS c {FROM} WHERE shopp = 'a' GROUP BY window_start"));
    assert_eq!(error, "q.sql:2:117: TG-SQL-COLUMN: view v: there is no column shopp (did you mean shop?)");
}

#[test]
fn keys_must_be_selected_and_storable() {
    let one = |query: &str| view(query);
    assert!(
        one(&format!("SELECT window_start, count(*) AS c {FROM} GROUP BY window_start, shop"))
            .contains("groups by events.shop but does not select it")
    );
    assert!(
        one(&format!("SELECT window_start, price, count(*) AS c {FROM} GROUP BY window_start, price"))
            .contains("equal floats are not a reliable key")
    );
    assert!(
        one(&format!("SELECT window_start, count(*) {FROM} GROUP BY window_start")).contains("column 2 needs a name")
    );
    let twice = one(&format!("SELECT window_start, n AS x, shop AS x, count(*) AS c {FROM} GROUP BY 1, 2, 3"));
    assert!(twice.starts_with("q.sql:2:") && twice.contains("unique expression names"), "{twice}");
}

#[test]
fn windows_are_over_the_watermark_and_of_fixed_length() {
    assert!(
        view("SELECT ts, count(*) AS c FROM events GROUP BY ts").contains("groups by events.ts, which is not a window")
    );
    assert!(
        view("SELECT date_trunc('month', ts) AS m, count(*) AS c FROM events GROUP BY 1")
            .contains("is a window without a fixed length")
    );
    assert!(
        view("SELECT date_bin(INTERVAL '1 month', ts) AS m, count(*) AS c FROM events GROUP BY 1")
            .contains("has no fixed length")
    );
    assert!(
        view("SELECT window_start, count(*) AS c FROM TUMBLE(events, ts, INTERVAL '1 month') GROUP BY 1")
            .contains("is not a window size of fixed length")
    );
    assert!(view("SELECT window_start, date_trunc('hour', ts) AS h, count(*) AS c FROM TUMBLE(events, ts, INTERVAL '1 minute') GROUP BY 1, 2").contains("two different windows"));
}

#[test]
fn what_would_not_repeat_is_refused() {
    for function in ["now()", "random()", "uuid()", "current_date"] {
        let error =
            view(&format!("SELECT window_start, max(CAST({function} AS VARCHAR)) AS c {FROM} GROUP BY window_start"));
        assert!(error.contains("gives another answer each time it is asked"), "{error}");
    }
}

#[test]
fn a_source_says_what_it_lacks() {
    let source = |columns: &str, with: &str| refused(&format!("CREATE SOURCE s ({columns}) WITH ({with});")).join("\n");
    let good = "connector='kafka', topic='t', format='json', scan.startup.mode='earliest'";
    let columns = "ts TIMESTAMP WITH TIME ZONE, WATERMARK FOR ts AS ts";
    assert!(
        source("ts TIMESTAMP", good)
            .contains("q.sql:1:32: TG-SQL-SOURCE: source s has no watermark (add WATERMARK FOR")
    );
    assert!(
        source("ts GEOMETRY, WATERMARK FOR ts AS ts", good)
            .contains("q.sql:1:21: TG-SQL-TYPE: column ts: type GEOMETRY is not supported")
    );
    assert!(source(columns, "connector='kafka', topic='t', format='json'").contains("WITH lacks scan.startup.mode"));
    assert!(source(columns, &format!("{good}, colour='red'")).contains("unknown option colour"));
    assert!(
        source(columns, &format!("{good}, kafka.enable.auto.commit='true'"))
            .contains("kafka setting enable.auto.commit is Tidegate's own")
    );
    assert!(
        source(columns, "connector='pulsar', topic='t', format='json', scan.startup.mode='latest'")
            .contains("connector = 'pulsar' is not supported (use 'kafka')")
    );
    assert!(
        source("ts TIMESTAMP, WATERMARK FOR ts AS ts + INTERVAL '1 second'", good)
            .contains("the watermark ts + INTERVAL '1 second' is not supported")
    );
    assert!(
        source("ts TIMESTAMP, x INT AS (1 / y), WATERMARK FOR ts AS ts", good)
            .contains("column x: there is no column y")
    );
    assert!(
        source("ts TIMESTAMP, h VARCHAR METADATA FROM 'headers', WATERMARK FOR ts AS ts", good)
            .contains("metadata 'headers' is not supported yet")
    );
}

#[test]
fn every_fault_of_every_file_is_reported_at_once() {
    let errors = refused(&format!(
        "{SOURCE}\nSELECT 1;\nCREATE MATERIALIZED VIEW a AS SELECT nope FROM events;\nCREATE MATERIALIZED VIEW b AS SELECT ts FROM nowhere;"
    ));
    assert_eq!(errors.len(), 3, "{errors:?}");
    for (error, line) in errors.iter().zip(["q.sql:2:1: TG-SQL-STATEMENT", "q.sql:3:38: TG-SQL-COLUMN", "q.sql:4:"]) {
        assert!(error.starts_with(line), "{error}");
    }
}
