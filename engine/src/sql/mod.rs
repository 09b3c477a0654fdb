//! Text to checked statements: everything that can be refused is refused here, with file, line and column.
//!
//! ```text
//! files ─ text ─► tokens ─ statement ─► source, view ─ catalog ─► planned sources
//!                                  │                     └─ split ─► plan below · aggregate · plan above
//!                                  └──► endpoint, gauge ─ question ─► queries over the views' tables
//! ```
//!
//! [`Catalog::load`] is the only door. Nothing here connects to anything or asks what time it is.

mod aggregates;
mod catalog;
pub mod endpoint;
mod expand;
mod explain;
mod functions;
pub mod guard;
mod names;
pub mod pg;
pub mod planned;
pub mod question;
mod recognise;
pub mod session;
pub mod source;
mod split;
mod stateless;
mod statement;
mod table;
mod text;
mod view;
pub mod window;

pub use catalog::{Catalog, physical_rules, read_files};
pub use expand::{ending, udfs as window_udfs};
pub use planned::{PlannedSource, PlannedView};
pub use split::ROW;
pub use statement::parse_interval_us as duration_us;
pub use text::{StatementText, declarations};
