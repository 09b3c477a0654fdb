-- The tables that Tidegate keeps beside the result tables, as in store/postgres/schema.sql.
-- Times are microseconds since 1970-01-01 UTC; NULL is none yet.

CREATE TABLE IF NOT EXISTS tidegate_pipelines (
    pipeline TEXT PRIMARY KEY, epoch INTEGER NOT NULL, commit_seq INTEGER NOT NULL, commit_id TEXT NOT NULL,
    holder TEXT NOT NULL, topic TEXT NOT NULL, topic_id TEXT NOT NULL, watermark INTEGER,
    checkpoint_seq INTEGER NOT NULL DEFAULT 0, state_version TEXT NOT NULL DEFAULT '',
    records_read INTEGER NOT NULL DEFAULT 0, records_decoded INTEGER NOT NULL DEFAULT 0,
    records_rejected INTEGER NOT NULL DEFAULT 0, pipeline_id TEXT NOT NULL, committed_at INTEGER, archived_seq INTEGER
) STRICT;

CREATE TABLE IF NOT EXISTS tidegate_progress (
    pipeline TEXT NOT NULL, part INTEGER NOT NULL, next_offset INTEGER NOT NULL, checkpoint_offset INTEGER NOT NULL,
    rebuild_from INTEGER NOT NULL, start_offset INTEGER NOT NULL, watermark INTEGER, checkpoint_watermark INTEGER,
    rebuild_watermark INTEGER, idle INTEGER NOT NULL DEFAULT 0, high_watermark INTEGER NOT NULL DEFAULT 0, archived_offset INTEGER,
    PRIMARY KEY (pipeline, part)
) STRICT;

CREATE TABLE IF NOT EXISTS tidegate_view_progress (
    view TEXT PRIMARY KEY, pipeline TEXT NOT NULL, fingerprint TEXT NOT NULL, closed_until INTEGER,
    decoded INTEGER NOT NULL DEFAULT 0, filtered INTEGER NOT NULL DEFAULT 0, accepted INTEGER NOT NULL DEFAULT 0,
    late INTEGER NOT NULL DEFAULT 0, failed INTEGER NOT NULL DEFAULT 0, state_pieces INTEGER NOT NULL DEFAULT 0,
    absent_since INTEGER, floor INTEGER, starts TEXT NOT NULL DEFAULT '[]'
) STRICT;

CREATE TABLE IF NOT EXISTS tidegate_window_changes (
    view TEXT NOT NULL, window_time INTEGER NOT NULL, changed_at INTEGER NOT NULL,
    PRIMARY KEY (view, window_time)
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS tidegate_dead_letters (
    pipeline TEXT NOT NULL, view TEXT NOT NULL, part INTEGER NOT NULL, "offset" INTEGER NOT NULL, reason TEXT NOT NULL,
    topic TEXT NOT NULL, count INTEGER NOT NULL DEFAULT 1, more_offsets TEXT, detail TEXT NOT NULL, payload BLOB,
    payload_size INTEGER, recorded_at INTEGER NOT NULL,
    PRIMARY KEY (pipeline, view, part, "offset", reason)
) STRICT;

CREATE INDEX IF NOT EXISTS tidegate_dead_letters_given ON tidegate_dead_letters (pipeline, part) WHERE reason IN ('future', 'late-after-idle');

CREATE TABLE IF NOT EXISTS tidegate_archive (
    pipeline TEXT NOT NULL, path TEXT NOT NULL, first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL, rows INTEGER NOT NULL,
    bytes INTEGER NOT NULL, first_time INTEGER NOT NULL, last_time INTEGER NOT NULL, epoch INTEGER NOT NULL,
    begun_at INTEGER NOT NULL, whole INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (pipeline, path)
) STRICT;

CREATE TABLE IF NOT EXISTS tidegate_state (
    pipeline TEXT NOT NULL, view TEXT NOT NULL, part INTEGER NOT NULL, window_start INTEGER NOT NULL, piece INTEGER NOT NULL,
    groups INTEGER NOT NULL, digest BLOB NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (pipeline, view, part, window_start, piece)
) STRICT;
