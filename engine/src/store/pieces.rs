//! State pieces as bytes: an Arrow IPC stream, compressed, with a digest that is checked before a byte is interpreted.

use arrow::array::RecordBatch;
use arrow::ipc::CompressionType;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};

use crate::error::Result;
use crate::store::StatePiece;

/// Names how pieces are written. What is in them is laid down in `view/layout.rs`, and names its version itself where it is
/// not ours.
pub const STATE_VERSION: &str = "4";

/// A piece of state as bytes, with their digest.
pub fn pack(view: &str, part: i32, window_start: i64, groups: &RecordBatch, replaces: Vec<i64>) -> Result<StatePiece> {
    let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME))?;
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), &groups.schema(), options)?;
    writer.write(groups)?;
    writer.finish()?;
    let data = writer.into_inner()?;
    let digest = blake3::hash(&data).as_bytes().to_vec();
    Ok(StatePiece {
        view: view.to_string(),
        part,
        window_start,
        groups: groups.num_rows() as i64,
        digest,
        data,
        replaces,
    })
}

/// The groups of a piece, or what is wrong with it.
pub fn unpack(groups: i64, digest: &[u8], data: &[u8]) -> Result<RecordBatch, String> {
    if blake3::hash(data).as_bytes() != digest {
        return Err("its digest does not fit its bytes".to_string());
    }
    let mut reader = StreamReader::try_new(data, None).map_err(|error| error.to_string())?;
    let batch = reader.next().ok_or("it is empty")?.map_err(|error| error.to_string())?;
    if batch.num_rows() as i64 != groups {
        Err(format!("it has {} groups instead of {groups}", batch.num_rows()))
    } else {
        Ok(batch)
    }
}
