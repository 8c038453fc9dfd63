//! Tensor maps: the 128 bytes that describe a tiled tensor to TMA.
//!
//! [`TensorMap::encode`] checks what `cuTensorMapEncodeTiled` checks (CUDA
//! driver API, Tensor Map Object Management) and writes an encoding of our own,
//! marked with a magic number; the hardware's is not published.
//! The simulator decodes it when an instruction uses the map.

use crate::error::SimError;
use crate::isa::MapField;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TensorElem {
    U8,
    U16,
    U32,
    S32,
    U64,
    S64,
    F16,
    F32,
    F64,
    Bf16,
    /// FP32 whose subnormals are flushed.
    F32Ftz,
    Tf32,
    Tf32Ftz,
}

impl TensorElem {
    /// In the order of the driver's `CUtensorMapDataType`.
    pub const ALL: [TensorElem; 13] = [
        TensorElem::U8,
        TensorElem::U16,
        TensorElem::U32,
        TensorElem::S32,
        TensorElem::U64,
        TensorElem::S64,
        TensorElem::F16,
        TensorElem::F32,
        TensorElem::F64,
        TensorElem::Bf16,
        TensorElem::F32Ftz,
        TensorElem::Tf32,
        TensorElem::Tf32Ftz,
    ];

    pub const fn bytes(self) -> u64 {
        match self {
            TensorElem::U8 => 1,
            TensorElem::U16 | TensorElem::F16 | TensorElem::Bf16 => 2,
            TensorElem::U64 | TensorElem::S64 | TensorElem::F64 => 8,
            _ => 4,
        }
    }

    pub(crate) const fn is_float(self) -> bool {
        !matches!(
            self,
            TensorElem::U8
                | TensorElem::U16
                | TensorElem::U32
                | TensorElem::S32
                | TensorElem::U64
                | TensorElem::S64
        )
    }
}

/// How 16-byte units are permuted in shared memory; see [`Swizzle::apply`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Swizzle {
    None,
    B32,
    B64,
    B128,
}

impl Swizzle {
    const ALL: [Swizzle; 4] = [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128];

    /// Bytes of one swizzled row.
    pub const fn span(self) -> u64 {
        match self {
            Swizzle::None => 16,
            Swizzle::B32 => 32,
            Swizzle::B64 => 64,
            Swizzle::B128 => 128,
        }
    }

    /// Permutes a shared-memory address: bits 4.. are xored with bits 7.. of
    /// the same address, one, two or three bits of them. The permutation
    /// depends on the address alone, so that a tile may be read from any row
    /// or column inside it.
    #[inline(always)]
    pub const fn apply(self, address: u32) -> u32 {
        let mask = match self {
            Swizzle::None => 0,
            Swizzle::B32 => 1,
            Swizzle::B64 => 3,
            Swizzle::B128 => 7,
        };
        address ^ (((address >> 7) & mask) << 4)
    }
}

/// What `cuTensorMapEncodeTiled` takes. Dimension 0 is the innermost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorMap {
    pub elem: TensorElem,
    pub global_address: u64,
    /// Elements of each dimension; one to five of them.
    pub dims: Vec<u64>,
    /// Bytes from one index to the next, of dimensions 1 and up.
    pub strides: Vec<u64>,
    pub box_dims: Vec<u32>,
    /// Every n-th element is taken; 1 in nearly every use.
    pub elem_strides: Vec<u32>,
    pub swizzle: Swizzle,
    /// Elements out of bounds read as NaN rather than zero.
    pub oob_nan: bool,
}

const MAGIC: u64 = 0x4d43_4354_4d41_5001;

impl TensorMap {
    /// The 128 bytes to hand to a kernel, aligned to 64 bytes in its
    /// parameters or in global memory.
    pub fn encode(&self) -> Result<[u8; 128], SimError> {
        self.check().map_err(SimError::TensorMap)?;
        let mut out = [0u8; 128];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC.to_le_bytes());
        put(8, &self.global_address.to_le_bytes());
        put(
            16,
            &[
                self.dims.len() as u8,
                self.elem as u8,
                self.swizzle as u8,
                u8::from(self.oob_nan),
            ],
        );
        for (i, &d) in self.dims.iter().enumerate() {
            // Dimensions reach 2^32, so store one less.
            put(24 + 4 * i, &((d - 1) as u32).to_le_bytes());
        }
        for (i, &s) in self.strides.iter().enumerate() {
            put(48 + 8 * i, &s.to_le_bytes());
        }
        for (i, &b) in self.box_dims.iter().enumerate() {
            put(80 + 2 * i, &(b as u16).to_le_bytes());
        }
        for (i, &e) in self.elem_strides.iter().enumerate() {
            put(92 + i, &[e as u8]);
        }
        Ok(out)
    }

    /// Reads what [`Self::encode`] wrote; the text says what is wrong with other bytes.
    pub fn decode(bytes: &[u8; 128]) -> Result<TensorMap, String> {
        let u64_at = |at: usize| {
            let mut v = [0u8; 8];
            v.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(v)
        };
        let u32_at = |at: usize| u64_at(at) as u32;
        if u64_at(0) != MAGIC {
            return Err("these 128 bytes were not written by TensorMap::encode".into());
        }
        let rank = usize::from(bytes[16]);
        let (Some(&elem), Some(&swizzle), 1..=5) = (
            TensorElem::ALL.get(usize::from(bytes[17])),
            Swizzle::ALL.get(usize::from(bytes[18])),
            rank,
        ) else {
            return Err("the map is damaged".into());
        };
        let map = TensorMap {
            elem,
            global_address: u64_at(8),
            dims: (0..rank)
                .map(|i| u64::from(u32_at(24 + 4 * i)) + 1)
                .collect(),
            strides: (0..rank - 1).map(|i| u64_at(48 + 8 * i)).collect(),
            box_dims: (0..rank).map(|i| u32_at(80 + 2 * i) & 0xffff).collect(),
            elem_strides: (0..rank).map(|i| u32::from(bytes[92 + i])).collect(),
            swizzle,
            oob_nan: bytes[19] != 0,
        };
        map.check()?;
        Ok(map)
    }

    /// Bytes that one box takes in shared memory.
    pub fn box_bytes(&self) -> u64 {
        self.box_counts().map(u64::from).product::<u64>() * self.elem.bytes()
    }

    /// Elements of each box dimension after element strides.
    pub(crate) fn box_counts(&self) -> impl Iterator<Item = u32> + '_ {
        self.box_dims
            .iter()
            .zip(&self.elem_strides)
            .map(|(&b, &s)| b.div_ceil(s))
    }

    fn check(&self) -> Result<(), String> {
        let rank = self.dims.len();
        if !(1..=5).contains(&rank) {
            return Err(format!("rank {rank} is not between 1 and 5"));
        }
        let lens = [
            ("box_dims", self.box_dims.len(), rank),
            ("elem_strides", self.elem_strides.len(), rank),
            ("strides", self.strides.len(), rank - 1),
        ];
        for (name, got, want) in lens {
            if got != want {
                return Err(format!(
                    "{name} has {got} entries; rank {rank} needs {want}"
                ));
            }
        }
        if !self.global_address.is_multiple_of(16) {
            return Err(format!(
                "the global address {:#x} is not a multiple of 16",
                self.global_address
            ));
        }
        for (i, &d) in self.dims.iter().enumerate() {
            if d == 0 || d > 1 << 32 {
                return Err(format!(
                    "dimension {i} of {d} elements is not between 1 and 2^32"
                ));
            }
        }
        for (i, &s) in self.strides.iter().enumerate() {
            if s % 16 != 0 || s >= 1 << 40 {
                return Err(format!(
                    "the stride of dimension {}, {s} bytes, is not a multiple of 16 below 2^40",
                    i + 1
                ));
            }
        }
        for (i, (&b, &s)) in self.box_dims.iter().zip(&self.elem_strides).enumerate() {
            if b == 0 || b > 256 {
                return Err(format!(
                    "box dimension {i} of {b} elements is not between 1 and 256"
                ));
            }
            if s == 0 || s > 8 {
                return Err(format!(
                    "element stride {s} of dimension {i} is not between 1 and 8"
                ));
            }
        }
        let inner = u64::from(self.box_dims[0]) * self.elem.bytes();
        if !inner.is_multiple_of(16) {
            return Err(format!(
                "the inner box dimension takes {inner} bytes, which is not a multiple of 16"
            ));
        }
        if self.swizzle != Swizzle::None && inner > self.swizzle.span() {
            return Err(format!(
                "the inner box dimension takes {inner} bytes, more than the swizzle span of {}",
                self.swizzle.span()
            ));
        }
        if self.oob_nan && !self.elem.is_float() {
            return Err("NaN fill needs a floating-point element type".into());
        }
        Ok(())
    }
}

/// An encoded map that a kernel edits, maybe not yet whole.
pub(crate) struct MapBytes(pub [u8; 128]);

impl MapBytes {
    /// Element types by the numbers of PTX ISA "tensormap.replace", which are
    /// not those of the driver's interface.
    const ELEMS: [TensorElem; 13] = [
        TensorElem::U8,
        TensorElem::U16,
        TensorElem::U32,
        TensorElem::S32,
        TensorElem::U64,
        TensorElem::S64,
        TensorElem::F16,
        TensorElem::F32,
        TensorElem::F32Ftz,
        TensorElem::F64,
        TensorElem::Bf16,
        TensorElem::Tf32,
        TensorElem::Tf32Ftz,
    ];

    /// Writes one field. What the value means for the whole map is checked when
    /// the map is used.
    pub fn replace(&mut self, field: MapField, index: u8, value: u64) -> Result<(), String> {
        if self.0 == [0; 128] {
            self.put(0, &MAGIC.to_le_bytes());
        } else if self.0[..8] != MAGIC.to_le_bytes() {
            return Err(
                "neither a tensor map nor zeros: write zeros to its 128 bytes first".into(),
            );
        }
        let index = usize::from(index);
        let no = |what: &str| Err(format!("there is no {what} {value}"));
        match field {
            MapField::GlobalAddress => self.put(8, &value.to_le_bytes()),
            MapField::Rank if value < 5 => self.0[16] = value as u8 + 1,
            MapField::Rank => return no("number of dimensions less one"),
            // Dimensions are stored less one, as the whole of 2^32 is allowed;
            // a kernel cannot write that.
            MapField::GlobalDim if value as u32 == 0 => return no("dimension of size"),
            MapField::GlobalDim => self.put(24 + 4 * index, &(value as u32 - 1).to_le_bytes()),
            MapField::GlobalStride => self.put(48 + 8 * index, &value.to_le_bytes()),
            MapField::BoxDim if value as u32 <= 256 => {
                self.put(80 + 2 * index, &(value as u16).to_le_bytes());
            }
            MapField::BoxDim => return no("box dimension of size"),
            MapField::ElementStride if value as u32 <= 8 => self.0[92 + index] = value as u8,
            MapField::ElementStride => return no("element stride of"),
            MapField::ElemType => match Self::ELEMS.get(value as usize) {
                Some(&elem) => self.0[17] = elem as u8,
                None => return no("supported element type"),
            },
            MapField::Interleave if value == 0 => {}
            MapField::Interleave => return no("supported interleave layout"),
            MapField::SwizzleMode if value < 4 => self.0[18] = value as u8,
            MapField::SwizzleMode => return no("supported swizzle mode"),
            MapField::FillMode if value < 2 => self.0[19] = value as u8,
            MapField::FillMode => return no("fill mode"),
        }
        Ok(())
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> TensorMap {
        TensorMap {
            elem: TensorElem::Bf16,
            global_address: 0x7000_0000_0100,
            dims: vec![100, 1 << 32],
            strides: vec![208],
            box_dims: vec![64, 256],
            elem_strides: vec![1, 1],
            swizzle: Swizzle::B128,
            oob_nan: true,
        }
    }

    #[test]
    fn a_map_comes_back_from_its_bytes() {
        let bytes = map().encode().expect("legal");
        assert_eq!(TensorMap::decode(&bytes).expect("own encoding"), map());
        assert!(TensorMap::decode(&[0; 128]).is_err());
        assert_eq!(map().box_bytes(), 32768);
    }

    #[test]
    fn every_rule_is_checked() {
        type Change = fn(&mut TensorMap);
        let broken: [(&str, Change); 11] = [
            ("multiple of 16", |m| m.global_address += 8),
            ("multiple of 16", |m| m.strides[0] = 200),
            ("below 2^40", |m| m.strides[0] = 1 << 40),
            ("between 1 and 256", |m| m.box_dims[1] = 257),
            ("swizzle span", |m| m.box_dims[0] = 72),
            ("multiple of 16", |m| m.box_dims[0] = 60),
            ("between 1 and 2^32", |m| m.dims[0] = 0),
            ("element stride", |m| m.elem_strides[0] = 9),
            ("rank", |m| m.dims = vec![]),
            ("strides has", |m| m.strides.clear()),
            ("floating-point", |m| m.elem = TensorElem::U16),
        ];
        for (want, change) in broken {
            let mut m = map();
            change(&mut m);
            let error = m.encode().expect_err(want).to_string();
            assert!(error.contains(want), "{error} lacks {want}");
        }
    }

    #[test]
    fn a_kernel_writes_a_map_field_by_field() {
        let mut bytes = MapBytes([0; 128]);
        let fields = [
            (MapField::GlobalAddress, 0, 0x7000_0000_0100),
            (MapField::Rank, 0, 1),
            (MapField::GlobalDim, 0, 100),
            (MapField::GlobalDim, 1, u64::from(u32::MAX)),
            (MapField::GlobalStride, 0, 208),
            (MapField::BoxDim, 0, 64),
            (MapField::BoxDim, 1, 256),
            (MapField::ElementStride, 0, 1),
            (MapField::ElementStride, 1, 1),
            // BF16 by the numbers of the instruction, which has `.f32.ftz` where
            // the driver has FP64.
            (MapField::ElemType, 0, 10),
            (MapField::Interleave, 0, 0),
            (MapField::SwizzleMode, 0, 3),
            (MapField::FillMode, 0, 1),
        ];
        for (n, (field, index, value)) in fields.into_iter().enumerate() {
            assert!(
                n > 8 || TensorMap::decode(&bytes.0).is_err(),
                "not yet whole"
            );
            bytes.replace(field, index, value).expect("legal");
        }
        let mut want = map();
        want.dims[1] = u64::from(u32::MAX);
        assert_eq!(TensorMap::decode(&bytes.0).expect("whole"), want);
        for (field, value) in [
            (MapField::Rank, 5),
            (MapField::GlobalDim, 0),
            (MapField::BoxDim, 257),
            (MapField::ElementStride, 9),
            (MapField::ElemType, 13),
            (MapField::Interleave, 1),
            (MapField::SwizzleMode, 4),
            (MapField::FillMode, 2),
        ] {
            assert!(bytes.replace(field, 0, value).is_err(), "{field:?}");
        }
        let error = MapBytes([7; 128]).replace(MapField::Rank, 0, 1);
        assert!(error.is_err_and(|e| e.contains("write zeros")));
    }

    #[test]
    fn swizzles_permute_16_byte_units() {
        assert_eq!(Swizzle::B128.apply(0x080), 0x090);
        assert_eq!(Swizzle::B128.apply(0x3f4), 0x384);
        assert_eq!(Swizzle::B64.apply(0x200), 0x200);
        assert_eq!(Swizzle::B64.apply(0x180), 0x1b0);
        assert_eq!(Swizzle::B32.apply(0x180), 0x190);
        for s in Swizzle::ALL {
            assert!((0..4096u32).all(|a| s.apply(s.apply(a)) == a));
        }
    }
}
