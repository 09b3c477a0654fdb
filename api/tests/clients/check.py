#!/usr/bin/env python3
"""check.py HOST PORT USER PASSWORD DATABASE: psycopg 3, SQLAlchemy and pandas against checks; one JSON line."""
import json, sys
from datetime import datetime, timedelta, timezone
from decimal import Decimal
import pandas, psycopg, sqlalchemy as sa

host, port, user, password, db = sys.argv[1:6]
T0 = datetime(2024, 5, 1, tzinfo=timezone.utc)
T1 = T0 + timedelta(days=1)
SQL = """select window_start, stream_id, events, usd, ratio, ok from checks
 where window_start >= %s and window_start < %s and usd > %s and (%s::text is null or stream_id = %s) order by 1, 2"""
ARGS = (T0, T1, Decimal("1.50"), None, None)
plain = lambda rows: [[v.isoformat() if isinstance(v, datetime) else str(v) if isinstance(v, (Decimal, float)) else v for v in r] for r in rows]
out = {"client": "psycopg " + psycopg.__version__ + ", SQLAlchemy " + sa.__version__}

with psycopg.connect(host=host, port=port, user=user, password=password, dbname=db) as c:
    out["server_version"] = c.info.parameter_status("server_version")
    text = c.execute(SQL, ARGS).fetchall()
    out["rows"] = plain(text)
    with c.cursor(binary=True) as cur:
        assert repr(cur.execute(SQL, ARGS).fetchall()) == repr(text), "binary and text results differ"
    for _ in range(7):  # the sixth is prepared by name
        assert repr(c.execute(SQL, ARGS).fetchall()) == repr(text)
    with c.cursor(name="cur") as cur:
        cur.itersize = 2
        out["all"] = len(list(cur.execute("select * from checks")))
    out["nulls"] = c.execute("select count(*) from checks where usd is null and %s::text is null", (None,)).fetchone()[0]
    try:
        c.execute("select no_such_column from checks"); raise SystemExit("no error")
    except psycopg.errors.UndefinedColumn as e:
        out["error"] = e.sqlstate
    c.rollback()

engine = sa.create_engine(sa.URL.create("postgresql+psycopg", user, password, host, int(port), db))
insp = sa.inspect(engine)
out["schemas"], out["tables"], out["views"] = insp.get_schema_names(), sorted(insp.get_table_names()), sorted(insp.get_view_names())
out["columns"] = [f"{c['name']} {c['type']}" for c in insp.get_columns("checks")]
out["pk"] = insp.get_pk_constraint("checks")["constrained_columns"]
t = sa.Table("checks", sa.MetaData(), autoload_with=engine)
with engine.connect() as c:
    q = sa.select(t.c.stream_id).where(t.c.window_start >= T0, t.c.usd > Decimal("1.50")).order_by(t.c.window_start).limit(5)
    out["sqlalchemy"] = [r[0] for r in c.execute(q)]
    frame = pandas.read_sql(sa.text("select window_start, events, usd from checks where window_start >= :begin order by 1"), c, params={"begin": T0})
    assert frame["events"].dtype == "int64" and str(frame["window_start"].dtype).startswith("datetime64"), frame.dtypes
    out["pandas"] = [str(v) for v in frame["usd"]]
print(json.dumps(out))
