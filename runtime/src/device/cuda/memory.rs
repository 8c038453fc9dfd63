//! Device memory: allocations, arenas of plans, and reserved addresses that get memory as they are used.
//!
//! In: sizes. Out: addresses, and for an address whether bytes there may be used.
//! Holds: nothing is reserved by a call that failed; new pages of a reservation are zero for the work that is given
//! to the main stream afterwards.
//!
//! ```text
//! alloc       one cuMemAlloc
//! alloc_plan  one cuMemAlloc, buffers one after another at multiples of 256
//! reserve     cuMemAddressReserve; each commit adds a page behind the last:
//!             | page | page | page | no memory yet ... |
//! ```

use std::collections::BTreeMap;

use cudarc::driver::sys::CUdeviceptr;

use super::CudaDevice;
use super::failure::{Failure, OUT_OF_MEMORY, call};
use super::handles::{Addresses, Memory, Owned, Page, granularity};
use crate::device::{DeviceMemory, PlanBuffer};
use crate::error::DeviceError;

/// Alignment of buffers: suits every vector access and tensor map.
const ALIGN: u64 = 256;

/// All memory of a device, by address.
#[derive(Default)]
pub(super) struct Regions(BTreeMap<u64, Region>);

/// Memory that is given back as one.
struct Region {
    /// Bytes that may be used.
    len: u64,
    /// What it is for.
    what: String,
    backing: Backing,
}

/// Fields are dropped in their order: memory before its addresses.
enum Backing {
    Allocation {
        _memory: Owned<Memory>,
    },
    Reservation {
        pages: Vec<Page>,
        range: Owned<Addresses>,
        granularity: u64,
    },
}

impl Regions {
    /// Whether these bytes may be used.
    pub fn check(&self, address: u64, len: u64) -> Result<(), DeviceError> {
        let region = self.0.range(..=address).next_back();
        let inside = region.is_some_and(|(start, region)| {
            let offset = address - start;
            offset <= region.len && len <= region.len - offset
        });
        if inside {
            return Ok(());
        }
        Err(DeviceError::BadAddress { address, len })
    }
}

impl CudaDevice {
    pub(super) fn device_memory(&self) -> Result<DeviceMemory, DeviceError> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: writes two sizes.
        let asked = unsafe {
            call!(
                self.context.api(),
                cuMemGetInfo_v2(&raw mut free, &raw mut total)
            )
        };
        asked.map_err(|failure| self.failed(failure))?;
        Ok(DeviceMemory {
            free: free as u64,
            total: total as u64,
        })
    }

    pub(super) fn allocate(&mut self, bytes: u64, what: &str) -> Result<u64, DeviceError> {
        let size = usize::try_from(bytes.max(1)).unwrap_or(usize::MAX);
        let memory = Owned::<Memory>::alloc(&self.context, size)
            .map_err(|failure| self.no_memory(failure, bytes, what))?;
        let address = memory.raw().0;
        let region = Region {
            len: bytes,
            what: what.to_owned(),
            backing: Backing::Allocation { _memory: memory },
        };
        self.regions.0.insert(address, region);
        Ok(address)
    }

    pub(super) fn allocate_plan(
        &mut self,
        buffers: &[PlanBuffer<'_>],
    ) -> Result<Vec<u64>, DeviceError> {
        let Some((offsets, bytes)) = layout(buffers) else {
            let bytes = buffers
                .iter()
                .fold(0_u64, |sum, buffer| sum.saturating_add(buffer.bytes));
            let failure = Failure {
                call: "cuMemAlloc_v2",
                code: OUT_OF_MEMORY,
            };
            return Err(self.no_memory(failure, bytes, "a plan beyond all addresses"));
        };
        let Some(largest) = buffers.iter().max_by_key(|buffer| buffer.bytes) else {
            return Ok(Vec::new());
        };
        let what = format!(
            "{} buffers, the largest of {} bytes for {}",
            buffers.len(),
            largest.bytes,
            largest.what
        );
        let base = self.allocate(bytes, &what)?;
        Ok(offsets.into_iter().map(|offset| base + offset).collect())
    }

    pub(super) fn release(&mut self, address: u64) -> Result<(), DeviceError> {
        if !self.regions.0.contains_key(&address) {
            return Err(DeviceError::BadAddress { address, len: 0 });
        }
        // Addresses lose their memory at once, whatever still uses it.
        self.drain()?;
        self.regions.0.remove(&address);
        Ok(())
    }

    pub(super) fn reserve_addresses(&mut self, bytes: u64, what: &str) -> Result<u64, DeviceError> {
        let unit = granularity(&self.context).map_err(|failure| self.failed(failure))?;
        let size = usize::try_from(bytes.max(1))
            .ok()
            .and_then(|bytes| bytes.checked_next_multiple_of(unit))
            .unwrap_or(usize::MAX / unit * unit);
        let range = Owned::<Addresses>::reserve(&self.context, size)
            .map_err(|failure| self.no_memory(failure, bytes, what))?;
        let address = range.raw().0;
        let region = Region {
            len: 0,
            what: what.to_owned(),
            backing: Backing::Reservation {
                pages: Vec::new(),
                range,
                granularity: unit as u64,
            },
        };
        self.regions.0.insert(address, region);
        Ok(address)
    }

    pub(super) fn commit_memory(&mut self, address: u64, bytes: u64) -> Result<(), DeviceError> {
        let bad = DeviceError::BadAddress {
            address,
            len: bytes,
        };
        let Some(Region {
            len,
            what,
            backing: Backing::Reservation {
                range, granularity, ..
            },
        }) = self.regions.0.get(&address)
        else {
            return Err(bad);
        };
        let len = *len;
        if bytes <= len {
            return Ok(());
        }
        if bytes > range.raw().1 as u64 {
            return Err(bad);
        }
        // The reservation is a multiple of the granularity, so the page stays inside.
        let more = (bytes - len).next_multiple_of(*granularity);
        let page = Page::map(&self.context, address + len, more as usize)
            .map_err(|failure| self.no_memory(failure, more, what))?;
        // The page goes again when it cannot be made zero.
        self.join_uploads()?;
        self.set_bytes(address + len, 0, more)?;
        if let Some(region) = self.regions.0.get_mut(&address)
            && let Backing::Reservation { pages, .. } = &mut region.backing
        {
            pages.push(page);
            region.len += more;
        }
        Ok(())
    }

    pub(super) fn committed_memory(&self, address: u64) -> Result<u64, DeviceError> {
        match self.regions.0.get(&address) {
            Some(Region {
                len,
                backing: Backing::Reservation { .. },
                ..
            }) => Ok(*len),
            _ => Err(DeviceError::BadAddress { address, len: 0 }),
        }
    }

    /// Sets bytes on the main stream; the range was checked.
    pub(super) fn set_bytes(
        &mut self,
        address: CUdeviceptr,
        byte: u8,
        len: u64,
    ) -> Result<(), DeviceError> {
        let (api, main) = (self.context.api(), self.main());
        // SAFETY: the range is mapped memory of this device, and stays so until the stream was waited for.
        let set = unsafe { call!(api, cuMemsetD8Async(address, byte, len as usize, main)) };
        set.map_err(|failure| self.failed(failure))?;
        self.main_used();
        Ok(())
    }

    /// The error of an allocation, with what there is when memory is short.
    pub(super) fn no_memory(&self, failure: Failure, bytes: u64, what: &str) -> DeviceError {
        if failure.code != OUT_OF_MEMORY {
            return self.failed(failure);
        }
        let DeviceMemory { free, total } = self.device_memory().unwrap_or(DeviceMemory {
            free: 0,
            total: self.info.memory_bytes,
        });
        DeviceError::OutOfMemory {
            bytes,
            what: what.to_owned(),
            free,
            total,
            message: failure.text(self.context.api()).into(),
        }
    }
}

/// Offset of each buffer and the size of all; `None` when that overflows. Buffers without bytes get an address of
/// their own, too.
fn layout(buffers: &[PlanBuffer<'_>]) -> Option<(Vec<u64>, u64)> {
    let mut end = 0_u64;
    let mut offsets = Vec::with_capacity(buffers.len());
    for buffer in buffers {
        offsets.push(end);
        end = end
            .checked_add(buffer.bytes.max(1))?
            .checked_next_multiple_of(ALIGN)?;
    }
    Some((offsets, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_a_plan_do_not_touch() {
        let buffer = |bytes| PlanBuffer { what: "x", bytes };
        let (offsets, bytes) =
            layout(&[buffer(1), buffer(0), buffer(256), buffer(257), buffer(5)]).expect("small");
        assert_eq!(offsets, [0, 256, 512, 768, 1280]);
        assert_eq!(bytes, 1536);
        assert_eq!(layout(&[buffer(u64::MAX - 3), buffer(1)]), None);
        assert_eq!(layout(&[]), Some((Vec::new(), 0)));
    }
}
