//! Loads, stores and address arithmetic.
//!
//! In: where the lanes find their bytes ([`super::reach`]) and the registers.
//! Out: registers or memory, changed in active lanes. An access is checked
//! before, so that a fault changes nothing. A run of words moves as such, and
//! small elements side by side fill whole words of it: most accesses of a
//! kernel that was written for a GPU are of this kind.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::fence;

use super::alu::{Consts, Regs, lanes32, lanes64};
use super::reach::{Home, Place, Reach, window_base};
use super::state::Core;
use super::sync::lanes;
use crate::error::{Exec, FaultKind, illegal, trouble};
use crate::isa::{CONST, FULL, Ld, P, R, Row, Row64, Space, St};
use crate::memory::cells::{self, Cells};
use crate::memory::{GLOBAL_BASE, RANK_SHIFT, SHARED_BASE, WINDOW};
use crate::numerics::convert::{sign_extend, zero_extend};

/// The words of 32 lanes with 16 bytes each, as they lie in memory.
type Words = [u32; 128];

impl<'a> Core<'a> {
    #[inline]
    pub fn ld(&mut self, ld: &Ld, mask: u32, consts: Consts<'_>) -> Exec<()> {
        let len = u64::from(ld.size) * ld.dst.len() as u64;
        if let Row::R32(r) | Row::R64(r) = ld.addr.base
            && r & CONST != 0
            && ld.space != Space::Local
        {
            return self.ld_uniform(ld, mask, len, consts);
        }
        let mut at = [0; 32];
        let reach = self.reach(ld.space, ld.addr, mask, len, consts, &mut at)?;
        if self.check.is_some() {
            let addrs = self.addresses(ld.addr, mask, consts);
            self.check_access(ld.access(), &addrs, mask, 0)?;
        }
        if ld.order.strong() {
            // The result may overwrite the address.
            let addrs = self.addresses(ld.addr, mask, consts);
            self.ld_strong(ld, &reach, &at, mask, len)?;
            self.check_seen(ld.access(), &addrs, mask);
            return Ok(());
        }
        match reach {
            Reach::Run(place) => {
                let mut run: Words = [0; 128];
                let words = &mut run[..8 * len as usize];
                match place.home {
                    Home::Global(cells) => {
                        let from = &cells[place.at / 4..][..words.len()];
                        for (w, c) in words.iter_mut().zip(from) {
                            *w = c.load(Relaxed);
                        }
                    }
                    _ => words
                        .copy_from_slice(&self.words(place.home)[place.at / 4..][..words.len()]),
                }
                unpack(&run, &mut self.w.regs, ld);
            }
            Reach::Lanes(Home::Global(cells)) => {
                gather(cells, &mut self.w.regs, ld, &at, mask);
            }
            Reach::Lanes(Home::Shared(cta)) => {
                gather(
                    self.ctas[cta].shared_words(),
                    &mut self.w.regs,
                    ld,
                    &at,
                    mask,
                );
            }
            Reach::Lanes(Home::Local) => {
                let words = self.ctas[self.w.cta].local_words();
                gather(words, &mut self.w.regs, ld, &at, mask);
            }
            Reach::Lanes(Home::Param) => {
                gather(self.env.params, &mut self.w.regs, ld, &at, mask);
            }
            Reach::Each(places) => {
                for (e, &dst) in ld.dst.iter().enumerate() {
                    let v = lanes64(|l| {
                        let place = places[l].add(e * usize::from(ld.size));
                        widen(ld, self.load(place, ld.size))
                    });
                    self.w.regs.put_wide(dst, &v, mask);
                }
            }
        }
        Ok(())
    }

    /// An access that synchronises: what it sees others may have written, and
    /// 64 bits are read as one.
    fn ld_strong(
        &mut self,
        ld: &Ld,
        reach: &Reach<'a>,
        at: &Row64,
        mask: u32,
        len: u64,
    ) -> Exec<()> {
        for (e, &dst) in ld.dst.iter().enumerate() {
            let mut v = [0; 32];
            for l in lanes(mask) {
                let l = l as usize;
                let place = place_of(reach, at, l, len).add(e * usize::from(ld.size));
                let bits = match place.home {
                    Home::Global(cells) if ld.size == 8 => cells::load_pair(cells, place.at),
                    _ => self.load(place, ld.size),
                };
                v[l] = widen(ld, bits);
            }
            self.w.regs.put_wide(dst, &v, mask);
        }
        fence(Acquire);
        Ok(())
    }

    /// The address is the same in all lanes: read once. Parameters mostly.
    fn ld_uniform(&mut self, ld: &Ld, mask: u32, len: u64, consts: Consts<'_>) -> Exec<()> {
        let lane = mask.trailing_zeros() & 31;
        let addr = self.addresses(ld.addr, mask, consts)[0];
        let place = self.place(ld.space, addr, len, len, lane)?;
        if self.check.is_some() {
            self.check_access(ld.access(), &[addr; 32], mask, 0)?;
        }
        if ld.order.strong() {
            let reach = Reach::Lanes(place.home);
            self.ld_strong(ld, &reach, &[place.at as u64; 32], mask, len)?;
            self.check_seen(ld.access(), &[addr; 32], mask);
            return Ok(());
        }
        for (e, &dst) in ld.dst.iter().enumerate() {
            let v = self.load(place.add(e * usize::from(ld.size)), ld.size);
            let v = widen(ld, v);
            match dst {
                Row::R32(d) => self.w.regs.put32(d, &[v as u32; 32], mask),
                Row::R64(d) => self.w.regs.put64(d, &[v; 32], mask),
            }
        }
        Ok(())
    }

    #[inline]
    pub fn st(&mut self, st: &St, mask: u32, consts: Consts<'_>) -> Exec<()> {
        if st.space == Space::Param {
            return Err(illegal("kernel parameters cannot be written"));
        }
        let len = u64::from(st.size) * st.src.len() as u64;
        let mut at = [0; 32];
        let reach = self.reach(st.space, st.addr, mask, len, consts, &mut at)?;
        if self.check.is_some() {
            let addrs = self.addresses(st.addr, mask, consts);
            let same = self.unchanged(st, &reach, &at, mask, consts);
            self.check_access(st.access(), &addrs, mask, same)?;
        }
        self.flight.progress += 1;
        if self.env.network.is_some() {
            let addrs = self.addresses(st.addr, mask, consts);
            self.count_writes(st.space, &addrs, mask, len);
        }
        if st.order.strong() {
            fence(Release);
        }
        match reach {
            Reach::Run(place) if !(st.order.strong() && st.size == 8) => {
                let mut run: Words = [0; 128];
                pack(&mut run, &self.w.regs, consts, st);
                let words = &run[..8 * len as usize];
                match place.home {
                    Home::Global(cells) => {
                        let to = &cells[place.at / 4..][..words.len()];
                        for (w, c) in words.iter().zip(to) {
                            c.store(*w, Relaxed);
                        }
                    }
                    home => {
                        let to = &mut self.words_mut(home)?[place.at / 4..][..words.len()];
                        to.copy_from_slice(words);
                    }
                }
            }
            Reach::Lanes(Home::Global(cells)) if !(st.order.strong() && st.size == 8) => {
                scatter(&mut &*cells, &self.w.regs, consts, st, &at, mask);
            }
            Reach::Lanes(Home::Shared(cta)) => {
                let words = self.ctas[cta].shared_words_mut();
                scatter(words, &self.w.regs, consts, st, &at, mask);
            }
            Reach::Lanes(Home::Local) => {
                let words = self.ctas[self.w.cta].local_words_mut();
                scatter(words, &self.w.regs, consts, st, &at, mask);
            }
            reach => {
                for (e, &src) in st.src.iter().enumerate() {
                    let v = self.w.regs.get_wide(consts, src);
                    for l in lanes(mask) {
                        let l = l as usize;
                        let place = place_of(&reach, &at, l, len).add(e * usize::from(st.size));
                        match place.home {
                            Home::Global(cells) if st.order.strong() && st.size == 8 => {
                                cells::store_pair(cells, place.at, v[l]);
                            }
                            _ => self.store(place, st.size, v[l])?,
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Lanes that store what is there already.
    fn unchanged(
        &self,
        st: &St,
        reach: &Reach<'a>,
        at: &Row64,
        mask: u32,
        consts: Consts<'_>,
    ) -> u32 {
        let len = u64::from(st.size) * st.src.len() as u64;
        let mut same = mask;
        for (e, &src) in st.src.iter().enumerate() {
            let v = self.w.regs.get_wide(consts, src);
            for l in lanes(same) {
                let place = place_of(reach, at, l as usize, len).add(e * usize::from(st.size));
                let new = zero_extend(v[l as usize], 8 * u32::from(st.size));
                if self.load(place, st.size) != new {
                    same &= !(1 << l);
                }
            }
        }
        same
    }

    /// The words of a home that is not global memory.
    #[inline(always)]
    fn words(&self, home: Home<'a>) -> &[u32] {
        match home {
            Home::Shared(cta) => self.ctas[cta].shared_words(),
            Home::Local => self.ctas[self.w.cta].local_words(),
            Home::Param => self.env.params,
            // Callers treat global memory themselves.
            Home::Global(_) => &[],
        }
    }

    #[inline(always)]
    fn words_mut(&mut self, home: Home<'a>) -> Exec<&mut [u32]> {
        match home {
            Home::Shared(cta) => Ok(self.ctas[cta].shared_words_mut()),
            Home::Local => Ok(self.ctas[self.w.cta].local_words_mut()),
            Home::Param => Err(illegal("kernel parameters cannot be written")),
            Home::Global(_) => Ok(&mut []),
        }
    }

    /// The low `size` bytes of what lies at a place, which was checked.
    #[inline(always)]
    pub fn load(&self, place: Place<'a>, size: u8) -> u64 {
        match place.home {
            Home::Global(cells) => get_sized(cells, place.at, size),
            home => get_sized(self.words(home), place.at, size),
        }
    }

    #[inline(always)]
    pub fn store(&mut self, place: Place<'a>, size: u8, v: u64) -> Exec<()> {
        match place.home {
            Home::Global(cells) => put_sized(&mut &*cells, place.at, size, v),
            home => put_sized(self.words_mut(home)?, place.at, size, v),
        }
        Ok(())
    }

    /// Copies bytes out of a checked range.
    pub fn read(&self, place: Place<'a>, out: &mut [u8]) {
        match place.home {
            Home::Global(cells) => cells::read(cells, place.at, out),
            home => {
                let bytes: &[u8] = bytemuck::cast_slice(self.words(home));
                out.copy_from_slice(&bytes[place.at..][..out.len()]);
            }
        }
    }

    /// Copies bytes into a checked range.
    pub fn write(&mut self, place: Place<'a>, data: &[u8]) -> Exec<()> {
        match place.home {
            Home::Global(cells) => cells::write(cells, place.at, data),
            home => {
                let bytes: &mut [u8] = bytemuck::cast_slice_mut(self.words_mut(home)?);
                bytes[place.at..][..data.len()].copy_from_slice(data);
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

/// The place of one lane.
#[inline(always)]
fn place_of<'a>(reach: &Reach<'a>, at: &Row64, lane: usize, len: u64) -> Place<'a> {
    match reach {
        Reach::Run(place) => place.add(lane * len as usize),
        Reach::Lanes(home) => Place {
            home: *home,
            at: at[lane] as usize,
        },
        Reach::Each(places) => places[lane],
    }
}

#[inline(always)]
fn widen(ld: &Ld, v: u64) -> u64 {
    if ld.signed {
        sign_extend(v, 8 * u32::from(ld.size))
    } else {
        v
    }
}

/// Memory that is read by elements.
trait Source {
    fn get<const SIZE: usize>(&self, at: usize) -> u64;
}

impl Source for Cells {
    #[inline(always)]
    fn get<const SIZE: usize>(&self, at: usize) -> u64 {
        cells::load::<SIZE>(self, at)
    }
}

impl Source for [u32] {
    #[inline(always)]
    fn get<const SIZE: usize>(&self, at: usize) -> u64 {
        match SIZE {
            1 => u64::from(self[at / 4] >> (at % 4 * 8) & 0xff),
            2 => u64::from(self[at / 4] >> (at % 4 * 8) & 0xffff),
            4 => u64::from(self[at / 4]),
            _ => {
                let pair = &self[at / 4..at / 4 + 2];
                u64::from(pair[0]) | u64::from(pair[1]) << 32
            }
        }
    }
}

/// Memory that is written by elements.
trait Sink {
    fn put<const SIZE: usize>(&mut self, at: usize, v: u64);
}

impl Sink for &Cells {
    #[inline(always)]
    fn put<const SIZE: usize>(&mut self, at: usize, v: u64) {
        cells::store::<SIZE>(self, at, v);
    }
}

impl Sink for [u32] {
    #[inline(always)]
    fn put<const SIZE: usize>(&mut self, at: usize, v: u64) {
        match SIZE {
            1 | 2 => {
                let (mask, shift) = ((1u32 << (8 * SIZE)) - 1, at % 4 * 8);
                let word = &mut self[at / 4];
                *word = *word & !(mask << shift) | (v as u32 & mask) << shift;
            }
            4 => self[at / 4] = v as u32,
            _ => {
                let pair = &mut self[at / 4..at / 4 + 2];
                (pair[0], pair[1]) = (v as u32, (v >> 32) as u32);
            }
        }
    }
}

#[inline(always)]
fn get_sized<S: Source + ?Sized>(from: &S, at: usize, size: u8) -> u64 {
    match size {
        1 => from.get::<1>(at),
        2 => from.get::<2>(at),
        4 => from.get::<4>(at),
        _ => from.get::<8>(at),
    }
}

#[inline(always)]
fn put_sized<S: Sink + ?Sized>(to: &mut S, at: usize, size: u8, v: u64) {
    match size {
        1 => to.put::<1>(at, v),
        2 => to.put::<2>(at, v),
        4 => to.put::<4>(at, v),
        _ => to.put::<8>(at, v),
    }
}

/// Loads every lane's elements from `at` on.
#[inline(always)]
fn gather<S: Source + ?Sized>(from: &S, regs: &mut Regs, ld: &Ld, at: &Row64, mask: u32) {
    for (e, &dst) in ld.dst.iter().enumerate() {
        let skip = e * usize::from(ld.size);
        match (dst, ld.size) {
            (Row::R32(d), 4) => {
                let v = lanes32(|l| from.get::<4>(at[l] as usize + skip) as u32);
                regs.put32(d, &v, mask);
            }
            (Row::R64(d), 8) => {
                let v = lanes64(|l| from.get::<8>(at[l] as usize + skip));
                regs.put64(d, &v, mask);
            }
            (_, size) => {
                let v = lanes64(|l| widen(ld, get_sized(from, at[l] as usize + skip, size)));
                regs.put_wide(dst, &v, mask);
            }
        }
    }
}

/// Stores every active lane's elements from `at` on, in the order of lanes.
#[inline(always)]
fn scatter<S: Sink + ?Sized>(
    to: &mut S,
    regs: &Regs,
    consts: Consts<'_>,
    st: &St,
    at: &Row64,
    mask: u32,
) {
    for (e, &src) in st.src.iter().enumerate() {
        let skip = e * usize::from(st.size);
        if let (Row::R32(r), 4) = (src, st.size) {
            let v = regs.get32(consts, r);
            if mask == FULL {
                for l in 0..32 {
                    to.put::<4>(at[l] as usize + skip, v[l].into());
                }
                continue;
            }
        }
        let v = regs.get_wide(consts, src);
        for l in lanes(mask) {
            let l = l as usize;
            put_sized(to, at[l] as usize + skip, st.size, v[l]);
        }
    }
}

/// Distributes a run over the lanes; all of them are active.
#[inline(always)]
fn unpack(run: &Words, regs: &mut Regs, ld: &Ld) {
    let n = ld.dst.len();
    for (e, &dst) in ld.dst.iter().enumerate() {
        match (dst, ld.size, n) {
            (Row::R32(d), 4, 1) => regs.put32(d, &lanes32(|l| run[l]), FULL),
            (Row::R32(d), 4, 2) => regs.put32(d, &lanes32(|l| run[2 * l + e % 2]), FULL),
            (Row::R32(d), 4, 4) => regs.put32(d, &lanes32(|l| run[4 * l + e % 4]), FULL),
            (_, size, _) => {
                let first = e * usize::from(size);
                let step = n * usize::from(size);
                let v = lanes64(|l| widen(ld, get_sized(&run[..], first + l * step, size)));
                regs.put_wide(dst, &v, FULL);
            }
        }
    }
}

/// The run that the lanes store together; all of them are active.
#[inline(always)]
fn pack(run: &mut Words, regs: &Regs, consts: Consts<'_>, st: &St) {
    let n = st.src.len();
    for (e, &src) in st.src.iter().enumerate() {
        match (src, st.size, n) {
            (Row::R32(r), 4, 1) => {
                run[..32].copy_from_slice(regs.get32(consts, r));
            }
            (Row::R32(r), 4, 2 | 4) => {
                let v = regs.get32(consts, r);
                for (l, &x) in v.iter().enumerate() {
                    run[(n * l + e) % 128] = x;
                }
            }
            (Row::R32(r), 2, 1) => {
                let v = regs.get32(consts, r);
                for (i, word) in run[..16].iter_mut().enumerate() {
                    *word = v[2 * i] & 0xffff | v[2 * i + 1] << 16;
                }
            }
            (src, size, _) => {
                let v = regs.get_wide(consts, src);
                for (l, &x) in v.iter().enumerate() {
                    let at = (l * n + e) * usize::from(size);
                    put_sized(&mut run[..], at, size, x);
                }
            }
        }
    }
}
