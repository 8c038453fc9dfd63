//! A kernel's machine code before the driver reads it.
//!
//! In: bytes of a bundle. Out: the bytes at an address that suits the driver, or why they are not a whole ELF file.
//! Holds: every table and section that the file's header names lies inside of the bytes. `cuModuleLoadDataEx` takes
//! no length: it would read beyond the end of a file that was cut.

/// Size of an ELF64 header, of a section's and of a segment's (System V ABI, chapter 4 and 5).
const HEADER: usize = 64;
const SECTION: usize = 64;
const SEGMENT: usize = 56;

/// Type of a section that takes no bytes of the file.
const NO_BITS: u64 = 8;

/// A whole ELF file, aligned as its largest fields.
pub(super) struct Cubin(Vec<u64>);

impl Cubin {
    /// Checks and copies the bytes; the error says what is wrong with them.
    pub fn new(bytes: &[u8]) -> Result<Self, String> {
        check(bytes)?;
        let words = bytes.chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_ne_bytes(word)
        });
        Ok(Self(words.collect()))
    }

    pub const fn as_ptr(&self) -> *const core::ffi::c_void {
        self.0.as_ptr().cast()
    }
}

fn check(bytes: &[u8]) -> Result<(), String> {
    // Class 2 is 64 bits, data 1 is little-endian.
    if bytes.len() < HEADER || bytes[..6] != *b"\x7fELF\x02\x01" {
        return Err("it is not an ELF file of 64 bits".to_owned());
    }
    let inside = |offset: u64, len: u64| {
        offset
            .checked_add(len)
            .is_some_and(|end| end <= bytes.len() as u64)
    };
    let tables = [
        (
            "section",
            number(bytes, 0x28, 8),
            number(bytes, 0x3A, 2),
            number(bytes, 0x3C, 2),
            SECTION,
        ),
        (
            "segment",
            number(bytes, 0x20, 8),
            number(bytes, 0x36, 2),
            number(bytes, 0x38, 2),
            SEGMENT,
        ),
    ];
    for (what, offset, entry_size, count, least) in tables {
        if count == 0 {
            continue;
        }
        if entry_size < least as u64 || !inside(offset, entry_size * count) {
            return Err(format!("its {what} table is cut"));
        }
        for index in 0..count {
            let entry = (offset + index * entry_size) as usize;
            let (empty, at, len) = if least == SECTION {
                (
                    number(bytes, entry + 4, 4) == NO_BITS,
                    number(bytes, entry + 24, 8),
                    number(bytes, entry + 32, 8),
                )
            } else {
                (
                    false,
                    number(bytes, entry + 8, 8),
                    number(bytes, entry + 32, 8),
                )
            };
            if !empty && !inside(at, len) {
                return Err(format!("{what} {index} is cut"));
            }
        }
    }
    Ok(())
}

/// A little-endian number; the place was checked.
fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    let mut word = [0; 8];
    word[..len].copy_from_slice(&bytes[at..at + len]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header, one section of 8 bytes, and its table.
    fn elf() -> Vec<u8> {
        let mut bytes = vec![0; HEADER + 8 + SECTION];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[0x28] = (HEADER + 8) as u8;
        bytes[0x3A] = SECTION as u8;
        bytes[0x3C] = 1;
        let table = HEADER + 8;
        bytes[table + 24] = HEADER as u8;
        bytes[table + 32] = 8;
        bytes
    }

    #[test]
    fn a_whole_file_is_taken() {
        let bytes = elf();
        let cubin = Cubin::new(&bytes).expect("whole");
        assert_eq!(cubin.0.len(), bytes.len().div_ceil(8));
        assert_eq!(cubin.0[0].to_ne_bytes(), bytes[..8]);
    }

    #[test]
    fn a_cut_file_is_refused() {
        let bytes = elf();
        for len in 0..bytes.len() {
            assert!(check(&bytes[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn sizes_that_overflow_are_refused() {
        let mut bytes = elf();
        bytes[HEADER + 8 + 32..HEADER + 8 + 40].fill(0xFF);
        assert!(check(&bytes).is_err());
        let mut bytes = elf();
        bytes[0x28..0x30].fill(0xFF);
        assert!(check(&bytes).is_err());
    }

    #[test]
    fn a_section_without_bytes_may_be_of_any_size() {
        let mut bytes = elf();
        bytes[HEADER + 8 + 4] = NO_BITS as u8;
        bytes[HEADER + 8 + 32..HEADER + 8 + 40].fill(0xFF);
        assert!(check(&bytes).is_ok());
    }
}
