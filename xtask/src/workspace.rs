//! Where the checkout, its build folder and its downloaded tools are.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::shell;

/// The root of the checkout that this xtask was built from.
pub fn root() -> &'static Path {
    let manifest_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest_dir.parent().unwrap_or(manifest_dir)
}

/// The pinned NVIDIA tools, one folder for each CUDA version. Git ignores it.
pub fn tools_dir() -> PathBuf {
    root().join(".tools")
}

/// cargo, run in the root: the one that runs this xtask.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Where cargo builds to, with `CARGO_TARGET_DIR` and cargo's configuration
/// taken into account.
pub fn target_dir() -> Result<PathBuf> {
    let metadata = shell::capture(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))
        .and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok());
    metadata
        .as_ref()
        .and_then(|m| m["target_directory"].as_str())
        .map(PathBuf::from)
        .ok_or_else(|| Error::Step("`cargo metadata` failed; run it to see why".to_owned()))
}

/// A path as it is typed from the root, where it lies below it.
pub fn from_root(path: &Path) -> &Path {
    path.strip_prefix(root()).unwrap_or(path)
}
