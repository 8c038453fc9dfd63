//! Bytes that several host threads may touch at once, without unsafe code.
//!
//! In: a slice of 32-bit cells and a byte offset. Every access is made of
//! relaxed loads and stores of whole cells, so that a race in the simulated
//! program is a race there and nothing worse here. What lies in one cell is
//! read and written as one; of a cell only the bytes that are meant change.
//! Sixty-four bits are two cells: PTX asks for single-copy atomicity of them
//! only in *strong* accesses and atomics (PTX ISA 8.2), which take a lock
//! here. Runs of cells belong to bulk copies, which promise nothing.
//!
//! An offset is aligned to the access; one that leaves the slice panics, so
//! callers check first, by [`super::Table::resolve`].

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

#[cfg(target_endian = "big")]
compile_error!("the simulator keeps the bytes of a little-endian device in words of the host");

pub(crate) type Cells = [AtomicU32];

/// The lowest `bits` bits.
const fn low(bits: u32) -> u32 {
    if bits >= 32 {
        u32::MAX
    } else {
        (1 << bits) - 1
    }
}

/// The low `SIZE` bytes of what lies at `at`.
#[inline(always)]
pub fn load<const SIZE: usize>(cells: &Cells, at: usize) -> u64 {
    match SIZE {
        1 | 2 => {
            let cell = cells[at / 4].load(Relaxed) >> (at % 4 * 8);
            u64::from(cell & low(8 * SIZE as u32))
        }
        4 => u64::from(cells[at / 4].load(Relaxed)),
        _ => {
            let pair = &cells[at / 4..at / 4 + 2];
            u64::from(pair[0].load(Relaxed)) | u64::from(pair[1].load(Relaxed)) << 32
        }
    }
}

#[inline(always)]
pub fn store<const SIZE: usize>(cells: &Cells, at: usize, v: u64) {
    match SIZE {
        1 | 2 => merge(
            &cells[at / 4],
            low(8 * SIZE as u32) << (at % 4 * 8),
            (v as u32) << (at % 4 * 8),
        ),
        4 => cells[at / 4].store(v as u32, Relaxed),
        _ => {
            let pair = &cells[at / 4..at / 4 + 2];
            pair[0].store(v as u32, Relaxed);
            pair[1].store((v >> 32) as u32, Relaxed);
        }
    }
}

/// Replaces the bits of a cell that `mask` names.
#[inline]
fn merge(cell: &AtomicU32, mask: u32, v: u32) {
    // The closure always gives a value.
    let _ = cell.fetch_update(Relaxed, Relaxed, |old| Some(old & !mask | v & mask));
}

/// Locks for 64-bit accesses that must not tear, by address.
static PAIRS: [Mutex<()>; 64] = [const { Mutex::new(()) }; 64];

fn lock(cells: &Cells, at: usize) -> MutexGuard<'static, ()> {
    // Two views of one allocation begin at one address.
    let address = cells.as_ptr().addr() + at;
    // Neighbouring words are taken by neighbouring threads: spread them.
    let pair = &PAIRS[(address / 8) % PAIRS.len()];
    pair.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Eight bytes that no other strong access or atomic of them splits.
pub fn load_pair(cells: &Cells, at: usize) -> u64 {
    let _whole = lock(cells, at);
    load::<8>(cells, at)
}

pub fn store_pair(cells: &Cells, at: usize, v: u64) {
    let _whole = lock(cells, at);
    store::<8>(cells, at, v);
}

/// Replaces `size` bytes by `f` of them, as one step; gives what was there.
pub fn update(cells: &Cells, at: usize, size: usize, f: impl Fn(u64) -> u64) -> u64 {
    if size == 8 {
        let _whole = lock(cells, at);
        let old = load::<8>(cells, at);
        store::<8>(cells, at, f(old));
        return old;
    }
    let (shift, mask) = (at % 4 * 8, low(8 * size as u32));
    let part = |cell: u32| cell >> shift & mask;
    let old = cells[at / 4].fetch_update(AcqRel, Acquire, |cell| {
        let v = f(part(cell).into()) as u32 & mask;
        Some(cell & !(mask << shift) | v << shift)
    });
    // The closure always gives a value, so both results carry the old one.
    u64::from(part(old.unwrap_or_else(|cell| cell)))
}

/// Copies bytes out; `at` and the length may be anything.
pub fn read(cells: &Cells, at: usize, out: &mut [u8]) {
    if out.is_empty() {
        return;
    }
    let head = (at.next_multiple_of(4) - at).min(out.len());
    let (first, rest) = out.split_at_mut(head);
    for (i, b) in first.iter_mut().enumerate() {
        *b = load::<1>(cells, at + i) as u8;
    }
    let mut next = (at + head) / 4;
    let mut words = rest.chunks_exact_mut(4);
    let whole = &cells[next..next + words.len()];
    for (word, cell) in (&mut words).zip(whole) {
        word.copy_from_slice(&cell.load(Relaxed).to_le_bytes());
        next += 1;
    }
    for (i, b) in words.into_remainder().iter_mut().enumerate() {
        *b = load::<1>(cells, 4 * next + i) as u8;
    }
}

/// Copies bytes in; `at` and the length may be anything.
pub fn write(cells: &Cells, at: usize, data: &[u8]) {
    if data.is_empty() {
        return;
    }
    let head = (at.next_multiple_of(4) - at).min(data.len());
    let (first, rest) = data.split_at(head);
    for (i, &b) in first.iter().enumerate() {
        store::<1>(cells, at + i, b.into());
    }
    let mut next = (at + head) / 4;
    let words = rest.chunks_exact(4);
    let last = words.remainder();
    let whole = &cells[next..next + words.len()];
    for (word, cell) in words.zip(whole) {
        cell.store(
            u32::from_le_bytes([word[0], word[1], word[2], word[3]]),
            Relaxed,
        );
        next += 1;
    }
    for (i, &b) in last.iter().enumerate() {
        store::<1>(cells, 4 * next + i, b.into());
    }
}

/// Sets bytes; `at` and the length may be anything.
pub fn fill(cells: &Cells, at: usize, byte: u8, len: usize) {
    let bytes = [byte; 4096];
    let end = at + len;
    let mut from = at;
    while from < end {
        // Up to a whole number of cells.
        let n = (bytes.len() - from % 4).min(end - from);
        write(cells, from, &bytes[..n]);
        from += n;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_in_and_out_at_any_place() {
        let cells: Vec<AtomicU32> = (0..8).map(|_| AtomicU32::new(u32::MAX)).collect();
        for at in 0..8 {
            for len in 0..20 {
                fill(&cells, 0, 0xff, 32);
                let data: Vec<u8> = (0..len).map(|i| i as u8 + 1).collect();
                write(&cells, at, &data);
                let mut all = [0; 32];
                read(&cells, 0, &mut all);
                let inside = |i: usize| (at..at + len).contains(&i);
                for (i, &b) in all.iter().enumerate() {
                    let want = if inside(i) { (i - at) as u8 + 1 } else { 0xff };
                    assert_eq!(b, want, "byte {i} of {len} at {at}");
                }
                let mut back = vec![0; len];
                read(&cells, at, &mut back);
                assert_eq!(back, data);
            }
        }
        fill(&cells, 3, 7, 26);
        assert_eq!((load::<1>(&cells, 2), load::<1>(&cells, 3)), (0xff, 7));
        assert_eq!((load::<1>(&cells, 28), load::<1>(&cells, 29)), (7, 0xff));
    }

    #[test]
    fn parts_of_a_cell_change_alone() {
        let cells = [AtomicU32::new(0x4433_2211), AtomicU32::new(0x8877_6655)];
        store::<2>(&cells, 2, 0xabcd);
        store::<1>(&cells, 1, 0xee);
        assert_eq!(load::<4>(&cells, 0), 0xabcd_ee11);
        assert_eq!(load::<8>(&cells, 0), 0x8877_6655_abcd_ee11);
        assert_eq!(update(&cells, 6, 2, |v| v + 1), 0x8877);
        assert_eq!(update(&cells, 0, 8, |v| v ^ 1), 0x8878_6655_abcd_ee11);
        assert_eq!(load_pair(&cells, 0), 0x8878_6655_abcd_ee10);
        store_pair(&cells, 0, 5);
        assert_eq!((load::<4>(&cells, 0), load::<4>(&cells, 4)), (5, 0));
    }

    #[test]
    fn atomics_and_strong_pairs_do_not_tear() {
        let cells: Vec<AtomicU32> = (0..4).map(|_| AtomicU32::new(0)).collect();
        std::thread::scope(|s| {
            for _ in 0..2 {
                s.spawn(|| {
                    for _ in 0..20_000 {
                        update(&cells, 0, 8, |v| v + 0x1_0000_0001);
                        update(&cells, 8, 2, |v| v + 1);
                        update(&cells, 10, 2, |v| v + 3);
                    }
                });
            }
            for _ in 0..20_000 {
                let v = load_pair(&cells, 0);
                assert_eq!(v >> 32, v & 0xffff_ffff);
            }
        });
        assert_eq!(load::<4>(&cells, 0), 40_000);
        assert_eq!(load::<2>(&cells, 8), 40_000);
        assert_eq!(load::<2>(&cells, 10), 120_000 % 65_536);
    }
}
