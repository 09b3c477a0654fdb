//! Tests that need no server.

#![allow(clippy::unwrap_used)]

mod docs;
mod golden;
mod oracle;
mod preflight;
mod refusals;
mod sabotage;
mod tidy;
mod views;
