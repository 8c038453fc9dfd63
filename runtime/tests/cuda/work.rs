//! Work that uses every method of a device once, and gives what it has computed.

use mcc_bundle::DType;
use mcc_runtime::{
    Device, DeviceError, FunctionId, Launch, LaunchDims, ModuleImage, ParamSlot, PlanBuffer,
    SequenceKey, StreamId, TensorMapSpec,
};

/// `to[i] = from[i] + add` for `i < n`.
pub const ADD: &str = "
.version 8.0
.target sm_90a
.address_size 64
.visible .global .align 8 .u64 mcc_status;
.visible .entry add(.param .u64 to, .param .u64 from, .param .u32 n, .param .u32 add)
{
    .reg .pred %p<2>; .reg .b32 %r<9>; .reg .b64 %rd<6>;
    ld.param.u64 %rd1, [to]; ld.param.u64 %rd2, [from];
    ld.param.u32 %r1, [n]; ld.param.u32 %r2, [add];
    mov.u32 %r3, %ctaid.x; mov.u32 %r4, %ntid.x; mov.u32 %r5, %tid.x;
    mad.lo.s32 %r6, %r3, %r4, %r5;
    setp.ge.s32 %p1, %r6, %r1;
    @%p1 bra DONE;
    mul.wide.s32 %rd3, %r6, 4;
    add.s64 %rd4, %rd1, %rd3; add.s64 %rd5, %rd2, %rd3;
    ld.global.u32 %r7, [%rd5];
    add.s32 %r8, %r7, %r2;
    st.global.u32 [%rd4], %r8;
DONE: ret;
}
";

/// Copies a box of 32 by 8 words through shared memory, row by row: one block of 32 threads.
pub const TILE: &str = "
.version 8.0
.target sm_90a
.address_size 64
.extern .shared .align 1024 .b8 smem[];
.visible .entry tile(.param .align 64 .b8 map[128], .param .u64 out)
{
    .reg .pred %p<4>; .reg .b32 %r<12>; .reg .b64 %rd<8>;
    .shared .align 8 .b64 bar;
    griddepcontrol.wait;
    ld.param.u64 %rd1, [out];
    mov.b64 %rd2, map; cvta.param.u64 %rd3, %rd2;
    mov.u32 %r1, smem; mov.u32 %r2, bar; mov.u32 %r3, %tid.x; mov.u32 %r4, 0;
    setp.ne.u32 %p1, %r3, 0;
    @%p1 bra WAIT;
    mbarrier.init.shared::cta.b64 [%r2], 1;
    fence.mbarrier_init.release.cluster;
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], 1024;
    cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r1], [%rd3, {%r4, %r4}], [%r2];
WAIT:
    bar.sync 0;
SPIN:
    mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r2], 0;
    @!%p2 bra SPIN;
    mul.lo.u32 %r5, %r3, 4;
LOOP:
    add.u32 %r6, %r1, %r5;
    ld.shared.b32 %r7, [%r6];
    cvt.u64.u32 %rd4, %r5;
    add.s64 %rd5, %rd1, %rd4;
    st.global.b32 [%rd5], %r7;
    add.u32 %r5, %r5, 128;
    setp.lt.u32 %p3, %r5, 1024;
    @%p3 bra LOOP;
    ret;
}
";

/// Beyond what a block has without asking.
const TILE_SHARED: u32 = 64 << 10;

pub const fn image<'a>(kernel: &'a str, ptx: &'a str) -> ModuleImage<'a> {
    ModuleImage {
        kernel,
        ptx,
        cubin: None,
    }
}

pub fn words(n: u32, f: impl Fn(u32) -> u32) -> Vec<u8> {
    (0..n).flat_map(|i| f(i).to_le_bytes()).collect()
}

/// Parameters and shape of `add`.
pub fn add(to: u64, from: u64, n: u32, add: u32) -> (LaunchDims, Vec<u8>) {
    let mut params = Vec::new();
    params.extend(to.to_le_bytes());
    params.extend(from.to_le_bytes());
    params.extend(n.to_le_bytes());
    params.extend(add.to_le_bytes());
    let blocks = n.div_ceil(64).next_multiple_of(2);
    let dims = LaunchDims {
        grid: [blocks, 1, 1],
        block: 64,
        cluster: [2, 1, 1],
        smem_bytes: 0,
        programmatic: false,
    };
    (dims, params)
}

pub fn launch<'a>(
    function: FunctionId,
    (dims, params): &'a (LaunchDims, Vec<u8>),
    label: &'a str,
) -> Launch<'a> {
    Launch {
        function,
        dims: *dims,
        params,
        label,
    }
}

/// Everything that a model does and more; `large` bytes go up at once. What was written is read back.
pub fn work(device: &mut dyn Device, large: usize) -> Result<Vec<Vec<u8>>, DeviceError> {
    const N: u32 = 500;
    let memory = device.memory()?;
    assert!(memory.free <= memory.total);
    let add_id = device.load_module(&image("add", ADD))?;
    let tile_id = device.load_module(&image("tile", TILE))?;
    let slots = device.param_layout(add_id)?;
    let expected = [(0, 8), (8, 8), (16, 4), (20, 4)];
    let expected = expected.map(|(offset, size)| ParamSlot { offset, size });
    assert_eq!(slots, expected);

    let a = device.alloc(4 * u64::from(N), "a")?;
    let plan = ["x", "y", "z"].map(|what| PlanBuffer { what, bytes: 2048 });
    let plan = device.alloc_plan(&plan)?;
    let (x, y, z) = (plan[0], plan[1], plan[2]);
    let cache = device.reserve(8 << 20, "cache")?;
    device.commit(cache, 1000)?;
    let big = device.alloc(large as u64, "big")?;

    // Large and small uploads, launches in between.
    device.write(a, &words(N, |i| i))?;
    device.launch(StreamId::MAIN, &launch(add_id, &add(x, a, N, 1), "x"))?;
    let pattern: Vec<u8> = (0..large).map(|i| (i / 3) as u8).collect();
    device.write(big, &pattern)?;
    device.write_many(&[(a, &words(4, |_| 9)), (a + 64, &words(1, |_| 8))])?;
    device.copy(big, cache, 800)?;
    let from_cache = add(cache, cache, 100, 1);
    device.launch(StreamId::MAIN, &launch(add_id, &from_cache, "cache"))?;
    device.write(big, &pattern[..large / 2])?;
    device.fill(big + 16, 7, 16)?;

    // Another stream, both ways.
    let side = device.create_stream(-1)?;
    let event = device.record_event(StreamId::MAIN)?;
    device.wait_event(side, event)?;
    device.launch(side, &launch(add_id, &add(y, x, N, 10), "y"))?;
    let event = device.record_event(side)?;
    device.wait_event(StreamId::MAIN, event)?;
    device.launch(StreamId::MAIN, &launch(add_id, &add(a, y, N, 100), "a"))?;

    // The cache grows; what was there stays, what is new is zero.
    let mut grown = vec![1; 16];
    device.commit(cache, 3 << 20)?;
    assert!(device.committed(cache)? >= 3 << 20);
    device.read(cache + (3 << 20) - 16, &mut grown)?;

    // A sequence of which grids, parameters and a tensor map change.
    let mut rounds = Vec::new();
    for round in 0..4u32 {
        let n = 100 + 50 * round;
        let spec = TensorMapSpec {
            dtype: DType::I32,
            address: y,
            dims: vec![32, u64::from(4 + round)],
            strides: vec![128],
            box_dims: vec![32, 8],
            swizzle: 0,
        };
        let mut params = device.encode_tensor_map(&spec)?.to_vec();
        params.extend(z.to_le_bytes());
        let tile_dims = LaunchDims {
            grid: [1, 1, 1],
            block: 32,
            cluster: [1, 1, 1],
            smem_bytes: TILE_SHARED,
            programmatic: true,
        };
        device.write(a, &words(n, |i| 1000 * round + i))?;
        let (first, second) = (add(x, a, n, round), add(y, x, n, 1));
        let third = (tile_dims, params);
        let launches = [
            launch(add_id, &first, "first"),
            launch(add_id, &second, "second"),
            launch(tile_id, &third, "third"),
        ];
        let reports = device
            .launch_sequence(SequenceKey(7), &launches)
            .map_err(|err| err.source)?;
        assert_eq!(reports.len(), 3);
        let mut out = vec![0; 1024];
        device.read(z, &mut out)?;
        rounds.push(out);
    }

    device.set_timing(true)?;
    device.launch(StreamId::MAIN, &launch(add_id, &add(a, a, 16, 5), "timed"))?;
    assert_eq!(device.take_timings()?.len(), 1);
    device.set_timing(false)?;
    device.synchronize()?;

    let mut outputs = vec![grown];
    outputs.append(&mut rounds);
    for (address, len) in [(a, 1000), (x, 1000), (y, 1000), (cache, 400), (big, large)] {
        let mut out = vec![0; len];
        device.read(address, &mut out)?;
        outputs.push(out);
    }
    for address in [a, x, cache, big] {
        device.free(address)?;
    }
    Ok(outputs)
}
