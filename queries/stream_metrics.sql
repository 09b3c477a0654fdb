-- The example: events of live streams, and minute metrics of each stream.

CREATE SOURCE stream_events (
  event_id    VARCHAR,
  ts          TIMESTAMP WITH TIME ZONE,
  event_type  VARCHAR,       -- stream_start, stream_stop, viewer_join, viewer_leave, chat_message, donation
  stream_id   VARCHAR NOT NULL,
  user_id     VARCHAR,
  message_len INT,
  amount_usd  DECIMAL(12,2),
  amount      DECIMAL(12,2), -- what older producers send instead
  donation    DECIMAL(12,2) AS (CASE WHEN event_type = 'donation' THEN coalesce(amount_usd, amount) END),
  WATERMARK FOR ts AS ts - INTERVAL '10 seconds'
) WITH (
  connector = 'kafka',
  topic = '${STREAM_EVENTS_TOPIC:-stream.events}',
  format = 'json',
  scan.startup.mode = 'earliest'     -- where the very first start begins; never applied again
);

CREATE MATERIALIZED VIEW stream_metrics_minute AS
SELECT window_start, window_end, stream_id,
       count(*) FILTER (WHERE event_type = 'chat_message') AS chat_messages,
       count(*) FILTER (WHERE event_type = 'donation')     AS donations,
       coalesce(sum(donation), 0)                          AS donations_usd,
       count(*) FILTER (WHERE event_type = 'viewer_join')  AS joins,
       count(*) FILTER (WHERE event_type = 'viewer_leave') AS leaves,
       count(DISTINCT user_id) FILTER (WHERE event_type = 'chat_message') AS chatters
FROM TUMBLE(stream_events, ts, INTERVAL '1 minute')
GROUP BY window_start, window_end, stream_id;

-- Who watches now. A running aggregate: it counts whatever arrives, however late, and no crash makes it count twice.
CREATE MATERIALIZED VIEW stream_state AS
SELECT stream_id,
       count(*) FILTER (WHERE event_type = 'viewer_join')
         - count(*) FILTER (WHERE event_type = 'viewer_leave') AS viewers,
       max(ts)                                                 AS last_event_at
FROM stream_events
GROUP BY stream_id;

-- The talk of the last five minutes, anew every 30 seconds.
CREATE MATERIALIZED VIEW talk_5_minutes AS
SELECT window_start, window_end, stream_id,
       count(*)                AS messages,
       count(DISTINCT user_id) AS chatters,
       sum(message_len)        AS characters
FROM HOP(stream_events, ts, INTERVAL '30 seconds', INTERVAL '5 minutes')
WHERE event_type = 'chat_message'
GROUP BY window_start, window_end, stream_id;
