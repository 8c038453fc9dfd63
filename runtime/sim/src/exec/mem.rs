//! Loads, stores, atomics and address arithmetic.
//!
//! In: an address row and the active lanes. Addresses are checked for all
//! lanes first; when they lie in one region, one look-up serves all of them.
//! A fault names the first lane at fault and changes nothing.

use super::alu::{Consts, lanes32, lanes64};
use super::state::Core;
use crate::error::{Exec, FaultKind, illegal, trouble};
use crate::isa::{Addr, CONST, FULL, Ld, P, R, Row, Row32, Row64, Space, St};
use crate::memory::{
    GLOBAL_BASE, LOCAL_BASE, PARAM_BASE, RANK_SHIFT, SHARED_BASE, SHARED_START, WINDOW, load, store,
};
use crate::numerics::convert::sign_extend;

pub type Pointers = [*mut u8; 32];

impl Core<'_> {
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

    /// Host pointers of `len` bytes in every active lane, aligned to `len`; the
    /// other lanes get that of the first active one.
    #[inline]
    pub fn lane_pointers(
        &mut self,
        space: Space,
        addr: Addr,
        mask: u32,
        len: u64,
        consts: Consts<'_>,
    ) -> Exec<Pointers> {
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
        if let Some((start, size, host)) = self.region(space, first)
            && let Some(limit) = size.checked_sub(len)
        {
            let region = Region {
                start,
                limit,
                host,
                align: len,
            };
            let found = match addr.base {
                Row::R64(r) => region.wide(
                    self.w.regs.get64(consts, r),
                    addr.offset as u64,
                    mask,
                    first,
                ),
                Row::R32(r) => region.narrow(
                    self.w.regs.get32(consts, r),
                    addr.offset as u32,
                    mask,
                    first,
                ),
            };
            if let Some(p) = found {
                return Ok(p);
            }
        }
        let addrs = self.addresses(addr, mask, consts);
        self.pointers(space, &addrs, mask, len, len)
    }

    /// Host pointers of `len` bytes in every lane, one by one.
    pub fn pointers(
        &mut self,
        space: Space,
        addrs: &Row64,
        mask: u32,
        len: u64,
        align: u64,
    ) -> Exec<Pointers> {
        if self.w.early & mask != 0 {
            self.not_early(space, addrs, mask)?;
        }
        if addrs.iter().fold(0, |m, a| m | a) & (align - 1) != 0 {
            return Err(self.misaligned(space, addrs, mask, align));
        }
        let mut out = [std::ptr::null_mut(); 32];
        let mut rest = mask;
        while rest != 0 {
            let l = rest.trailing_zeros();
            rest &= rest - 1;
            let a = addrs[l as usize];
            out[l as usize] = self
                .resolve(space, a, len, l)
                .ok_or_else(|| self.out_of_bounds(space, a, len, l))?;
        }
        // Inactive lanes read where the first active one does.
        let first = out[mask.trailing_zeros() as usize & 31];
        Ok(out.map(|p| if p.is_null() { first } else { p }))
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

    pub fn early_access(
        &self,
        space: Space,
        address: u64,
        lane: u32,
    ) -> Box<crate::error::Trouble> {
        let space = name(space);
        trouble(Some(lane), FaultKind::EarlyAccess { space, address })
    }

    /// The whole region around an address: start, size and host address.
    /// Nothing for local memory, which is another one in every lane.
    #[inline(always)]
    fn region(&mut self, space: Space, addr: u64) -> Option<(u64, u64, *mut u8)> {
        let shared = |core: &mut Self, addr: u64, base: u64| {
            let window = addr & !0xff_ffff;
            let at = core.cta_of(addr);
            let cta = core.ctas.get_mut(at)?;
            let size = u64::from(cta.shared_len - SHARED_START);
            let host = cta.shared_ptr(SHARED_START, size)?;
            Some((base + window + u64::from(SHARED_START), size, host))
        };
        match space {
            Space::Shared => shared(self, addr, 0),
            Space::Generic if addr >> 40 == SHARED_BASE >> 40 => {
                shared(self, addr - SHARED_BASE, SHARED_BASE)
            }
            Space::Global | Space::Generic => {
                let a = self.env.table.find(addr)?;
                Some((a.start, a.len, a.host()))
            }
            _ => None,
        }
    }

    /// The host address of a range in a state space, as one lane sees it.
    #[inline(always)]
    pub fn resolve(&mut self, space: Space, addr: u64, len: u64, lane: u32) -> Option<*mut u8> {
        match space {
            Space::Global => self.env.table.resolve(addr, len),
            Space::Shared => {
                let cta = self.cta_of(addr);
                self.ctas
                    .get_mut(cta)?
                    .shared_ptr(addr as u32 & 0xff_ffff, len)
            }
            Space::Local => {
                let cta = &mut self.ctas[self.w.cta];
                if addr.checked_add(len)? > u64::from(cta.local_stride) {
                    return None;
                }
                let thread = self.w.index * 32 + lane;
                let at = thread as usize * cta.local_stride as usize + addr as usize;
                // SAFETY: the vector holds local_stride bytes for each thread.
                Some(unsafe { cta.local.as_mut_ptr().cast::<u8>().add(at) })
            }
            Space::Param => {
                let params = self.env.params;
                if addr.checked_add(len)? > params.len() as u64 {
                    return None;
                }
                // Only read through: `st` to parameters is refused.
                // SAFETY: inside the slice.
                Some(unsafe { params.as_ptr().add(addr as usize).cast_mut() })
            }
            Space::Generic => match addr {
                a if a >= GLOBAL_BASE => self.env.table.resolve(a, len),
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

    fn misaligned(
        &self,
        space: Space,
        addrs: &Row64,
        mask: u32,
        align: u64,
    ) -> Box<crate::error::Trouble> {
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

    pub fn out_of_bounds(
        &self,
        space: Space,
        address: u64,
        bytes: u64,
        lane: u32,
    ) -> Box<crate::error::Trouble> {
        let hint = match space {
            Space::Global => self.env.table.describe(address),
            Space::Generic if address >= GLOBAL_BASE => self.env.table.describe(address),
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

    /// One checked host pointer, for instructions that one lane issues.
    pub fn pointer(
        &mut self,
        space: Space,
        addr: u64,
        len: u64,
        align: u64,
        lane: u32,
    ) -> Exec<*mut u8> {
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

    #[inline]
    pub fn ld(&mut self, ld: &Ld, mask: u32, consts: Consts<'_>) -> Exec<()> {
        let len = u64::from(ld.size) * ld.dst.len() as u64;
        if let Row::R32(r) | Row::R64(r) = ld.addr.base
            && r & CONST != 0
            && ld.space != Space::Local
        {
            return self.ld_uniform(ld, mask, len, consts);
        }
        let mut p = self.lane_pointers(ld.space, ld.addr, mask, len, consts)?;
        for &dst in &ld.dst {
            match (dst, ld.size, ld.signed) {
                // SAFETY (all): checked for bounds and alignment above.
                (Row::R32(d), 4, _) => {
                    let v = lanes32(|l| unsafe { load::<4>(p[l]) } as u32);
                    self.w.regs.put32(d, &v, mask);
                }
                (Row::R64(d), 8, _) => {
                    // SAFETY: as above.
                    let v = lanes64(|l| unsafe { load::<8>(p[l]) });
                    self.w.regs.put64(d, &v, mask);
                }
                (_, size, signed) => {
                    let bits = 8 * u32::from(size);
                    let v = lanes64(|l| {
                        // SAFETY: as above.
                        let v = unsafe {
                            match size {
                                1 => load::<1>(p[l]),
                                2 => load::<2>(p[l]),
                                4 => load::<4>(p[l]),
                                _ => load::<8>(p[l]),
                            }
                        };
                        if signed { sign_extend(v, bits) } else { v }
                    });
                    self.w.regs.put_wide(dst, &v, mask);
                }
            }
            for x in &mut p {
                // At most one past the checked range, after the last element.
                *x = x.wrapping_add(usize::from(ld.size));
            }
        }
        Ok(())
    }

    /// The address is the same in all lanes: read once. Parameters mostly.
    fn ld_uniform(&mut self, ld: &Ld, mask: u32, len: u64, consts: Consts<'_>) -> Exec<()> {
        let lane = mask.trailing_zeros() & 31;
        let addr = self.addresses(ld.addr, mask, consts)[0];
        let mut p = self.pointer(ld.space, addr, len, len, lane)?;
        for &dst in &ld.dst {
            // SAFETY: checked above.
            let v = unsafe {
                match ld.size {
                    1 => load::<1>(p),
                    2 => load::<2>(p),
                    4 => load::<4>(p),
                    _ => load::<8>(p),
                }
            };
            let v = if ld.signed {
                sign_extend(v, 8 * u32::from(ld.size))
            } else {
                v
            };
            match dst {
                Row::R32(d) => self.w.regs.put32(d, &[v as u32; 32], mask),
                Row::R64(d) => self.w.regs.put64(d, &[v; 32], mask),
            }
            p = p.wrapping_add(usize::from(ld.size));
        }
        Ok(())
    }

    #[inline]
    pub fn st(&mut self, st: &St, mask: u32, consts: Consts<'_>) -> Exec<()> {
        if st.space == Space::Param {
            return Err(illegal("kernel parameters cannot be written"));
        }
        let len = u64::from(st.size) * st.src.len() as u64;
        let p = self.lane_pointers(st.space, st.addr, mask, len, consts)?;
        for (e, &src) in st.src.iter().enumerate() {
            let at = e * usize::from(st.size);
            match (src, st.size) {
                (Row::R32(r), 4) => {
                    let v = self.w.regs.get32(consts, r);
                    if mask == FULL {
                        for l in 0..32 {
                            // SAFETY: checked for bounds and alignment above.
                            unsafe { store::<4>(p[l].add(at), u64::from(v[l])) };
                        }
                        continue;
                    }
                    for l in 0..32 {
                        if mask >> l & 1 != 0 {
                            // SAFETY: checked for bounds and alignment above.
                            unsafe { store::<4>(p[l].add(at), u64::from(v[l])) };
                        }
                    }
                }
                (src, size) => {
                    let v = self.w.regs.get_wide(consts, src);
                    for l in 0..32 {
                        if mask >> l & 1 != 0 {
                            // SAFETY: as above.
                            unsafe {
                                match size {
                                    1 => store::<1>(p[l].add(at), v[l]),
                                    2 => store::<2>(p[l].add(at), v[l]),
                                    4 => store::<4>(p[l].add(at), v[l]),
                                    _ => store::<8>(p[l].add(at), v[l]),
                                }
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }

    pub fn cvta(
        &mut self,
        space: Space,
        to: bool,
        d: Row,
        a: Row,
        mask: u32,
        consts: Consts<'_>,
    ) -> Exec<()> {
        let base = window_base(space);
        let a = self.w.regs.get_wide(consts, a);
        let v = lanes64(|l| {
            if to {
                a[l].wrapping_sub(base)
            } else {
                a[l].wrapping_add(base)
            }
        });
        self.w.regs.put_wide(d, &v, mask);
        Ok(())
    }

    pub fn isspacep(&mut self, space: Space, d: P, a: Row, mask: u32, consts: Consts<'_>) {
        let a = self.w.regs.get_wide(consts, a);
        let base = window_base(space);
        let bits = super::alu::lanes_bits(|l| match space {
            Space::Global | Space::Generic => a[l] >= GLOBAL_BASE,
            _ => (base..base + WINDOW).contains(&a[l]),
        });
        self.w.regs.put_pred(d, bits, mask);
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

    /// `mapa` (PTX ISA 9.7.9.24): the same offset in another CTA's memory.
    pub fn mapa(
        &mut self,
        generic: bool,
        d: Row,
        a: Row,
        rank: R,
        mask: u32,
        consts: Consts<'_>,
    ) -> Exec<()> {
        let a = self.w.regs.get_wide(consts, a);
        let rank = *self.w.regs.get32(consts, rank);
        let ctas = self.ctas.len() as u32;
        if let Some(l) = (0..32).find(|&l| mask >> l & 1 != 0 && rank[l] >= ctas) {
            let message = format!("CTA rank {} in a cluster of {ctas}", rank[l]);
            return Err(trouble(Some(l as u32), FaultKind::Illegal(message)));
        }
        let base = if generic { SHARED_BASE } else { 0 };
        let v = lanes64(|l| {
            let offset = a[l].wrapping_sub(base) & 0xff_ffff;
            base + ((u64::from(rank[l]) + 1) << RANK_SHIFT | offset)
        });
        self.w.regs.put_wide(d, &v, mask);
        Ok(())
    }
}

/// Memory in which all lanes of an access probably lie.
#[derive(Clone, Copy)]
struct Region {
    start: u64,
    /// The largest legal offset.
    limit: u64,
    host: *mut u8,
    align: u64,
}

impl Region {
    /// The pointers of all lanes, or nothing when one is outside or
    /// misaligned.
    #[inline(always)]
    fn check(self, address: impl Fn(usize) -> u64, mask: u32, first: u64) -> Option<Pointers> {
        let mut offsets = [0u64; 32];
        // The top bit of the offset or of `limit - offset` is set where a lane
        // leaves the region: no comparison is needed.
        let (mut outside, mut low) = (0u64, 0u64);
        for (l, out) in offsets.iter_mut().enumerate() {
            let a = address(l);
            let a = if mask == FULL || mask >> l & 1 != 0 {
                a
            } else {
                first
            };
            let offset = a.wrapping_sub(self.start);
            outside |= offset | self.limit.wrapping_sub(offset);
            low |= a;
            *out = offset;
        }
        if outside >> 63 != 0 || low & (self.align - 1) != 0 {
            return None;
        }
        // SAFETY: every offset is at most `limit`.
        Some(offsets.map(|o| unsafe { self.host.add(o as usize) }))
    }

    #[inline]
    fn wide(self, base: &Row64, offset: u64, mask: u32, first: u64) -> Option<Pointers> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the feature is there.
            return unsafe { self.wide_avx2(base, offset, mask, first) };
        }
        self.wide_any(base, offset, mask, first)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn wide_avx2(self, base: &Row64, offset: u64, mask: u32, first: u64) -> Option<Pointers> {
        self.wide_any(base, offset, mask, first)
    }

    #[inline(always)]
    fn wide_any(self, base: &Row64, offset: u64, mask: u32, first: u64) -> Option<Pointers> {
        let address = |l: usize| base[l].wrapping_add(offset);
        if mask == FULL {
            self.check(address, FULL, first)
        } else {
            self.check(address, mask, first)
        }
    }

    #[inline]
    fn narrow(self, base: &Row32, offset: u32, mask: u32, first: u64) -> Option<Pointers> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the feature is there.
            return unsafe { self.narrow_avx2(base, offset, mask, first) };
        }
        self.narrow_any(base, offset, mask, first)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn narrow_avx2(self, base: &Row32, offset: u32, mask: u32, first: u64) -> Option<Pointers> {
        self.narrow_any(base, offset, mask, first)
    }

    #[inline(always)]
    fn narrow_any(self, base: &Row32, offset: u32, mask: u32, first: u64) -> Option<Pointers> {
        let address = |l: usize| u64::from(base[l].wrapping_add(offset));
        if mask == FULL {
            self.check(address, FULL, first)
        } else {
            self.check(address, mask, first)
        }
    }
}

fn window_base(space: Space) -> u64 {
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
