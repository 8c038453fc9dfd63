//! NVIDIA's assembler and disassemblers, pinned, from PyPI.
//!
//! In: nothing but python3 with pip. Out:
//!
//! ```text
//! .tools/cuda-12.9/bin/ptxas
//! .tools/cuda-13/bin/{ptxas,nvdisasm,cuobjdump}
//! ```
//!
//! Each folder appears whole or not at all: files go to a temporary folder,
//! pip checks every download against the hash below, `ptxas` runs once, and
//! only then is the folder renamed. The file `PINS` in it says what it holds,
//! so that a changed pin replaces it.
//!
//! The tools are NVIDIA's, under NVIDIA's licence: fetched, never shipped.
//!
//! Who looks for `ptxas`, looks in this order: `$MCC_PTXAS`, the PATH,
//! `$CUDA_HOME/bin`, `/usr/local/cuda/bin`, `.tools/cuda-13/bin`,
//! `.tools/cuda-12.9/bin`. Tests take both folders of `.tools`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Nvidia;
use crate::error::{Error, Result};
use crate::{shell, workspace};

/// One folder of `.tools`.
struct Toolkit {
    folder: &'static str,
    wheels: &'static [Wheel],
}

/// One PyPI wheel for x86-64 Linux and the programs taken from it.
pub(super) struct Wheel {
    pub project: &'static str,
    pub version: &'static str,
    pub sha256: &'static str,
    pub programs: &'static [&'static str],
}

const TOOLKITS: [Toolkit; 2] = [
    // The last ptxas of CUDA 12, which hosts with older drivers have.
    Toolkit {
        folder: "cuda-12.9",
        wheels: &[Wheel {
            project: "nvidia-cuda-nvcc-cu12",
            version: "12.9.86",
            sha256: "5d6a0d32fdc7ea39917c20065614ae93add6f577d840233237ff08e9a38f58f0",
            programs: &["nvidia/cuda_nvcc/bin/ptxas"],
        }],
    },
    Toolkit {
        folder: "cuda-13",
        wheels: &[
            Wheel {
                project: "nvidia-cuda-nvcc",
                version: "13.5.37",
                sha256: "f5c4f7ead5d964fb4af42bbf1e6d3ec3c1e6e9d83b53749f691d387e7fcaa3a7",
                programs: &["nvidia/cu13/bin/ptxas"],
            },
            Wheel {
                project: "nvidia-cuda-nvdisasm",
                version: "13.5.37",
                sha256: "d3fdbdd49fa53e2e4aacd3db8259d052bd2b049ececdcb69e92e083c6728e7ca",
                programs: &["nvidia/cu13/bin/nvdisasm"],
            },
            Wheel {
                project: "nvidia-cuda-cuobjdump",
                version: "13.5.37",
                sha256: "38780fee50863252a0b8926357faa91615ca1c8346490563f33a06100cd73f58",
                programs: &["nvidia/cu13/bin/cuobjdump"],
            },
        ],
    },
];

/// Copies one member of a zip archive to a file.
const UNPACK: &str = "\
import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as z, z.open(sys.argv[2]) as src, open(sys.argv[3], 'wb') as dst:
    shutil.copyfileobj(src, dst)";

impl Wheel {
    pub fn requirement(&self) -> String {
        format!("{}=={}", self.project, self.version)
    }

    /// A line of a requirements file for pip.
    pub fn pin(&self) -> String {
        format!("{} --hash=sha256:{}\n", self.requirement(), self.sha256)
    }

    /// How every file name of this wheel begins (PEP 427).
    fn file_prefix(&self) -> String {
        format!("{}-{}-", self.project.replace('-', "_"), self.version)
    }
}

impl Toolkit {
    fn dir(&self) -> PathBuf {
        workspace::tools_dir().join(self.folder)
    }

    /// A requirements file for pip, and the text of `PINS`.
    fn pins(&self) -> String {
        self.wheels.iter().map(Wheel::pin).collect()
    }

    fn programs(&self) -> impl Iterator<Item = (&Wheel, &'static str, &'static str)> {
        self.wheels.iter().flat_map(|wheel| {
            wheel.programs.iter().map(move |member| {
                let name = member.rsplit('/').next().unwrap_or(member);
                (wheel, *member, name)
            })
        })
    }

    fn is_complete(&self, dir: &Path) -> bool {
        fs::read_to_string(dir.join("PINS")).is_ok_and(|text| text == self.pins())
            && self
                .programs()
                .all(|(_, _, name)| shell::is_executable(&dir.join("bin").join(name)))
    }
}

/// Whether the pinned tools are to be had for this machine, and wanted.
pub fn needed(nvidia: Nvidia) -> bool {
    let platform = cfg!(all(target_os = "linux", target_arch = "x86_64"));
    platform && (nvidia == Nvidia::Pinned || toolkit_ptxas().is_none())
}

pub fn is_complete() -> bool {
    TOOLKITS.iter().all(|t| t.is_complete(&t.dir()))
}

pub fn pins() -> Vec<String> {
    let wheels = TOOLKITS.iter().flat_map(|t| t.wheels);
    wheels.map(Wheel::requirement).collect()
}

/// The pinned `ptxas`, oldest first, as far as they are there.
pub fn pinned_ptxas() -> Vec<PathBuf> {
    let files = TOOLKITS.iter().map(|t| t.dir().join("bin/ptxas"));
    files.filter(|file| shell::is_executable(file)).collect()
}

/// `$MCC_PTXAS`, or the `ptxas` of an installed CUDA toolkit.
pub fn toolkit_ptxas() -> Option<PathBuf> {
    if let Some(file) = std::env::var_os("MCC_PTXAS") {
        return Some(PathBuf::from(file)).filter(|f| shell::is_executable(f));
    }
    shell::on_path("ptxas").or_else(|| {
        let cuda_home = std::env::var_os("CUDA_HOME").map(PathBuf::from);
        cuda_home
            .into_iter()
            .chain([PathBuf::from("/usr/local/cuda")])
            .map(|home| home.join("bin/ptxas"))
            .find(|file| shell::is_executable(file))
    })
}

/// The Debian packages that a fetch needs and this machine lacks.
pub fn missing_packages() -> Vec<&'static str> {
    if shell::capture(python().args(["-m", "pip", "--version"])).is_some() {
        return Vec::new();
    }
    vec!["python3", "python3-pip"]
}

pub fn describe() -> Vec<String> {
    let mut found: Vec<PathBuf> = toolkit_ptxas().into_iter().collect();
    found.extend(pinned_ptxas());
    if found.is_empty() {
        return vec![format!(
            "{:<12} not found: bundles will hold PTX and no cubins. Install a CUDA toolkit, \
             or set MCC_PTXAS",
            "ptxas"
        )];
    }
    let line = |file: &PathBuf| {
        let version = version(file).unwrap_or_else(|| "does not run".to_owned());
        format!(
            "{:<12} {version} in {}",
            "ptxas",
            workspace::from_root(file).display()
        )
    };
    found.iter().map(line).collect()
}

/// `V12.9.86`, from the last words of `ptxas --version`.
pub fn version(ptxas: &Path) -> Option<String> {
    let text = shell::capture(Command::new(ptxas).arg("--version"))?;
    let word = text.split_whitespace().find(|word| {
        word.strip_prefix('V')
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    })?;
    Some(word.to_owned())
}

/// Fetches the folders that are not there. Fast when all are.
pub fn fetch() -> Result<()> {
    for toolkit in &TOOLKITS {
        if !toolkit.is_complete(&toolkit.dir()) {
            fetch_toolkit(toolkit)?;
        }
    }
    Ok(())
}

fn fetch_toolkit(toolkit: &Toolkit) -> Result<()> {
    let dir = toolkit.dir();
    let temporary = Temporary::new(toolkit.folder)?;
    let staged = temporary.0.join(toolkit.folder);
    let bin = staged.join("bin");
    let io = |what: &str, e: std::io::Error| Error::Environment(format!("cannot {what}: {e}"));

    fs::create_dir_all(&bin).map_err(|e| io("write to .tools", e))?;
    let wheels = temporary.download(&toolkit.pins()).map_err(|e| {
        Error::Environment(format!(
            "{e}. Fetching ptxas needs python3 with pip and PyPI, whose files must have the \
             pinned hashes.\n\
             Another way: install a CUDA toolkit, or set MCC_PTXAS to a ptxas of 12.9 or newer"
        ))
    })?;

    for (wheel, member, name) in toolkit.programs() {
        let file = bin.join(name);
        wheel.unpack(&wheels, member, &file)?;
        make_executable(&file).map_err(|e| io("mark a tool as executable", e))?;
    }
    let ptxas = bin.join("ptxas");
    let version = version(&ptxas).ok_or_else(|| {
        Error::Environment(format!(
            "the downloaded {} does not run on this machine (glibc of Debian 12 or newer?)",
            ptxas.display()
        ))
    })?;
    fs::write(staged.join("PINS"), toolkit.pins()).map_err(|e| io("write to .tools", e))?;

    // Not complete, so a leftover of older pins, or one that was tampered with.
    if dir.exists() && !toolkit.is_complete(&dir) {
        fs::remove_dir_all(&dir).map_err(|e| io("replace an older tool folder", e))?;
    }
    match fs::rename(&staged, &dir) {
        Ok(()) => {}
        // Another set-up, run at the same time, was faster.
        Err(_) if toolkit.is_complete(&dir) => {}
        Err(e) => return Err(io("move the tools into place", e)),
    }
    eprintln!(
        "ptxas {version} is in {}",
        workspace::from_root(&dir.join("bin")).display()
    );
    Ok(())
}

fn python() -> Command {
    Command::new("python3")
}

impl Wheel {
    /// Takes a file out of the wheel, which lies in a folder.
    pub fn unpack(&self, folder: &Path, member: &str, file: &Path) -> Result<()> {
        let mut unpack = python();
        unpack
            .arg("-c")
            .arg(UNPACK)
            .arg(self.find(folder)?)
            .arg(member)
            .arg(file);
        if shell::capture(&mut unpack).is_none() {
            return Err(Error::Environment(format!(
                "{} holds no readable {member}",
                self.requirement()
            )));
        }
        Ok(())
    }

    fn find(&self, folder: &Path) -> Result<PathBuf> {
        let prefix = self.file_prefix();
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.path())
            .find(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with(&prefix) && name.ends_with(".whl")
            })
            .ok_or_else(|| Error::Environment(format!("pip brought no {}", self.requirement())))
    }
}

fn make_executable(file: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(file, fs::Permissions::from_mode(0o755))?;
    }
    let _ = file;
    Ok(())
}

/// A folder in `.tools`, removed when the fetch ends, well or badly.
pub(super) struct Temporary(pub PathBuf);

impl Temporary {
    /// Fetches the wheels of these pins; the folder that they are in then.
    pub fn download(&self, pins: &str) -> Result<PathBuf> {
        let requirements = self.0.join("requirements.txt");
        fs::write(&requirements, pins)
            .map_err(|e| Error::Environment(format!("cannot write to .tools: {e}")))?;
        let wheels = self.0.join("wheels");
        shell::run(
            python()
                .args(["-m", "pip", "download", "--quiet"])
                .args(["--disable-pip-version-check", "--no-deps"])
                .args(["--only-binary=:all:", "--require-hashes", "--dest"])
                .arg(&wheels)
                .arg("--requirement")
                .arg(&requirements),
        )?;
        Ok(wheels)
    }

    pub fn new(folder: &str) -> Result<Self> {
        let name = format!(".fetch-{folder}-{}", std::process::id());
        let dir = workspace::tools_dir().join(name);
        fs::create_dir_all(&dir)
            .map_err(|e| Error::Environment(format!("cannot create {}: {e}", dir.display())))?;
        Ok(Self(dir))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_complete_only_with_its_pins_and_every_program() {
        let toolkit = &TOOLKITS[1];
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("bin")).unwrap();
        fs::write(dir.path().join("PINS"), toolkit.pins()).unwrap();
        assert!(!toolkit.is_complete(dir.path()));
        for (_, _, name) in toolkit.programs() {
            let file = dir.path().join("bin").join(name);
            fs::write(&file, "").unwrap();
            make_executable(&file).unwrap();
        }
        assert!(toolkit.is_complete(dir.path()));

        fs::write(dir.path().join("PINS"), "nvidia-cuda-nvcc==13.0.0\n").unwrap();
        assert!(!toolkit.is_complete(dir.path()), "an older pin is replaced");
    }

    #[test]
    fn every_toolkit_has_ptxas_and_hashes_of_full_length() {
        for toolkit in &TOOLKITS {
            assert!(toolkit.programs().any(|(_, _, name)| name == "ptxas"));
            for wheel in toolkit.wheels {
                assert_eq!(wheel.sha256.len(), 64, "{}", wheel.project);
            }
        }
    }
}
