//! The device's primary context, and what makes every other handle outlive nothing that it needs.
//!
//! In: the driver's table and a device number. Out: a context that handles share.
//! Holds: the context is released after the last handle that was made in it; calls are made with this context
//! current on the calling thread; a context that was lost refuses every call and says why.

use core::cell::{Cell, RefCell};
use core::ptr;
use std::rc::Rc;

use cudarc::driver::sys::{CUcontext, CUdevice};

use super::failure::{Failure, call};
use super::symbols::Api;
use crate::error::DeviceError;

thread_local! {
    /// The context that this thread has made current; asking the driver each time would cost a call per call.
    static CURRENT: Cell<CUcontext> = const { Cell::new(ptr::null_mut()) };
}

/// A retained primary context.
pub(super) struct Context {
    api: &'static Api,
    raw: CUcontext,
    device: CUdevice,
    /// Why it is lost.
    lost: RefCell<Option<String>>,
    /// Whether nothing may be released any more, because it would wait for work that never ends.
    abandoned: Cell<bool>,
}

impl Context {
    /// Retains the device's primary context and makes it current.
    pub fn retain(api: &'static Api, device: CUdevice) -> Result<Rc<Self>, Failure> {
        let mut raw = ptr::null_mut();
        // SAFETY: writes one pointer; the driver is initialised, since there is a device.
        unsafe { call!(api, cuDevicePrimaryCtxRetain(&raw mut raw, device)) }?;
        let context = Rc::new(Self {
            api,
            raw,
            device,
            lost: RefCell::new(None),
            abandoned: Cell::new(false),
        });
        context.make_current()?;
        Ok(context)
    }

    /// The driver's functions.
    pub const fn api(&self) -> &'static Api {
        self.api
    }

    /// The number of the device.
    pub const fn device(&self) -> CUdevice {
        self.device
    }

    /// Begins a call of the device: refuses when the context is lost.
    pub fn enter(&self) -> Result<(), DeviceError> {
        if let Some(by) = &*self.lost.borrow() {
            return Err(DeviceError::Lost { by: by.clone() });
        }
        self.make_current().map_err(|failure| self.fail(failure))
    }

    fn make_current(&self) -> Result<(), Failure> {
        if CURRENT.get() != self.raw {
            // SAFETY: the context is retained.
            unsafe { call!(self.api, cuCtxSetCurrent(self.raw)) }?;
            CURRENT.set(self.raw);
        }
        Ok(())
    }

    /// The error of a failed call; a sticky one loses the context.
    pub fn fail(&self, failure: Failure) -> DeviceError {
        let err = failure.error(self.api);
        if failure.is_sticky() {
            self.lose(&err);
        }
        err
    }

    /// Refuses every later call; the first reason stays.
    pub fn lose(&self, by: &DeviceError) {
        let mut lost = self.lost.borrow_mut();
        if lost.is_none() {
            *lost = Some(by.to_string());
        }
    }

    /// Whether calls are refused.
    pub fn is_lost(&self) -> bool {
        self.lost.borrow().is_some()
    }

    /// Releases nothing from now on: the driver would wait for a kernel that never ends. The end of the process
    /// gives everything back.
    pub fn abandon(&self) {
        self.abandoned.set(true);
    }

    /// Releases a handle of this context. There is nobody to tell of a failure, and nothing to do about it.
    pub fn release(&self, release: impl FnOnce(&Api) -> u32) {
        // A lost context still takes its handles back; calls that fail have no effect.
        if !self.abandoned.get() && self.make_current().is_ok() {
            let _ = release(self.api);
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if self.abandoned.get() {
            return;
        }
        // The next context may have the same address, and would then count as current.
        if CURRENT.get() == self.raw {
            // SAFETY: no context is always a valid one to make current.
            let _ = unsafe { (self.api.cuCtxSetCurrent)(ptr::null_mut()) };
            CURRENT.set(ptr::null_mut());
        }
        // SAFETY: retained once in `retain`; every handle has an `Rc` of this context, so none is left.
        let _ = unsafe { (self.api.cuDevicePrimaryCtxRelease_v2)(self.device) };
    }
}
