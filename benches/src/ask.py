"""Asks DuckDB about the rows of a Parquet file: FILE WARM TIMES SQL… are its arguments.

It prints how long each question took, in milliseconds, and the last answer to it.
"""

import json
import sys
import time

import duckdb

file, warm, times, *questions = sys.argv[1:]
db = duckdb.connect()
db.execute("SET TimeZone = 'UTC'")
db.execute(f"CREATE VIEW events AS SELECT * FROM read_parquet('{file}')")
answers = []
for sql in questions:
    # The same text, but for how a time with a zone is written.
    sql = sql.replace("TIMESTAMP '", "TIMESTAMPTZ '")
    if "ts" in db.sql(sql).columns:
        # As texts, at the very end: times as such need a module that is not there.
        sql = f"SELECT * REPLACE (strftime(ts, '%Y-%m-%dT%H:%M:%S.%gZ') AS ts) FROM ({sql})"
    ms = []
    for _ in range(int(warm) + int(times)):
        begun = time.perf_counter()
        rows = db.execute(sql).fetchall()
        ms.append((time.perf_counter() - begun) * 1000)
    answers.append({"ms": ms[int(warm) :], "rows": rows})
print(json.dumps(answers, default=str))
