//! Target descriptions: the hardware as data.
//!
//! In goes a target's name (`h800`, `h100`, `h200`) or the text of a target file; out comes a [`Target`].
//! Cost models and kernel selection read their figures here and nowhere else, so that a new card is a new
//! file in `passes/targets/`. The files are embedded: a build needs nothing beside the binary.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// One GPU model. All figures are integers, so that costs derived from them are equal on every host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// The name on the command line.
    pub name: String,
    /// The architecture given to the code generator.
    pub arch: String,
    /// Streaming multiprocessors.
    pub sms: u32,
    /// Shared memory that one block may ask for.
    pub smem_bytes: u32,
    /// 32-bit registers of an SM.
    pub registers: u32,
    /// The clock at which the peak rates below hold.
    pub clock_hz: u64,
    /// The clock that long matrix work settles at under the power limit.
    pub sustained_clock_hz: u64,
    /// Dense FP8 tensor-core peak.
    pub fp8_flops: u64,
    /// Elements of K between promotions of an imported checkpoint's FP8 products, where its user says nothing else:
    /// what this architecture's accumulators need.
    pub promote: u32,
    /// Dense BF16 tensor-core peak.
    pub bf16_flops: u64,
    /// FP32 peak of the CUDA cores.
    pub f32_flops: u64,
    /// Exponentials, reciprocals and roots: 16 an SM and clock (CUDA programming guide, "Arithmetic Instructions").
    pub special_per_s: u64,
    /// Capacity of the second-level cache.
    pub l2_bytes: u64,
    /// Bandwidth between the second-level cache and the SMs, for plain loads and stores: the lower end of what others
    /// measured on an H100, 5.5 to 6 TB/s. No data sheet has it.
    pub l2_bytes_per_s: u64,
    /// Capacity of device memory.
    pub hbm_bytes: u64,
    /// Bandwidth of device memory.
    pub hbm_bytes_per_s: u64,
    /// NVLink bandwidth of one GPU, both directions together.
    pub nvlink_bytes_per_s: u64,
    /// InfiniBand bandwidth of one GPU in one direction: an adapter of 400 Gbit/s each.
    pub ib_bytes_per_s: u64,
    /// Time from the end of one kernel to useful work of the next in the same stream: launch, ramp-up, drain.
    /// An order of magnitude that makes fewer kernels win a tie in traffic, not a measurement.
    pub launch_ns: u64,
}

/// The embedded target files, by name.
const FILES: &[(&str, &str)] = &[
    ("h800", include_str!("../targets/h800.json")),
    ("h100", include_str!("../targets/h100.json")),
    ("h200", include_str!("../targets/h200.json")),
];

/// Why a target could not be loaded.
#[derive(Debug, Error)]
pub enum TargetError {
    /// The name is none of the embedded files'.
    #[error("unknown target `{name}`; supported targets are {}", Target::names().collect::<Vec<_>>().join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// The file's text is not a target description.
    #[error("target file of `{name}` is not valid: {source}")]
    Invalid {
        /// Which file.
        name: String,
        /// What the JSON parser says.
        source: serde_json::Error,
    },
}

impl Target {
    /// The embedded target of this name.
    pub fn load(name: &str) -> Result<Target, TargetError> {
        let (_, text) = FILES
            .iter()
            .find(|(known, _)| *known == name)
            .ok_or_else(|| TargetError::Unknown {
                name: name.to_owned(),
            })?;
        Target::parse(name, text)
    }

    /// Reads a target description; `name` is for the error only.
    pub fn parse(name: &str, json: &str) -> Result<Target, TargetError> {
        serde_json::from_str(json).map_err(|source| TargetError::Invalid {
            name: name.to_owned(),
            source,
        })
    }

    /// Names that [`Target::load`] knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        FILES.iter().map(|(name, _)| *name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_embedded_file_describes_the_target_it_is_named_after() {
        for name in Target::names() {
            let target = Target::load(name).unwrap();
            assert_eq!(target.name, name);
            assert_eq!(target.arch, "sm_90a");
            // 4096 FP8 multiply-adds an SM and clock; the data sheet rounds to a teraflop.
            let fp8 = u64::from(target.sms) * 4096 * 2 * target.clock_hz;
            assert!(
                fp8.abs_diff(target.fp8_flops) < target.fp8_flops / 1000,
                "{fp8}"
            );
        }
    }

    #[test]
    fn an_unknown_name_lists_the_supported_ones() {
        let error = Target::load("a100").unwrap_err().to_string();
        assert_eq!(
            error,
            "unknown target `a100`; supported targets are h800, h100, h200"
        );
    }

    #[test]
    fn an_unknown_field_is_an_error() {
        let text = include_str!("../targets/h100.json").replace("\"sms\"", "\"smss\"");
        assert!(matches!(
            Target::parse("h100", &text),
            Err(TargetError::Invalid { .. })
        ));
    }
}
