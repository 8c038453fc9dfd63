//! Which GPUs this machine has, asked without making anything on them.
//!
//! In: the driver. Out: the driver's version and a description of each GPU.
//! Holds: no context is made, so asking costs no device memory and disturbs nobody.

use core::ffi::{CStr, c_int};

use cudarc::driver::sys::{CUdevice, CUdevice_attribute as Attribute};

use super::failure::{Failure, NO_DEVICE, call};
use super::symbols::{Api, NEEDED_VERSION, too_old, version_text};
use crate::error::DeviceError;

/// What the driver says about one GPU.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct GpuInfo {
    /// Its number, as in `cuda:N`.
    pub ordinal: u32,
    /// For people.
    pub name: String,
    /// Major and minor compute capability.
    pub compute_capability: (u32, u32),
    /// Architecture whose code it runs, e.g. `sm_90a`.
    pub arch: String,
    /// Streaming multiprocessors.
    pub sms: u32,
    /// Device memory, bytes.
    pub memory_bytes: u64,
    /// Second-level cache, bytes.
    pub l2_bytes: u64,
    /// Shared memory that a block may ask for, bytes.
    pub shared_bytes: u32,
    /// Highest clock of the SMs, kHz.
    pub clock_khz: u32,
    /// Highest clock of the memory, kHz.
    pub memory_clock_khz: u32,
    /// Width of the memory's bus, bits.
    pub memory_bus_bits: u32,
    /// Where it is plugged in, as `nvidia-smi` writes it: domain, bus, device.
    pub pci: String,
}

/// What the driver says about this machine.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct CudaProbe {
    /// CUDA version of the driver, e.g. `13.0`.
    pub driver: String,
    /// By ordinal.
    pub gpus: Vec<GpuInfo>,
}

/// Asks the driver of this machine for its version and GPUs.
///
/// # Errors
/// When there is no driver, it is too old, or it finds no GPU.
pub fn probe_cuda() -> Result<CudaProbe, DeviceError> {
    let (api, driver) = start()?;
    let count = count(api)?;
    let gpu = |ordinal| GpuInfo::of(api, ordinal).map_err(|failure| failure.error(api));
    Ok(CudaProbe {
        driver,
        gpus: (0..count).map(gpu).collect::<Result<_, _>>()?,
    })
}

/// The initialised driver and its version.
pub(super) fn start() -> Result<(&'static Api, String), DeviceError> {
    let api = Api::get()?;
    let version = api.version().map_err(|failure| failure.error(api))?;
    if version < NEEDED_VERSION {
        let why = "kernels' parameters are asked for with `cuFuncGetParamInfo`";
        return Err(too_old(Some(version), why.to_owned()));
    }
    // SAFETY: the only flag is 0.
    let initialised = unsafe { call!(api, cuInit(0)) };
    initialised.map_err(|failure| match failure.code {
        NO_DEVICE => DeviceError::NoGpu,
        _ => failure.error(api),
    })?;
    Ok((api, version_text(version)))
}

/// How many GPUs there are, at least one.
pub(super) fn count(api: &Api) -> Result<u32, DeviceError> {
    let mut count: c_int = 0;
    // SAFETY: writes one int.
    let asked = unsafe { call!(api, cuDeviceGetCount(&raw mut count)) };
    asked.map_err(|failure| match failure.code {
        NO_DEVICE => DeviceError::NoGpu,
        _ => failure.error(api),
    })?;
    match u32::try_from(count) {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(DeviceError::NoGpu),
    }
}

/// The driver's handle of a GPU.
pub(super) fn device(api: &Api, ordinal: u32) -> Result<CUdevice, Failure> {
    let mut device = 0;
    // SAFETY: writes one handle; ordinals that are not there are refused.
    unsafe { call!(api, cuDeviceGet(&raw mut device, ordinal.cast_signed())) }?;
    Ok(device)
}

impl GpuInfo {
    /// Describes a GPU.
    pub(super) fn of(api: &Api, ordinal: u32) -> Result<Self, Failure> {
        let device = device(api, ordinal)?;
        let number = |attribute| attribute_of(api, device, attribute);
        let mut name = [0; 256];
        // SAFETY: writes at most as many bytes as the length says, a zero among them.
        unsafe {
            call!(
                api,
                cuDeviceGetName(name.as_mut_ptr(), name.len() as c_int, device)
            )
        }?;
        // A name that fills the buffer is cut, so that there is a zero.
        name[name.len() - 1] = 0;
        // SAFETY: there is a zero inside the array.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) };
        let mut memory = 0;
        // SAFETY: writes one size.
        unsafe { call!(api, cuDeviceTotalMem_v2(&raw mut memory, device)) }?;
        let major = number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        Ok(Self {
            ordinal,
            name: name.to_string_lossy().into_owned(),
            compute_capability: (major, minor),
            arch: arch(major, minor),
            sms: number(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            memory_bytes: memory as u64,
            l2_bytes: number(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?.into(),
            shared_bytes: number(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            clock_khz: number(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?,
            memory_clock_khz: number(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?,
            memory_bus_bits: number(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?,
            pci: format!(
                "{:08X}:{:02X}:{:02X}.0",
                number(Attribute::CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID)?,
                number(Attribute::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID)?,
                number(Attribute::CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID)?,
            ),
        })
    }
}

fn attribute_of(api: &Api, device: CUdevice, attribute: Attribute) -> Result<u32, Failure> {
    let mut value: c_int = 0;
    // SAFETY: writes one int; the device was got from the driver.
    unsafe { call!(api, cuDeviceGetAttribute(&raw mut value, attribute, device)) }?;
    Ok(value.max(0).cast_unsigned())
}

/// From 9.0 on code may use what only its own architecture has, which the suffix says (PTX ISA, `.target`).
fn arch(major: u32, minor: u32) -> String {
    let suffix = if major >= 9 { "a" } else { "" };
    format!("sm_{major}{minor}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures() {
        assert_eq!(arch(9, 0), "sm_90a");
        assert_eq!(arch(8, 6), "sm_86");
        assert_eq!(arch(10, 0), "sm_100a");
    }
}
