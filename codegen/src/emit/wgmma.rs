//! Warpgroup matrix products: `wgmma.mma_async` (PTX ISA 9.7.15) and its shared-memory descriptors.
//!
//! One call is one inline block: fence, k-steps, commit, wait. Nothing can move between them, so neither a
//! late zeroing of accumulators nor a copy of registers in flight can serialise the tensor core. The other
//! warpgroup's products run meanwhile.
//!
//! Accumulator fragment of `m64nNk*` (PTX ISA, figure of matrix fragment D): for the thread of warp `w` and
//! lane `l` of the warpgroup, register `4j + i` is row `16w + l/4 + 8(i/2)`, column `8j + 2(l%4) + i%2`.

use melior::ir::Value;

use super::asm::Effect;
use super::{F32, I32, Kernel, Shared, Val};

/// Operand types of a product; the accumulator is FP32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MmaType {
    /// E4M3 x E4M3, k = 32, both K-major.
    E4m3,
    /// BF16 x BF16, k = 16.
    Bf16,
}

impl MmaType {
    /// K elements of one instruction.
    #[must_use]
    pub fn k(self) -> u32 {
        match self {
            Self::E4m3 => 32,
            Self::Bf16 => 16,
        }
    }

    fn ptx(self) -> &'static str {
        match self {
            Self::E4m3 => "f32.e4m3.e4m3",
            Self::Bf16 => "f32.bf16.bf16",
        }
    }
}

/// Which axis of an operand is contiguous in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Major {
    /// K is contiguous.
    K,
    /// M or N is contiguous (BF16 only).
    Mn,
}

/// A matrix descriptor (PTX ISA "Matrix Descriptor Format"). Only its low word, where the address is, is not known
/// when the kernel is built; a 64-bit value would be computed with carries.
#[derive(Clone, Copy)]
pub struct Descriptor<'k> {
    low: Val<'k, I32>,
    high: u32,
}

impl<'k> Descriptor<'k> {
    /// Of what lies `bytes` further.
    pub fn offset(self, bytes: u32) -> Self {
        Self {
            low: self.low + bytes / 16,
            ..self
        }
    }

    /// Of what lies `count` times `bytes` further.
    pub fn times(self, count: Val<'k, I32>, bytes: u32) -> Self {
        Self {
            low: self.low + count * (bytes / 16),
            ..self
        }
    }
}

/// The A operand.
pub enum OperandA<'a, 'k> {
    /// Descriptor of the tile, and the byte offset of each k-step in it.
    Shared {
        descriptor: Descriptor<'k>,
        offsets: &'a [u32],
    },
    /// Four packed registers a k-step.
    Registers(&'a [[Val<'k, I32>; 4]]),
}

/// The B operand.
#[derive(Clone, Copy)]
pub struct OperandB<'a, 'k> {
    /// Descriptor of the tile.
    pub descriptor: Descriptor<'k>,
    /// Byte offset of each k-step in it.
    pub offsets: &'a [u32],
    /// Its layout.
    pub major: Major,
}

/// What the product is added to.
pub enum Init<'a, 'k> {
    /// Nothing: the first step ignores the accumulator.
    Zero,
    /// These registers.
    Accumulate(&'a [Val<'k, F32>]),
    /// Nothing; the result takes the place of these registers. As written it may be added to them, where `never` is not
    /// 0, so that ptxas finishes what reads them before, in place of giving the result registers of its own.
    Instead {
        of: &'a [Val<'k, F32>],
        never: Val<'k, I32>,
    },
}

/// A product of a 64-row tile; B's offsets say how many k-steps.
#[derive(Clone, Copy, Debug)]
pub struct Mma {
    /// Operand types.
    pub ty: MmaType,
    /// Columns, a multiple of 8 up to 256.
    pub n: u32,
}

/// Byte offsets of the k-steps of K-major, 128-byte-swizzled columns `[tile of 128 bytes][row][128 bytes]`:
/// `k_bytes` bytes of K in tiles `tile_bytes` apart. An instruction takes 32 bytes of K.
#[must_use]
pub fn k_major_offsets(k_bytes: u32, tile_bytes: u32) -> Vec<u32> {
    (0..k_bytes.div_ceil(32))
        .map(|s| s / 4 * tile_bytes + s % 4 * 32)
        .collect()
}

impl Kernel {
    /// Descriptor of an operand tile in 128-byte-swizzled shared memory (PTX ISA 9.7.15.5.1.2.2).
    ///
    /// K-major: rows of 128 bytes, 8-row groups `stride` bytes apart (1024 when dense); `leading` unused.
    /// MN-major: blocks of 64 elements along MN `leading` bytes apart, 8-deep groups along K `stride` apart.
    pub fn descriptor_128b<'k>(
        &'k self,
        tile: Shared<'k>,
        leading: u32,
        stride: u32,
    ) -> Descriptor<'k> {
        // Addresses in shared memory have 18 bits, so that nothing is cut off.
        let address = tile.address().ushr(4);
        Descriptor {
            low: if leading == 0 {
                address
            } else {
                address | ((leading >> 4) << 16).cast_signed()
            },
            high: (1 << 30) | (stride >> 4),
        }
    }

    /// `D = A B (+ init)`; returns the `n / 2` accumulator registers of this thread, complete.
    ///
    /// All four warps of the warpgroup call it together.
    pub fn wgmma<'k>(
        &'k self,
        mma: Mma,
        a: &OperandA<'_, 'k>,
        b: OperandB<'_, 'k>,
        init: &Init<'_, 'k>,
    ) -> Vec<Val<'k, F32>> {
        let regs = (mma.n / 2) as usize;
        // Early clobber: the first k-step writes D before later ones read A's registers.
        let mut constraints = vec!["=&f".to_owned(); regs];
        let mut operands: Vec<Value<'static, 'static>> = Vec::new();
        if let Init::Accumulate(acc) | Init::Instead { of: acc, .. } = init {
            debug_assert_eq!(acc.len(), regs);
            constraints.extend((0..regs).map(|i| i.to_string()));
            operands.extend(acc.iter().map(|v| v.raw));
        }
        let d: Vec<String> = (0..regs).map(|i| format!("${i}")).collect();
        let d = format!("{{{}}}", d.join(", "));
        // `$` numbers of the operands behind results and tied accumulators.
        let mut next = constraints.len();
        let mut operand = |value: Value<'static, 'static>, constraint: &str| {
            constraints.push(constraint.to_owned());
            operands.push(value);
            next += 1;
            format!("${}", next - 1)
        };

        let first = match init {
            Init::Instead { never, .. } => operand(never.raw, "r"),
            Init::Zero | Init::Accumulate(_) => "0".to_owned(),
        };
        let mut text = format!(
            "{{\n.reg .pred first;\n.reg .pred more;\nsetp.ne.b32 first, {first}, 0;\nsetp.eq.b32 more, 0, 0;\n"
        );
        let a_text: Vec<String> = match a {
            OperandA::Shared {
                descriptor,
                offsets,
            } => {
                let base = operand(descriptor.low.raw, "r");
                advance(&mut text, "a", &base, descriptor.high, offsets)
            }
            OperandA::Registers(steps) => steps
                .iter()
                .map(|r| {
                    let names: Vec<String> = r.iter().map(|v| operand(v.raw, "r")).collect();
                    format!("{{{}}}", names.join(", "))
                })
                .collect(),
        };
        let base = operand(b.descriptor.low.raw, "r");
        let b_text = advance(&mut text, "b", &base, b.descriptor.high, b.offsets);
        debug_assert_eq!(a_text.len(), b_text.len());

        text.push_str("wgmma.fence.sync.aligned;\n");
        let shape = format!("m64n{}k{}", mma.n, mma.ty.k());
        for s in 0..b_text.len() {
            let scale_d = if s == 0 && !matches!(init, Init::Accumulate(_)) {
                "first"
            } else {
                "more"
            };
            // 8-bit operands have no transpose immediates; A in registers has none for A.
            let trans_b = i32::from(b.major == Major::Mn);
            let trans = match (mma.ty, a) {
                (MmaType::E4m3, _) => String::new(),
                (MmaType::Bf16, OperandA::Shared { .. }) => format!(", 0, {trans_b}"),
                (MmaType::Bf16, OperandA::Registers(_)) => format!(", {trans_b}"),
            };
            text.push_str(&format!(
                "wgmma.mma_async.sync.aligned.{shape}.{} {d}, {}, {}, {scale_d}, 1, 1{trans};\n",
                mma.ty.ptx(),
                a_text[s],
                b_text[s],
            ));
        }
        text.push_str("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n}");
        let types = vec!["f32"; regs];
        self.asm(
            &text,
            &constraints.join(","),
            &operands,
            &types,
            Effect::Memory,
        )
        .into_iter()
        .map(|raw| Val::new(self, raw))
        .collect()
    }
}

/// Declares a descriptor for each k-step (address field in units of 16 bytes) and returns their names.
fn advance(text: &mut String, name: &str, base: &str, high: u32, offsets: &[u32]) -> Vec<String> {
    offsets
        .iter()
        .enumerate()
        .map(|(step, &bytes)| {
            let (whole, low) = (format!("d{name}{step}"), format!("l{name}{step}"));
            text.push_str(&format!(
                ".reg .b32 {low};\n.reg .b64 {whole};\nadd.s32 {low}, {base}, {};\nmov.b64 {whole}, {{{low}, {high}}};\n",
                bytes / 16
            ));
            whole
        })
        .collect()
}
