-- What people ask of the example's tables over HTTP, and what Prometheus scrapes of them.

-- The minutes of the last hour, newest first. Each row has the viewers at its window's end: those of now, less who has
-- come since then. (A join that comes too late for its minute counts from the beginning: it was before all of these.)
CREATE ENDPOINT '/metrics' (minutes INT DEFAULT 60 BETWEEN 1 AND 1440, limit INT DEFAULT 1000 BETWEEN 1 AND 10000)
  FIELD latest_window_start AS (SELECT max(window_start) FROM stream_metrics_minute)
AS
SELECT m.*,
       s.viewers - coalesce(sum(m.joins - m.leaves) OVER (
         PARTITION BY m.stream_id ORDER BY m.window_start DESC
         ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS active_viewers
FROM stream_metrics_minute m
JOIN stream_state s ON s.stream_id = m.stream_id
WHERE m.window_start >= now() - CAST(concat($minutes, ' minutes') AS INTERVAL)
ORDER BY m.window_start DESC, m.stream_id
LIMIT $limit;

-- The newest minute alone.
CREATE ENDPOINT '/metrics/latest'
  FIELD latest_window_start AS (SELECT max(window_start) FROM stream_metrics_minute)
AS
SELECT m.*, s.viewers AS active_viewers
FROM stream_metrics_minute m
JOIN stream_state s ON s.stream_id = m.stream_id
WHERE m.window_start = (SELECT max(window_start) FROM stream_metrics_minute)
ORDER BY m.stream_id;

-- The streams with the most of something in the last minutes.
CREATE ENDPOINT '/streams/top' (
  minutes INT     DEFAULT 10 BETWEEN 1 AND 1440,
  by      VARCHAR DEFAULT 'chat_messages'
          IN ('chat_messages', 'donations', 'donations_usd', 'joins', 'leaves', 'chatters', 'active_viewers'),
  n       INT     DEFAULT 5 BETWEEN 1 AND 1000
) AS
SELECT * FROM (
  SELECT m.stream_id,
         sum(m.chat_messages) AS chat_messages,
         sum(m.donations)     AS donations,
         sum(m.donations_usd) AS donations_usd,
         sum(m.joins)         AS joins,
         sum(m.leaves)        AS leaves,
         max(m.chatters)      AS chatters,          -- the most of one minute
         max(s.viewers)       AS active_viewers
  FROM stream_metrics_minute m
  JOIN stream_state s ON s.stream_id = m.stream_id
  WHERE m.window_start >= now() - CAST(concat($minutes, ' minutes') AS INTERVAL)
  GROUP BY m.stream_id)
ORDER BY CASE $by
           WHEN 'chat_messages' THEN chat_messages
           WHEN 'donations'     THEN donations
           WHEN 'donations_usd' THEN donations_usd
           WHEN 'joins'         THEN joins
           WHEN 'leaves'        THEN leaves
           WHEN 'chatters'      THEN chatters
           ELSE                      active_viewers
         END DESC, stream_id
LIMIT $n;

CREATE GAUGE api_stream_metrics_rows_recent HELP 'Rows of stream_metrics_minute of the last 5 minutes.' AS
SELECT count(*) FROM stream_metrics_minute WHERE window_start >= now() - INTERVAL '5 minutes';

CREATE GAUGE api_donation_rows_recent HELP 'Those of them that have donations.' AS
SELECT count(*) FROM stream_metrics_minute WHERE window_start >= now() - INTERVAL '5 minutes' AND donations > 0;

CREATE GAUGE api_latest_window_age_seconds HELP 'Seconds since the newest window began.' AS
SELECT extract(epoch FROM now()) - extract(epoch FROM max(window_start)) FROM stream_metrics_minute;
