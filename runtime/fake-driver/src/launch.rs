//! Launches (CUDA driver API, Execution Control: `cuLaunchKernelEx`).
//!
//! In: a function, dimensions, attributes, and pointers to its parameters. Out: work that has copies of them.
//! Holds: what the driver documents as an error of a launch is refused here, so the simulator runs every launch.

use std::ffi::{c_uint, c_void};
use std::sync::Arc;

use mcc_sim::LaunchConfig as Config;

use crate::abi::{CUresult, Handle, LaunchAttribute, LaunchConfig};
use crate::codes::{self, Answer};
use crate::state::{CONTEXT, Driver, call, given};
use crate::stream::Work;

/// A launch with its own copy of the parameters.
pub struct Launch {
    /// The module of its kernel.
    pub module: Handle,
    pub code: mcc_sim::Module,
    pub kernel: String,
    pub config: Config,
    pub params: Vec<u8>,
}

/// What a launch is made of.
pub struct Request {
    pub function: Handle,
    pub grid: [c_uint; 3],
    pub block: [c_uint; 3],
    /// Of the attribute.
    pub cluster: Option<[c_uint; 3]>,
    /// Of the attribute: it may begin before its predecessor has ended.
    pub programmatic: bool,
    pub shared_bytes: c_uint,
    pub params: *const *const c_void,
    pub extra: *const *const c_void,
}

/// Shared memory that a block has without asking (CUDA programming guide, compute capability 9.0).
pub const SHARED_BYTES: u32 = 48 << 10;
/// And with asking.
pub const SHARED_BYTES_OPTIN: u32 = 227 << 10;
/// Blocks of a cluster that every device of the generation takes, and those that this one takes.
const CLUSTER: (u32, u32) = (8, 16);
/// Bytes of parameters that a kernel takes from PTX ISA 8.1 on.
const MOST_PARAMS: usize = 32764;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernelEx(
    config: *const LaunchConfig,
    function: Handle,
    params: *const *const c_void,
    extra: *const *const c_void,
) -> CUresult {
    call(c"cuLaunchKernelEx", CONTEXT, |d| {
        given(config)?;
        // SAFETY: the caller's configuration.
        let config = unsafe { config.read() };
        d.stream(config.stream)?;
        let attributes: &[LaunchAttribute] = match config.num_attrs {
            0 => &[],
            n => {
                given(config.attrs)?;
                // SAFETY: the caller passes as many.
                unsafe { std::slice::from_raw_parts(config.attrs, n as usize) }
            }
        };
        let (cluster, programmatic) = read_attributes(attributes)?;
        let request = Request {
            function,
            grid: config.grid,
            block: config.block,
            cluster,
            programmatic,
            shared_bytes: config.shared_bytes,
            params,
            extra,
        };
        // SAFETY: the caller's parameters.
        let launch = unsafe { d.prepare(&request) }?;
        d.submit(config.stream, Work::Kernel(launch))
    })
}

/// The cluster of an attribute list, and whether the launch is programmatic. An attribute that is not known here
/// is refused.
fn read_attributes(attributes: &[LaunchAttribute]) -> Answer<(Option<[u32; 3]>, bool)> {
    let (mut cluster, mut programmatic) = (None, false);
    for attribute in attributes {
        let words = attribute.words();
        match attribute.id {
            // IGNORE, PRIORITY.
            0 | 8 => {}
            // COOPERATIVE: a flag.
            2 if words[0] < 2 => {}
            // PROGRAMMATIC_STREAM_SERIALIZATION: a flag. The simulator runs one kernel after the other, which is one
            // of the orders that it allows, and checks that the kernel waits.
            6 if words[0] < 2 => programmatic = words[0] == 1,
            // CLUSTER_DIMENSION.
            4 => cluster = Some([words[0], words[1], words[2]]),
            // CLUSTER_SCHEDULING_POLICY_PREFERENCE: default, spread, load balancing.
            5 if words[0] < 3 => {}
            _ => return Err(codes::INVALID_VALUE),
        }
    }
    Ok((cluster, programmatic))
}

impl Driver {
    /// Checks a launch and copies its parameters.
    ///
    /// # Safety
    /// `params` is null or points to as many pointers as the kernel has parameters, each of them null or to as many
    /// bytes as the parameter has.
    pub unsafe fn prepare(&mut self, request: &Request) -> Answer<Arc<Launch>> {
        let function = self.functions.get(&request.function);
        let function = function.ok_or(codes::INVALID_HANDLE)?;
        let Request { grid, block, .. } = *request;
        let invalid = Err(codes::INVALID_VALUE);

        // Dimensions (CUDA programming guide, technical specifications per compute capability).
        let threads: u64 = block.iter().map(|&b| u64::from(b)).product();
        if grid.contains(&0) || block.contains(&0) || threads > 1024 || block[2] > 64 {
            return invalid;
        }
        if grid[0] > i32::MAX as u32 || grid[1] > 65535 || grid[2] > 65535 {
            return invalid;
        }
        let demands = function.demands;
        if demands.block.is_some_and(|b| b != block) {
            return invalid;
        }
        if demands.max_threads.is_some_and(|most| threads > most) {
            return invalid;
        }

        // Clusters: the attribute and the kernel's directive agree.
        let cluster = match (request.cluster, demands.cluster) {
            (None, None) => [1; 3],
            (Some(c), None) | (None, Some(c)) => c,
            (Some(a), Some(b)) if a == b => a,
            _ => return invalid,
        };
        let ranks: u64 = cluster.iter().map(|&c| u64::from(c)).product();
        let most = if function.non_portable {
            CLUSTER.1
        } else {
            CLUSTER.0
        };
        if ranks == 0 || ranks > u64::from(most) {
            return Err(codes::INVALID_CLUSTER_SIZE);
        }
        if (0..3).any(|axis| !grid[axis].is_multiple_of(cluster[axis])) {
            return invalid;
        }

        // Shared memory: what goes beyond 48 KiB was asked for by cuFuncSetAttribute.
        if request.shared_bytes > function.max_dynamic {
            return invalid;
        }
        let shared = u64::from(function.static_shared) + u64::from(request.shared_bytes);
        if shared > u64::from(SHARED_BYTES_OPTIN) {
            return invalid;
        }

        // Parameters: one pointer each; the other way (`extra`) is not for kernels whose layout is asked for.
        if !request.extra.is_null() {
            return invalid;
        }
        let bytes = function.layout.last().map_or(0, |(at, size)| at + size);
        if bytes > MOST_PARAMS || (request.params.is_null() && !function.layout.is_empty()) {
            return invalid;
        }
        let mut params = vec![0; bytes];
        for (i, &(at, size)) in function.layout.iter().enumerate() {
            // SAFETY: by the caller's promise.
            let from = unsafe { request.params.add(i).read() };
            if from.is_null() {
                return invalid;
            }
            // SAFETY: as above; `at + size` is at most `bytes`.
            unsafe {
                std::ptr::copy_nonoverlapping(from.cast(), params.as_mut_ptr().add(at), size);
            }
        }
        Ok(Arc::new(Launch {
            module: function.module,
            code: function.code.clone(),
            kernel: function.name.clone(),
            config: Config {
                grid,
                block,
                cluster,
                dynamic_smem: request.shared_bytes,
                programmatic: request.programmatic,
            },
            params,
        }))
    }
}
