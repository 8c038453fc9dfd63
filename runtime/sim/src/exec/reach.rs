//! From addresses to the memory behind them.
//!
//! In: an address row and the active lanes. Out: a [`Reach`], which says where
//! every lane finds its bytes, or the fault of the first lane that may not
//! touch them. Mostly all lanes lie in one memory, so that one look-up serves
//! them all, and often side by side, so that the access is one run of words.

use super::alu::{Consts, lanes64};
use super::state::Core;
use crate::error::{Exec, FaultKind, Trouble, trouble};
use crate::isa::{Addr, FULL, Row, Row32, Row64, Space};
use crate::memory::cells::Cells;
use crate::memory::{
    GLOBAL_BASE, LOCAL_BASE, PARAM_BASE, RANK_SHIFT, SHARED_BASE, SHARED_START, WINDOW,
};

/// Bits of a shared address that are the offset in a block's memory.
const OFFSET: u64 = (1 << RANK_SHIFT) - 1;

/// A piece of memory that is in one piece on the host, too.
#[derive(Debug, Clone, Copy)]
pub enum Home<'a> {
    /// One allocation.
    Global(&'a Cells),
    /// Shared memory of a CTA of the group, from shared address 0 on.
    Shared(usize),
    /// Local memory of all threads of the executing CTA.
    Local,
    Param,
}

/// A byte of a [`Home`].
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub home: Home<'a>,
    pub at: usize,
}

impl<'a> Place<'a> {
    pub fn add(self, bytes: usize) -> Place<'a> {
        Place {
            home: self.home,
            at: self.at + bytes,
        }
    }
}

/// Where the lanes of an access find their bytes. Inactive lanes repeat the
/// first active one.
#[derive(Debug)]
pub enum Reach<'a> {
    /// Lane l at the place + l times the bytes of a lane: all lanes are active,
    /// and the run is made of whole words.
    Run(Place<'a>),
    /// In one home, at the offsets that [`Core::reach`] has written.
    Lanes(Home<'a>),
    /// Anywhere.
    Each(Box<[Place<'a>; 32]>),
}

impl<'a> Core<'a> {
    /// The addresses of all lanes; inactive ones repeat the first active.
    #[inline(always)]
    pub fn addresses(&self, addr: Addr, mask: u32, consts: Consts<'_>) -> Row64 {
        let off = addr.offset as u64;
        let mut v = match addr.base {
            Row::R64(r) => {
                let base = self.w.regs.get64(consts, r);
                lanes64(|l| base[l].wrapping_add(off))
            }
            Row::R32(r) => {
                let base = self.w.regs.get32(consts, r);
                lanes64(|l| u64::from(base[l].wrapping_add(off as u32)))
            }
        };
        if mask != FULL {
            let first = v[mask.trailing_zeros() as usize & 31];
            for (l, x) in v.iter_mut().enumerate() {
                *x = if mask >> l & 1 != 0 { *x } else { first };
            }
        }
        v
    }

    /// Where `len` bytes, aligned to `len`, lie for every active lane. `at`
    /// takes the offsets of [`Reach::Lanes`].
    #[inline]
    pub fn reach(
        &mut self,
        space: Space,
        addr: Addr,
        mask: u32,
        len: u64,
        consts: Consts<'_>,
        at: &mut Row64,
    ) -> Exec<Reach<'a>> {
        if self.w.early & mask != 0 {
            let addrs = self.addresses(addr, mask, consts);
            self.not_early(space, &addrs, mask)?;
        }
        let lane = mask.trailing_zeros() as usize & 31;
        let first = match addr.base {
            Row::R64(r) => self.w.regs.get64(consts, r)[lane].wrapping_add(addr.offset as u64),
            Row::R32(r) => self.w.regs.get32(consts, r)[lane]
                .wrapping_add(addr.offset as u32)
                .into(),
        };
        if let Some((region, home, shift)) = self.region(space, first)
            && let Some(limit) = region.size.checked_sub(len)
        {
            let access = Access {
                region,
                limit,
                mask,
                first,
                len,
            };
            let found = match addr.base {
                Row::R64(r) => access.wide(self.w.regs.get64(consts, r), addr.offset as u64, at),
                Row::R32(r) => access.narrow(self.w.regs.get32(consts, r), addr.offset as u32, at),
            };
            match found {
                Found::Run(at) => {
                    let at = at as usize + shift;
                    return Ok(Reach::Run(Place { home, at }));
                }
                Found::Lanes => {
                    if shift != 0 {
                        at.iter_mut().for_each(|x| *x += shift as u64);
                    }
                    return Ok(Reach::Lanes(home));
                }
                Found::No => {}
            }
        }
        let addrs = self.addresses(addr, mask, consts);
        if space == Space::Local
            && let Some(offsets) = self.local_lanes(&addrs, len)
        {
            *at = offsets;
            return Ok(Reach::Lanes(Home::Local));
        }
        let places = self.places(space, &addrs, mask, len, len)?;
        Ok(Reach::Each(Box::new(places)))
    }

    /// Offsets in the local memory of the CTA, when all lanes stay in theirs.
    fn local_lanes(&self, addrs: &Row64, len: u64) -> Option<Row64> {
        let stride = u64::from(self.ctas[self.w.cta].local_stride);
        let limit = stride.checked_sub(len)?;
        let first = u64::from(self.w.index) * 32 * stride;
        let inside = addrs.iter().all(|&a| a <= limit && a & (len - 1) == 0);
        inside.then(|| lanes64(|l| first + l as u64 * stride + addrs[l]))
    }

    /// The places of `len` bytes in every lane, one by one.
    pub fn places(
        &mut self,
        space: Space,
        addrs: &Row64,
        mask: u32,
        len: u64,
        align: u64,
    ) -> Exec<[Place<'a>; 32]> {
        if self.w.early & mask != 0 {
            self.not_early(space, addrs, mask)?;
        }
        if addrs.iter().fold(0, |m, a| m | a) & (align - 1) != 0 {
            return Err(self.misaligned(space, addrs, mask, align));
        }
        let nowhere = Place {
            home: Home::Param,
            at: 0,
        };
        let mut out = [nowhere; 32];
        for l in super::sync::lanes(mask) {
            let a = addrs[l as usize];
            out[l as usize] = self
                .resolve(space, a, len, l)
                .ok_or_else(|| self.out_of_bounds(space, a, len, l))?;
        }
        // Inactive lanes read where the first active one does.
        let first = out[mask.trailing_zeros() as usize & 31];
        for (l, p) in out.iter_mut().enumerate() {
            if mask >> l & 1 == 0 {
                *p = first;
            }
        }
        Ok(out)
    }

    /// One checked place, for instructions that one lane issues.
    pub fn place(
        &mut self,
        space: Space,
        addr: u64,
        len: u64,
        align: u64,
        lane: u32,
    ) -> Exec<Place<'a>> {
        if self.w.early >> lane & 1 != 0 {
            self.not_early(space, &[addr; 32], 1 << lane)?;
        }
        if addr & (align - 1) != 0 {
            return Err(trouble(
                Some(lane),
                FaultKind::Misaligned {
                    space: name(space),
                    address: addr,
                    align,
                },
            ));
        }
        match self.resolve(space, addr, len, lane) {
            Some(p) => Ok(p),
            None => Err(self.out_of_bounds(space, addr, len, lane)),
        }
    }

    /// A launch that may overlap with earlier ones leaves global memory alone
    /// until it has waited for them. (A GPU would let it read what none of them
    /// writes; which that is, nobody can tell from one launch.)
    #[cold]
    fn not_early(&self, space: Space, addrs: &Row64, mask: u32) -> Exec<()> {
        for (lane, &address) in addrs.iter().enumerate() {
            let global = match space {
                Space::Global => true,
                Space::Generic => address >= GLOBAL_BASE,
                _ => false,
            };
            if global && self.w.early & mask & 1 << lane != 0 {
                return Err(self.early_access(space, address, lane as u32));
            }
        }
        Ok(())
    }

    pub fn early_access(&self, space: Space, address: u64, lane: u32) -> Box<Trouble> {
        let space = name(space);
        trouble(Some(lane), FaultKind::EarlyAccess { space, address })
    }

    /// The whole region around an address, the home that it lies in, and where
    /// in the home it begins. Nothing for local memory, which is another one
    /// in every lane.
    #[inline(always)]
    fn region(&self, space: Space, addr: u64) -> Option<(Region, Home<'a>, usize)> {
        let shared = |addr: u64, base: u64| {
            let window = addr & !OFFSET;
            let at = self.cta_of(addr);
            let cta = self.ctas.get(at).filter(|_| !self.has_exited(at))?;
            let region = Region {
                start: base + window + u64::from(SHARED_START),
                size: u64::from(cta.shared_len - SHARED_START),
            };
            Some((region, Home::Shared(at), SHARED_START as usize))
        };
        match space {
            Space::Shared => shared(addr, 0),
            Space::Generic if addr >> 40 == SHARED_BASE >> 40 => {
                shared(addr - SHARED_BASE, SHARED_BASE)
            }
            Space::Global | Space::Generic => {
                let table: &'a crate::memory::Table = self.env.table;
                let a = table.find(addr)?;
                let region = Region {
                    start: a.start,
                    size: a.len,
                };
                Some((region, Home::Global(a.cells()), 0))
            }
            _ => None,
        }
    }

    /// Where a range in a state space lies, as one lane sees it.
    #[inline(always)]
    pub fn resolve(&self, space: Space, addr: u64, len: u64, lane: u32) -> Option<Place<'a>> {
        match space {
            Space::Global => {
                let table: &'a crate::memory::Table = self.env.table;
                let (cells, at) = table.resolve(addr, len)?;
                Some(Place {
                    home: Home::Global(cells),
                    at,
                })
            }
            Space::Shared => {
                let cta = self.cta_of(addr);
                let at = (addr & OFFSET) as u32;
                let there = self.ctas.get(cta)?.has_shared(at, len);
                (there && !self.has_exited(cta)).then_some(Place {
                    home: Home::Shared(cta),
                    at: at as usize,
                })
            }
            Space::Local => {
                let stride = u64::from(self.ctas[self.w.cta].local_stride);
                if addr.checked_add(len)? > stride {
                    return None;
                }
                let thread = u64::from(self.w.index * 32 + lane);
                Some(Place {
                    home: Home::Local,
                    at: (thread * stride + addr) as usize,
                })
            }
            Space::Param => {
                if addr.checked_add(len)? > u64::from(self.env.kernel.param_bytes) {
                    return None;
                }
                Some(Place {
                    home: Home::Param,
                    at: addr as usize,
                })
            }
            Space::Generic => match addr {
                a if a >= GLOBAL_BASE => self.resolve(Space::Global, a, len, lane),
                a if (SHARED_BASE..SHARED_BASE + WINDOW).contains(&a) => {
                    self.resolve(Space::Shared, a - SHARED_BASE, len, lane)
                }
                a if (LOCAL_BASE..LOCAL_BASE + WINDOW).contains(&a) => {
                    self.resolve(Space::Local, a - LOCAL_BASE, len, lane)
                }
                a if (PARAM_BASE..PARAM_BASE + WINDOW).contains(&a) => {
                    self.resolve(Space::Param, a - PARAM_BASE, len, lane)
                }
                _ => None,
            },
        }
    }

    /// The CTA that a shared address belongs to: 0 in the upper bits is the
    /// executing one, rank + 1 another of the cluster.
    #[inline(always)]
    pub fn cta_of(&self, addr: u64) -> usize {
        match (addr >> RANK_SHIFT) as usize {
            0 => self.w.cta,
            n => n - 1,
        }
    }

    /// Whether a CTA is another one of the cluster, and has no memory any more.
    #[inline(always)]
    fn has_exited(&self, cta: usize) -> bool {
        cta != self.w.cta && self.ctas[cta].warps_alive == 0
    }

    fn misaligned(&self, space: Space, addrs: &Row64, mask: u32, align: u64) -> Box<Trouble> {
        let lane = (0..32u32)
            .find(|&l| mask >> l & 1 != 0 && addrs[l as usize] & (align - 1) != 0)
            .unwrap_or(0);
        let address = addrs[lane as usize];
        trouble(
            Some(lane),
            FaultKind::Misaligned {
                space: name(space),
                address,
                align,
            },
        )
    }

    pub fn out_of_bounds(&self, space: Space, address: u64, bytes: u64, lane: u32) -> Box<Trouble> {
        let shared = match space {
            Space::Shared => Some(address),
            Space::Generic if address >> 40 == SHARED_BASE >> 40 => Some(address - SHARED_BASE),
            _ => None,
        };
        if let Some(cta) = shared.map(|a| self.cta_of(a))
            && cta < self.ctas.len()
            && self.has_exited(cta)
        {
            let block = self.ctas[cta].block;
            return trouble(Some(lane), FaultKind::Exited { address, block });
        }
        let hint = match space {
            Space::Global => self.env.describe(address),
            Space::Generic if address >= GLOBAL_BASE => self.env.describe(address),
            Space::Generic if address < SHARED_BASE => ": no memory is mapped there".into(),
            Space::Shared => format!(
                ": the block has shared addresses {:#x} to {:#x}",
                crate::memory::SHARED_START,
                self.env.shared_bytes()
            ),
            Space::Local => format!(": the thread has {} bytes", self.env.kernel.local_bytes),
            _ => String::new(),
        };
        trouble(
            Some(lane),
            FaultKind::OutOfBounds {
                space: name(space),
                address,
                bytes,
                hint,
            },
        )
    }
}

/// Addresses in which all lanes of an access probably lie.
#[derive(Clone, Copy)]
struct Region {
    start: u64,
    size: u64,
}

/// What an [`Access`] finds, as offsets from the start of its region.
enum Found {
    Run(u64),
    Lanes,
    /// A lane is outside or misaligned.
    No,
}

/// The lanes of an access that probably lie in one region.
#[derive(Clone, Copy)]
struct Access {
    region: Region,
    /// The largest legal offset.
    limit: u64,
    mask: u32,
    /// The address of the first active lane.
    first: u64,
    /// Bytes of a lane.
    len: u64,
}

impl Access {
    /// Writes the offsets of all lanes. The top bit of an offset or of `limit -
    /// offset` is set where a lane leaves the region: no comparison is needed.
    #[inline(always)]
    fn check(self, address: impl Fn(usize) -> u64, mask: u32, at: &mut Row64) -> Found {
        let (mut outside, mut low) = (0u64, 0u64);
        for (l, out) in at.iter_mut().enumerate() {
            let a = if mask == FULL || mask >> l & 1 != 0 {
                address(l)
            } else {
                self.first
            };
            let offset = a.wrapping_sub(self.region.start);
            outside |= offset | self.limit.wrapping_sub(offset);
            low |= a;
            *out = offset;
        }
        if outside >> 63 != 0 || low & (self.len - 1) != 0 {
            return Found::No;
        }
        Found::Lanes
    }

    /// Lanes side by side: then only the ends need a look.
    #[inline(always)]
    fn check_run(self) -> Option<u64> {
        let (first, len) = (self.first, self.len);
        let offset = first.wrapping_sub(self.region.start);
        let last = self.region.size.checked_sub(32 * len)?;
        let whole = first & (len - 1) == 0 && offset.is_multiple_of(4);
        (whole && offset <= last).then_some(offset)
    }

    #[inline]
    fn wide(self, base: &Row64, offset: u64, at: &mut Row64) -> Found {
        crate::simd::with(
            #[inline(always)]
            || {
                let address = |l: usize| base[l].wrapping_add(offset);
                if self.mask != FULL {
                    return self.check(address, self.mask, at);
                }
                let mut odd = 0;
                for (l, a) in base.iter().enumerate() {
                    odd |= a.wrapping_sub(base[0]) ^ (l as u64 * self.len);
                }
                match self.check_run() {
                    Some(run) if odd == 0 => Found::Run(run),
                    _ => self.check(address, FULL, at),
                }
            },
        )
    }

    #[inline]
    fn narrow(self, base: &Row32, offset: u32, at: &mut Row64) -> Found {
        crate::simd::with(
            #[inline(always)]
            || {
                let address = |l: usize| u64::from(base[l].wrapping_add(offset));
                if self.mask != FULL {
                    return self.check(address, self.mask, at);
                }
                let mut odd = 0;
                for (l, a) in base.iter().enumerate() {
                    odd |= a.wrapping_sub(base[0]) ^ (l as u32 * self.len as u32);
                }
                // A run that wraps around ends beyond every window, which `check_run` sees.
                match self.check_run() {
                    Some(run) if odd == 0 => Found::Run(run),
                    _ => self.check(address, FULL, at),
                }
            },
        )
    }
}

/// Where a state space begins in generic addresses.
pub fn window_base(space: Space) -> u64 {
    match space {
        Space::Shared => SHARED_BASE,
        Space::Local => LOCAL_BASE,
        Space::Param => PARAM_BASE,
        Space::Global | Space::Generic => 0,
    }
}

pub fn name(space: Space) -> &'static str {
    match space {
        Space::Generic => "generic",
        Space::Global => "global",
        Space::Shared => "shared",
        Space::Local => "local",
        Space::Param => "parameter",
    }
}
