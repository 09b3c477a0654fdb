-- The tables that Tidegate keeps beside its users' result tables. Every statement may run again.
-- Times that a person reads are timestamptz; every row of one commit carries that commit's effects and nothing else.

CREATE SCHEMA IF NOT EXISTS tidegate;

-- One row a pipeline: the fence. A commit is valid only if it finds its own epoch and the commit_seq that it expects.
CREATE TABLE IF NOT EXISTS tidegate.pipelines (
    pipeline         text PRIMARY KEY,
    epoch            bigint NOT NULL,                 -- raised by each takeover
    commit_seq       bigint NOT NULL,                 -- raised by each commit
    pipeline_id      uuid NOT NULL DEFAULT gen_random_uuid(), -- names this life: a pipeline that is made anew has another
    commit_id        uuid NOT NULL,                   -- names the last commit, so that a lost answer can be resolved
    holder           text NOT NULL,                   -- host:pid of the engine that owns the epoch
    topic            text NOT NULL,
    topic_id         text NOT NULL,                   -- a topic that was deleted and made again has another
    system_id        text NOT NULL,                   -- the database's own identity when the pipeline was made
    watermark        timestamptz,                     -- W: windows that end at or before it are closed
    checkpoint_seq   bigint NOT NULL DEFAULT 0,       -- the commit that carried the last state checkpoint
    state_version    text NOT NULL DEFAULT '',        -- what wrote the state: readers of another version rebuild it
    records_read     bigint NOT NULL DEFAULT 0,
    records_decoded  bigint NOT NULL DEFAULT 0,
    records_rejected bigint NOT NULL DEFAULT 0,
    committed_at     timestamptz NOT NULL DEFAULT now(),
    archived_seq     bigint                           -- the last commit that is archived
) WITH (fillfactor = 50);

-- One row a partition: start_offset <= checkpoint_offset <= next_offset, and rebuild_from <= next_offset.
CREATE TABLE IF NOT EXISTS tidegate.progress (
    pipeline             text NOT NULL REFERENCES tidegate.pipelines ON DELETE CASCADE,
    part                 integer NOT NULL,
    next_offset          bigint NOT NULL,             -- committed: every record below it has had its effect, once
    checkpoint_offset    bigint NOT NULL,             -- the state pieces hold the effect of every record below it, and of none above
    rebuild_from         bigint NOT NULL,             -- the lowest offset that an open window still depends on
    start_offset         bigint NOT NULL,             -- where the pipeline began to read
    archived_offset      bigint,                      -- every record below it is archived
    high_watermark       bigint NOT NULL DEFAULT 0,   -- where the partition ended when it was last read
    watermark            timestamptz,                 -- wm_p after the records below next_offset
    checkpoint_watermark timestamptz,
    rebuild_watermark    timestamptz,
    idle                 boolean NOT NULL DEFAULT false,
    PRIMARY KEY (pipeline, part)
) WITH (fillfactor = 50);

-- One row a view: what is final, and where its records went: decoded = filtered + accepted + late + failed.
CREATE TABLE IF NOT EXISTS tidegate.view_progress (
    view         text PRIMARY KEY,
    pipeline     text NOT NULL REFERENCES tidegate.pipelines ON DELETE CASCADE,
    fingerprint  text NOT NULL,
    closed_until timestamptz,                         -- rows of windows that end at or before it never change again
    decoded      bigint NOT NULL DEFAULT 0,
    filtered     bigint NOT NULL DEFAULT 0,
    accepted     bigint NOT NULL DEFAULT 0,
    late         bigint NOT NULL DEFAULT 0,           -- late and late-after-idle
    failed       bigint NOT NULL DEFAULT 0,           -- records on which an expression of the view failed
    state_pieces bigint NOT NULL DEFAULT 0,           -- rows of tidegate.state that there must be
    floor        timestamptz,                         -- windows that start at or before it began before the view was added
    absent_since bigint,                              -- the last commit before an engine ran without the view
    starts       bigint[] NOT NULL DEFAULT '{}',      -- by partition: the first offset that the view takes in
    start_marks  bigint[] NOT NULL DEFAULT '{}'       -- and the watermark before it, in microseconds since 1970-01-01 UTC
) WITH (fillfactor = 50);

-- When which window of a view was last changed. Windows without rows may be among them.
CREATE TABLE IF NOT EXISTS tidegate.window_changes (
    view        text NOT NULL REFERENCES tidegate.view_progress ON DELETE CASCADE,
    window_time timestamptz NOT NULL,                 -- the time in the view's key that tells the window from others
    changed_at  timestamptz NOT NULL,                 -- that of the commit
    PRIMARY KEY (view, window_time)
) WITH (fillfactor = 50);

-- Every rejected and every late record, and every row that the database refused. view is '' for rejects of a whole source.
-- A record row has count 1; a range row stands for count records, whose offsets are more_offsets.
CREATE TABLE IF NOT EXISTS tidegate.dead_letters (
    pipeline     text NOT NULL,
    view         text NOT NULL,
    part         integer NOT NULL,
    "offset"     bigint NOT NULL,
    reason       text NOT NULL,
    topic        text NOT NULL,
    count        bigint NOT NULL DEFAULT 1,
    more_offsets bigint[],                            -- range rows: every offset of the range
    detail       text NOT NULL,
    payload      bytea,                               -- at most the first 4 KiB
    payload_size bigint,
    row_key      text NOT NULL DEFAULT '',            -- refused rows: a digest of the row
    recorded_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (pipeline, view, part, "offset", reason, row_key)
);

-- What a replay takes as given.
CREATE INDEX IF NOT EXISTS dead_letters_given ON tidegate.dead_letters (pipeline, part) WHERE reason IN ('future', 'late-after-idle');

-- State pieces: the groups of one view's window that changed between two checkpoints, as an Arrow IPC stream.
CREATE TABLE IF NOT EXISTS tidegate.state (
    pipeline     text NOT NULL REFERENCES tidegate.pipelines ON DELETE CASCADE,
    view         text NOT NULL,
    part         integer NOT NULL,                    -- 0: groups; n: entries of the n-th set of distinct values
    window_start bigint NOT NULL,                     -- the pane's start, in microseconds since 1970-01-01 UTC
    piece        bigint NOT NULL,                     -- the commit_seq that wrote it; later pieces win
    groups       bigint NOT NULL,                     -- rows of data
    digest       bytea NOT NULL,                      -- blake3 of data
    data         bytea NOT NULL,
    PRIMARY KEY (pipeline, view, part, window_start, piece)
);
ALTER TABLE tidegate.state ALTER COLUMN data SET STORAGE EXTERNAL;

-- Files of the archive. One that is not whole may be there or not: the next owner deletes it.
CREATE TABLE IF NOT EXISTS tidegate.archive (
    pipeline   text NOT NULL REFERENCES tidegate.pipelines ON DELETE CASCADE,
    path       text NOT NULL,                         -- below archive.url
    first_seq  bigint NOT NULL,                       -- the commits whose rows it may hold
    last_seq   bigint NOT NULL,
    rows       bigint NOT NULL,
    bytes      bigint NOT NULL,
    first_time timestamptz NOT NULL,                  -- the least and the greatest event time
    last_time  timestamptz NOT NULL,
    epoch      bigint NOT NULL,                       -- the owner that was to write it
    begun_at   timestamptz NOT NULL DEFAULT now(),
    whole      boolean NOT NULL DEFAULT false,
    PRIMARY KEY (pipeline, path)
);
CREATE INDEX IF NOT EXISTS archive_times ON tidegate.archive (pipeline, last_time) WHERE whole;
CREATE INDEX IF NOT EXISTS archive_begun ON tidegate.archive (pipeline) WHERE NOT whole;

-- One row a pipeline: who is alive. Outside the commit, since it says nothing about the data.
CREATE TABLE IF NOT EXISTS tidegate.leases (
    pipeline     text PRIMARY KEY,
    holder       text NOT NULL,
    backend_pid  integer NOT NULL,
    commit_pid   integer,
    beat         bigint NOT NULL,                     -- raised twice a second by a living holder
    beat_at      timestamptz NOT NULL
) WITH (fillfactor = 50);
