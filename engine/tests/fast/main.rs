//! Tests that need no server.

#![allow(clippy::unwrap_used)]

mod refusals;
mod tidy;
mod views;
