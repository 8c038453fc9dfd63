//! NVIDIA's assembler and disassembler, when they are there.
//!
//! In: PTX. Out: cubins and what ptxas says of each kernel. A kernel that spills, whose wgmma is serialised or
//! whose register hints are ignored is a failed build, not a slower one; only kernels with NVSHMEM's code in them may
//! spill, and say how much.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use mcc_bundle::Resources;
use mcc_codegen::KernelCode;
use mcc_codegen::nvshmem::Nvshmem;

use crate::error::Error;

/// Where `cargo xtask setup` puts the pinned tools, oldest first: their cubins load on the most drivers.
const TOOL_DIRS: [&str; 2] = [".tools/cuda-12.9/bin", ".tools/cuda-13/bin"];

/// Where it puts NVSHMEM's device library, cut down to what kernels call.
const NVSHMEM: &str = ".tools/nvshmem-3.8/libnvshmem_device_sm_90.bc";

/// An assembler.
#[derive(Clone, Debug)]
pub struct Ptxas {
    path: PathBuf,
}

/// A kernel's machine code.
#[derive(Clone, Debug)]
pub struct Assembled {
    /// ELF image.
    pub cubin: Vec<u8>,
    /// Registers, spills, static shared memory.
    pub resources: Resources,
}

/// What became of a kernel; none where it lacks functions that it calls.
type Outcome = Result<Option<Assembled>, Error>;

impl Ptxas {
    /// `$MCC_PTXAS`, then `$PATH`, `$CUDA_HOME`, `/usr/local/cuda`, then the pinned ones of this checkout.
    #[must_use]
    pub fn find() -> Option<Self> {
        if let Some(path) = std::env::var_os("MCC_PTXAS") {
            return Some(Self { path: path.into() });
        }
        find_tool("ptxas").map(|path| Self { path })
    }

    /// At a known place.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Words for an error.
    #[must_use]
    pub fn how_to_get() -> String {
        "not in $MCC_PTXAS, $PATH, $CUDA_HOME/bin, /usr/local/cuda/bin or .tools; `cargo xtask setup` installs a pinned one"
            .to_owned()
    }

    /// Assembles kernels on all cores; none of those that call NVSHMEM's functions and do not have them.
    ///
    /// # Errors
    /// [`Error::Ptxas`] for the first kernel that fails or that ptxas warns about.
    pub fn assemble(
        &self,
        kernels: &[KernelCode],
        arch: &str,
    ) -> Result<Vec<Option<Assembled>>, Error> {
        let dir = tempfile::tempdir().map_err(Error::io("create", std::env::temp_dir()))?;
        let workers = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(kernels.len().max(1));
        let next = std::sync::atomic::AtomicUsize::new(0);
        let slots: Vec<Mutex<Option<Outcome>>> = kernels.iter().map(|_| Mutex::default()).collect();
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    loop {
                        let i = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        let (Some(kernel), Some(slot)) = (kernels.get(i), slots.get(i)) else {
                            break;
                        };
                        let whole = !kernel.calls_nvshmem || kernel.linked.is_some();
                        let result = whole
                            .then(|| self.assemble_one(kernel, arch, dir.path()))
                            .transpose();
                        if let Ok(mut slot) = slot.lock() {
                            *slot = Some(result);
                        }
                    }
                });
            }
        });
        slots
            .into_iter()
            .zip(kernels)
            .map(|(slot, kernel)| {
                slot.into_inner()
                    .ok()
                    .flatten()
                    .unwrap_or_else(|| Err(self.failed(kernel, "a worker ended early")))
            })
            .collect()
    }

    fn failed(&self, kernel: &KernelCode, why: impl Into<String>) -> Error {
        Error::Ptxas {
            kernel: kernel.name.clone(),
            ptxas: self.path.clone(),
            why: why.into(),
        }
    }

    fn assemble_one(
        &self,
        kernel: &KernelCode,
        arch: &str,
        dir: &Path,
    ) -> Result<Assembled, Error> {
        let (cubin, report) = self.report_in(kernel, arch, dir)?;
        // The library saves registers where it is called, beside transfers that take a thousand times as long.
        let complaint = match kernel.linked {
            Some(_) => report.warnings.first().cloned(),
            None => report.complaint(),
        };
        if let Some(complaint) = complaint {
            return Err(self.failed(kernel, complaint));
        }
        Ok(Assembled {
            cubin,
            resources: report.resources,
        })
    }

    /// Assembles one kernel, whatever ptxas warns about.
    ///
    /// # Errors
    /// [`Error::Ptxas`] when there is no cubin.
    pub fn report(&self, kernel: &KernelCode, arch: &str) -> Result<(Vec<u8>, Report), Error> {
        let dir = tempfile::tempdir().map_err(Error::io("create", std::env::temp_dir()))?;
        self.report_in(kernel, arch, dir.path())
    }

    fn report_in(
        &self,
        kernel: &KernelCode,
        arch: &str,
        dir: &Path,
    ) -> Result<(Vec<u8>, Report), Error> {
        let ptx = dir.join(format!("{}.ptx", kernel.name));
        let cubin = dir.join(format!("{}.cubin", kernel.name));
        let text = kernel.linked.as_ref().unwrap_or(&kernel.ptx);
        std::fs::write(&ptx, text).map_err(Error::io("write", &ptx))?;
        let output = Command::new(&self.path)
            .arg(format!("-arch={arch}"))
            .arg("-v")
            .arg(&ptx)
            .arg("-o")
            .arg(&cubin)
            .output()
            .map_err(|e| self.failed(kernel, format!("it did not start: {e}")))?;
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        if !output.status.success() {
            return Err(self.failed(kernel, text));
        }
        let cubin = std::fs::read(&cubin).map_err(Error::io("read", &cubin))?;
        Ok((cubin, Report::parse(&text)))
    }
}

/// What ptxas said with `-v`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Numbers.
    pub resources: Resources,
    /// Lines that are neither numbers nor progress.
    pub warnings: Vec<String>,
}

impl Report {
    /// Reads ptxas's output.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let number = |line: &str, after: &str, before: &str| -> u32 {
            let from = if after.is_empty() {
                0
            } else {
                line.find(after).map_or(line.len(), |i| i + after.len())
            };
            let rest = &line[from..];
            let end = rest.find(before).unwrap_or(0);
            rest[..end]
                .trim()
                .rsplit(' ')
                .next()
                .and_then(|n| n.parse().ok())
                .unwrap_or(0)
        };
        let mut resources = Resources {
            registers: 0,
            spill_bytes: 0,
            static_smem_bytes: 0,
        };
        let mut warnings = Vec::new();
        for line in text.lines() {
            if line.contains("bytes stack frame") {
                // One line for the kernel, and one for each function that it calls.
                resources.spill_bytes += number(line, "", " bytes spill stores")
                    + number(line, "", " bytes spill loads");
            } else if line.contains("Used ") && line.contains(" registers") {
                resources.registers = number(line, "Used ", " registers");
                resources.static_smem_bytes = number(line, "", " bytes smem");
            } else if line.contains("warning")
                || line.contains("serializ")
                || line.contains("setmaxnreg")
                || line.contains("(C7")
            {
                warnings.push(line.to_owned());
            }
        }
        Self {
            resources,
            warnings,
        }
    }

    /// Why a build with this report fails.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        if self.resources.spill_bytes > 0 {
            return Some(format!(
                "registers spill: {} bytes",
                self.resources.spill_bytes
            ));
        }
        (!self.warnings.is_empty()).then(|| self.warnings.join("\n"))
    }
}

/// Disassembles a cubin.
///
/// # Errors
/// [`Error::MissingTool`] without nvdisasm, [`Error::Ptxas`] when it refuses.
pub fn disassemble(kernel: &str, cubin: &[u8]) -> Result<String, Error> {
    let tool = find_tool("nvdisasm").ok_or_else(|| Error::MissingTool {
        tool: "nvdisasm",
        how: Ptxas::how_to_get(),
    })?;
    let file = tempfile::NamedTempFile::new().map_err(Error::io("create", std::env::temp_dir()))?;
    std::fs::write(file.path(), cubin).map_err(Error::io("write", file.path()))?;
    let fail = |why: String| Error::Ptxas {
        kernel: kernel.to_owned(),
        ptxas: tool.clone(),
        why,
    };
    let output = Command::new(&tool)
        .args(["-hex", "-c"])
        .arg(file.path())
        .output()
        .map_err(|e| fail(format!("it did not start: {e}")))?;
    if !output.status.success() {
        return Err(fail(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Folders that a checkout may be, seen from where the user stands or from where the binary lies.
fn checkouts() -> impl Iterator<Item = PathBuf> {
    let anchors = [std::env::current_dir().ok(), std::env::current_exe().ok()];
    let above = |a: PathBuf| a.ancestors().map(PathBuf::from).collect::<Vec<_>>();
    anchors.into_iter().flatten().flat_map(above)
}

/// NVSHMEM's device library: `$MCC_NVSHMEM`, or the one that `cargo xtask setup --nvshmem` has put into this checkout.
///
/// # Errors
/// When there is one that cannot be read.
pub fn nvshmem() -> Result<Option<Nvshmem>, Error> {
    let path = match std::env::var_os("MCC_NVSHMEM") {
        Some(path) => Some(PathBuf::from(path)),
        None => checkouts()
            .map(|dir| dir.join(NVSHMEM))
            .find(|path| path.is_file()),
    };
    path.map(|path| Nvshmem::read(&path).map_err(Error::io("read", &path)))
        .transpose()
}

/// A tool in `$PATH`, a CUDA toolkit, or this checkout.
pub(crate) fn find_tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let toolkit = std::env::var_os("CUDA_HOME").map(|d| PathBuf::from(d).join("bin"));
    let pinned = checkouts().flat_map(|a| TOOL_DIRS.map(|d| a.join(d)));
    std::env::split_paths(&path)
        .chain(toolkit)
        .chain([PathBuf::from("/usr/local/cuda/bin")])
        .chain(pinned)
        .map(|dir| dir.join(name))
        .find(|p| p.is_file())
}
