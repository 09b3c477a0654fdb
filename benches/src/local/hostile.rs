//! The list of what means harm. Each line has a number of its own, by which papers and doors name it.

/// Texts that are allowed and cost whatever they are given: joins of everything with everything, sorts and answers without end.
pub fn heavy() -> Vec<String> {
    let digits = "WITH d(x) AS (VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9))";
    let tables: Vec<String> = (0..8).map(|n| format!("d d{n}")).collect();
    let tables = tables.join(", ");
    [
        format!("SELECT count(*) FROM {tables} WHERE d0.x + d7.x < 0"),
        format!("SELECT d0.x, d7.x FROM {tables} ORDER BY d3.x * d4.x + d7.x"),
        format!("SELECT d0.x, d1.x, d2.x, d3.x, d4.x, d5.x, d6.x, d7.x FROM {tables}"),
        format!("SELECT count(DISTINCT concat(d0.x, d1.x, d2.x, d3.x, d4.x, d5.x, d6.x, d7.x)) FROM {tables}"),
    ]
    .map(|text| format!("{digits} {text}"))
    .to_vec()
}

/// Number, text, status and code.
pub fn list() -> Vec<(&'static str, String, u16, &'static str)> {
    let mut list: Vec<(&str, String, u16, &str)> = Vec::new();
    let mut all = |number: &'static str, status: u16, code: &'static str, texts: &[&str]| {
        list.extend(texts.iter().map(|text| (number, (*text).to_string(), status, code)));
    };
    all("H01", 403, "TG-QUERY-READ-ONLY", &["CREATE EXTERNAL TABLE p STORED AS CSV LOCATION '/etc/passwd'"]);
    all(
        "H02",
        403,
        "TG-QUERY-READ-ONLY",
        &[
            "CREATE EXTERNAL TABLE p STORED AS CSV LOCATION 'file:///proc/self/environ'",
            "CREATE EXTERNAL TABLE p STORED AS CSV LOCATION '../../etc/passwd'",
            "CREATE EXTERNAL TABLE p STORED AS PARQUET LOCATION 's3://bucket/x'",
            "CREATE EXTERNAL TABLE p STORED AS CSV LOCATION 'http://169.254.169.254/latest/meta-data'",
        ],
    );
    all(
        "H03",
        400,
        "TG-QUERY-TABLE",
        &["SELECT * FROM '/etc/passwd'", "SELECT * FROM \"/etc/passwd\"", "SELECT * FROM \"file:///etc/passwd\""],
    );
    all(
        "H03",
        400,
        "TG-QUERY-FUNCTION",
        &[
            "SELECT * FROM read_csv('/etc/passwd')",
            "SELECT * FROM parquet_metadata('/x')",
            "SELECT pg_read_file('/etc/passwd')",
        ],
    );
    all(
        "H04",
        403,
        "TG-QUERY-READ-ONLY",
        &["COPY stream_state TO '/tmp/x'", "COPY stream_state FROM '/etc/passwd'", "COPY stream_state FROM STDIN"],
    );
    all(
        "H05",
        403,
        "TG-QUERY-READ-ONLY",
        &[
            "EXPLAIN ANALYZE COPY stream_state TO '/tmp/x'",
            "EXPLAIN INSERT INTO stream_state VALUES (1)",
            "EXPLAIN VERBOSE SELECT 1",
            "EXPLAIN ANALYZE SELECT 1",
        ],
    );
    all(
        "H06",
        403,
        "TG-QUERY-READ-ONLY",
        &[
            "INSERT INTO stream_state VALUES (1)",
            "UPDATE stream_state SET joins = 0",
            "DELETE FROM stream_state",
            "MERGE INTO stream_state USING stream_state ON true WHEN MATCHED THEN DELETE",
            "CREATE VIEW x AS SELECT 1",
            "CREATE TABLE x AS SELECT 1",
            "CREATE FUNCTION f() RETURNS INT RETURN 1",
            "CREATE SCHEMA x",
            "DROP TABLE stream_state",
            "ALTER TABLE stream_state ADD COLUMN x INT",
            "TRUNCATE stream_state",
            "CALL f()",
            "DO $$ BEGIN END $$",
        ],
    );
    all(
        "H07",
        403,
        "TG-QUERY-READ-ONLY",
        &[
            "SET datafusion.runtime.memory_limit = '100G'",
            "SET datafusion.sql_parser.recursion_limit = 1000000",
            "SET statement_timeout = 0",
            "RESET ALL",
        ],
    );
    all(
        "H08",
        400,
        "TG-QUERY-STATEMENTS",
        &["SELECT 1; DROP TABLE stream_state", "SELECT 1;;;", "SELECT 1; --\nSELECT 2"],
    );
    all(
        "H09",
        403,
        "TG-QUERY-READ-ONLY",
        &["PREPARE x AS COPY stream_state TO '/tmp/x'", "EXECUTE x", "DECLARE c CURSOR FOR SELECT 1", "DEALLOCATE ALL"],
    );
    list.push(("H10", format!("SELECT 1{}", " ".repeat(1_000_000)), 413, "TG-QUERY-TEXT"));
    list.push(("H10", format!("SELECT {}", "x".repeat(1_000_000)), 413, "TG-QUERY-TEXT"));
    for terms in [2_000, 20_000] {
        for operator in ["+", " OR ", " AND ", "||"] {
            let text = format!("SELECT {}", vec!["1"; terms].join(operator));
            let (status, code) = if text.len() > 64 << 10 { (413, "TG-QUERY-TEXT") } else { (400, "TG-QUERY-COMPLEX") };
            list.push(("H11", text, status, code));
        }
    }
    let deep =
        |open: &str, close: &str, levels: usize| format!("SELECT {}1{}", open.repeat(levels), close.repeat(levels));
    for text in [
        deep("(", ")", 20_000),
        deep("NOT ", "", 10_000),
        deep("NOT(", ")", 5_000),
        deep("CASE WHEN true THEN ", " END", 2_000),
        deep("abs(", ")", 5_000),
        deep("[", "]", 20_000),
        deep("CAST(", " AS INT)", 5_000),
        format!("SELECT * FROM {}stream_state{}", "(SELECT * FROM ".repeat(200), ")".repeat(200)),
    ] {
        list.push(("H12", text, 400, "TG-QUERY-COMPLEX"));
    }
    for text in [
        vec!["SELECT 1"; 3_000].join(" UNION ALL "),
        format!("SELECT 1 IN ({})", vec!["1"; 30_000].join(",")),
        format!("SELECT {}", vec!["1"; 20_000].join(",")),
        format!("SELECT * FROM {}", vec!["stream_state"; 60].join(" CROSS JOIN ")),
    ] {
        list.push(("H13", text, 400, "TG-QUERY-COMPLEX"));
    }
    for levels in [10, 16, 22] {
        let ctes: String = (1..=levels)
            .map(|n| format!(", c{n} AS (SELECT a.x FROM c{} a JOIN c{} b ON a.x = b.x)", n - 1, n - 1))
            .collect();
        list.push((
            "H14",
            format!("WITH c0 AS (SELECT 1 AS x){ctes} SELECT * FROM c{levels}"),
            400,
            "TG-QUERY-COMPLEX",
        ));
    }
    let mut all = |number: &'static str, status: u16, code: &'static str, texts: &[&str]| {
        list.extend(texts.iter().map(|text| (number, (*text).to_string(), status, code)));
    };
    all(
        "H15",
        400,
        "TG-QUERY-UNSUPPORTED",
        &["WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r"],
    );
    all(
        "H17",
        400,
        "TG-QUERY-FUNCTION",
        &[
            "SELECT * FROM range(0, 300000000)",
            "SELECT * FROM generate_series(1, 300000000)",
            "SELECT repeat('x', 1500000000)",
            "SELECT rpad('x', 1073741824, 'a')",
            "SELECT array_repeat(1, 100000000)",
            "SELECT unnest(range(0, 100000000))",
        ],
    );
    all("H19", 400, "TG-QUERY-DATA", &["SELECT regexp_like('aaa', '((a{1,100}){1,100}){1,100}')"]);
    all(
        "H20",
        400,
        "TG-QUERY-DATA",
        &[
            "SELECT (-9223372036854775807 - 1) / column1 FROM (VALUES (-1))",
            "SELECT 1 / column1 FROM (VALUES (0))",
            "SELECT CAST(column1 AS DECIMAL(38,0)) * CAST(column1 AS DECIMAL(38,0)) FROM (VALUES ('99999999999999999999999999999'))",
            "SELECT CAST(column1 AS TIMESTAMP) FROM (VALUES ('no time'))",
            "SELECT CAST(column1 AS INT) FROM (VALUES (CAST('NaN' AS DOUBLE)))",
        ],
    );
    all(
        "H23",
        400,
        "TG-QUERY-TABLE",
        &[
            "SELECT * FROM information_schema.df_settings",
            "SELECT * FROM pg_catalog.pg_authid",
            "SELECT * FROM pg_shadow",
            "SELECT * FROM tidegate.state",
        ],
    );
    all("H23", 403, "TG-QUERY-READ-ONLY", &["SHOW ALL", "SHOW CREATE TABLE stream_state"]);
    all(
        "H23",
        400,
        "TG-QUERY-FUNCTION",
        &[
            "SELECT input_file_name()",
            "SELECT pg_read_file('/etc/passwd')",
            "SELECT pg_sleep(1000)",
            "SELECT pg_terminate_backend(1)",
        ],
    );
    list
}
