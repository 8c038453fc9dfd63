//! What a kernel says of itself when it gives up waiting, before it traps.
//!
//! In: the two words that it stored where the module's variable [`VARIABLE`] points:
//!
//! ```text
//! word 0   0x4D43 | site (16 bits) | linear block index (32 bits)
//! word 1   nanoseconds waited (48 bits) | linear thread index (16 bits)
//! ```
//!
//! Sites from 16 on are waits for another rank: of the low half of word 0 the upper 16 bits are the rank then, the lower
//! ones the block. Out: a [`Status`], in words.

use std::fmt;

/// The module's variable: the address of its words, or 0.
pub(super) const VARIABLE: &str = "mcc_status";

/// Words of a kernel.
pub(super) const WORDS: usize = 2;

/// First 16 bits of word 0.
const MAGIC: u64 = 0x4D43;

/// A wait that did not end in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// What the thread waited for.
    pub site: WaitSite,
    /// Linear index of its block.
    pub block: u32,
    /// Linear index of the thread in its block.
    pub thread: u32,
    /// How long, by the device's clock.
    pub nanoseconds: u64,
}

/// What a thread waited for. Ranks count from 0 in the group that shares the experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitSite {
    /// Data of its own block.
    Full,
    /// A free stage of its own block.
    Empty,
    /// How many rows come from a rank.
    Counts(u32),
    /// A rank's rows.
    Rows(u32),
    /// Messages of a rank's ring.
    Messages(u32),
    /// Room in the ring that a rank reads.
    Room(u32),
    /// Nothing: more rows came to this rank than it has room for.
    Capacity(u32),
    /// One that this runtime does not know.
    Other(u16),
}

impl WaitSite {
    /// The rank that it waited for.
    #[must_use]
    pub const fn peer(self) -> Option<u32> {
        match self {
            Self::Counts(rank) | Self::Rows(rank) | Self::Messages(rank) | Self::Room(rank) => {
                Some(rank)
            }
            _ => None,
        }
    }
}

impl Status {
    /// Reads the words; `None` when nobody has written them.
    pub(super) fn decode([first, second]: [u64; WORDS]) -> Option<Self> {
        if first >> 48 != MAGIC {
            return None;
        }
        let low = first as u32;
        let (rank, block) = (low >> 16, low & 0xFFFF);
        let (site, block) = match (first >> 32) as u16 {
            1 => (WaitSite::Full, low),
            2 => (WaitSite::Empty, low),
            16 => (WaitSite::Counts(rank), block),
            17 => (WaitSite::Rows(rank), block),
            18 => (WaitSite::Messages(rank), block),
            19 => (WaitSite::Room(rank), block),
            20 => (WaitSite::Capacity(rank), block),
            other => (WaitSite::Other(other), low),
        };
        Some(Self {
            site,
            block,
            thread: (second & 0xFFFF) as u32,
            nanoseconds: second >> 16,
        })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {}, thread {} ", self.block, self.thread)?;
        if let WaitSite::Capacity(rank) = self.site {
            return write!(
                f,
                "found more rows for the experts of rank {rank} than it has room for"
            );
        }
        write!(f, "waited {:.1} s ", self.nanoseconds as f64 * 1e-9)?;
        match self.site {
            WaitSite::Full => f.write_str("at a full barrier (data that should arrive)"),
            WaitSite::Empty => f.write_str("at an empty barrier (a stage that should be freed)"),
            WaitSite::Counts(rank) => write!(f, "to hear how many rows come from rank {rank}"),
            WaitSite::Rows(rank) => write!(f, "for rows of rank {rank}"),
            WaitSite::Messages(rank) => write!(f, "for messages of rank {rank}"),
            WaitSite::Room(rank) => write!(f, "for rank {rank} to make room for messages"),
            WaitSite::Capacity(_) => Ok(()),
            WaitSite::Other(site) => write!(f, "at site {site}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_a_sentence() {
        assert_eq!(Status::decode([0, 0]), None);
        let text = |first, second| Status::decode([first, second]).map(|s| s.to_string());
        let ten_seconds = 10_000_000_000 << 16;
        assert_eq!(
            text(0x4D43_0001_0000_0007, ten_seconds | 128).as_deref(),
            Some("block 7, thread 128 waited 10.0 s at a full barrier (data that should arrive)")
        );
        assert_eq!(
            text(0x4D43_0009_0000_0000, 0).as_deref(),
            Some("block 0, thread 0 waited 0.0 s at site 9")
        );
        assert_eq!(
            text(0x4D43_0011_0003_0005, ten_seconds | 64).as_deref(),
            Some("block 5, thread 64 waited 10.0 s for rows of rank 3")
        );
        assert_eq!(
            text(0x4D43_0014_0002_0000, 1).as_deref(),
            Some(
                "block 0, thread 1 found more rows for the experts of rank 2 than it has room for"
            )
        );
        let site = Status::decode([0x4D43_0010_0007_0000, 0]).map(|s| s.site.peer());
        assert_eq!(site, Some(Some(7)));
    }
}
