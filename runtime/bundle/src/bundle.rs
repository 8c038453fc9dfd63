//! A bundle in memory, and its way to a file and back.
//!
//! In: what the compiler made. Out: bytes; or from bytes, a bundle that was checked from end to end.
//! Holds: a reader gets the whole of the old or the whole of the new file, never half of one.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::container::{self, Section};
use crate::error::{BundleError, ManifestError};
use crate::manifest::{Manifest, SCHEMA_VERSION};

const MANIFEST: &str = "manifest.json";
const GRAPH: &str = "graph.mir";
const PROGRAM: &str = "program.json";
const TOKENIZER: &str = "tokenizer.json";

/// A compiled model without its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Bundle {
    /// What to allocate, fill and launch.
    pub manifest: Manifest,
    /// PTX text of each kernel, in the order of [`Manifest::kernels`].
    pub ptx: Vec<String>,
    /// Cubin of each kernel where there is one, in the same order.
    pub cubins: Vec<Option<Vec<u8>>>,
    /// `tokenizer.json` of the checkpoint.
    pub tokenizer: Option<String>,
    /// The optimised graph, `.mir` text.
    pub graph: Option<String>,
    /// The program, JSON.
    pub program: Option<String>,
}

/// SHA-256 in the manifest's notation.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    container::sha256(bytes)
        .iter()
        .fold(String::with_capacity(64), |mut hex, byte| {
            // Writing to a string cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
}

impl Bundle {
    /// Puts a bundle together; fills in schema version and hashes of the kernels, and checks the manifest.
    ///
    /// # Errors
    /// When there is not one PTX text for each kernel, or the manifest contradicts itself.
    pub fn new(
        mut manifest: Manifest,
        ptx: Vec<String>,
        cubins: Vec<Option<Vec<u8>>>,
    ) -> Result<Self, BundleError> {
        let kernels = manifest.kernels.len();
        if ptx.len() != kernels || cubins.len() != kernels {
            let what = format!(
                "{kernels} kernels, {} PTX texts, {} cubins or gaps",
                ptx.len(),
                cubins.len()
            );
            return Err(ManifestError::new("kernels", what).into());
        }
        manifest.schema = SCHEMA_VERSION;
        for ((kernel, ptx), cubin) in manifest.kernels.iter_mut().zip(&ptx).zip(&cubins) {
            kernel.ptx_sha256 = sha256_hex(ptx.as_bytes());
            kernel.cubin_sha256 = cubin.as_deref().map(sha256_hex);
        }
        manifest.validate()?;
        Ok(Self {
            manifest,
            ptx,
            cubins,
            tokenizer: None,
            graph: None,
            program: None,
        })
    }

    /// All sections, as they stand in the file; also what `mcc inspect --extract` writes.
    ///
    /// # Errors
    /// When the manifest cannot be written as JSON.
    pub fn sections(&self) -> Result<Vec<Section>, BundleError> {
        let mut manifest = serde_json::to_vec_pretty(&self.manifest)
            .map_err(|err| BundleError::Encode(err.to_string()))?;
        manifest.push(b'\n');
        let mut sections = vec![Section {
            name: MANIFEST.to_owned(),
            bytes: manifest,
        }];
        for (name, text) in [
            (GRAPH, &self.graph),
            (PROGRAM, &self.program),
            (TOKENIZER, &self.tokenizer),
        ] {
            if let Some(text) = text {
                sections.push(Section {
                    name: name.to_owned(),
                    bytes: text.clone().into_bytes(),
                });
            }
        }
        for (i, kernel) in self.manifest.kernels.iter().enumerate() {
            if let Some(ptx) = self.ptx.get(i) {
                sections.push(Section {
                    name: ptx_section(&kernel.name),
                    bytes: ptx.clone().into_bytes(),
                });
            }
            if let Some(Some(cubin)) = self.cubins.get(i) {
                sections.push(Section {
                    name: cubin_section(&kernel.name),
                    bytes: cubin.clone(),
                });
            }
        }
        Ok(sections)
    }

    /// The bundle as the bytes of a file.
    ///
    /// # Errors
    /// When the manifest contradicts itself, or a section cannot be encoded.
    pub fn to_bytes(&self) -> Result<Vec<u8>, BundleError> {
        self.manifest.validate()?;
        container::pack(&self.sections()?)
    }

    /// Reads and checks the bytes of a file.
    ///
    /// # Errors
    /// When the file is something else, of another version, damaged, or its manifest is wrong.
    pub fn from_bytes(file: &[u8]) -> Result<Self, BundleError> {
        let mut sections = container::unpack(file)?;
        let mut take = |name: &str| {
            let i = sections.iter().position(|section| section.name == name)?;
            Some(sections.swap_remove(i).bytes)
        };
        let missing = |name: &str| BundleError::MissingSection {
            section: name.to_owned(),
        };

        let manifest = take(MANIFEST).ok_or_else(|| missing(MANIFEST))?;
        let manifest = parse_manifest(&manifest)?;
        manifest.validate()?;
        let (mut ptx, mut cubins) = (Vec::new(), Vec::new());
        for kernel in &manifest.kernels {
            let name = ptx_section(&kernel.name);
            let bytes = take(&name).ok_or_else(|| missing(&name))?;
            check_hash(&name, &bytes, &kernel.ptx_sha256)?;
            ptx.push(text(&name, bytes)?);
            cubins.push(match &kernel.cubin_sha256 {
                None => None,
                Some(hash) => {
                    let name = cubin_section(&kernel.name);
                    let bytes = take(&name).ok_or_else(|| missing(&name))?;
                    check_hash(&name, &bytes, hash)?;
                    Some(bytes)
                }
            });
        }
        let mut optional = |name: &str| take(name).map(|bytes| text(name, bytes)).transpose();
        let (tokenizer, graph, program) =
            (optional(TOKENIZER)?, optional(GRAPH)?, optional(PROGRAM)?);
        if let Some(stray) = sections.first() {
            return Err(BundleError::CorruptHeader {
                what: format!("no one asked for section `{}`", stray.name),
            });
        }
        Ok(Self {
            manifest,
            ptx,
            cubins,
            tokenizer,
            graph,
            program,
        })
    }

    /// Reads and checks a file.
    ///
    /// # Errors
    /// As [`Self::from_bytes`], and when the file cannot be read.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, BundleError> {
        let path = path.as_ref();
        let bytes = fs::read(path).map_err(|source| BundleError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::from_bytes(&bytes)
    }

    /// Writes the bundle to a file, whole or not at all.
    ///
    /// # Errors
    /// As [`Self::to_bytes`], and when the file cannot be written.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), BundleError> {
        let path = path.as_ref();
        let bytes = self.to_bytes()?;
        write_atomically(path, &bytes).map_err(|source| BundleError::Write {
            path: path.to_owned(),
            source,
        })
    }
}

fn ptx_section(kernel: &str) -> String {
    format!("ptx/{kernel}.ptx")
}

fn cubin_section(kernel: &str) -> String {
    format!("cubin/{kernel}.cubin")
}

fn text(section: &str, bytes: Vec<u8>) -> Result<String, BundleError> {
    String::from_utf8(bytes).map_err(|_| BundleError::CorruptSection {
        section: section.to_owned(),
        what: "it is not UTF-8 text".to_owned(),
    })
}

fn check_hash(section: &str, bytes: &[u8], hash: &str) -> Result<(), BundleError> {
    if sha256_hex(bytes) == hash {
        return Ok(());
    }
    Err(BundleError::CorruptSection {
        section: section.to_owned(),
        what: "it is not the one that the manifest names".to_owned(),
    })
}

/// Looks at the version before anything else: fields of another version need not parse.
fn parse_manifest(json: &[u8]) -> Result<Manifest, BundleError> {
    #[derive(serde::Deserialize)]
    struct Version {
        schema: u32,
    }
    let version: Version = serde_json::from_slice(json).map_err(BundleError::ManifestSyntax)?;
    if version.schema != SCHEMA_VERSION {
        return Err(BundleError::WrongVersion {
            what: "schema",
            found: version.schema,
            needed: SCHEMA_VERSION,
        });
    }
    serde_json::from_slice(json).map_err(BundleError::ManifestSyntax)
}

/// Writes a temporary file next to `path` and renames it: POSIX makes the rename atomic.
fn write_atomically(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let name = path.file_name().ok_or_else(|| {
        std::io::Error::new(std::io::ErrorKind::InvalidInput, "the path names no file")
    })?;
    if path.is_dir() {
        return Err(std::io::Error::new(
            std::io::ErrorKind::IsADirectory,
            "it is a directory",
        ));
    }
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(temporary);
    let written = File::create(&temporary)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files whose container is sound and whose manifest is not.
    #[test]
    fn manifests_are_checked() {
        let read = |name: &str, json: &str| {
            let section = Section {
                name: name.to_owned(),
                bytes: json.as_bytes().to_vec(),
            };
            Bundle::from_bytes(&container::pack(&[section]).expect("packs"))
        };
        // Only the version need be there to tell that it is another one.
        let newer = read(MANIFEST, r#"{"schema": 7, "anything": []}"#);
        assert!(matches!(
            newer,
            Err(BundleError::WrongVersion {
                what: "schema",
                found: 7,
                needed: SCHEMA_VERSION
            })
        ));
        let nothing_else = format!(r#"{{"schema": {SCHEMA_VERSION}}}"#);
        for json in ["", "[]", "{}", r#"{"schema": -1}"#, &nothing_else] {
            assert!(
                matches!(read(MANIFEST, json), Err(BundleError::ManifestSyntax(_))),
                "{json}"
            );
        }
        let other = read("other.json", "{}");
        assert!(
            matches!(other, Err(BundleError::MissingSection { section }) if section == MANIFEST)
        );
    }
}
