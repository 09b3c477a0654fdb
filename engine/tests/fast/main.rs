//! Tests that need no server.

#![allow(clippy::unwrap_used)]

mod golden;
mod refusals;
mod tidy;
mod views;
