//! What machine this is: everything that a reader of the figures has to know about it.
//!
//! In: `/proc`, `nvidia-smi`, `python3`, all optional. Out: [`Facts`]. Holds: nothing here opens a GPU; a program
//! that hangs is given up after some seconds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Serialize;

use crate::child::{self, End};

/// A helper program may take this long.
const LIMIT: Duration = Duration::from_secs(12);

/// Columns that are asked of `nvidia-smi --query-gpu`; see `nvidia-smi --help-query-gpu`.
const GPU_COLUMNS: [&str; 20] = [
    "name",
    "driver_version",
    "compute_cap",
    "pci.bus_id",
    "memory.total",
    "memory.used",
    "clocks.sm",
    "clocks.mem",
    "clocks.max.sm",
    "clocks.max.memory",
    "clocks.applications.graphics",
    "power.limit",
    "power.max_limit",
    "power.draw",
    "temperature.gpu",
    "ecc.mode.current",
    "mig.mode.current",
    "persistence_mode",
    "utilization.gpu",
    "clocks_throttle_reasons.active",
];

/// Python packages that a peer may use.
const PACKAGES: [&str; 7] = [
    "torch",
    "triton",
    "deep_gemm",
    "flash_mla",
    "flash_attn_3",
    "flash_attn",
    "numpy",
];

/// A machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Facts {
    /// Of `/proc/version`.
    pub kernel: String,
    /// `getconf GNU_LIBC_VERSION`.
    pub libc: String,
    /// First model name of `/proc/cpuinfo`.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Main memory, bytes.
    pub memory_bytes: u64,
    /// One each, as `nvidia-smi` names its columns.
    pub gpus: Vec<BTreeMap<String, String>>,
    /// Environment that changes what a GPU program sees.
    pub environment: BTreeMap<String, String>,
    /// Versions; a package that is not there has none.
    pub python: BTreeMap<String, String>,
    /// Where helper programs are.
    pub tools: BTreeMap<String, String>,
    /// What could not be learnt, and why.
    pub missing: Vec<String>,
}

/// Looks around.
#[must_use]
pub fn gather() -> Facts {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut facts = Facts {
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        cpu: field(&read("/proc/cpuinfo"), "model name"),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: field(&read("/proc/meminfo"), "MemTotal")
            .split_whitespace()
            .next()
            .and_then(|kib| kib.parse::<u64>().ok())
            .unwrap_or(0)
            << 10,
        ..Facts::default()
    };
    match output("getconf", &["GNU_LIBC_VERSION"]) {
        Ok(libc) => facts.libc = libc.trim().to_owned(),
        Err(why) => facts.missing.push(why),
    }
    let columns = format!("--query-gpu={}", GPU_COLUMNS.join(","));
    match output("nvidia-smi", &[&columns, "--format=csv,noheader"]) {
        Ok(table) => facts.gpus = table.lines().map(gpu).collect(),
        Err(why) => facts.missing.push(why),
    }
    for name in [
        "CUDA_VISIBLE_DEVICES",
        "CUDA_MPS_PIPE_DIRECTORY",
        "LD_LIBRARY_PATH",
    ] {
        if let Ok(value) = std::env::var(name) {
            facts.environment.insert(name.to_owned(), value);
        }
    }
    match output("python3", &["-c", &versions_script()]) {
        Ok(lines) => {
            facts.python = lines
                .lines()
                .filter_map(|line| line.split_once('='))
                .map(|(name, version)| (name.to_owned(), version.to_owned()))
                .collect();
        }
        Err(why) => facts.missing.push(why),
    }
    for tool in ["compute-sanitizer", "nvidia-smi", "python3"] {
        match find_tool(tool) {
            Some(path) => {
                facts
                    .tools
                    .insert(tool.to_owned(), path.display().to_string());
            }
            None => facts.missing.push(format!("{tool} was not found")),
        }
    }
    facts.missing.sort();
    facts.missing.dedup();
    facts
}

/// A program on the PATH, or where CUDA's installers put it.
#[must_use]
pub fn find_tool(name: &str) -> Option<PathBuf> {
    let mut places: Vec<PathBuf> = std::env::var_os("PATH")
        .map(|path| std::env::split_paths(&path).collect())
        .unwrap_or_default();
    for variable in ["CUDA_HOME", "CUDA_PATH"] {
        places.extend(std::env::var_os(variable).map(|home| Path::new(&home).join("bin")));
    }
    let mut installed: Vec<PathBuf> = std::fs::read_dir("/usr/local")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("cuda"))
        })
        .collect();
    installed.sort();
    for cuda in installed.iter().rev() {
        places.push(cuda.join("bin"));
        places.push(cuda.join("compute-sanitizer"));
    }
    places
        .into_iter()
        .map(|place| place.join(name))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(file)
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Standard output of a helper, or a sentence on why there is none.
fn output(program: &str, args: &[&str]) -> Result<String, String> {
    let path = find_tool(program).ok_or_else(|| format!("{program} was not found"))?;
    let said = |err: std::io::Error| format!("{program}: {err}");
    // Files, not pipes: a helper that hangs inside of the driver may keep a pipe open for ever.
    let dir = std::env::temp_dir().join(format!("mcckit-{}-{program}", std::process::id()));
    std::fs::create_dir_all(&dir).map_err(said)?;
    let (out, err) = (dir.join("out"), dir.join("err"));
    let end = child::run(Command::new(path).args(args), &out, &err, LIMIT);
    let text = std::fs::read(&out).unwrap_or_default();
    let complaint = std::fs::read_to_string(&err).unwrap_or_default();
    // What stays behind is in the system's folder for temporary files.
    let _ = std::fs::remove_dir_all(&dir);
    match end.map_err(said)? {
        End::Code(0) => Ok(String::from_utf8_lossy(&text).into_owned()),
        End::TimedOut { .. } => Err(format!(
            "{program} did not answer within {} s",
            LIMIT.as_secs()
        )),
        End::NotStarted(why) => Err(format!("{program} cannot be started: {why}")),
        End::Code(_) | End::Signal(_) => {
            // nvidia-smi complains on its standard output.
            let text = String::from_utf8_lossy(&text);
            let all = format!("{complaint}\n{text}");
            let line = all.lines().map(str::trim).find(|line| !line.is_empty());
            Err(format!("{program}: {}", line.unwrap_or("failed")))
        }
    }
}

fn gpu(line: &str) -> BTreeMap<String, String> {
    GPU_COLUMNS
        .iter()
        .zip(line.split(", "))
        .map(|(name, value)| ((*name).to_owned(), value.trim().to_owned()))
        .collect()
}

/// Prints `name=version` lines without importing what may take seconds or fail.
fn versions_script() -> String {
    let names: Vec<String> = PACKAGES.iter().map(|name| format!("'{name}'")).collect();
    format!(
        "import platform, importlib.metadata as m, importlib.util as u\n\
         print('python=' + platform.python_version())\n\
         for n in [{}]:\n\
         \x20   if u.find_spec(n) is None: continue\n\
         \x20   try: v = m.version(n)\n\
         \x20   except m.PackageNotFoundError: v = 'unknown version'\n\
         \x20   print(n + '=' + v)\n",
        names.join(", ")
    )
}

fn field(text: &str, name: &str) -> String {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)
        .map_or_else(String::new, |(_, value)| value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_kernel_and_cores() {
        let facts = gather();
        assert!(facts.cores >= 1);
        assert!(!facts.kernel.is_empty());
        assert!(facts.memory_bytes > 0);
        // Every tool is either found or named as missing.
        for tool in ["nvidia-smi", "compute-sanitizer", "python3"] {
            let named = facts.missing.iter().any(|what| what.starts_with(tool));
            assert!(facts.tools.contains_key(tool) || named, "{tool}");
        }
    }

    #[test]
    fn a_line_of_nvidia_smi_becomes_a_table() {
        let gpu = gpu("NVIDIA H100 80GB HBM3, 550.54.15, 9.0, 00000000:18:00.0");
        assert_eq!(gpu["name"], "NVIDIA H100 80GB HBM3");
        assert_eq!(gpu["compute_cap"], "9.0");
        assert_eq!(gpu.get("power.limit"), None);
    }

    #[test]
    fn fields_of_proc_files() {
        assert_eq!(
            field(
                "processor\t: 0\nmodel name\t: Xeon\nmodel name\t: Other\n",
                "model name"
            ),
            "Xeon"
        );
    }
}
