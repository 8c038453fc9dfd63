//! A kernel whose data never come: it says where it waits and fails, and the simulator says dead-lock.

use mcc_codegen::emit::wait::{STATUS_SYMBOL, WAIT_LIMIT_NS};
use mcc_ir::DType;
use mcc_ir::kernel::{Epilogue, GemmBf16, GemmForm, GemmTile, KernelConfig};
use mcc_sim::{FaultKind, Gpu, GpuConfig, LaunchConfig, SimError, Swizzle, TensorElem, TensorMap};

use crate::harness::compile;

/// Rows and columns of the product: one tile.
const TILE: u32 = 64;

/// Runs a product of depth `k` whose copies bring less than the producer announces, with waits of at most
/// `limit_ns`. Gives the error, and the two words of the status when there is a place for one.
fn stuck(k: u32, limit_ns: i64, report: bool) -> (SimError, [u64; 2]) {
    let code = compile(&KernelConfig::GemmBf16(GemmBf16 {
        n: TILE,
        k,
        form: GemmForm::Dense,
        epilogue: Epilogue::Store,
        out: DType::F32,
        tile: GemmTile::new(TILE, TILE, 2),
    }));
    // LLVM may have turned `>` into `>=`.
    let limits = [WAIT_LIMIT_NS, WAIT_LIMIT_NS + 1].map(|n| format!(" {n};"));
    assert!(
        limits.iter().any(|n| code.ptx.contains(n)),
        "the limit is not in the code"
    );
    let ptx = limits.iter().fold(code.ptx.clone(), |text, n| {
        text.replace(n, &format!(" {limit_ns};"))
    });

    let gpu = Gpu::new(GpuConfig {
        // A dead-lock shows long before.
        instruction_limit: Some(1_000_000),
        threads: 1,
        ..GpuConfig::default()
    });
    let module = gpu.load_module(&ptx).expect("reads");
    let data = gpu
        .alloc(u64::from(TILE * k * 2), 256)
        .expect("there is memory");
    let out = gpu
        .alloc(u64::from(TILE * TILE * 4), 256)
        .expect("there is memory");
    let status = gpu.alloc(16, 16).expect("there is memory");
    if report {
        let (at, bytes) = module
            .global(STATUS_SYMBOL)
            .expect("a kernel that waits can report");
        assert_eq!(bytes, 8);
        gpu.write(at, &status.to_le_bytes()).expect("it is mapped");
    }
    let map = |elem, global_address, columns: u32, box_dims: [u32; 2]| {
        // A box's row is the 128 bytes of the swizzle.
        let bytes = 128 / box_dims[0];
        TensorMap {
            elem,
            global_address,
            dims: vec![u64::from(columns), u64::from(TILE)],
            strides: vec![u64::from(columns * bytes)],
            box_dims: box_dims.to_vec(),
            elem_strides: vec![1, 1],
            swizzle: Swizzle::B128,
            oob_nan: false,
        }
        .encode()
        .expect("a sound map")
    };
    let operand = |rows| map(TensorElem::Bf16, data, k, [64, rows]);
    // Half of the rows of A.
    let values: [&[u8]; 4] = [
        &operand(TILE / 2),
        &operand(TILE),
        &map(TensorElem::F32, out, TILE, [32, TILE]),
        &TILE.to_le_bytes(),
    ];
    let layout = module.param_layout(&code.name).expect("it has the kernel");
    assert_eq!(layout.len(), values.len());
    let mut params = vec![0; layout.last().map_or(0, |(at, size)| at + size)];
    for (value, (at, size)) in values.iter().zip(layout) {
        params[at..at + size].copy_from_slice(value);
    }
    let launch = LaunchConfig {
        dynamic_smem: code.launch.smem_bytes,
        programmatic: code.launch.programmatic,
        ..LaunchConfig::new(1, code.launch.block)
    };
    let error = gpu
        .launch(&module, &code.name, &launch, &params)
        .expect_err("half of the data are missing");
    let mut words = [0; 16];
    gpu.read(status, &mut words).expect("it is mapped");
    let word = |i: usize| u64::from_le_bytes(words[8 * i..][..8].try_into().expect("8 bytes"));
    (error, [word(0), word(1)])
}

#[test]
fn a_stuck_consumer_says_so_and_fails() {
    // As many blocks of K as stages: the producer is done, the consumers wait for data.
    let (error, [word0, word1]) = stuck(128, 100, true);
    assert!(
        matches!(&error, SimError::Fault(f) if f.kind == FaultKind::Trap),
        "{error}"
    );
    assert_eq!(word0, 0x4D43_0001_0000_0000, "{word0:#x}");
    let (waited, thread) = (word1 >> 16, word1 & 0xffff);
    assert!((101..10_000).contains(&waited), "{waited}");
    assert!((128..256).contains(&thread), "{thread}");
}

#[test]
fn a_stuck_producer_says_so_and_fails() {
    // More blocks than stages: the producer, whose warp comes first, waits for a free stage.
    let (error, [word0, word1]) = stuck(512, 100, true);
    assert!(
        matches!(&error, SimError::Fault(f) if f.kind == FaultKind::Trap),
        "{error}"
    );
    assert_eq!(word0, 0x4D43_0002_0000_0000, "{word0:#x}");
    assert!(word1 & 0xffff < 32, "{word1:#x}");
}

#[test]
fn without_a_place_for_a_status_it_only_fails() {
    let (error, words) = stuck(128, 100, false);
    assert!(
        matches!(&error, SimError::Fault(f) if f.kind == FaultKind::Trap),
        "{error}"
    );
    assert_eq!(words, [0, 0]);
}

#[test]
fn the_simulator_finds_the_dead_lock_before_the_time_is_up() {
    let (error, words) = stuck(512, WAIT_LIMIT_NS, true);
    let SimError::Deadlock(d) = &error else {
        panic!("{error}")
    };
    // One thread of the producer, and the four warps of the consumer.
    let waiting = |what: &str| d.waits.iter().filter(|w| w.reason.contains(what)).count();
    assert_eq!(waiting("waits for the mbarrier"), 5, "{error}");
    assert_eq!(waiting("4096 bytes are missing"), 4, "{error}");
    assert_eq!(words, [0, 0]);
}
