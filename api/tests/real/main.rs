//! Tests against a real Kafka, a real Postgres and real processes.
//!
//! Each test has a topic and a database of its own; the servers are shared, but for tests that kill them. The expected
//! rows come from [`oracle`], which reads the log itself and computes in plain SQL.

#![allow(clippy::unwrap_used, missing_docs)]

mod adhoc;
mod archive;
mod asking;
mod compose;
mod doctor;
mod edges;
mod embedded;
mod ending;
mod engine;
mod golden;
mod hostile;
mod invariants;
mod kill_points;
mod observability;
mod oracle;
mod outages;
mod page;
mod postgres;
mod push_down;
mod random_kills;
mod random_views;
mod recent;
mod reference;
mod roles;
mod stack;
mod state_loss;
mod stream;
mod takeover;
mod two_pipelines;
mod world;
