//! Twenty views as a team's dashboards have them: keys, filters, aggregates and windows of many sizes over one source.
//!
//! Each has a column `n`, the records of its group, by which the database proves that none was lost.

/// One view.
pub struct Dashboard {
    /// Its name.
    pub name: &'static str,
    query: &'static str,
    proof: Proof,
}

/// What `n` adds up to.
enum Proof {
    /// All records.
    All,
    /// All records of a kind, as `kinds_minute` has them.
    Kind(&'static str),
    /// What the view has accepted.
    Accepted,
    /// In windows of so many minutes that lie side by side, as far as they are closed: what their minutes have of a kind.
    Beside(u32, &'static str),
    /// What a statement says.
    Says(&'static str),
}

impl Dashboard {
    /// The statement that declares it.
    pub fn statement(&self) -> String {
        format!("CREATE MATERIALIZED VIEW {} AS {};\n", self.name, self.query)
    }

    /// A statement whose two columns must be equal.
    pub fn proof(&self) -> String {
        let name = self.name;
        match self.proof {
            Proof::All => format!("SELECT sum(n), {{records}} FROM {name}"),
            Proof::Kind(kind) => {
                format!("SELECT sum(n), (SELECT sum(n) FROM kinds_minute WHERE event_type = '{kind}') FROM {name}")
            }
            Proof::Accepted => {
                format!("SELECT coalesce(sum(n), 0), (SELECT accepted FROM tidegate.view_progress WHERE view = '{name}') FROM {name}")
            }
            Proof::Beside(minutes, kind) => format!(
                "WITH closed AS (SELECT date_bin('{minutes} minutes', closed_until, 'epoch') AS until FROM tidegate.view_progress WHERE view = '{name}')
                 SELECT coalesce((SELECT sum(n) FROM {name}, closed WHERE window_end <= until AND window_end - window_start = interval '{minutes} minutes'
                                  AND window_start = date_bin('{minutes} minutes', window_start, 'epoch')), 0),
                        coalesce((SELECT sum(n) FROM kinds_minute, closed WHERE window_end <= until AND event_type LIKE '{kind}'), 0)"
            ),
            Proof::Says(sql) => format!("SELECT coalesce(sum(n), 0), ({sql}) FROM {name}"),
        }
    }
}

const fn board(name: &'static str, query: &'static str, proof: Proof) -> Dashboard {
    Dashboard { name, query, proof }
}

/// The views. The first is what one view costs, and the second is what others are compared with.
pub const DASHBOARDS: [Dashboard; 20] = [
    board(
        "streams_minute",
        "SELECT window_start, window_end, stream_id, count(*) AS n, sum(amount_usd) AS amount, max(message_len) AS longest
         FROM TUMBLE(events, ts, INTERVAL '1 minute') GROUP BY window_start, window_end, stream_id",
        Proof::All,
    ),
    board(
        "kinds_minute",
        "SELECT window_start, window_end, event_type, count(*) AS n
         FROM TUMBLE(events, ts, INTERVAL '1 minute') GROUP BY window_start, window_end, event_type",
        Proof::All,
    ),
    board(
        "donations_minute",
        "SELECT window_start, stream_id, count(*) AS n, sum(amount_usd) AS usd, max(amount_usd) AS largest
         FROM TUMBLE(events, ts, INTERVAL '1 minute') WHERE event_type = 'donation' GROUP BY window_start, stream_id",
        Proof::Kind("donation"),
    ),
    board(
        "talk_5_minutes",
        "SELECT window_start, window_end, stream_id, count(*) AS n, sum(message_len) AS characters
         FROM HOP(events, ts, INTERVAL '30 seconds', INTERVAL '5 minutes') WHERE event_type = 'chat_message'
         GROUP BY window_start, window_end, stream_id",
        Proof::Beside(5, "chat_message"),
    ),
    board(
        "viewers_now",
        "SELECT stream_id, count(*) AS n, count(*) FILTER (WHERE event_type = 'viewer_join')
           - count(*) FILTER (WHERE event_type = 'viewer_leave') AS viewers
         FROM events GROUP BY stream_id",
        Proof::All,
    ),
    board(
        "chat_10_seconds",
        "SELECT window_start, count(*) AS n, sum(message_len) AS characters, avg(message_len) AS length
         FROM TUMBLE(events, ts, INTERVAL '10 seconds') WHERE event_type = 'chat_message' GROUP BY window_start",
        Proof::Kind("chat_message"),
    ),
    board(
        "revenue_of_all_time",
        "SELECT count(*) AS n, sum(amount_usd) AS usd, min(ts) AS since FROM events WHERE event_type = 'donation'",
        Proof::Kind("donation"),
    ),
    board(
        "large_donations",
        "SELECT window_start, stream_id, count(*) AS n, sum(amount_usd) AS usd
         FROM TUMBLE(events, ts, INTERVAL '5 minutes') WHERE event_type = 'donation' AND amount_usd >= 400
         GROUP BY window_start, stream_id",
        Proof::Accepted,
    ),
    board(
        "revenue_so_far",
        "SELECT window_start, window_end, count(*) AS n, sum(amount_usd) AS usd
         FROM CUMULATE(events, ts, INTERVAL '1 minute', INTERVAL '10 minutes') WHERE event_type = 'donation'
         GROUP BY window_start, window_end",
        Proof::Beside(10, "donation"),
    ),
    board(
        "kinds_5_minutes",
        "SELECT window_start, event_type, count(*) AS n, min(message_len) AS shortest, max(message_len) AS longest, avg(message_len) AS length
         FROM TUMBLE(events, ts, INTERVAL '5 minutes') GROUP BY window_start, event_type",
        Proof::All,
    ),
    board(
        "arrivals",
        "SELECT window_start, window_end, count(*) AS n
         FROM HOP(events, ts, INTERVAL '10 seconds', INTERVAL '1 minute') WHERE event_type = 'viewer_join'
         GROUP BY window_start, window_end",
        Proof::Beside(1, "viewer_join"),
    ),
    board(
        "streams_10_minutes",
        "SELECT window_start, stream_id, count(*) AS n,
           count(*) FILTER (WHERE event_type = 'chat_message') AS messages,
           count(*) FILTER (WHERE event_type = 'donation')     AS donations,
           coalesce(sum(amount_usd) FILTER (WHERE event_type = 'donation'), 0) AS usd
         FROM TUMBLE(events, ts, INTERVAL '10 minutes') GROUP BY window_start, stream_id",
        Proof::All,
    ),
    board(
        "chatters_minute",
        "SELECT window_start, stream_id, count(*) AS n, count(DISTINCT user_id) AS chatters
         FROM TUMBLE(events, ts, INTERVAL '1 minute') WHERE event_type = 'chat_message' GROUP BY window_start, stream_id",
        Proof::Kind("chat_message"),
    ),
    board(
        "long_messages",
        "SELECT window_start, stream_id, count(*) AS n, max(message_len) AS longest
         FROM TUMBLE(events, ts, INTERVAL '1 minute') WHERE event_type = 'chat_message' AND message_len > 250
         GROUP BY window_start, stream_id",
        Proof::Accepted,
    ),
    board(
        "lengths_minute",
        "SELECT window_start, count(*) AS n, avg(message_len) AS length, stddev(message_len) AS spread
         FROM TUMBLE(events, ts, INTERVAL '1 minute') WHERE event_type = 'chat_message' GROUP BY window_start",
        Proof::Kind("chat_message"),
    ),
    board(
        "last_seen",
        "SELECT stream_id, count(*) AS n, max(ts) AS last_message_at FROM events WHERE event_type = 'chat_message' GROUP BY stream_id",
        Proof::Kind("chat_message"),
    ),
    board(
        "busy_streams",
        "SELECT window_start, stream_id, count(*) AS n
         FROM TUMBLE(events, ts, INTERVAL '1 minute') GROUP BY window_start, stream_id HAVING count(*) > 260",
        Proof::Says("SELECT coalesce(sum(n), 0) FROM streams_minute WHERE n > 260"),
    ),
    board(
        "cohorts_minute",
        "SELECT window_start, substr(user_id, 1, 6) AS cohort, count(*) AS n
         FROM TUMBLE(events, ts, INTERVAL '1 minute') WHERE event_type = 'viewer_join' GROUP BY window_start, substr(user_id, 1, 6)",
        Proof::Kind("viewer_join"),
    ),
    board(
        "givers_15_minutes",
        "SELECT window_start, count(*) AS n, approx_distinct(user_id) AS givers, count(*) FILTER (WHERE amount_usd >= 100) AS large
         FROM TUMBLE(events, ts, INTERVAL '15 minutes') WHERE event_type = 'donation' GROUP BY window_start",
        Proof::Kind("donation"),
    ),
    board(
        "leaving_streams",
        "SELECT window_start, window_end, stream_id, count(*) AS n
         FROM HOP(events, ts, INTERVAL '1 minute', INTERVAL '10 minutes') WHERE event_type = 'viewer_leave'
         GROUP BY window_start, window_end, stream_id",
        Proof::Beside(10, "viewer_leave"),
    ),
];
