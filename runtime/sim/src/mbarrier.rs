//! `mbarrier` objects (PTX ISA 9.7.13.15).
//!
//! In: the 8 bytes of the object in shared memory. Out: the bytes after an
//! operation. The device's layout is opaque to programs; ours is
//!
//! ```text
//!   bit  0..20   pending arrivals of the current phase
//!       20..40   expected arrivals of every phase
//!       40..61   tx-count, two's complement
//!       61       parity of the current phase
//!       62..64   0b10 in a live object
//! ```
//!
//! A phase completes when no arrival is pending and the tx-count is zero; the
//! next one starts at once with the expected arrivals.

/// The largest arrival count, 2^20 - 1.
pub const MAX_COUNT: u32 = (1 << 20) - 1;
const TX_BITS: u32 = 21;
const LIVE: u64 = 0b10 << 62;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mbarrier {
    pub pending: u32,
    pub expected: u32,
    pub tx: i32,
    pub parity: bool,
}

impl Mbarrier {
    pub fn init(count: u32) -> Result<Mbarrier, String> {
        if count == 0 || count > MAX_COUNT {
            return Err(format!(
                "the arrival count {count} is not between 1 and {MAX_COUNT}"
            ));
        }
        Ok(Mbarrier {
            pending: count,
            expected: count,
            tx: 0,
            parity: false,
        })
    }

    pub fn from_word(word: u64) -> Result<Mbarrier, String> {
        if word & (0b11 << 62) != LIVE {
            return Err("no mbarrier is initialised here".into());
        }
        let tx = ((word >> 40) & ((1 << TX_BITS) - 1)) as i32;
        Ok(Mbarrier {
            pending: (word & u64::from(MAX_COUNT)) as u32,
            expected: ((word >> 20) & u64::from(MAX_COUNT)) as u32,
            tx: (tx << (32 - TX_BITS)) >> (32 - TX_BITS),
            parity: word >> 61 & 1 == 1,
        })
    }

    pub fn to_word(self) -> u64 {
        LIVE | u64::from(self.parity) << 61
            | (u64::from(self.tx as u32) & ((1 << TX_BITS) - 1)) << 40
            | u64::from(self.expected) << 20
            | u64::from(self.pending)
    }

    /// The state word's phase parity, for `test_wait` without `.parity`.
    pub fn state_parity(state: u64) -> bool {
        state >> 61 & 1 == 1
    }

    /// `expect-tx`: the phase waits for `bytes` more.
    pub fn expect_tx(&mut self, bytes: u32) -> Result<(), String> {
        self.move_tx(i64::from(bytes))
    }

    /// `complete-tx`: `bytes` have arrived; may complete the phase.
    pub fn complete_tx(&mut self, bytes: u32) -> Result<(), String> {
        self.move_tx(-i64::from(bytes))?;
        self.settle();
        Ok(())
    }

    /// `arrive-on` with a count; may complete the phase.
    pub fn arrive(&mut self, count: u32) -> Result<(), String> {
        if count == 0 || count > self.pending {
            return Err(format!(
                "{count} arrivals where {} of {} are pending: too many arrivals in one phase",
                self.pending, self.expected
            ));
        }
        self.pending -= count;
        self.settle();
        Ok(())
    }

    /// `arrive_drop`: later phases expect `count` fewer arrivals.
    pub fn arrive_drop(&mut self, count: u32) -> Result<(), String> {
        if count > self.expected {
            return Err(format!(
                "{count} dropped of {} expected arrivals",
                self.expected
            ));
        }
        self.expected -= count;
        self.arrive(count)
    }

    fn move_tx(&mut self, by: i64) -> Result<(), String> {
        let tx = i64::from(self.tx) + by;
        let limit = i64::from(MAX_COUNT);
        if !(-limit..=limit).contains(&tx) {
            return Err(format!("the tx-count would become {tx}, beyond 2^20 - 1"));
        }
        self.tx = tx as i32;
        Ok(())
    }

    fn settle(&mut self) {
        if self.pending == 0 && self.tx == 0 {
            self.parity = !self.parity;
            self.pending = self.expected;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_wait_for_arrivals_and_bytes() {
        let mut b = Mbarrier::init(2).expect("legal");
        b.arrive(1).expect("pending");
        b.expect_tx(4096).expect("in range");
        b.arrive(1).expect("pending");
        assert!(!b.parity && b.tx == 4096);
        // The state survives its encoding.
        b = Mbarrier::from_word(b.to_word()).expect("live");
        b.complete_tx(4000).expect("in range");
        assert!(!b.parity);
        b.complete_tx(96).expect("in range");
        assert!(b.parity && b.pending == 2);
    }

    #[test]
    fn bytes_may_come_before_they_are_expected() {
        let mut b = Mbarrier::init(1).expect("legal");
        b.complete_tx(16).expect("in range");
        assert_eq!(Mbarrier::from_word(b.to_word()).expect("live").tx, -16);
        b.expect_tx(16).expect("in range");
        b.arrive(1).expect("pending");
        assert!(b.parity);
    }

    #[test]
    fn misuse_is_named() {
        assert!(Mbarrier::init(0).is_err() && Mbarrier::init(MAX_COUNT + 1).is_err());
        assert!(Mbarrier::from_word(0).is_err());
        let mut b = Mbarrier::init(1).expect("legal");
        assert!(b.arrive(2).is_err());
        assert!(b.expect_tx(MAX_COUNT).is_ok() && b.expect_tx(1).is_err());
        let mut d = Mbarrier::init(2).expect("legal");
        d.arrive_drop(1).expect("expected");
        d.arrive(1).expect("pending");
        assert!(d.parity && d.pending == 1);
    }
}
