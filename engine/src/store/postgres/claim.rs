//! A pipeline is claimed: a new epoch begins, and what the database knows of it is read.

use std::collections::HashMap;

use futures::StreamExt;
use uuid::Uuid;

use super::table::TableSql;
use super::{Session, deadline, time, told};
use crate::error::{Error, Kind, Result};
use crate::sink::quoted;
use crate::sql::planned::Table;
use crate::store::pieces::unpack;
use crate::store::{
    FoundPiece, GIVEN_REASONS, GivenReject, Start, Stored, StoredPartition, StoredView, ViewStart, holder, over,
    same_topic,
};
use crate::time::NONE;

impl Session {
    /// Makes this engine the owner: a new epoch, from which on every older one is fenced.
    pub async fn claim(&self, pipeline: &str, topic: &str, topic_id: &str) -> Result<Stored> {
        let system: String = match self.one("SELECT system_identifier::text FROM pg_control_system()", &[]).await {
            Ok(row) => row.get(0),
            Err(error) if error.kind == Kind::Wait => return Err(error),
            // The role may not ask; then a change goes unnoticed.
            Err(_) => String::new(),
        };
        self.batch("BEGIN").await?;
        self.run(
            "INSERT INTO tidegate.pipelines (pipeline, epoch, commit_seq, commit_id, holder, topic, topic_id, system_id) \
             VALUES ($1, 0, 0, gen_random_uuid(), $2, $3, $4, $5) ON CONFLICT DO NOTHING",
            &[&pipeline, &holder(), &topic, &topic_id, &system],
        )
        .await?;
        let row = self
            .one(
                "UPDATE tidegate.pipelines SET epoch = epoch + 1, holder = $2, system_id = CASE WHEN system_id = '' THEN $4 ELSE system_id END \
                 WHERE pipeline = $1 RETURNING epoch, commit_seq, coalesce((extract(epoch FROM watermark) * 1000000)::bigint, $3::bigint), \
                 topic, topic_id, system_id, checkpoint_seq, state_version, pipeline_id::text",
                &[&pipeline, &holder(), &NONE, &system],
            )
            .await?;
        let (was_topic, was_system): (String, String) = (row.get(3), row.get(5));
        same_topic(pipeline, &was_topic, topic)?;
        if !was_system.is_empty() && !system.is_empty() && was_system != system {
            return Err(Error::decide("TG-DATABASE-CHANGED", format!("pipeline {pipeline} was made in database system {was_system}, and this is {system}"))
                .hint("connect to the right server; after a dump and restore, set tidegate.pipelines.system_id to the new identifier"));
        }
        let us = |column: &str| format!("coalesce((extract(epoch FROM {column}) * 1000000)::bigint, {NONE})");
        let partitions = self
            .all(
                &format!(
                    "SELECT part, next_offset, checkpoint_offset, rebuild_from, {}, {}, {}, idle, start_offset FROM tidegate.progress WHERE pipeline = $1 ORDER BY part",
                    us("watermark"),
                    us("checkpoint_watermark"),
                    us("rebuild_watermark")
                ),
                &[&pipeline],
            )
            .await?;
        let views = self
            .all(
                &format!(
                    "SELECT view, fingerprint, {}, state_pieces, starts, absent_since, start_marks FROM tidegate.view_progress WHERE pipeline = $1",
                    us("floor")
                ),
                &[&pipeline],
            )
            .await?;
        let elsewhere =
            self.all("SELECT view, pipeline FROM tidegate.view_progress WHERE pipeline <> $1", &[&pipeline]).await?;
        self.batch("COMMIT").await?;
        Ok(Stored {
            pipeline_id: row.get(8),
            elsewhere: elsewhere.iter().map(|row| (row.get(0), row.get(1))).collect(),
            epoch: row.get(0),
            seq: row.get(1),
            frontier: row.get(2),
            topic_id: row.get(4),
            checkpoint_seq: row.get(6),
            state_version: row.get(7),
            partitions: partitions
                .iter()
                .map(|row| StoredPartition {
                    partition: row.get(0),
                    next_offset: row.get(1),
                    checkpoint_offset: row.get(2),
                    rebuild_from: row.get(3),
                    watermark: row.get(4),
                    checkpoint_watermark: row.get(5),
                    rebuild_watermark: row.get(6),
                    idle: row.get(7),
                    start_offset: row.get(8),
                })
                .collect(),
            views: views
                .iter()
                .map(|row| StoredView {
                    view: row.get(0),
                    fingerprint: row.get(1),
                    floor: row.get(2),
                    pieces: row.get(3),
                    starts: (0..)
                        .zip(row.get::<_, Vec<i64>>(4).into_iter().zip(row.get::<_, Vec<i64>>(6)))
                        .map(|(partition, (offset, watermark))| Start { partition, offset, watermark })
                        .collect(),
                    absent_since: row.get(5),
                })
                .collect(),
        })
    }

    /// The topic's identity, as it was when the pipeline was made.
    pub async fn topic_id(&self, pipeline: &str, epoch: i64) -> Result<String> {
        let row = self.one("SELECT topic_id, epoch FROM tidegate.pipelines WHERE pipeline = $1", &[&pipeline]).await?;
        if row.get::<_, i64>(1) == epoch { Ok(row.get(0)) } else { Err(over(pipeline, epoch)) }
    }

    /// Notes where partitions begin that were never read.
    pub async fn begin_partitions(&self, pipeline: &str, epoch: i64, starts: &[(i32, i64)]) -> Result<()> {
        let (parts, offsets): (Vec<i32>, Vec<i64>) = starts.iter().copied().unzip();
        let made = self
            .run(
                "WITH owner AS (SELECT 1 FROM tidegate.pipelines WHERE pipeline = $1 AND epoch = $2 FOR UPDATE) \
                 INSERT INTO tidegate.progress (pipeline, part, next_offset, checkpoint_offset, rebuild_from, start_offset) \
                 SELECT $1::text, n.part, n.at, n.at, n.at, n.at FROM unnest($3::integer[], $4::bigint[]) AS n(part, at), owner",
                &[&pipeline, &epoch, &parts, &offsets],
            )
            .await?;
        if made != starts.len() as u64 {
            return Err(over(pipeline, epoch));
        }
        Ok(())
    }

    /// Notes a view that is new.
    pub async fn begin_view(&self, pipeline: &str, epoch: i64, start: &ViewStart<'_>) -> Result<()> {
        // By partition; one without a start begins with the pipeline.
        let count = start.starts.iter().map(|start| start.partition + 1).max().unwrap_or_default();
        let of = |partition| start.starts.iter().find(|start| start.partition == partition);
        let starts: Vec<i64> = (0..count).map(|p| of(p).map_or(0, |start| start.offset)).collect();
        let marks: Vec<i64> = (0..count).map(|p| of(p).map_or(NONE, |start| start.watermark)).collect();
        let made = self
            .run(
                &format!(
                    "WITH owner AS (SELECT 1 FROM tidegate.pipelines WHERE pipeline = $2 AND epoch = $6 FOR UPDATE) \
                     INSERT INTO tidegate.view_progress (view, pipeline, fingerprint, floor, starts, start_marks) \
                     SELECT $1::text, $2::text, $3::text, {}, $5::bigint[], $7::bigint[] FROM owner",
                    time("$4")
                ),
                &[&start.view, &pipeline, &start.fingerprint, &start.floor, &starts, &epoch, &marks],
            )
            .await?;
        if made == 1 { Ok(()) } else { Err(over(pipeline, epoch)) }
    }

    /// Notes as of which commit a view is not declared any more.
    pub async fn set_absent(&self, pipeline: &str, epoch: i64, view: &str, since: Option<i64>) -> Result<()> {
        let noted = self
            .run(
                "WITH owner AS (SELECT 1 FROM tidegate.pipelines WHERE pipeline = $3 AND epoch = $4 FOR UPDATE) \
                 UPDATE tidegate.view_progress SET absent_since = CASE WHEN $2::bigint IS NOT NULL THEN coalesce(absent_since, $2::bigint) END \
                 FROM owner WHERE view = $1",
                &[&view, &since, &pipeline, &epoch],
            )
            .await?;
        if noted == 1 { Ok(()) } else { Err(over(pipeline, epoch)) }
    }

    /// Creates a view's table, or checks that it is the one that the query needs.
    pub async fn ensure_table(&self, table: &Table, sql: &TableSql) -> Result<()> {
        let exists = self.one("SELECT to_regclass($1) IS NOT NULL", &[&sql.name]).await?;
        if !exists.get::<_, bool>(0) {
            for statement in &sql.create {
                self.batch(statement).await?;
            }
            return Ok(());
        }
        self.check_table(table, sql).await
    }

    /// Checks that a table that is there is the one that the query needs.
    pub async fn check_table(&self, table: &Table, sql: &TableSql) -> Result<()> {
        let refuse = |what: String| {
            Error::configuration("TG-SINK-SCHEMA", format!("table {} {what}", table.name))
                .hint("change the table, or give the view another name")
        };
        let rows = self
            .all(
                "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped",
                &[&sql.name],
            )
            .await?;
        let found: HashMap<String, String> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        for column in &table.columns {
            let expected = crate::sink::types::sql_type(&column.data_type).unwrap_or_default();
            match found.get(&column.name) {
                None => return Err(refuse(format!("has no column {}", column.name))),
                Some(actual) if *actual != expected && *actual != expected.split('(').next().unwrap_or_default() => {
                    return Err(refuse(format!(
                        "has column {} of type {actual}, and the query gives {expected}",
                        column.name
                    )));
                }
                Some(_) => {}
            }
        }
        let names: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
        let unfilled = self
            .all(
                "SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped AND attnotnull \
                 AND NOT atthasdef AND attidentity = '' AND NOT attname::text = ANY ($2) ORDER BY attnum",
                &[&sql.name, &names],
            )
            .await?;
        if let Some(row) = unfilled.first() {
            let name: String = row.get(0);
            return Err(refuse(format!(
                "has column {name}, NOT NULL and without a default, which the query does not give"
            )));
        }
        let key: Vec<String> = table.key().map(|column| column.name.clone()).collect();
        // ON CONFLICT takes an index only if it holds at once, for whole columns, for all rows, and for NULL as for values.
        let nullable = table.key().any(|column| column.nullable);
        let unique = self
            .one(
                "SELECT count(*) FROM pg_index i WHERE i.indrelid = to_regclass($1) AND i.indisunique AND i.indisvalid AND i.indimmediate \
                 AND i.indpred IS NULL AND i.indexprs IS NULL AND (i.indnullsnotdistinct OR NOT $3) AND \
                 (SELECT array_agg(a.attname::text ORDER BY a.attname::text COLLATE \"C\") FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) AS k(n) \
                 JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.n) \
                 = (SELECT array_agg(k ORDER BY k COLLATE \"C\") FROM unnest($2::text[]) AS k)",
                &[&sql.name, &key, &nullable],
            )
            .await?;
        if unique.get::<_, i64>(0) == 0 {
            let list: Vec<String> = key.iter().map(|name| quoted(name)).collect();
            let nulls = if nullable { ", NULLS NOT DISTINCT" } else { "" };
            return Err(refuse(format!("has no unique index on its key ({}){nulls}", list.join(", "))));
        }
        Ok(())
    }

    /// The state pieces of a pipeline, verified one by one.
    pub async fn load_state(&self, pipeline: &str) -> Result<Vec<FoundPiece>> {
        // Piece by piece: all of it may be more than one question may take.
        let sql = "SELECT view, window_start, piece, groups, digest, data, part FROM tidegate.state WHERE pipeline = $1 ORDER BY piece, part";
        let rows =
            deadline(self.timeout, self.client.query_raw(sql, [pipeline])).await?.map_err(|error| told(&error))?;
        let mut rows = std::pin::pin!(rows);
        let mut found = Vec::new();
        while let Some(row) = deadline(self.timeout, rows.next()).await? {
            let row = row.map_err(|error| told(&error))?;
            let (groups, digest, data): (i64, &[u8], &[u8]) = (row.get(3), row.get(4), row.get(5));
            found.push(FoundPiece {
                view: row.get(0),
                part: row.get(6),
                window_start: row.get(1),
                seq: row.get(2),
                groups: unpack(groups, digest, data),
            });
        }
        Ok(found)
    }

    /// Rejects that the log alone does not explain.
    pub async fn given_rejects(&self, pipeline: &str, from: &[(i32, i64)]) -> Result<Vec<GivenReject>> {
        let (parts, offsets): (Vec<i32>, Vec<i64>) = from.iter().copied().unzip();
        let rows = self
            .all(
                "SELECT d.view, d.part, o FROM tidegate.dead_letters d JOIN unnest($2::integer[], $3::bigint[]) AS f(part, at) ON f.part = d.part, \
                 unnest(coalesce(d.more_offsets, ARRAY[d.\"offset\"])) AS o WHERE d.pipeline = $1 AND d.reason = ANY ($4) AND o >= f.at",
                &[&pipeline, &parts, &offsets, &GIVEN_REASONS.as_slice()],
            )
            .await?;
        let given =
            |row: &tokio_postgres::Row| GivenReject { view: row.get(0), partition: row.get(1), offset: row.get(2) };
        Ok(rows.iter().map(given).collect())
    }

    /// Which commit the database has, waiting for one that is still under way.
    pub(super) async fn last_commit(&self, pipeline: &str) -> Result<(i64, i64, Uuid)> {
        let row = self
            .one(
                "SELECT epoch, commit_seq, commit_id::text FROM tidegate.pipelines WHERE pipeline = $1 FOR UPDATE",
                &[&pipeline],
            )
            .await?;
        let id: String = row.get(2);
        Ok((row.get(0), row.get(1), Uuid::parse_str(&id).unwrap_or_default()))
    }
}
