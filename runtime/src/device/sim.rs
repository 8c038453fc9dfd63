//! The simulated Hopper device of `mcc-sim` behind [`Device`].
//!
//! In and out: as the trait says. Holds: a launch has run when it returns, so there is nothing to wait for.

use mcc_bundle::DType;
use mcc_sim::{Gpu, GpuConfig, LaunchConfig, Module, Swizzle, TensorElem, TensorMap};

use super::{
    Device, DeviceOptions, DeviceProps, FunctionId, LaunchDims, LaunchReport, ModuleImage,
    ParamSlot, TensorMapSpec,
};
use crate::error::DeviceError;

/// Alignment of allocations: suits every vector access and tensor map.
const ALIGN: u64 = 256;

/// A simulated GPU with the kernels that it has loaded.
pub struct SimDevice {
    gpu: Gpu,
    props: DeviceProps,
    functions: Vec<(Module, String)>,
}

impl SimDevice {
    /// Makes a device; asynchronous work takes effect at its issue, which is the fastest.
    #[must_use]
    pub fn new(options: &DeviceOptions) -> Self {
        Self::with_config(GpuConfig {
            sms: options.sms,
            global_bytes: options.global_bytes,
            threads: options.threads,
            ..GpuConfig::default()
        })
    }

    /// Makes a device of which tests choose every property.
    #[must_use]
    pub fn with_config(config: GpuConfig) -> Self {
        let props = DeviceProps {
            name: config.name.clone(),
            sms: config.sms,
            arch: "sm_90a".to_owned(),
        };
        Self {
            gpu: Gpu::new(config),
            props,
            functions: Vec::new(),
        }
    }

    fn function(&self, function: FunctionId) -> Result<&(Module, String), DeviceError> {
        self.functions
            .get(function.0)
            .ok_or_else(|| DeviceError::NoKernel {
                kernel: format!("number {}", function.0),
            })
    }
}

impl Device for SimDevice {
    fn props(&self) -> &DeviceProps {
        &self.props
    }

    fn alloc(&mut self, bytes: u64, what: &str) -> Result<u64, DeviceError> {
        self.gpu
            .alloc(bytes, ALIGN)
            .map_err(|err| DeviceError::OutOfMemory {
                bytes,
                what: format!("`{what}`"),
                message: err.to_string(),
            })
    }

    fn free(&mut self, address: u64) -> Result<(), DeviceError> {
        Ok(self.gpu.free(address)?)
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        Ok(self.gpu.write(address, bytes)?)
    }

    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        Ok(self.gpu.read(address, bytes)?)
    }

    fn fill(&mut self, address: u64, byte: u8, len: u64) -> Result<(), DeviceError> {
        Ok(self.gpu.fill(address, byte, len)?)
    }

    fn load_module(&mut self, image: &ModuleImage<'_>) -> Result<FunctionId, DeviceError> {
        let module = self.gpu.load_module(image.ptx)?;
        self.functions.push((module, image.kernel.to_owned()));
        Ok(FunctionId(self.functions.len() - 1))
    }

    fn param_layout(&self, function: FunctionId) -> Result<Vec<ParamSlot>, DeviceError> {
        let (module, kernel) = self.function(function)?;
        let layout = module.param_layout(kernel)?;
        Ok(layout
            .into_iter()
            .map(|(offset, size)| ParamSlot { offset, size })
            .collect())
    }

    fn encode_tensor_map(&self, spec: &TensorMapSpec) -> Result<[u8; 128], DeviceError> {
        let elem = match spec.dtype {
            DType::F32 => TensorElem::F32,
            DType::Bf16 => TensorElem::Bf16,
            // TMA moves FP8 as bytes.
            DType::E4m3 => TensorElem::U8,
            DType::I32 => TensorElem::S32,
        };
        let swizzle = match spec.swizzle {
            0 => Swizzle::None,
            32 => Swizzle::B32,
            64 => Swizzle::B64,
            128 => Swizzle::B128,
            other => {
                return Err(DeviceError::TensorMap(format!(
                    "there is no swizzle of {other} bytes"
                )));
            }
        };
        let map = TensorMap {
            elem,
            global_address: spec.address,
            dims: spec.dims.clone(),
            strides: spec.strides.clone(),
            box_dims: spec.box_dims.clone(),
            elem_strides: vec![1; spec.dims.len()],
            swizzle,
            oob_nan: false,
        };
        Ok(map.encode()?)
    }

    fn launch(
        &mut self,
        function: FunctionId,
        dims: &LaunchDims,
        params: &[u8],
    ) -> Result<LaunchReport, DeviceError> {
        let (module, kernel) = self.function(function)?;
        let config = LaunchConfig {
            grid: dims.grid,
            block: [dims.block, 1, 1],
            cluster: dims.cluster,
            dynamic_smem: dims.smem_bytes,
        };
        let stats = self.gpu.launch(module, kernel, &config, params)?;
        Ok(LaunchReport {
            time: None,
            instructions: Some(stats.warp_instructions),
        })
    }

    fn synchronize(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }
}
