//! A physical plan that is run again and again over rows put into its leaf.

use std::fmt;
use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::memory::MemoryStream;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::physical_plan::{ExecutionPlan, collect, displayable};
use futures::executor::block_on;

/// Where the next run's rows are put.
pub type Slot = Arc<Mutex<Vec<RecordBatch>>>;

/// A table whose rows are whatever its slot holds when a plan over it runs.
pub fn leaf_table(schema: &SchemaRef) -> (Arc<StreamingTable>, Slot) {
    let slot = Slot::default();
    let partition = Arc::new(Leaf { schema: schema.clone(), slot: slot.clone() });
    let table = StreamingTable::try_new(schema.clone(), vec![partition]);
    (Arc::new(table.unwrap_or_else(|error| unreachable!("the leaf has the table's own schema: {error}"))), slot)
}

struct Leaf {
    schema: SchemaRef,
    slot: Slot,
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Leaf")
    }
}

impl PartitionStream for Leaf {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let batches = self.slot.lock().map(|mut slot| std::mem::take(&mut *slot)).unwrap_or_default();
        match MemoryStream::try_new(batches, self.schema.clone(), None) {
            Ok(stream) => Box::pin(stream),
            Err(error) => unreachable!("a memory stream without a projection is always made: {error}"),
        }
    }
}

/// A plan and its slot.
pub struct Plan {
    plan: Arc<dyn ExecutionPlan>,
    slot: Slot,
    context: Arc<TaskContext>,
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", displayable(self.plan.as_ref()).indent(false))
    }
}

impl Plan {
    /// A plan over a leaf that reads `slot`.
    pub fn new(plan: Arc<dyn ExecutionPlan>, slot: Slot, context: Arc<TaskContext>) -> Self {
        Self { plan, slot, context }
    }

    /// The schema of its output.
    pub fn schema(&self) -> SchemaRef {
        self.plan.schema()
    }

    /// Runs it over these rows. Its metrics are dropped each time: they would grow with every run.
    pub fn run(&self, rows: Vec<RecordBatch>) -> Result<Vec<RecordBatch>> {
        if let Ok(mut slot) = self.slot.lock() {
            *slot = rows;
        }
        let plan = reset_plan_states(self.plan.clone())?;
        block_on(collect(plan, self.context.clone()))
    }
}
