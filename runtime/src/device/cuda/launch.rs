//! Launching one kernel (CUDA driver API, `cuLaunchKernelEx`).
//!
//! In: a launch. Out: the kernel in its stream.
//! Holds: parameters are passed as an array of pointers into the caller's parameter space, which the driver copies
//! before it returns; a launch that is refused is described in full, and nothing is allocated for one that is not.

use core::ffi::c_void;
use core::fmt::Write as _;
use core::mem::MaybeUninit;

use cudarc::driver::sys::{
    CUlaunchAttribute, CUlaunchAttributeID as Id, CUlaunchAttributeValue,
    CUlaunchAttributeValue_union__bindgen_ty_1 as ClusterDim, CUlaunchConfig, CUstream,
};

use super::CudaDevice;
use super::failure::{Failure, call};
use super::module::Function;
use crate::device::{Launch, LaunchDims, ParamSlot, StreamId};
use crate::error::DeviceError;

/// A launch as it was given, for errors and to see what has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub function: usize,
    pub dims: LaunchDims,
    pub params: Vec<u8>,
    pub label: String,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            function: 0,
            dims: LaunchDims {
                grid: [0; 3],
                block: 0,
                cluster: [1; 3],
                smem_bytes: 0,
                programmatic: false,
            },
            params: Vec::new(),
            label: String::new(),
        }
    }
}

impl Record {
    pub fn of(launch: &Launch<'_>) -> Self {
        let mut record = Self::default();
        record.set(launch);
        record
    }

    /// Becomes another launch; strings and bytes keep their memory.
    pub fn set(&mut self, launch: &Launch<'_>) {
        self.function = launch.function.0;
        self.dims = launch.dims;
        self.params.clear();
        self.params.extend_from_slice(launch.params);
        self.label.clear();
        self.label.push_str(launch.label);
    }

    /// For people.
    pub fn text(&self, functions: &[Function]) -> String {
        let Some(function) = functions.get(self.function) else {
            return format!("step `{}`", self.label);
        };
        let LaunchDims {
            grid: [gx, gy, gz],
            block,
            cluster: [cx, cy, cz],
            smem_bytes,
            programmatic: _,
        } = self.dims;
        format!(
            "kernel `{}` of step `{}` (grid {gx} x {gy} x {gz}, {block} threads, cluster {cx} x {cy} x {cz}, \
             {smem_bytes} bytes of shared memory, parameters {})",
            function.name(),
            self.label,
            params_text(function.slots(), &self.params)
        )
    }
}

/// Numbers as such, addresses in hexadecimal, tensor maps by their size.
fn params_text(slots: &[ParamSlot], params: &[u8]) -> String {
    let mut text = String::from("[");
    for (i, slot) in slots.iter().enumerate() {
        if i > 0 {
            text.push_str(", ");
        }
        let bytes = params.get(slot.offset..slot.offset.saturating_add(slot.size));
        // Writing to a string cannot fail.
        let _ = match bytes {
            Some(&[a, b, c, d]) => write!(text, "{}", i32::from_le_bytes([a, b, c, d])),
            Some(&[a, b, c, d, e, f, g, h]) => {
                write!(text, "{:#x}", u64::from_le_bytes([a, b, c, d, e, f, g, h]))
            }
            Some(bytes) => write!(text, "{} bytes", bytes.len()),
            None => write!(text, "missing"),
        };
    }
    text.push(']');
    text
}

/// Pointers to the parameters.
fn point_at(arguments: &mut Vec<*mut c_void>, slots: &[ParamSlot], params: &[u8]) {
    arguments.clear();
    for slot in slots {
        // The driver reads through the pointer only. `params` reaches to the end of the last parameter.
        let at = params.as_ptr().wrapping_add(slot.offset);
        arguments.push(at.cast_mut().cast());
    }
}

/// Attributes of a launch, of which the first `count` are set.
struct Attributes {
    list: [MaybeUninit<CUlaunchAttribute>; 2],
    count: usize,
}

impl Attributes {
    fn of(dims: &LaunchDims, programmatic: bool) -> Self {
        let mut attributes = Self {
            list: [MaybeUninit::uninit(); 2],
            count: 0,
        };
        let [x, y, z] = dims.cluster;
        if dims.cluster != [1; 3] {
            attributes.push(Id::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, |value| {
                value.clusterDim = ClusterDim { x, y, z }
            });
        }
        // Lets the kernel begin while its predecessor ends; it waits by itself (PTX ISA, `griddepcontrol`).
        if programmatic {
            attributes.push(
                Id::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                |value| value.programmaticStreamSerializationAllowed = 1,
            );
        }
        attributes
    }

    fn push(&mut self, id: Id, set: impl FnOnce(&mut CUlaunchAttributeValue)) {
        let mut value = CUlaunchAttributeValue { pad: [0; 64] };
        set(&mut value);
        self.list[self.count].write(CUlaunchAttribute {
            id,
            pad: [0; 4],
            value,
        });
        self.count += 1;
    }
}

impl CudaDevice {
    /// Checks that a launch can be given to the driver, and allows the kernel what it needs.
    pub(super) fn prepare(&mut self, launch: &Launch<'_>) -> Result<(), DeviceError> {
        let function = self.function(launch.function)?;
        let needed = function.param_bytes();
        if launch.params.len() < needed {
            return Err(DeviceError::Launch {
                what: Record::of(launch).text(&self.functions),
                message: format!(
                    "{} bytes of parameters were given, the kernel takes {needed}",
                    launch.params.len()
                ),
            });
        }
        self.allow(launch)
    }

    /// Gives a prepared launch to a stream, or to the graph that the stream is captured into.
    pub(super) fn submit(
        &mut self,
        stream: CUstream,
        launch: &Launch<'_>,
        programmatic: bool,
    ) -> Result<(), DeviceError> {
        let function = &self.functions[launch.function.0];
        point_at(&mut self.arguments, function.slots(), launch.params);
        let mut attributes = Attributes::of(&launch.dims, programmatic);
        let [grid_x, grid_y, grid_z] = launch.dims.grid;
        let config = CUlaunchConfig {
            gridDimX: grid_x,
            gridDimY: grid_y,
            gridDimZ: grid_z,
            blockDimX: launch.dims.block,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: launch.dims.smem_bytes,
            hStream: stream,
            attrs: attributes.list.as_mut_ptr().cast(),
            numAttrs: attributes.count as u32,
        };
        // SAFETY: the function and the stream are live; there is a pointer for each parameter, to as many bytes as
        // the driver said it takes (`prepare` has compared); the attributes are set up to their count.
        let launched = unsafe {
            call!(
                self.context.api(),
                cuLaunchKernelEx(
                    &raw const config,
                    function.raw(),
                    self.arguments.as_mut_ptr(),
                    core::ptr::null_mut(),
                )
            )
        };
        launched.map_err(|failure| self.refused(failure, launch))
    }

    /// Pointers to a prepared launch's parameters.
    pub(super) fn arguments(&mut self, launch: &Launch<'_>) -> *mut *mut c_void {
        let function = &self.functions[launch.function.0];
        point_at(&mut self.arguments, function.slots(), launch.params);
        self.arguments.as_mut_ptr()
    }

    /// Runs a launch on its own.
    pub(super) fn launch_one(
        &mut self,
        stream: StreamId,
        launch: &Launch<'_>,
    ) -> Result<(), DeviceError> {
        let handle = self.stream(stream)?;
        self.prepare(launch)?;
        if stream == StreamId::MAIN {
            self.join_uploads()?;
        }
        let clock = self.start_clock(handle)?;
        // Noted before the call: a failure may come after the kernel was given.
        self.stream_used(stream);
        self.streams[stream.0].next_record().set(launch);
        // A kernel that begins early would be timed with its predecessor's end.
        let programmatic = launch.dims.programmatic && clock.is_none();
        match self.submit(handle, launch, programmatic) {
            Ok(()) => self.stop_clock(clock, handle),
            Err(err) => {
                self.streams[stream.0].forget_record();
                self.drop_clock(clock);
                Err(err)
            }
        }
    }

    /// The error of a launch that the driver did not take.
    pub(super) fn refused(&self, failure: Failure, launch: &Launch<'_>) -> DeviceError {
        if failure.is_sticky() {
            return self.failed(failure);
        }
        DeviceError::Launch {
            what: Record::of(launch).text(&self.functions),
            message: failure.text(self.context.api()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_written_by_size() {
        let slot = |offset, size| ParamSlot { offset, size };
        let mut params = vec![0; 24];
        params[..4].copy_from_slice(&(-3_i32).to_le_bytes());
        params[8..16].copy_from_slice(&0xABCD_u64.to_le_bytes());
        let slots = [slot(0, 4), slot(8, 8), slot(16, 6), slot(20, 8)];
        assert_eq!(
            params_text(&slots, &params),
            "[-3, 0xabcd, 6 bytes, missing]"
        );
    }

    #[test]
    fn pointers_follow_the_layout() {
        let params = [0_u8; 16];
        let mut arguments = vec![core::ptr::null_mut(); 9];
        let slots = [
            ParamSlot { offset: 0, size: 4 },
            ParamSlot { offset: 8, size: 8 },
        ];
        point_at(&mut arguments, &slots, &params);
        let at = |offset: usize| params.as_ptr().wrapping_add(offset).cast_mut().cast();
        assert_eq!(arguments, [at(0), at(8)]);
    }

    #[test]
    fn attributes_say_only_what_is_not_usual() {
        let dims = |cluster| LaunchDims {
            cluster,
            ..Record::default().dims
        };
        assert_eq!(Attributes::of(&dims([1, 1, 1]), false).count, 0);
        assert_eq!(Attributes::of(&dims([2, 1, 1]), false).count, 1);
        let both = Attributes::of(&dims([1, 2, 1]), true);
        assert_eq!(both.count, 2);
        // SAFETY: both entries are set, and all bytes of their values are.
        let (first, second) = unsafe { (both.list[0].assume_init(), both.list[1].assume_init()) };
        assert_eq!(first.id as u32, 4);
        // SAFETY: as above.
        let cluster = unsafe { first.value.clusterDim };
        assert_eq!([cluster.x, cluster.y, cluster.z], [1, 2, 1]);
        assert_eq!(second.id as u32, 6);
    }
}
