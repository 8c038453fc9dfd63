//! PTX of the kernels that find a machine's limits: a copy, products without memory traffic, and nothing at all.
//!
//! In: what to probe. Out: PTX text, to be loaded like any kernel.
//! The product's operands stay in shared memory: two warpgroups a block each multiply their 64 rows with the same
//! 256 columns, the widest `wgmma` there is (PTX ISA, "wgmma.mma_async"), so that shared memory (128 bytes a cycle)
//! keeps up. Operands are random in sign and mantissa: products of zeros would take less power, run at a higher
//! clock, and promise what no real product reaches.

use std::fmt::Write;

/// Kernel that copies `chunks` pieces of 16 bytes.
pub const COPY: &str = "mcc_bench_copy";
/// Kernel that does nothing.
pub const EMPTY: &str = "mcc_bench_empty";
/// Kernel that multiplies.
pub const MATRIX: &str = "mcc_bench_matrix";

/// Threads a block of the copy.
pub const COPY_BLOCK: u32 = 512;
/// Pieces of 16 bytes that each thread has in flight.
const COPY_UNROLL: u32 = 4;

/// Threads a block of the product: two warpgroups.
pub const MATRIX_BLOCK: u32 = 256;
/// Shared memory of the product: A of each warpgroup, then B; aligned to the 1024 bytes of a swizzle atom.
pub const MATRIX_SMEM: u32 = A_BYTES * 2 + B_BYTES + 1024;
/// 64 rows of 128 bytes.
const A_BYTES: u32 = 64 * 128;
/// 256 rows of 128 bytes.
const B_BYTES: u32 = 256 * 128;
/// Products of one round, between two waits.
const PRODUCTS: u64 = 16;
/// Accumulators of a thread.
const ACCUMULATORS: usize = 128;

/// Operands of the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matrix {
    /// E4M3.
    Fp8,
    /// BF16.
    Bf16,
}

impl Matrix {
    /// Depth of one `wgmma`: 32 bytes.
    const fn depth(self) -> u64 {
        match self {
            Self::Fp8 => 32,
            Self::Bf16 => 16,
        }
    }

    /// Operations of one block in one round.
    pub const fn flops_per_round(self) -> u64 {
        2 * PRODUCTS * 2 * 64 * 256 * self.depth()
    }
}

const HEADER: &str = ".version 8.0\n.target sm_90a\n.address_size 64\n\n";

/// Nothing.
pub fn empty() -> String {
    format!("{HEADER}.visible .entry {EMPTY}()\n{{\n\tret;\n}}\n")
}

/// `(from: u64, to: u64, chunks: u32)`: pieces of 16 bytes, each block a stride of the grid.
pub fn copy() -> String {
    let mut body = String::new();
    let _ = write!(
        body,
        "{HEADER}.visible .entry {COPY}(
	.param .u64 from,
	.param .u64 to,
	.param .u32 chunks
)
.maxntid {COPY_BLOCK}, 1, 1
{{
	.reg .pred %p;
	.reg .b32 %i, %n, %step, %t, %b, %threads, %blocks;
	.reg .b64 %from, %to, %at, %a, %c, %wide;
	.reg .b32 %v<{}>;
	ld.param.u64 %from, [from];
	ld.param.u64 %to, [to];
	ld.param.u32 %n, [chunks];
	mov.u32 %t, %tid.x;
	mov.u32 %b, %ctaid.x;
	mov.u32 %threads, %ntid.x;
	mov.u32 %blocks, %nctaid.x;
	mad.lo.u32 %i, %b, %threads, %t;
	mul.lo.u32 %step, %blocks, %threads;
	mul.wide.u32 %wide, %step, 16;
next:
	setp.ge.u32 %p, %i, %n;
	@%p bra done;
	mul.wide.u32 %at, %i, 16;
	add.u64 %a, %from, %at;
	add.u64 %c, %to, %at;
",
        4 * COPY_UNROLL
    );
    let piece = |u: u32| {
        let v = 4 * u;
        format!("{{%v{v}, %v{}, %v{}, %v{}}}", v + 1, v + 2, v + 3)
    };
    // `chunks` is a multiple of a grid's pieces: no part of a round is left.
    for u in 0..COPY_UNROLL {
        let _ = writeln!(body, "\tld.global.v4.u32 {}, [%a];", piece(u));
        let _ = writeln!(body, "\tadd.u64 %a, %a, %wide;");
    }
    for u in 0..COPY_UNROLL {
        let _ = writeln!(body, "\tst.global.v4.u32 [%c], {};", piece(u));
        let _ = writeln!(body, "\tadd.u64 %c, %c, %wide;");
    }
    let _ = write!(
        body,
        "\tmad.lo.u32 %i, %step, {COPY_UNROLL}, %i;\n\tbra.uni next;\ndone:\n\tret;\n}}\n"
    );
    body
}

/// The largest number of 16-byte pieces up to `chunks` that [`copy`] takes from a grid of `blocks`.
pub const fn copy_chunks(chunks: u64, blocks: u32) -> u64 {
    let round = blocks as u64 * COPY_BLOCK as u64 * COPY_UNROLL as u64;
    chunks / round * round
}

/// `(out: u64, rounds: u32)`: each thread stores the sum of its accumulators, which keeps them alive.
pub fn matrix(matrix: Matrix) -> String {
    let registers: Vec<String> = (0..ACCUMULATORS).map(|i| format!("%f{i}")).collect();
    let list = registers.join(", ");
    // Sign and mantissa at random, an exponent that gives magnitudes from 0.5 up to 1.
    let (keep, exponent) = match matrix {
        Matrix::Fp8 => (0x8787_8787_u32, 0x3030_3030_u32),
        Matrix::Bf16 => (0x807f_807f, 0x3f00_3f00),
    };
    let (shape, types, transpose) = match matrix {
        Matrix::Fp8 => ("m64n256k32", "f32.e4m3.e4m3", ""),
        Matrix::Bf16 => ("m64n256k16", "f32.bf16.bf16", ", 0, 0"),
    };
    let words = (2 * A_BYTES + B_BYTES) / 4;
    let mut body = String::new();
    let _ = write!(
        body,
        "{HEADER}.extern .shared .align 1024 .b8 tiles[];

.visible .entry {MATRIX}(
	.param .u64 out,
	.param .u32 rounds
)
.maxntid {MATRIX_BLOCK}, 1, 1
{{
	.reg .pred %p, %go;
	.reg .b32 %t, %b, %i, %x, %y, %base, %at, %warpgroup, %rounds, %a, %slot;
	.reg .b64 %out, %da, %db, %bits, %k, %wide;
	.reg .f32 %f<{ACCUMULATORS}>;
	ld.param.u64 %out, [out];
	ld.param.u32 %rounds, [rounds];
	mov.u32 %t, %tid.x;
	mov.u32 %b, %ctaid.x;
	mov.u32 %base, tiles;
	add.u32 %base, %base, 1023;
	and.b32 %base, %base, 0xfffffc00;
	mad.lo.u32 %x, %b, {MATRIX_BLOCK}, %t;
	mad.lo.u32 %x, %x, 0x9e3779b9, 0x7f4a7c15;
	mov.u32 %i, %t;
fill:
	shl.b32 %y, %x, 13;
	xor.b32 %x, %x, %y;
	shr.u32 %y, %x, 17;
	xor.b32 %x, %x, %y;
	shl.b32 %y, %x, 5;
	xor.b32 %x, %x, %y;
	and.b32 %y, %x, {keep:#x};
	or.b32 %y, %y, {exponent:#x};
	shl.b32 %at, %i, 2;
	add.u32 %at, %at, %base;
	st.shared.u32 [%at], %y;
	add.u32 %i, %i, {MATRIX_BLOCK};
	setp.lt.u32 %p, %i, {words};
	@%p bra fill;
	fence.proxy.async.shared::cta;
	bar.sync 0;
	shr.u32 %warpgroup, %t, 7;
	mad.lo.u32 %a, %warpgroup, {A_BYTES}, %base;
"
    );
    // Matrix descriptor (PTX ISA, "Matrix Descriptor Format"): address / 16, 1024 / 16 bytes from 8 rows to the
    // next, 128-byte swizzle.
    for (name, start) in [
        ("da", "%a".to_owned()),
        ("db", format!("%base + {}", 2 * A_BYTES)),
    ] {
        let address = match start.split_once(" + ") {
            Some((base, offset)) => format!("\tadd.u32 %at, {base}, {offset};\n"),
            None => format!("\tmov.u32 %at, {start};\n"),
        };
        let _ = write!(
            body,
            "{address}	shr.u32 %at, %at, 4;
	and.b32 %at, %at, 0x3fff;
	cvt.u64.u32 %{name}, %at;
	or.b64 %{name}, %{name}, 0x4000004000010000;
"
        );
    }
    for register in &registers {
        let _ = writeln!(body, "\tmov.f32 {register}, 0f00000000;");
    }
    let _ = write!(
        body,
        "\tsetp.eq.u32 %go, 0, 0;\n\tmov.u32 %i, 0;\nround:\n\twgmma.fence.sync.aligned;\n"
    );
    for product in 0..PRODUCTS {
        // Four steps of 32 bytes along the 128 bytes of a row, over and over.
        let step = (product % 4) * 2;
        let _ = write!(
            body,
            "	add.u64 %bits, %da, {step};
	add.u64 %k, %db, {step};
	wgmma.mma_async.sync.aligned.{shape}.{types} {{{list}}}, %bits, %k, %go, 1, 1{transpose};
"
        );
    }
    let _ = write!(
        body,
        "	wgmma.commit_group.sync.aligned;
	wgmma.wait_group.sync.aligned 0;
	add.u32 %i, %i, 1;
	setp.lt.u32 %p, %i, %rounds;
	@%p bra round;
"
    );
    for register in &registers[1..] {
        let _ = writeln!(body, "\tadd.f32 %f0, %f0, {register};");
    }
    let _ = write!(
        body,
        "	mad.lo.u32 %slot, %b, {MATRIX_BLOCK}, %t;
	mul.wide.u32 %wide, %slot, 4;
	add.u64 %out, %out, %wide;
	st.global.f32 [%out], %f0;
	ret;
}}
"
    );
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{
        Device, DeviceOptions, Launch, LaunchDims, ModuleImage, SimDevice, StreamId,
    };

    fn device() -> SimDevice {
        SimDevice::new(&DeviceOptions {
            sms: 2,
            global_bytes: 64 << 20,
            ..DeviceOptions::default()
        })
    }

    fn launch(grid: u32, block: u32, smem_bytes: u32) -> LaunchDims {
        LaunchDims {
            grid: [grid, 1, 1],
            block,
            cluster: [1, 1, 1],
            smem_bytes,
            programmatic: false,
        }
    }

    #[test]
    fn the_copy_copies_all_of_its_pieces_and_no_more() {
        let mut device = device();
        let chunks = copy_chunks(3 * 2 * 512 * 4 + 100, 2);
        assert_eq!(chunks, 3 * 2 * 512 * 4);
        let bytes = chunks as usize * 16;
        let (from, to) = (
            device.alloc(bytes as u64, "from").expect("fits"),
            device.alloc(bytes as u64 + 16, "to").expect("fits"),
        );
        let data: Vec<u8> = (0..bytes).map(|i| (i * 7 + i / 256) as u8).collect();
        device.write(from, &data).expect("allocated");
        device.fill(to, 0xee, bytes as u64 + 16).expect("allocated");
        let image = ModuleImage {
            kernel: COPY,
            ptx: &copy(),
            cubin: None,
        };
        let function = device.load_module(&image).expect("it parses");
        let mut params = [from.to_le_bytes(), to.to_le_bytes()].concat();
        params.extend_from_slice(&(chunks as u32).to_le_bytes());
        let dims = launch(2, COPY_BLOCK, 0);
        let launch = Launch {
            function,
            dims,
            params: &params,
            label: "copy",
        };
        device.launch(StreamId::MAIN, &launch).expect("it runs");
        let mut copied = vec![0; bytes + 16];
        device.read(to, &mut copied).expect("allocated");
        assert!(copied[..bytes] == data[..], "the bytes differ");
        assert_eq!(copied[bytes..], [0xee; 16]);
    }

    #[test]
    fn the_product_multiplies_as_much_as_it_says_and_nothing_overflows() {
        for kind in [Matrix::Fp8, Matrix::Bf16] {
            let mut device = device();
            let out = device.alloc(2 * 256 * 4, "out").expect("fits");
            let image = ModuleImage {
                kernel: MATRIX,
                ptx: &matrix(kind),
                cubin: None,
            };
            let function = device.load_module(&image).expect("it parses");
            let mut params = out.to_le_bytes().to_vec();
            params.extend_from_slice(&2_u32.to_le_bytes());
            let launch = Launch {
                function,
                dims: launch(2, MATRIX_BLOCK, MATRIX_SMEM),
                params: &params,
                label: "product",
            };
            let report = device.launch(StreamId::MAIN, &launch).expect("it runs");
            // Two blocks, two rounds, two operations for each multiply-add.
            let macs = 2 * 2 * kind.flops_per_round() / 2;
            assert_eq!(report.tensor_macs, Some(macs), "{kind:?}");
            let mut bytes = vec![0; 2 * 256 * 4];
            device.read(out, &mut bytes).expect("allocated");
            let sums: Vec<f32> = bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect();
            assert!(sums.iter().all(|sum| sum.is_finite()), "{kind:?}");
            // Blocks draw other operands: not all sums are alike, and none of the halves is idle.
            assert!(sums[..256] != sums[256..]);
            assert!(
                sums.chunks(128)
                    .all(|warpgroup| warpgroup.iter().any(|sum| *sum != 0.0))
            );
        }
    }

    #[test]
    fn the_empty_kernel_runs() {
        let mut device = device();
        let image = ModuleImage {
            kernel: EMPTY,
            ptx: &empty(),
            cubin: None,
        };
        let function = device.load_module(&image).expect("it parses");
        let launch = Launch {
            function,
            dims: launch(1, 32, 0),
            params: &[],
            label: "empty",
        };
        device.launch(StreamId::MAIN, &launch).expect("it runs");
    }

    /// What the driver's compiler would make slow, `ptxas` tells: spills, and products that it serialises.
    #[test]
    fn ptxas_takes_the_probes_without_a_word() {
        for toolkit in ["cuda-12.9", "cuda-13"] {
            let ptxas = concat!(env!("CARGO_MANIFEST_DIR"), "/../.tools");
            let ptxas = std::path::Path::new(ptxas).join(toolkit).join("bin/ptxas");
            if !ptxas.is_file() {
                println!("skipped: {} is not there", ptxas.display());
                continue;
            }
            let dir = tempfile::tempdir().expect("a folder");
            let probes = [copy(), empty(), matrix(Matrix::Fp8), matrix(Matrix::Bf16)];
            for (i, ptx) in probes.iter().enumerate() {
                let file = dir.path().join(format!("{i}.ptx"));
                std::fs::write(&file, ptx).expect("writes");
                let output = std::process::Command::new(&ptxas)
                    .args(["-arch=sm_90a", "-v", "-o", "/dev/null"])
                    .arg(&file)
                    .output()
                    .expect("starts");
                let said = [output.stdout, output.stderr].concat();
                let said = String::from_utf8_lossy(&said);
                assert!(output.status.success(), "{said}");
                for bad in ["warning", "serializ", "(C7"] {
                    assert!(!said.contains(bad), "probe {i}: {said}");
                }
                let spills = "0 bytes spill stores, 0 bytes spill loads";
                assert!(said.contains(spills), "probe {i}: {said}");
            }
        }
    }
}
