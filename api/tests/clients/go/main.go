// main.go HOST PORT USER PASSWORD DATABASE: pgx v5 in every QueryExecMode against checks; one JSON line.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

const query = `select window_start, stream_id, events, usd, ratio, ok from checks
 where window_start >= $1 and window_start < $2 and usd > $3 and ($4::text is null or stream_id = $4) order by 1, 2`

func rows(ctx context.Context, c *pgx.Conn, sql string, args ...any) ([]string, error) {
	r, err := c.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(r, func(r pgx.CollectableRow) (string, error) {
		v, err := r.Values()
		for i := range v {
			switch x := v[i].(type) {
			case time.Time:
				v[i] = x.UTC().Format(time.RFC3339Nano)
			case pgtype.Numeric:
				b, err := x.MarshalJSON()
				if err != nil {
					return "", err
				}
				v[i] = string(b)
			}
		}
		return fmt.Sprint(v...), err
	})
}

func check(ctx context.Context, a []string) (map[string]any, error) {
	out := map[string]any{"client": "pgx v5"}
	cfg, err := pgx.ParseConfig((&url.URL{Scheme: "postgres", User: url.UserPassword(a[2], a[3]), Host: a[0] + ":" + a[1], Path: a[4]}).String())
	if err != nil {
		return nil, err
	}
	from := time.Date(2024, 5, 1, 0, 0, 0, 0, time.UTC)
	usd := pgtype.Numeric{Int: big.NewInt(150), Exp: -2, Valid: true}
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe,
		pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol} {
		cfg.DefaultQueryExecMode = mode
		c, err := pgx.ConnectConfig(ctx, cfg)
		if err != nil {
			return nil, err
		}
		defer c.Close(ctx)
		for i := 0; i < 2; i++ {
			got, err := rows(ctx, c, query, from, from.Add(24*time.Hour), usd, nil)
			if err != nil {
				return nil, fmt.Errorf("%v: %w", mode, err)
			}
			if old, ok := out["rows"]; ok && fmt.Sprint(old) != fmt.Sprint(got) {
				return nil, fmt.Errorf("%v: %v, not %v", mode, got, old)
			}
			out["rows"] = got
		}
		if out["tables"], err = rows(ctx, c, `select n.nspname || '.' || c.relname from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where c.relkind = any($1) and n.nspname not in ('pg_catalog', 'information_schema') order by 1`, []string{"r", "v"}); err != nil {
			return nil, fmt.Errorf("%v: tables: %w", mode, err)
		}
		if out["nulls"], err = rows(ctx, c, "select stream_id, usd from checks where usd is null"); err != nil {
			return nil, err
		}
		_, err = c.Exec(ctx, "select no_such_column from checks where $1 = 1", 1)
		var e *pgconn.PgError
		if errors.As(err, &e) {
			out["error"] = e.Code
		} else {
			return nil, fmt.Errorf("no server error: %v", err)
		}
		if err := c.Ping(ctx); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func main() {
	out, err := check(context.Background(), os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	json.NewEncoder(os.Stdout).Encode(out)
}
