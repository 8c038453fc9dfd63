//! The file around the sections: header, section table, compressed payloads.
//!
//! ```text
//!   0  magic "MCCB"
//!   4  format version                       u32
//!   8  length of the whole file             u64
//!  16  SHA-256 of everything from byte 48   [u8; 32]
//!  48  number of sections                   u32
//!  52  for each section, in order of the payloads:
//!          length of the name u16, name (UTF-8)
//!          offset u64, stored bytes u64, raw bytes u64, SHA-256 of the stored bytes
//!      payloads (zstd frames), one after the other, to the end of the file
//! ```
//!
//! All integers are little-endian. In and out: a list of named byte strings.
//! Holds: nothing in the file depends on time, place or environment; reading a file of any content
//! allocates no more than its sections say, and they may say [`MAX_SECTION_BYTES`] at most.

use std::io::Read;

use sha2::{Digest, Sha256};

use crate::error::BundleError;

/// First bytes of every bundle.
pub const MAGIC: [u8; 4] = *b"MCCB";
/// Version of this layout.
pub const FORMAT_VERSION: u32 = 1;
/// A section may not unpack to more than this.
pub const MAX_SECTION_BYTES: u64 = 1 << 30;

/// Good compression of text in milliseconds.
const ZSTD_LEVEL: i32 = 9;
/// Bytes that the file's hash does not cover: itself and what stands before it.
const HASH_START: usize = 16;
const HASHED_FROM: usize = 48;

/// A named piece of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Unique in its bundle, e.g. `manifest.json`.
    pub name: String,
    /// Unpacked.
    pub bytes: Vec<u8>,
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Packs sections, in the order given.
pub(crate) fn pack(sections: &[Section]) -> Result<Vec<u8>, BundleError> {
    let mut packed = Vec::with_capacity(sections.len());
    let mut table_bytes = 4;
    for section in sections {
        let stored = zstd::bulk::compress(&section.bytes, ZSTD_LEVEL)
            .map_err(|err| BundleError::Encode(format!("section `{}`: {err}", section.name)))?;
        let name_bytes = u16::try_from(section.name.len()).map_err(|_| {
            BundleError::Encode(format!(
                "the name of section `{}` is too long",
                section.name
            ))
        })?;
        if section.bytes.len() as u64 > MAX_SECTION_BYTES {
            return Err(BundleError::Encode(format!(
                "section `{}` is larger than 1 GiB",
                section.name
            )));
        }
        table_bytes += 2 + section.name.len() + 3 * 8 + 32;
        packed.push((section, name_bytes, stored));
    }
    let count = u32::try_from(packed.len())
        .map_err(|_| BundleError::Encode("too many sections".to_owned()))?;

    let payload_start = HASHED_FROM + table_bytes;
    let file_bytes = payload_start
        + packed
            .iter()
            .map(|(_, _, stored)| stored.len())
            .sum::<usize>();
    let mut out = Vec::with_capacity(file_bytes);
    out.extend(MAGIC);
    out.extend(FORMAT_VERSION.to_le_bytes());
    out.extend((file_bytes as u64).to_le_bytes());
    out.extend([0; 32]);
    out.extend(count.to_le_bytes());
    let mut offset = payload_start;
    for (section, name_bytes, stored) in &packed {
        out.extend(name_bytes.to_le_bytes());
        out.extend(section.name.as_bytes());
        out.extend((offset as u64).to_le_bytes());
        out.extend((stored.len() as u64).to_le_bytes());
        out.extend((section.bytes.len() as u64).to_le_bytes());
        out.extend(sha256(stored));
        offset += stored.len();
    }
    for (_, _, stored) in &packed {
        out.extend(stored);
    }
    let hash = sha256(&out[HASHED_FROM..]);
    out[HASH_START..HASHED_FROM].copy_from_slice(&hash);
    Ok(out)
}

/// One row of the section table.
struct Row<'a> {
    name: String,
    stored: &'a [u8],
    raw_bytes: u64,
    hash: [u8; 32],
}

/// Unpacks a file and checks every length and hash.
pub(crate) fn unpack(file: &[u8]) -> Result<Vec<Section>, BundleError> {
    let rows = read_table(file)?;
    // Sections first: they can say which part of the file is damaged.
    let sections = rows.iter().map(unpack_row).collect::<Result<Vec<_>, _>>()?;
    if sha256(&file[HASHED_FROM..]) != file[HASH_START..HASHED_FROM] {
        return Err(BundleError::CorruptHeader {
            what: "its hash differs".to_owned(),
        });
    }
    Ok(sections)
}

fn unpack_row(row: &Row<'_>) -> Result<Section, BundleError> {
    let corrupt = |what: String| BundleError::CorruptSection {
        section: row.name.clone(),
        what,
    };
    if sha256(row.stored) != row.hash {
        return Err(corrupt("its hash differs".to_owned()));
    }
    if row.raw_bytes > MAX_SECTION_BYTES {
        return Err(corrupt(format!(
            "it claims to unpack to {} bytes",
            row.raw_bytes
        )));
    }
    let decoder =
        zstd::stream::read::Decoder::new(row.stored).map_err(|err| corrupt(err.to_string()))?;
    let mut bytes = Vec::new();
    // One byte more than promised, to notice a section that goes on.
    decoder
        .take(row.raw_bytes + 1)
        .read_to_end(&mut bytes)
        .map_err(|err| corrupt(err.to_string()))?;
    if bytes.len() as u64 != row.raw_bytes {
        return Err(corrupt(format!(
            "it does not unpack to {} bytes",
            row.raw_bytes
        )));
    }
    Ok(Section {
        name: row.name.clone(),
        bytes,
    })
}

fn read_table(file: &[u8]) -> Result<Vec<Row<'_>>, BundleError> {
    let found = file.len() as u64;
    if !file.starts_with(&MAGIC) {
        return Err(BundleError::NotABundle);
    }
    let mut at = MAGIC.len();
    let version = u32::from_le_bytes(take(file, &mut at)?);
    if version != FORMAT_VERSION {
        return Err(BundleError::WrongVersion {
            what: "format",
            found: version,
            needed: FORMAT_VERSION,
        });
    }
    let needed = u64::from_le_bytes(take(file, &mut at)?);
    if found < needed {
        return Err(BundleError::Truncated { needed, found });
    }
    if found > needed {
        return Err(BundleError::TrailingBytes {
            extra: found - needed,
        });
    }
    let _hash: [u8; 32] = take(file, &mut at)?;
    let count = u32::from_le_bytes(take(file, &mut at)?);
    let mut spans = Vec::new();
    for _ in 0..count {
        let name_bytes = usize::from(u16::from_le_bytes(take(file, &mut at)?));
        let name = file
            .get(at..at + name_bytes)
            .ok_or_else(|| ends_early(file))?;
        let name = std::str::from_utf8(name).map_err(|_| BundleError::CorruptHeader {
            what: "a section's name is not UTF-8".to_owned(),
        })?;
        at += name_bytes;
        let offset = u64::from_le_bytes(take(file, &mut at)?);
        let stored_bytes = u64::from_le_bytes(take(file, &mut at)?);
        let raw_bytes = u64::from_le_bytes(take(file, &mut at)?);
        let hash = take(file, &mut at)?;
        spans.push((name, offset, stored_bytes, raw_bytes, hash));
    }
    // Payloads follow the table without gaps: nothing in the file is outside of all hashes.
    let mut next = at as u64;
    let mut rows: Vec<Row<'_>> = Vec::with_capacity(spans.len());
    for (name, offset, stored_bytes, raw_bytes, hash) in spans {
        let end = offset
            .checked_add(stored_bytes)
            .filter(|&end| offset == next && end <= found);
        let Some(end) = end else {
            return Err(BundleError::CorruptHeader {
                what: format!("section `{name}` is out of place"),
            });
        };
        next = end;
        if rows.iter().any(|row| row.name == name) {
            return Err(BundleError::CorruptHeader {
                what: format!("two sections are called `{name}`"),
            });
        }
        // Both ends are at most the file's length, which is a usize.
        rows.push(Row {
            name: name.to_owned(),
            stored: &file[offset as usize..end as usize],
            raw_bytes,
            hash,
        });
    }
    if next != found {
        return Err(BundleError::CorruptHeader {
            what: "bytes that belong to no section".to_owned(),
        });
    }
    Ok(rows)
}

fn take<const N: usize>(file: &[u8], at: &mut usize) -> Result<[u8; N], BundleError> {
    let bytes = file
        .get(*at..*at + N)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| ends_early(file))?;
    *at += N;
    Ok(bytes)
}

fn ends_early(file: &[u8]) -> BundleError {
    BundleError::Truncated {
        needed: (HASHED_FROM + 4).max(file.len() + 1) as u64,
        found: file.len() as u64,
    }
}
