//! Where buffers go when the launches have ended.

use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use serde::Serialize;

use crate::data::{Data, to_safetensors};
use crate::error::InputError;
use crate::file::{LaunchFile, Target};

/// Elements of a buffer that the report shows.
const SHOWN: usize = 4;

/// A buffer that was written to a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Written {
    pub buffer: String,
    pub dtype: &'static str,
    pub shape: Vec<u64>,
    pub path: PathBuf,
    /// In a safetensors file.
    pub tensor: Option<String>,
    /// The first elements.
    pub first: Vec<String>,
}

/// Writes the outputs. `data` and `contents` go by the buffers of `file`.
pub fn write(
    file: &LaunchFile,
    dir: &Path,
    data: &[Data],
    contents: &[Vec<u8>],
) -> Result<Vec<Written>, InputError> {
    let mut written = Vec::new();
    // Files of several tensors, in the order of their first mention.
    let mut files: Vec<(PathBuf, Vec<(String, TensorView<'_>)>)> = Vec::new();
    for output in &file.outputs {
        let Some(i) = file.buffer(&output.buffer) else {
            continue; // Refused when the launch file was read.
        };
        let (data, bytes) = (&data[i], &contents[i]);
        let (path, tensor) = match &output.to {
            Target::Raw(path) => {
                let path = dir.join(path);
                std::fs::write(&path, bytes).map_err(|source| io(&path, source))?;
                (path, None)
            }
            Target::Safetensors { file, tensor } => {
                let path = dir.join(file);
                let shape: Vec<usize> = data.shape.iter().map(|&e| e as usize).collect();
                let view = TensorView::new(to_safetensors(data.dtype), shape, bytes)
                    .map_err(|e| InputError::field(&output.at, e.to_string()))?;
                let tensors = match files.iter().position(|(p, _)| *p == path) {
                    Some(at) => &mut files[at].1,
                    None => {
                        files.push((path.clone(), Vec::new()));
                        let last = files.len() - 1;
                        &mut files[last].1
                    }
                };
                if tensors.iter().any(|(name, _)| name == tensor) {
                    return Err(InputError::field(
                        &output.at,
                        format!("{} gets a tensor `{tensor}` twice", path.display()),
                    ));
                }
                tensors.push((tensor.clone(), view));
                (path, Some(tensor.clone()))
            }
        };
        let count = (bytes.len() / data.dtype.bytes()).min(SHOWN);
        let show = |i| data.dtype.show(data.dtype.element(bytes, i));
        written.push(Written {
            buffer: output.buffer.clone(),
            dtype: data.dtype.name(),
            shape: data.shape.clone(),
            path,
            tensor,
            first: (0..count).map(show).collect(),
        });
    }
    for (path, tensors) in files {
        let bytes = safetensors::serialize(tensors, None)
            .map_err(|e| io(&path, std::io::Error::other(e)))?;
        std::fs::write(&path, bytes).map_err(|source| io(&path, source))?;
    }
    Ok(written)
}

fn io(path: &Path, source: std::io::Error) -> InputError {
    InputError::Io {
        action: "write",
        path: path.to_owned(),
        source,
    }
}
