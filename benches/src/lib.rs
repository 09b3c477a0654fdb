//! Real servers as local processes, for tests, smoke and benchmarks. No mocks, and no engine code.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod local;
