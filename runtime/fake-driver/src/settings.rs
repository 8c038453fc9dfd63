//! What the driver and its device are, and which calls fail.
//!
//! Both come from the environment variable `MCC_FAKE_CUDA`, a list `key=value,key=value`, and from
//! `mcc_fake_set(key, value)`:
//!
//! | key | value | default |
//! |---|---|---|
//! | `version` | of the driver: 1000 x major + 10 x minor | 12040 |
//! | `devices` | number of devices; 0: `cuInit` says that there are none | 1 |
//! | `cc` | compute capability, `major.minor` | 9.0 |
//! | `sms` | multiprocessors | 132 |
//! | `memory` | bytes of device memory | 85899345920 |
//! | `name` | of the device | NVIDIA H100 80GB HBM3 |
//! | `order` | `late`, `eager`, or `random:SEED`: when streams run | late |
//! | `late` | 1 for `order=late`, 0 for `order=eager` | 1 |
//! | `poison` | the byte that fresh memory holds, or `off` for zeros | 255 |
//! | `cubin` | code that loading a cubin gives | 209 |
//! | `hang` | the n-th kernel to run never ends | none |
//! | `fault` | `n:code`: the n-th kernel to run ends with this code | none |
//! | `limit` | warp instructions of a cluster after which a kernel counts as one that never ends | none |
//! | `completion` | of copies and products inside of a kernel: `early`, `late` or `random:SEED` | early |
//! | `threads` | of the host that run kernels; 0 for all | 0 |
//! | `verbose` | 1: faults and complaints go to standard error | 0 |
//! | `fail` | `call:n:code`: the n-th call of this name fails; `#n:code`: the n-th call of all | none |
//!
//! Calls and kernels are counted from 1. `fail` and `fault` may be given several times; a failure happens once.

use mcc_sim::Completion;

use crate::abi::CUresult;
use crate::codes;

/// When the work of streams runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// When something waits for it.
    Late,
    /// At the call that submits it.
    Eager,
    /// Some of it at each call, of any stream, repeatably.
    Random(u64),
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Settings {
    pub version: i32,
    pub devices: i32,
    pub cc: (i32, i32),
    pub sms: u32,
    pub memory: u64,
    pub name: String,
    pub order: Order,
    pub poison: Option<u8>,
    pub cubin: CUresult,
    pub hang: Option<u64>,
    pub faults: Vec<(u64, CUresult)>,
    pub limit: Option<u64>,
    pub completion: Completion,
    pub threads: usize,
    pub verbose: bool,
    pub failures: Vec<Failure>,
}

/// A call that is to fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// `None`: the n-th call of all.
    pub call: Option<String>,
    pub nth: u64,
    pub code: CUresult,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            version: 12040,
            devices: 1,
            cc: (9, 0),
            sms: 132,
            memory: 80 << 30,
            name: "NVIDIA H100 80GB HBM3".to_owned(),
            order: Order::Late,
            poison: Some(0xff),
            cubin: codes::NO_BINARY_FOR_GPU,
            hang: None,
            faults: Vec::new(),
            limit: None,
            completion: Completion::Early,
            threads: 0,
            verbose: false,
            failures: Vec::new(),
        }
    }
}

impl Settings {
    /// The defaults with what the environment says.
    ///
    /// A mistake in it ends the process: a test would otherwise run with something else than it asked for.
    pub fn from_env() -> Self {
        let mut settings = Self::default();
        let Some(text) = std::env::var_os("MCC_FAKE_CUDA") else {
            return settings;
        };
        if let Err(what) = settings.read(&text.to_string_lossy()) {
            eprintln!("MCC_FAKE_CUDA: {what}");
            std::process::abort();
        }
        settings
    }

    /// Reads `key=value,key=value`.
    pub fn read(&mut self, text: &str) -> Result<(), String> {
        for pair in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| format!("`{pair}` is not key=value"))?;
            self.set(key, value)?;
        }
        Ok(())
    }

    /// Changes one of them.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "version" => self.version = number(value)?,
            "devices" => self.devices = number(value)?,
            "cc" => {
                let (major, minor) = value.split_once('.').ok_or("cc is major.minor")?;
                self.cc = (number(major)?, number(minor)?);
            }
            "sms" => self.sms = number(value)?,
            "memory" => self.memory = number(value)?,
            "name" => value.clone_into(&mut self.name),
            "order" => {
                self.order = match value {
                    "late" => Order::Late,
                    "eager" => Order::Eager,
                    other => Order::Random(seed(other)?),
                }
            }
            "late" => self.set("order", if value == "0" { "eager" } else { "late" })?,
            "poison" => self.poison = optional(value)?,
            "cubin" => self.cubin = number(value)?,
            "hang" => self.hang = optional(value)?,
            "fault" => {
                let (nth, code) = value.split_once(':').ok_or("fault is n:code")?;
                self.faults.push((number(nth)?, number(code)?));
            }
            "limit" => self.limit = optional(value)?,
            "completion" => {
                self.completion = match value {
                    "early" => Completion::Early,
                    "late" => Completion::Late,
                    other => Completion::Random(seed(other)?),
                }
            }
            "threads" => self.threads = number(value)?,
            "verbose" => self.verbose = value != "0",
            "fail" => self.failures.push(failure(value)?),
            other => return Err(format!("there is no setting `{other}`")),
        }
        Ok(())
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("`{text}` is not a number that fits"))
}

fn optional<T: std::str::FromStr>(text: &str) -> Result<Option<T>, String> {
    if text == "off" {
        return Ok(None);
    }
    number(text).map(Some)
}

fn seed(text: &str) -> Result<u64, String> {
    let seed = text.strip_prefix("random:");
    number(
        seed.ok_or_else(|| {
            format!("`{text}` is neither early or eager, nor late, nor random:SEED")
        })?,
    )
}

fn failure(text: &str) -> Result<Failure, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (call, nth, code) = match parts.as_slice() {
        [nth, code] if nth.starts_with('#') => (None, &nth[1..], *code),
        [call, nth, code] => (Some((*call).to_owned()), *nth, *code),
        _ => return Err(format!("`{text}` is neither call:n:code nor #n:code")),
    };
    Ok(Failure {
        call,
        nth: number(nth)?,
        code: number(code)?,
    })
}
