//! Copies between host and device through page-locked memory.
//!
//! In: bytes of the caller, who may reuse them at once. Out: copies in the order that [`Device`] promises.
//! Holds: page-locked memory that a copy still uses is not written; bytes that were read are there when the call
//! returns.
//!
//! Small pieces (the inputs of a step, a token that is read back) go through one block that is handed out from its
//! start and is free again whenever the main stream was waited for: no event, no waiting. They are copied on the
//! main stream, whose order is the promised one.
//!
//! Large ones (weights) go through a ring of slots, each with an event, on a stream of their own, so that the host
//! fills a slot while others are copied and the main stream works on. Two events keep the promised order:
//!
//! ```text
//! main:  ... launch ── main_mark ──┐              ┌─► launch ...
//! copy:                            └─► upload ── uploaded
//! ```
//!
//! [`Device`]: crate::device::Device

use core::ffi::c_void;
use core::ops::Range;
use core::ptr;
use std::collections::VecDeque;
use std::rc::Rc;

use cudarc::driver::sys::{CUevent, CUstream};

use super::CudaDevice;
use super::context::Context;
use super::failure::{Failure, call};
use super::handles::{Owned, Pinned};
use super::wait::{finished, wait};
use crate::error::DeviceError;

/// The block for small pieces.
const SMALL_BLOCK: usize = 1 << 20;

/// Largest transfer that takes it; a quarter, so that some fit between two waits.
const SMALL: usize = SMALL_BLOCK / 4;

/// A slot of the ring: long enough that a copy's start costs little beside it.
const SLOT: usize = 8 << 20;

/// Slots of the ring: one that is filled, one that is copied, and two that even out the disk's speed.
const SLOTS: usize = 4;

/// Where pieces begin in page-locked memory.
const ALIGN: usize = 16;

/// Page-locked memory and the order of copies.
pub(super) struct Staging {
    /// For uploads of large pieces. Fields are dropped in their order, after the device has waited.
    copy: Owned<CUstream>,
    /// End of the uploads so far, for the main stream.
    uploaded: Owned<CUevent>,
    /// End of the main stream's work so far, for uploads.
    main_mark: Owned<CUevent>,
    small: Owned<Pinned>,
    small_used: usize,
    /// Made at the first large transfer.
    ring: Option<Ring>,
    /// Whether uploads were given that nobody has waited for.
    copy_busy: bool,
    /// Whether the main stream has yet to wait for uploads.
    unjoined: bool,
    /// Whether the main stream was given work that uploads have yet to wait for.
    unseen: bool,
}

struct Ring {
    slots: Vec<Slot>,
    next: usize,
    memory: Owned<Pinned>,
}

struct Slot {
    /// End of the copy that used it last.
    done: Owned<CUevent>,
    busy: bool,
}

impl Staging {
    pub fn new(context: &Rc<Context>) -> Result<Self, Failure> {
        Ok(Self {
            copy: Owned::<CUstream>::create(context, 0)?,
            uploaded: Owned::<CUevent>::create(context, false)?,
            main_mark: Owned::<CUevent>::create(context, false)?,
            small: Owned::<Pinned>::alloc(context, SMALL_BLOCK)?,
            small_used: 0,
            ring: None,
            copy_busy: false,
            unjoined: false,
            unseen: false,
        })
    }

    /// The stream of uploads, when it was given work that nobody has waited for.
    pub fn busy_stream(&self) -> Option<CUstream> {
        self.copy_busy.then(|| self.copy.raw())
    }

    /// The stream of uploads was waited for.
    pub const fn copy_idle(&mut self) {
        self.copy_busy = false;
        self.unjoined = false;
    }

    /// The main stream was waited for: all small copies have ended.
    pub const fn main_idle(&mut self) {
        self.small_used = 0;
        self.unseen = false;
    }

    /// The main stream was given work.
    pub const fn main_used(&mut self) {
        self.unseen = true;
    }
}

impl Ring {
    fn new(context: &Rc<Context>) -> Result<Self, Failure> {
        let slot = || {
            let done = Owned::<CUevent>::create(context, false)?;
            Ok(Slot { done, busy: false })
        };
        Ok(Self {
            slots: (0..SLOTS).map(|_| slot()).collect::<Result<_, _>>()?,
            next: 0,
            memory: Owned::<Pinned>::alloc(context, SLOTS * SLOT)?,
        })
    }

    fn host(&self, slot: usize) -> *mut u8 {
        // Slots lie one after another; `slot` is one of them.
        self.memory.raw().0.wrapping_add(slot * SLOT)
    }
}

impl CudaDevice {
    /// Copies pieces to the device, in order.
    pub(super) fn upload(&mut self, pieces: &[(u64, &[u8])]) -> Result<(), DeviceError> {
        let mut bytes = 0_usize;
        for (address, piece) in pieces {
            self.regions.check(*address, piece.len() as u64)?;
            bytes = bytes.saturating_add(piece.len() + ALIGN);
        }
        if bytes <= SMALL {
            return self.upload_small(pieces, bytes);
        }
        for (address, piece) in pieces {
            if piece.len() + ALIGN <= SMALL {
                self.upload_small(&[(*address, piece)], piece.len() + ALIGN)?;
            } else {
                self.upload_large(*address, piece)?;
            }
        }
        Ok(())
    }

    /// Through the small block, on the main stream; neighbours on the device are one copy. `bytes` is what the pieces
    /// take in the block at most.
    pub(super) fn upload_small(
        &mut self,
        pieces: &[(u64, &[u8])],
        bytes: usize,
    ) -> Result<(), DeviceError> {
        let mut end = self.small_space(bytes)?;
        self.join_uploads()?;
        // Device address and place in the block of the copy that is being put together.
        let mut run = (0, 0..0);
        for (address, piece) in pieces {
            if piece.is_empty() {
                continue;
            }
            if run.0 + run.1.len() as u64 != *address || run.1.is_empty() {
                self.copy_small(&run)?;
                end = end.next_multiple_of(ALIGN);
                run = (*address, end..end);
            }
            // SAFETY: `small_space` has found room for all pieces with their alignment, and no copy that is still
            // under way uses it.
            unsafe {
                let to = self.staging.small.raw().0.add(end);
                ptr::copy_nonoverlapping(piece.as_ptr(), to, piece.len());
            }
            end += piece.len();
            run.1.end = end;
        }
        self.copy_small(&run)?;
        self.staging.small_used = end;
        Ok(())
    }

    fn copy_small(&mut self, (address, place): &(u64, Range<usize>)) -> Result<(), DeviceError> {
        if place.is_empty() {
            return Ok(());
        }
        // Also when a later call fails: the copy may be under way.
        self.staging.small_used = self.staging.small_used.max(place.end);
        let (api, main) = (self.context.api(), self.main());
        let from = self.staging.small.raw().0.wrapping_add(place.start) as *const c_void;
        self.main_used();
        // SAFETY: the place lies in the block, which is not handed out again before the stream was waited for; the
        // range on the device was checked.
        let copied = unsafe { call!(api, cuMemcpyHtoDAsync_v2(*address, from, place.len(), main)) };
        copied.map_err(|failure| self.failed(failure))
    }

    /// Room in the small block from the returned place on.
    fn small_space(&mut self, bytes: usize) -> Result<usize, DeviceError> {
        if self.staging.small_used + bytes > SMALL_BLOCK {
            self.drain_main()?;
        }
        Ok(self.staging.small_used)
    }

    /// Through the ring, on the stream of uploads.
    fn upload_large(&mut self, address: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        let api = self.context.api();
        let copy = self.staging.copy.raw();
        if self.staging.unseen {
            let marked = self.staging.main_mark.record(self.main());
            let held = marked.and_then(|()| self.staging.main_mark.hold(copy));
            held.map_err(|failure| self.failed(failure))?;
            self.staging.unseen = false;
        }
        let mut to = address;
        for piece in bytes.chunks(SLOT) {
            let (slot, host) = self.free_slot()?;
            // SAFETY: the slot is as long as the longest piece, and no copy uses it.
            unsafe { ptr::copy_nonoverlapping(piece.as_ptr(), host, piece.len()) };
            self.staging.copy_busy = true;
            self.staging.unjoined = true;
            let from = host as *const c_void;
            // SAFETY: the slot is not written before its event was waited for; the range was checked.
            let copied = unsafe { call!(api, cuMemcpyHtoDAsync_v2(to, from, piece.len(), copy)) };
            copied.map_err(|failure| self.failed(failure))?;
            self.mark_slot(slot, copy)?;
            to += piece.len() as u64;
        }
        Ok(())
    }

    /// Makes the main stream wait for all uploads so far.
    pub(super) fn join_uploads(&mut self) -> Result<(), DeviceError> {
        if self.staging.unjoined {
            let main = self.main();
            let recorded = self.staging.uploaded.record(self.staging.copy.raw());
            let held = recorded.and_then(|()| self.staging.uploaded.hold(main));
            held.map_err(|failure| self.failed(failure))?;
            self.staging.unjoined = false;
        }
        Ok(())
    }

    /// Copies from the device, after all work of the main stream.
    pub(super) fn download(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.regions.check(address, bytes.len() as u64)?;
        self.join_uploads()?;
        if bytes.len() <= SMALL {
            self.download_small(address, bytes)
        } else {
            self.download_large(address, bytes)
        }
    }

    fn download_small(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        if bytes.is_empty() {
            return self.drain_main();
        }
        let place = self.small_space(bytes.len())?;
        let (api, main) = (self.context.api(), self.main());
        let host = self.staging.small.raw().0.wrapping_add(place);
        self.staging.small_used = place + bytes.len();
        self.main_used();
        // SAFETY: the place lies in the block and is not handed out again before the stream was waited for; the
        // range was checked.
        let copied = unsafe {
            call!(
                api,
                cuMemcpyDtoHAsync_v2(host.cast(), address, bytes.len(), main)
            )
        };
        copied.map_err(|failure| self.failed(failure))?;
        self.drain_main()?;
        // SAFETY: the copy has ended, and nothing was given to the block since.
        unsafe { ptr::copy_nonoverlapping(host, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn download_large(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let (api, main) = (self.context.api(), self.main());
        // Slots whose copies were given, with the bytes they are for.
        let mut given: VecDeque<(usize, Range<usize>)> = VecDeque::with_capacity(SLOTS);
        let mut start = 0;
        while start < bytes.len() {
            let range = start..bytes.len().min(start + SLOT);
            if given.len() == SLOTS {
                self.take_slot(&mut given, bytes)?;
            }
            let (slot, host) = self.free_slot()?;
            self.main_used();
            let from = address + range.start as u64;
            // SAFETY: the slot is as long as the longest piece and is not used before its event was waited for;
            // the range was checked.
            let copied = unsafe {
                call!(
                    api,
                    cuMemcpyDtoHAsync_v2(host.cast(), from, range.len(), main)
                )
            };
            copied.map_err(|failure| self.failed(failure))?;
            self.mark_slot(slot, main)?;
            start = range.end;
            given.push_back((slot, range));
        }
        while !given.is_empty() {
            self.take_slot(&mut given, bytes)?;
        }
        self.drain_main()
    }

    /// Waits for the oldest slot and copies it to its place.
    fn take_slot(
        &mut self,
        given: &mut VecDeque<(usize, Range<usize>)>,
        bytes: &mut [u8],
    ) -> Result<(), DeviceError> {
        let Some((slot, range)) = given.pop_front() else {
            return Ok(());
        };
        self.await_slot(slot)?;
        if let Some(ring) = &self.staging.ring {
            let to = &mut bytes[range];
            // SAFETY: the slot's copy has ended, and it was of this length.
            unsafe { ptr::copy_nonoverlapping(ring.host(slot), to.as_mut_ptr(), to.len()) };
        }
        Ok(())
    }

    /// The next slot of the ring, when its last copy has ended.
    fn free_slot(&mut self) -> Result<(usize, *mut u8), DeviceError> {
        if self.staging.ring.is_none() {
            let ring = Ring::new(&self.context).map_err(|failure| self.failed(failure))?;
            self.staging.ring = Some(ring);
        }
        let slot = self.staging.ring.as_ref().map_or(0, |ring| ring.next);
        self.await_slot(slot)?;
        let ring = self.staging.ring.as_mut();
        let host = ring.map_or(ptr::null_mut(), |ring| {
            ring.next = (slot + 1) % SLOTS;
            ring.host(slot)
        });
        Ok((slot, host))
    }

    fn await_slot(&mut self, slot: usize) -> Result<(), DeviceError> {
        let event = match &self.staging.ring {
            Some(ring) if ring.slots[slot].busy => ring.slots[slot].done.raw(),
            _ => return Ok(()),
        };
        let api = self.context.api();
        // SAFETY: the event is live.
        let done = wait(self.timeout, || {
            finished(unsafe { call!(api, cuEventQuery(event)) })
        });
        if !done.map_err(|failure| self.failed(failure))? {
            return Err(self.hung());
        }
        if let Some(ring) = &mut self.staging.ring {
            ring.slots[slot].busy = false;
        }
        Ok(())
    }

    /// Marks the end of a slot's copy. Without the mark nobody would know when the slot is free: then the copy is
    /// waited for at once.
    fn mark_slot(&mut self, slot: usize, stream: CUstream) -> Result<(), DeviceError> {
        let Some(ring) = &mut self.staging.ring else {
            return Ok(());
        };
        match ring.slots[slot].done.record(stream) {
            Ok(()) => {
                ring.slots[slot].busy = true;
                Ok(())
            }
            Err(failure) => {
                let err = self.failed(failure);
                // Whatever the wait says, the first failure is the one to report.
                let _ = self.await_stream(stream, self.timeout);
                Err(err)
            }
        }
    }

    /// Copies inside the device, on the main stream.
    pub(super) fn copy_inside(&mut self, from: u64, to: u64, len: u64) -> Result<(), DeviceError> {
        self.regions.check(from, len)?;
        self.regions.check(to, len)?;
        if len == 0 {
            return Ok(());
        }
        self.join_uploads()?;
        self.main_used();
        let (api, main) = (self.context.api(), self.main());
        // SAFETY: both ranges were checked; memory is given back only after the stream was waited for.
        let copied = unsafe { call!(api, cuMemcpyDtoDAsync_v2(to, from, len as usize, main)) };
        copied.map_err(|failure| self.failed(failure))
    }
}
