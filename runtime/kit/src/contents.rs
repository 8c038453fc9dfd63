//! What a kit's folder holds, and whether it is still what was packed.
//!
//! ```text
//! kit/  run              checks the machine, starts mcckit
//!       mccrt  mcckit    the runtime; the kit's own program
//!       kit.json         this list, with a hash of every file
//!       bundles/         one .mccb each
//!       weights/NAME/    the checkpoint of bundle NAME, where it has one
//!       expected/        what the simulated device made of the prompts
//!       peers/           other libraries' kernels, in Python
//! ```
//!
//! In: the folder. Out: [`Kit`]. Holds: every file but `kit.json` itself is listed with its SHA-256.

use std::io;
use std::path::{Path, PathBuf};

use mcc_bundle::{Bundle, BundleError, sha256_hex};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Version of the list's fields.
pub const KIT_FORMAT: u32 = 1;

/// The list's file.
pub const KIT_FILE: &str = "kit.json";

/// What a run leaves in the kit's folder, and no part of it.
pub const RESULTS_DIR: &str = "results";

/// A kit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kit {
    /// [`KIT_FORMAT`].
    pub format: u32,
    /// Commit that it was made from.
    pub commit: String,
    /// In the order of their names.
    pub bundles: Vec<KitBundle>,
    /// In the order of their paths.
    pub files: Vec<KitFile>,
}

/// A bundle of a kit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KitBundle {
    /// The file's stem.
    pub name: String,
    /// Architecture that its kernels are compiled for.
    pub arch: String,
    /// Whether it carries machine code beside the PTX.
    pub cubins: bool,
    /// Whether its checkpoint is in the kit; otherwise it runs on synthetic weights.
    pub weights: bool,
    /// Whether it is a text model.
    pub text: bool,
}

/// A file of a kit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KitFile {
    /// From the kit's folder, with `/`.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Of its content, hexadecimal.
    pub sha256: String,
}

/// What is wrong with a kit's folder.
#[derive(Debug, Error)]
pub enum KitError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not the folder of a kit.
    #[error("{} is no kit's list: {what}; unpack the kit again", path.display())]
    BadList {
        /// Of the list.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A bundle of the kit does not read.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Files are not those that were packed.
    #[error("the kit is damaged, unpack it again: {}", .0.join("; "))]
    Damaged(Vec<String>),
}

impl KitError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

impl Kit {
    /// Reads the list of the kit at `dir`.
    ///
    /// # Errors
    /// When there is none.
    pub fn read(dir: &Path) -> Result<Self, KitError> {
        let path = dir.join(KIT_FILE);
        let text = std::fs::read_to_string(&path).map_err(KitError::io(&path))?;
        let bad = |what: String| KitError::BadList {
            path: path.clone(),
            what,
        };
        let kit: Self = serde_json::from_str(&text).map_err(|err| bad(err.to_string()))?;
        if kit.format != KIT_FORMAT {
            return Err(bad(format!(
                "its format is {}, not {KIT_FORMAT}",
                kit.format
            )));
        }
        Ok(kit)
    }

    /// Lists what is in `dir` and writes the list there.
    ///
    /// # Errors
    /// When a file does not read, or a bundle is none.
    pub fn seal(dir: &Path, commit: &str) -> Result<Self, KitError> {
        let mut files = Vec::new();
        for path in walk(dir)? {
            let content = std::fs::read(dir.join(&path)).map_err(KitError::io(&path))?;
            files.push(KitFile {
                path: slashes(&path),
                bytes: content.len() as u64,
                sha256: sha256_hex(&content),
            });
        }
        let mut bundles = Vec::new();
        for file in &files {
            let stem = file
                .path
                .strip_prefix("bundles/")
                .and_then(|name| name.strip_suffix(".mccb"));
            let Some(name) = stem else { continue };
            let bundle = Bundle::read(dir.join(&file.path))?;
            let manifest = &bundle.manifest;
            let kernels = &manifest.kernels;
            bundles.push(KitBundle {
                name: name.to_owned(),
                arch: manifest.target.arch.clone(),
                cubins: kernels.iter().all(|kernel| kernel.cubin_sha256.is_some()),
                weights: dir.join("weights").join(name).is_dir(),
                text: manifest.entry("prefill").is_some() && manifest.entry("decode").is_some(),
            });
        }
        let kit = Self {
            format: KIT_FORMAT,
            commit: commit.to_owned(),
            bundles,
            files,
        };
        let path = dir.join(KIT_FILE);
        serde_json::to_string_pretty(&kit)
            .map_err(io::Error::other)
            .and_then(|text| std::fs::write(&path, text + "\n"))
            .map_err(KitError::io(&path))?;
        Ok(kit)
    }

    /// Compares every listed file with its hash: how many files and bytes are as they were packed.
    ///
    /// # Errors
    /// When a file is missing or another one.
    pub fn verify(&self, dir: &Path) -> Result<(usize, u64), KitError> {
        let mut wrong = Vec::new();
        for file in &self.files {
            match std::fs::read(dir.join(&file.path)) {
                Err(err) => wrong.push(format!("{}: {err}", file.path)),
                Ok(content) if sha256_hex(&content) != file.sha256 => {
                    wrong.push(format!("{}: its content has changed", file.path));
                }
                Ok(_) => {}
            }
        }
        if wrong.is_empty() {
            return Ok((self.files.len(), self.bytes()));
        }
        Err(KitError::Damaged(wrong))
    }

    /// Of all listed files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

/// The files below `dir` but the list and results, in the order of their paths.
fn walk(dir: &Path) -> Result<Vec<PathBuf>, KitError> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let full = dir.join(&folder);
        for entry in std::fs::read_dir(&full).map_err(KitError::io(&full))? {
            let entry = entry.map_err(KitError::io(&full))?;
            let path = folder.join(entry.file_name());
            if entry.path().is_dir() {
                if path != Path::new(RESULTS_DIR) {
                    folders.push(path);
                }
            } else if path != Path::new(KIT_FILE) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn slashes(path: &Path) -> String {
    let parts: Vec<_> = path
        .components()
        .map(|part| part.as_os_str().to_string_lossy())
        .collect();
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_or_missing_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("peers")).unwrap();
        std::fs::write(dir.path().join("run"), "#!/bin/sh\n").unwrap();
        std::fs::write(dir.path().join("peers/gemm.py"), "pass\n").unwrap();
        let kit = Kit::seal(dir.path(), "0123456").unwrap();
        assert_eq!(kit.files.len(), 2);
        assert_eq!(Kit::read(dir.path()).unwrap(), kit);
        // Neither the list nor results are part of it.
        std::fs::create_dir(dir.path().join(RESULTS_DIR)).unwrap();
        std::fs::write(dir.path().join("results/results.json"), "{}").unwrap();
        assert_eq!(kit.verify(dir.path()).unwrap(), (2, 15));
        assert_eq!(Kit::seal(dir.path(), "0123456").unwrap(), kit);

        std::fs::write(dir.path().join("run"), "#!/bin/bash\n").unwrap();
        std::fs::remove_file(dir.path().join("peers/gemm.py")).unwrap();
        let text = kit.verify(dir.path()).unwrap_err().to_string();
        assert!(text.contains("run: its content has changed"), "{text}");
        assert!(text.contains("peers/gemm.py: "), "{text}");
    }
}
