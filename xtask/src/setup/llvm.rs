//! Which files of LLVM and MLIR 22 a build reads, and where they come from.
//!
//! The check looks for files, not for package names: an LLVM built by hand, or
//! another system's packages, are as good. One file stands for each package.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::shell;

/// Where Debian's packages put LLVM 22; `.cargo/config.toml` says the same.
const DEBIAN_PREFIX: &str = "/usr/lib/llvm-22";

/// Under which of the build's folders a file lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Base {
    /// `LLVM_SYS_221_PREFIX`: read by inkwell's build.
    Llvm,
    /// `MLIR_SYS_220_PREFIX`: read by melior's build.
    Mlir,
    /// `TABLEGEN_220_PREFIX`: read by melior's macros.
    Tablegen,
    /// The system's headers.
    System,
}

/// One thing a build needs: a file, the Debian package that has it, its use.
#[derive(Debug)]
pub struct Piece {
    pub package: &'static str,
    base: Base,
    file: &'static str,
    why: &'static str,
}

#[rustfmt::skip]
const PIECES: [Piece; 12] = [
    Piece { package: "llvm-22-dev",      base: Base::Llvm,     file: "bin/llvm-config",               why: "LLVM's libraries" },
    Piece { package: "llvm-22-dev",      base: Base::Llvm,     file: "lib/libLLVMNVPTXCodeGen.a",     why: "LLVM's PTX back end" },
    Piece { package: "llvm-22-dev",      base: Base::Tablegen, file: "include/llvm-c/Core.h",         why: "LLVM's C interface" },
    Piece { package: "libmlir-22-dev",   base: Base::Mlir,     file: "lib/libMLIRIR.a",               why: "MLIR's libraries" },
    Piece { package: "libmlir-22-dev",   base: Base::Mlir,     file: "include/mlir/Dialect/LLVMIR/NVVMOps.td", why: "the nvvm dialect" },
    Piece { package: "mlir-22-tools",    base: Base::Mlir,     file: "bin/mlir-tblgen",               why: "generates dialect builders" },
    Piece { package: "libclang-22-dev",  base: Base::Mlir,     file: "lib/libclang.so",               why: "generates Rust bindings" },
    Piece { package: "libpolly-22-dev",  base: Base::Llvm,     file: "lib/libPolly.a",                why: "named by llvm-config" },
    Piece { package: "libzstd-dev",      base: Base::System,   file: "usr/include/zstd.h",            why: "linked by LLVM" },
    Piece { package: "libz3-dev",        base: Base::System,   file: "usr/include/z3.h",              why: "linked by LLVM" },
    Piece { package: "libxml2-dev",      base: Base::System,   file: "usr/include/libxml2/libxml/parser.h", why: "linked by LLVM" },
    Piece { package: "zlib1g-dev",       base: Base::System,   file: "usr/include/zlib.h",            why: "linked by LLVM" },
];

/// Where the build looks for LLVM and MLIR.
pub struct Prefixes {
    llvm: PathBuf,
    mlir: PathBuf,
    tablegen: PathBuf,
}

impl Prefixes {
    /// cargo sets these from `.cargo/config.toml` unless the user has.
    pub fn from_env() -> Self {
        let prefix = |name| {
            std::env::var_os(name).map_or_else(|| PathBuf::from(DEBIAN_PREFIX), PathBuf::from)
        };
        Self {
            llvm: prefix("LLVM_SYS_221_PREFIX"),
            mlir: prefix("MLIR_SYS_220_PREFIX"),
            tablegen: prefix("TABLEGEN_220_PREFIX"),
        }
    }

    /// A program of LLVM's.
    pub fn llvm_tool(&self, name: &str) -> PathBuf {
        self.llvm.join("bin").join(name)
    }

    fn named(&self, base: Base) -> Option<(&'static str, &Path)> {
        match base {
            Base::Llvm => Some(("LLVM_SYS_221_PREFIX", &self.llvm)),
            Base::Mlir => Some(("MLIR_SYS_220_PREFIX", &self.mlir)),
            Base::Tablegen => Some(("TABLEGEN_220_PREFIX", &self.tablegen)),
            Base::System => None,
        }
    }

    /// A prefix of the user's own that lacks a file is the user's to mend:
    /// Debian's packages would land elsewhere.
    pub fn explain_foreign(&self, missing: &[&Piece]) -> Result<()> {
        for piece in missing {
            let Some((variable, prefix)) = self.named(piece.base) else {
                continue;
            };
            if prefix != Path::new(DEBIAN_PREFIX) {
                return Err(Error::Environment(format!(
                    "{variable}={} has no {} ({}). Point it at LLVM and MLIR 22, \
                     or unset it to use Debian's packages in {DEBIAN_PREFIX}.",
                    prefix.display(),
                    piece.file,
                    piece.why
                )));
            }
        }
        Ok(())
    }

    /// One line for each prefix, with the LLVM version that answers there.
    pub fn describe(&self) -> Vec<String> {
        let version =
            shell::capture(Command::new(self.llvm.join("bin/llvm-config")).arg("--version"))
                .map_or_else(|| "not found".to_owned(), |v| v.trim().to_owned());
        let mut lines = vec![format!(
            "{:<12} {version} in {}",
            "LLVM",
            self.llvm.display()
        )];
        if self.mlir != self.llvm || self.tablegen != self.llvm {
            lines.push(format!("{:<12} {}", "MLIR", self.mlir.display()));
            lines.push(format!("{:<12} {}", "tablegen", self.tablegen.display()));
        }
        lines
    }
}

/// The pieces whose file is not there. `root` stands in for `/` in tests.
pub fn missing<'a>(root: &Path, prefixes: &Prefixes) -> Vec<&'a Piece> {
    PIECES
        .iter()
        .filter(|piece| {
            let folder = match prefixes.named(piece.base) {
                Some((_, prefix)) => root.join(prefix.strip_prefix("/").unwrap_or(prefix)),
                None => root.to_path_buf(),
            };
            !folder.join(piece.file).exists()
        })
        .collect()
}

/// What to install and set on a system without apt.
pub fn by_hand(missing: &[&Piece], packages: &[&str]) -> String {
    let mut text = String::from(
        "this system has no apt-get, so the following must be installed by hand:\n\
         \n\
         - LLVM and MLIR 22 with static libraries, headers and tools, libclang and Polly\n\
         - zstd, z3, libxml2 and zlib with headers; a C++17 compiler called `c++`, cmake and make; python3 with pip\n\
         \n\
         then tell the build where LLVM is (one folder may serve for all three):\n\
         \n\
         export LLVM_SYS_221_PREFIX=<prefix> MLIR_SYS_220_PREFIX=<prefix> TABLEGEN_220_PREFIX=<prefix>\n",
    );
    let _ = writeln!(
        text,
        "\nmissing here, by the names of Debian's packages: {}",
        packages.join(" ")
    );
    for piece in missing {
        let _ = write!(
            text,
            "\n- {}: {} ({})",
            piece.file, piece.why, piece.package
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn debian() -> Prefixes {
        Prefixes {
            llvm: DEBIAN_PREFIX.into(),
            mlir: DEBIAN_PREFIX.into(),
            tablegen: DEBIAN_PREFIX.into(),
        }
    }

    fn install(root: &Path, prefix: &str, package: &str) {
        for piece in PIECES.iter().filter(|p| p.package == package) {
            let folder = match piece.base {
                Base::System => root.to_path_buf(),
                _ => root.join(prefix),
            };
            let file = folder.join(piece.file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "").unwrap();
        }
    }

    fn packages(missing: &[&Piece]) -> Vec<&'static str> {
        let mut packages: Vec<_> = missing.iter().map(|p| p.package).collect();
        packages.dedup();
        packages
    }

    #[test]
    fn a_bare_machine_lacks_every_package_once() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(
            packages(&missing(root.path(), &debian())),
            [
                "llvm-22-dev",
                "libmlir-22-dev",
                "mlir-22-tools",
                "libclang-22-dev",
                "libpolly-22-dev",
                "libzstd-dev",
                "libz3-dev",
                "libxml2-dev",
                "zlib1g-dev"
            ]
        );
    }

    #[test]
    fn only_what_is_missing_is_named() {
        let root = tempfile::tempdir().unwrap();
        for piece in &PIECES {
            if piece.package != "libpolly-22-dev" && piece.package != "zlib1g-dev" {
                install(root.path(), "usr/lib/llvm-22", piece.package);
            }
        }
        let missing_now = missing(root.path(), &debian());
        assert_eq!(packages(&missing_now), ["libpolly-22-dev", "zlib1g-dev"]);
        let text = by_hand(&missing_now, &[]);
        assert!(text.contains("lib/libPolly.a"), "{text}");
        assert!(!text.contains("libMLIRIR.a"), "{text}");
    }

    #[test]
    fn a_prefix_of_the_users_own_is_respected_and_blamed() {
        let root = tempfile::tempdir().unwrap();
        for piece in &PIECES {
            install(root.path(), "opt/llvm", piece.package);
        }
        let own = Prefixes {
            llvm: "/opt/llvm".into(),
            mlir: "/opt/llvm".into(),
            tablegen: "/opt/llvm".into(),
        };
        assert!(missing(root.path(), &own).is_empty());

        std::fs::remove_file(root.path().join("opt/llvm/lib/libMLIRIR.a")).unwrap();
        let missing_now = missing(root.path(), &own);
        let error = own.explain_foreign(&missing_now).unwrap_err().to_string();
        assert!(error.contains("MLIR_SYS_220_PREFIX=/opt/llvm"), "{error}");
        assert!(error.contains("lib/libMLIRIR.a"), "{error}");
    }
}
