//! What a user can point `mcc build` at, and the graph in it.
//!
//! In: a path. Out: a module, with a tokenizer where the source has one. A directory with a `config.json` is
//! a checkpoint, one with a `Cargo.toml` a Rust model; files go by their ending. A Rust model is a program
//! that prints its `.mir` text: it is built and run with cargo.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mcc_bundle::TokenizerInfo;
use mcc_ir::Module;

use crate::error::Error;
use crate::import::{self, LimitOptions};

/// A graph to build.
#[derive(Clone, Debug)]
pub struct Source {
    /// The plain graph.
    pub module: Module,
    /// Text of `tokenizer.json`.
    pub tokenizer: Option<String>,
    /// Special tokens.
    pub special: TokenizerInfo,
    /// Things the user should know; none of them an error.
    pub warnings: Vec<String>,
    /// The checkpoint directory, when that is the source.
    pub checkpoint: Option<PathBuf>,
}

/// Reads what `path` points at.
///
/// # Errors
/// By the kind of source; nothing is written.
pub fn read(path: &Path, limits: LimitOptions) -> Result<Source, Error> {
    let not = |why: &str| Error::NotASource {
        path: path.to_owned(),
        why: why.to_owned(),
    };
    let meta = std::fs::metadata(path).map_err(Error::io("read", path))?;
    if meta.is_dir() {
        if path.join("config.json").is_file() {
            return checkpoint(path, limits);
        }
        if path.join("Cargo.toml").is_file() {
            return rust_model(path, &path.join("Cargo.toml"), None);
        }
        return Err(not("has neither a config.json nor a Cargo.toml"));
    }
    match path.extension().and_then(|e| e.to_str()) {
        Some("mir") => {
            let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
            Ok(plain(parse(path, &text)?))
        }
        Some("rs") => rust_file(path),
        _ => Err(not("is neither a directory nor a .mir or .rs file")),
    }
}

fn plain(module: Module) -> Source {
    Source {
        module,
        tokenizer: None,
        special: TokenizerInfo::default(),
        warnings: Vec::new(),
        checkpoint: None,
    }
}

fn checkpoint(dir: &Path, limits: LimitOptions) -> Result<Source, Error> {
    let absolute = std::path::absolute(dir).map_err(Error::io("read", dir))?;
    let name = absolute
        .file_name()
        .map_or_else(|| "model".to_owned(), |n| n.to_string_lossy().into_owned());
    let imported = import::import(dir, &name, limits)?;
    let mut warnings = Vec::new();
    if !imported.unknown_fields.is_empty() {
        warnings.push(format!(
            "{}: not known and ignored: {}",
            dir.join("config.json").display(),
            imported.unknown_fields.join(", ")
        ));
    }
    Ok(Source {
        module: imported.module,
        tokenizer: imported.tokenizer,
        special: imported.special,
        warnings,
        checkpoint: Some(dir.to_owned()),
    })
}

fn parse(path: &Path, text: &str) -> Result<Module, Error> {
    mcc_ir::parse::module(text, path.display().to_string().as_str()).map_err(Error::Mir)
}

/// One file: a throw-away crate around it, which depends on the DSL that this compiler was built with.
fn rust_file(path: &Path) -> Result<Source, Error> {
    let dsl = Path::new(env!("CARGO_MANIFEST_DIR")).join("dsl");
    let ir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ir");
    if !dsl.join("Cargo.toml").is_file() {
        return Err(Error::RustModel {
            path: path.to_owned(),
            why: format!(
                "the DSL's source is not at {}; build the model as a crate of its own",
                dsl.display()
            ),
        });
    }
    let file = std::path::absolute(path).map_err(Error::io("read", path))?;
    let dir = tempfile::tempdir().map_err(Error::io("create", std::env::temp_dir()))?;
    // Paths go through JSON strings, which TOML reads alike.
    let quote = |p: &Path| serde_json::Value::String(p.display().to_string()).to_string();
    let manifest = format!(
        "[package]\nname = \"model\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[[bin]]\nname = \"model\"\npath = {}\n\n\
         [dependencies]\nmcc-dsl = {{ path = {} }}\nmcc-ir = {{ path = {} }}\nserde_json = \"1\"\n\n[workspace]\n",
        quote(&file),
        quote(&dsl),
        quote(&ir)
    );
    let manifest_path = dir.path().join("Cargo.toml");
    std::fs::write(&manifest_path, manifest).map_err(Error::io("write", &manifest_path))?;
    // The workspace's lock file pins the versions that are already there.
    let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock");
    if lock.is_file() {
        let to = dir.path().join("Cargo.lock");
        std::fs::copy(&lock, &to).map_err(Error::io("write", &to))?;
    }
    rust_model(
        path,
        &manifest_path,
        Some(&std::env::temp_dir().join("mcc-rust-models")),
    )
}

fn rust_model(path: &Path, manifest: &Path, target_dir: Option<&Path>) -> Result<Source, Error> {
    let fail = |why: String| Error::RustModel {
        path: path.to_owned(),
        why,
    };
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["run", "--quiet", "--manifest-path"])
        .arg(manifest);
    if let Some(dir) = target_dir {
        cargo.arg("--target-dir").arg(dir);
    }
    // Compiler messages go to the user as they come.
    let output = cargo
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| fail(format!("cargo did not start: {e}")))?;
    if !output.status.success() {
        return Err(fail(format!("cargo run ended with {}", output.status)));
    }
    let text =
        String::from_utf8(output.stdout).map_err(|_| fail("its output is not UTF-8".to_owned()))?;
    if text.trim().is_empty() {
        return Err(fail(
            "it printed nothing; a model's main prints the .mir text of its module".to_owned(),
        ));
    }
    Ok(plain(parse(path, &text)?))
}
