//! A Hugging Face checkpoint: a directory, memory-mapped, or a file's bytes.
//!
//! In: a directory with `model.safetensors`, or with `model.safetensors.index.json` and its shards; or what would be in
//! such a file.
//! Out: each tensor's dtype, shape and bytes. Holds: every range was checked against its file; nothing is
//! read before it is asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};

use crate::error::WeightError;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// An open checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    shards: Vec<Shard>,
    tensors: BTreeMap<String, Location>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    data: ShardData,
}

#[derive(Debug)]
enum ShardData {
    Mapped(Mmap),
    Held(Vec<u8>),
}

impl Deref for ShardData {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Held(bytes) => bytes,
        }
    }
}

#[derive(Debug)]
struct Location {
    shard: usize,
    dtype: Dtype,
    shape: Vec<u64>,
    start: usize,
    end: usize,
}

/// One tensor as stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stored<'a> {
    pub dtype: Dtype,
    pub shape: &'a [u64],
    /// Row-major, little-endian.
    pub data: &'a [u8],
    pub file: &'a Path,
}

impl Checkpoint {
    /// Opens a directory and reads the headers of its files.
    ///
    /// # Errors
    /// When the directory or its files are missing, unreadable or damaged.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, WeightError> {
        let dir = dir.as_ref();
        if !dir.is_dir() {
            return Err(WeightError::NoDirectory {
                dir: dir.to_owned(),
            });
        }
        let mut checkpoint = Self {
            dir: dir.to_owned(),
            shards: Vec::new(),
            tensors: BTreeMap::new(),
        };
        if dir.join(SINGLE).is_file() {
            checkpoint.add_shard(dir.join(SINGLE))?;
        } else if dir.join(INDEX).is_file() {
            checkpoint.add_index(&dir.join(INDEX))?;
        } else {
            return Err(WeightError::NoCheckpoint {
                dir: dir.to_owned(),
            });
        }
        Ok(checkpoint)
    }

    /// A checkpoint of one file that was never written: its bytes in the safetensors format. Errors name it `name`.
    ///
    /// # Errors
    /// When the bytes are damaged.
    pub fn from_bytes(name: &str, bytes: Vec<u8>) -> Result<Self, WeightError> {
        let path = PathBuf::from(name);
        let mut checkpoint = Self {
            dir: path.clone(),
            shards: Vec::new(),
            tensors: BTreeMap::new(),
        };
        checkpoint.add(path, ShardData::Held(bytes))?;
        Ok(checkpoint)
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The files, for messages.
    pub(crate) fn searched(&self) -> String {
        match self.shards.as_slice() {
            [one] => one.path.display().to_string(),
            many => format!("{} files of {}", many.len(), self.dir.display()),
        }
    }

    pub(crate) fn tensor(&self, name: &str) -> Option<Stored<'_>> {
        let location = self.tensors.get(name)?;
        let shard = &self.shards[location.shard];
        Some(Stored {
            dtype: location.dtype,
            shape: &location.shape,
            data: &shard.data[location.start..location.end],
            file: &shard.path,
        })
    }

    /// The names nearest to one that is not there, nearest first.
    pub(crate) fn closest(&self, name: &str) -> Vec<&str> {
        let mut near: Vec<(usize, &str)> = self
            .tensors
            .keys()
            .map(|known| {
                (
                    edit_distance(name.as_bytes(), known.as_bytes()),
                    known.as_str(),
                )
            })
            .filter(|(distance, _)| *distance <= name.len() / 3)
            .collect();
        near.sort_unstable();
        near.into_iter().take(3).map(|(_, known)| known).collect()
    }

    fn add_index(&mut self, path: &Path) -> Result<(), WeightError> {
        #[derive(serde::Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let bytes = std::fs::read(path).map_err(|source| WeightError::Io {
            path: path.to_owned(),
            source,
        })?;
        let bad = |what: String| WeightError::BadIndex {
            path: path.to_owned(),
            what,
        };
        let index: Index =
            serde_json::from_slice(&bytes).map_err(|err| bad(format!("not an index: {err}")))?;
        let files: BTreeSet<&String> = index.weight_map.values().collect();
        for file in files {
            // The index may come from anywhere: it names files of its own folder only.
            if file.contains(['/', '\\']) || file.as_str() == ".." {
                return Err(bad(format!("`{file}` is not a file name")));
            }
            let shard = self.dir.join(file);
            if !shard.is_file() {
                return Err(bad(format!(
                    "it names `{file}`, which is not in the directory"
                )));
            }
            self.add_shard(shard)?;
        }
        for (name, file) in &index.weight_map {
            let there = self
                .tensors
                .get(name)
                .is_some_and(|at| self.shards[at.shard].path.ends_with(file));
            if !there {
                return Err(bad(format!(
                    "it says that `{name}` is in `{file}`, which does not have it"
                )));
            }
        }
        Ok(())
    }

    fn add_shard(&mut self, path: PathBuf) -> Result<(), WeightError> {
        let io = |source| WeightError::Io {
            path: path.clone(),
            source,
        };
        let file = File::open(&path).map_err(io)?;
        // SAFETY: the map is only read. Should another process shorten the file meanwhile, the system ends this
        // one with a bus error; checkpoints are not written while they are in use.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        self.add(path, ShardData::Mapped(map))
    }

    fn add(&mut self, path: PathBuf, data: ShardData) -> Result<(), WeightError> {
        let corrupt = |what: String| WeightError::Corrupt {
            path: path.clone(),
            what,
        };
        let (header_bytes, header) =
            SafeTensors::read_metadata(&data).map_err(|err| corrupt(err.to_string()))?;
        // `read_metadata` has checked that the tensors fill the rest of the file exactly.
        let data_start = 8 + header_bytes;
        let shard = self.shards.len();
        for (name, info) in header.tensors() {
            let location = Location {
                shard,
                dtype: info.dtype,
                shape: info.shape.iter().map(|&n| n as u64).collect(),
                start: data_start + info.data_offsets.0,
                end: data_start + info.data_offsets.1,
            };
            if self.tensors.insert(name.clone(), location).is_some() {
                return Err(corrupt(format!(
                    "`{name}` is in another file of the checkpoint too"
                )));
            }
        }
        self.shards.push(Shard { path, data });
        Ok(())
    }
}

/// Levenshtein distance, in one row.
fn edit_distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::edit_distance;

    #[test]
    fn distances() {
        assert_eq!(edit_distance(b"kitten", b"sitting"), 3);
        assert_eq!(edit_distance(b"", b"abc"), 3);
        assert_eq!(edit_distance(b"same", b"same"), 0);
    }
}
