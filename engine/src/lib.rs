//! Tidegate's engine: Kafka micro-batches through windowed SQL into one transaction of Postgres or SQLite.
//!
//! ```text
//!  Kafka ─► log ─────► decode ─► time ─► view ─► sink ─► store ─► Postgres, SQLite
//!           batches    Arrow     marks   plan    rows    one transaction: rows, dead letters,
//!           of         rows and  what    below,          offsets, state checkpoint, fence
//!           records    rejects   is late state,
//!                                        plan above
//! ```
//!
//! What people ask goes another way: [`ask`] reads one snapshot of the store for each answer, and [`recent`] has the rows of
//! the last minutes, which each epoch writes beside its commit.
//!
//! The log, the store and the clock are seams with a side in memory; [`golden`] plays whole pipelines on those.
//!
//! In one sentence: for every window, a view's rows are exactly what plain DataFusion would return for the window's
//! accepted rows, they are in Postgres milliseconds after the input is in Kafka, and no crash can make them wrong.
//!
//! # Words
//!
//! - **Source**: a topic declared as a table. **Pipeline**: a source at work with all its views.
//! - **Epoch**: the records between two commits. (The number in `tidegate.pipelines.epoch` counts owners.)
//! - **Commit**: one transaction with all effects of one epoch. **Fence**: what lets only one owner commit.
//! - **Watermark** `wm_p`: how far partition `p`'s event time has come, less the source's bound.
//! - **Frontier** `W`: the least watermark of the active partitions; windows that end at or before it are **closed**.
//! - **Pane**: what windows are made of, and what has state: the window itself for TUMBLE, less for HOP and CUMULATE.
//! - **Late**: a row whose pane had ended by its own partition's watermark. **Dead letter**: where it goes.
//! - **Recent batch**: a file with the decoded rows of one epoch, or of several that were merged.
//! - **Checkpoint**: a commit that also carries state. **Piece**: what it writes for one pane.
//!
//! # Where to begin
//!
//! [`pipeline`] is the loop, top to bottom as the data flows. [`recovery`] is how it begins. Then the stages in the
//! order below. `docs/architecture.md` has the reasons.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod archive;
pub mod ask;
pub mod batch;
pub mod decode;
pub mod disk;
pub mod engine;
pub mod error;
pub mod failpoint;
pub mod golden;
pub mod kafka;
pub mod log;
pub mod metrics;
pub mod pipeline;
pub mod recent;
pub mod recovery;
pub mod settings;
pub mod show;
pub mod sink;
pub mod sql;
pub mod store;
pub mod time;
pub mod view;
