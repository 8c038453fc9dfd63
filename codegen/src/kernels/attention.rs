//! `attention_prefill` and `attention_decode`: causal attention with an online softmax.
//!
//! Meaning: the op `attention`; the order of additions is not the reference's (keys go by tiles, from the
//! first one on, so that a row's result does not depend on how a prompt is cut into chunks).
//!
//! One body, two readings of the 64 rows of a tile:
//!
//! | family | rows | block | consumers |
//! |---|---|---|---|
//! | prefill | query tokens of one head | (128 tokens, head) | two warpgroups of 64 tokens each |
//! | decode | heads of one token | (token, 64 heads) | warpgroups that share the rows and split the value's channels |
//!
//! ```text
//! warpgroup 0      producer: queries once, then a ring of key and value tiles by TMA
//! warpgroups 1..   S = Q Kᵀ (wgmma), mask, running maximum and sum, P to BF16, O = O e^(m - m') + P V
//!
//! shared memory    Q: [row set][channel tile][64 rows][64] bf16
//!                  stage: K [channel tile][tile_kv][64], then its rotated part, then V [channel tile][tile_kv][64]
//!                  all 128-byte swizzled; then barriers
//! ```
//! Channel counts need not be multiples of 64: TMA fills the rest of a channel tile with zeros.

use mcc_ir::kernel::Attention;
use mcc_ir::program::{Expr, MapAxes, Param};
use mcc_ir::types::DType;

use super::roles::{Roles, SMEM_LIMIT, WARPGROUP, specialise};
use super::tiles::{Fragment, ROW_BYTES, Store};
use super::{Family, Launch, unsupported};
use crate::emit::pipeline::{Ring, RingLayout, SmemMap};
use crate::emit::wgmma::{Init, Major, Mma, MmaType, OperandA, OperandB, k_major_offsets};
use crate::emit::{F32, I32, Kernel, Shared, Val};
use crate::error::CodegenError;

/// What the 64 rows of a tile are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Query tokens of one head.
    Queries,
    /// Heads of one token.
    Heads,
}

/// Rows of a wgmma tile.
const ROWS: u32 = 64;
/// Channels of a channel tile: 128 bytes, the swizzle's span.
const CHANNELS: u32 = 64;
/// Most value channels a warpgroup accumulates: 128 registers.
const MAX_VALUE_PART: u32 = 256;

#[derive(Clone, Copy)]
struct Layout {
    rows: Rows,
    consumers: u32,
    /// Value channels a consumer accumulates.
    part: u32,
    /// Channel tiles of the key's parts and of the value.
    dk: u32,
    dr: u32,
    dv: u32,
    /// Bytes of a channel tile of keys or values.
    tile_bytes: u32,
    /// Bytes of the queries of one row set.
    q_set: u32,
    q_sets: u32,
    /// Bytes of the queries, where stages begin.
    stages_at: u32,
    stage_bytes: u32,
    ring: RingLayout,
    q_ring: RingLayout,
    bytes: u32,
}

fn layout(c: &Attention, rows: Rows) -> Layout {
    let tiles = |channels: u32| channels.div_ceil(CHANNELS);
    let (dk, dr) = (tiles(c.dk), tiles(c.dr));
    // Beyond one channel tile, a product takes whole tiles; what lies behind the value is zero and not stored.
    let whole = |dv: u32| {
        if dv <= CHANNELS {
            dv
        } else {
            dv.next_multiple_of(CHANNELS)
        }
    };
    let (consumers, part) = match rows {
        Rows::Queries => (2, whole(c.dv)),
        Rows::Heads if c.dv <= MAX_VALUE_PART => (1, whole(c.dv)),
        Rows::Heads => (2, (c.dv.div_ceil(2)).next_multiple_of(CHANNELS)),
    };
    // Consumers that split the value read parts of equal size: the last one's ends in zeros where the value
    // has no channels, and a stage holds those too.
    let dv = match rows {
        Rows::Queries => tiles(c.dv),
        Rows::Heads => consumers * tiles(part),
    };
    let q_sets = if rows == Rows::Queries { consumers } else { 1 };
    let tile_bytes = c.tile_kv * ROW_BYTES;
    let q_set = (dk + dr) * ROWS * ROW_BYTES;
    let stage_bytes = (dk + dr + dv) * tile_bytes;
    let mut map = SmemMap::default();
    map.reserve(q_set * q_sets, 1024);
    let stages_at = map.reserve(stage_bytes * c.stages, 1024);
    let ring = RingLayout::reserve(&mut map, c.stages);
    let q_ring = RingLayout::reserve(&mut map, 1);
    Layout {
        rows,
        consumers,
        part,
        dk,
        dr,
        dv,
        tile_bytes,
        q_set,
        q_sets,
        stages_at,
        stage_bytes,
        ring,
        q_ring,
        bytes: map.bytes(),
    }
}

/// Parameter positions.
struct Args;
impl Args {
    const Q: usize = 0;
    const Q_ROPE: usize = 1;
    const K: usize = 2;
    const K_ROPE: usize = 3;
    const V: usize = 4;
    const POSITIONS: usize = 5;
    const OUT: usize = 6;
    const OUT_TOKEN: usize = 7;
    const OUT_HEAD: usize = 8;
    const TOKENS: usize = 9;
    const CONTEXT: usize = 10;
}

/// Checks the config and builds the family.
///
/// # Errors
/// [`CodegenError::Unsupported`], naming the limit.
pub fn family<'a>(name: &str, c: &'a Attention, rows: Rows) -> Result<Family<'a>, CodegenError> {
    let fail = |what: String, supported| Err(unsupported(name, what, supported));
    let multiple_of_8 = [c.dk, c.dr, c.dv]
        .iter()
        .all(|d| *d > 0 && d.is_multiple_of(8));
    if !multiple_of_8 {
        return fail(
            format!("channels {} + {} and {}", c.dk, c.dr, c.dv),
            "multiples of 8",
        );
    }
    if !matches!(c.tile_kv, 64 | 128) {
        return fail(format!("tile_kv = {}", c.tile_kv), "64 or 128");
    }
    if c.kv_heads != 1 && c.kv_heads != c.heads {
        return fail(
            format!("{} key heads for {} heads", c.kv_heads, c.heads),
            "as many, or 1",
        );
    }
    if rows == Rows::Heads && c.kv_heads != 1 {
        return fail(
            format!("{} key heads", c.kv_heads),
            "1 key head in the decode family",
        );
    }
    let l = layout(c, rows);
    if l.part > MAX_VALUE_PART {
        return fail(
            format!("{} value channels", c.dv),
            "256 in the prefill family, 512 in the decode family",
        );
    }
    if c.stages == 0 || l.bytes > SMEM_LIMIT {
        return fail(
            format!(
                "{} stages take {} bytes of shared memory",
                c.stages, l.bytes
            ),
            "at least 1 stage, at most 232448 bytes",
        );
    }

    let q_box = match rows {
        Rows::Queries => vec![CHANNELS, 1, ROWS],
        Rows::Heads => vec![CHANNELS, ROWS, 1],
    };
    let kv_box = vec![CHANNELS, 1, c.tile_kv];
    let map = |operand, box_dims| Param::TensorMap {
        operand,
        box_dims,
        swizzle: 128,
        axes: MapAxes::Rows,
    };
    let params = vec![
        map(0, q_box.clone()),
        map(1, q_box),
        map(2, kv_box.clone()),
        map(3, vec![CHANNELS, c.tile_kv]),
        map(4, kv_box),
        Param::Pointer { operand: 5 },
        Param::Pointer { operand: 6 },
        Param::Stride {
            operand: 6,
            axis: 0,
        },
        Param::Stride {
            operand: 6,
            axis: 1,
        },
        Param::Extent {
            operand: 0,
            axis: 0,
        },
        Param::Extent {
            operand: 2,
            axis: 0,
        },
    ];
    let tokens = Expr::Extent {
        operand: 0,
        axis: 0,
    };
    let grid = match rows {
        Rows::Queries => [
            Expr::CeilDiv(Box::new(tokens), u64::from(ROWS * l.consumers)),
            Expr::Const(u64::from(c.heads)),
            Expr::Const(1),
        ],
        Rows::Heads => [
            tokens,
            Expr::Const(u64::from(c.heads.div_ceil(ROWS))),
            Expr::Const(1),
        ],
    };
    let launch = Launch {
        grid,
        block: WARPGROUP * (1 + l.consumers),
        cluster: 1,
        smem_bytes: l.bytes,
        params,
    };
    Ok(Family::new(launch, move |k| body(k, c, l)).with_prologue(move |k| prepare(k, &l)))
}

/// Where a block works.
#[derive(Clone, Copy)]
struct Place<'k> {
    /// First token.
    token: Val<'k, I32>,
    /// Head, or first head.
    head: Val<'k, I32>,
    /// Largest position of the block's rows.
    last: Val<'k, I32>,
    /// Smallest position of the block's rows.
    first: Val<'k, I32>,
    /// Key tiles to visit.
    key_tiles: Val<'k, I32>,
}

/// The same in all warps: every warp reads the block's positions.
fn place<'k>(k: &'k Kernel, c: &Attention, l: &Layout) -> Place<'k> {
    let positions = k.arg_global(Args::POSITIONS);
    let (token, head, last, first) = match l.rows {
        Rows::Queries => {
            let token = k.block_x() * (ROWS * l.consumers);
            let final_token = k.arg_i32(Args::TOKENS) - 1;
            let (mut last, mut first) = (k.i32(-1i64), k.i32(i64::from(i32::MAX)));
            for i in 0..ROWS * l.consumers / 32 {
                // Rows behind the last token repeat it.
                let t = (token + k.lane() + i * 32).min(final_token);
                let p = positions.index(t, 4).load::<I32>();
                last = last.max(p);
                first = first.min(p);
            }
            let last = k.reduce(last, 32, |a, b| a.max(b));
            let first = k.reduce(first, 32, |a, b| a.min(b));
            (token, k.block_y(), last, first)
        }
        Rows::Heads => {
            let token = k.block_x();
            let p = positions.index(token, 4).load::<I32>();
            (token, k.block_y() * ROWS, p, p)
        }
    };
    let keys = (last + 1).min(k.arg_i32(Args::CONTEXT));
    Place {
        token,
        head,
        last,
        first,
        key_tiles: (keys + (c.tile_kv - 1)).udiv(c.tile_kv),
    }
}

/// The ring of key and value tiles, and that of the queries.
fn rings<'k>(k: &'k Kernel, l: &Layout) -> [Ring<'k>; 2] {
    [l.ring, l.q_ring].map(|ring| Ring::new(k, k.smem(), ring))
}

fn prepare(k: &Kernel, l: &Layout) {
    Roles {
        consumers: l.consumers,
        cluster: 1,
        maps: &[Args::Q, Args::Q_ROPE, Args::K, Args::K_ROPE, Args::V],
        rings: &rings(k, l),
        barriers: &|| {},
    }
    .prepare(k);
}

fn body(k: &Kernel, c: &Attention, l: Layout) {
    let [ring, queries] = rings(k, &l);
    let p = place(k, c, &l);
    specialise(
        k,
        l.consumers,
        1,
        |leader| k.if_(leader, || produce(k, c, &l, ring, queries, p)),
        || consume(k, c, &l, ring, queries, p),
    );
}

fn produce<'k>(
    k: &'k Kernel,
    c: &Attention,
    l: &Layout,
    ring: Ring<'k>,
    queries: Ring<'k>,
    p: Place<'k>,
) {
    let map = |a| k.arg_tensor_map(a);
    // Queries, once.
    let at = queries.producer();
    queries.acquire(at);
    queries.announce(at, l.q_set * l.q_sets);
    for set in 0..l.q_sets {
        let token = p.token + set * ROWS;
        for tile in 0..l.dk + l.dr {
            let to = k.smem().offset(set * l.q_set + tile * ROWS * ROW_BYTES);
            let (map, channel) = if tile < l.dk {
                (map(Args::Q), tile)
            } else {
                (map(Args::Q_ROPE), tile - l.dk)
            };
            k.tma_load(
                to,
                map,
                &[k.i32(channel * CHANNELS), p.head, token],
                queries.full(at),
            );
        }
    }
    // Keys and values.
    let position = ring.producer();
    let key_head = if c.kv_heads == 1 { k.i32(0) } else { p.head };
    k.for_(0, p.key_tiles, 1, |tile| {
        ring.acquire(position);
        ring.announce(position, l.stage_bytes);
        let full = ring.full(position);
        let stage = k
            .smem()
            .offset(l.stages_at)
            .at(position.stage() * l.stage_bytes);
        let key = tile * c.tile_kv;
        for i in 0..l.dk + l.dr + l.dv {
            let to = stage.offset(i * l.tile_bytes);
            let channel = |first: u32| k.i32((i - first) * CHANNELS);
            if i < l.dk {
                k.tma_load(to, map(Args::K), &[channel(0), key_head, key], full);
            } else if i < l.dk + l.dr {
                k.tma_load(to, map(Args::K_ROPE), &[channel(l.dk), key], full);
            } else {
                k.tma_load(
                    to,
                    map(Args::V),
                    &[channel(l.dk + l.dr), key_head, key],
                    full,
                );
            }
        }
        position.advance();
    });
}

/// Statistics of the running softmax of this thread's two rows.
struct Softmax<'k> {
    max: [crate::emit::Var<'k, F32>; 2],
    sum: [crate::emit::Var<'k, F32>; 2],
}

fn consume<'k>(
    k: &'k Kernel,
    c: &Attention,
    l: &Layout,
    ring: Ring<'k>,
    queries: Ring<'k>,
    p: Place<'k>,
) {
    let thread = k.tid() & (WARPGROUP - 1);
    let consumer = k.tid().ushr(7) - 1;
    let fragment = Fragment::new(thread);
    let tokens = k.arg_i32(Args::TOKENS);
    let (q_tile, row0, limits): (Shared<'k>, Val<'k, I32>, [Val<'k, I32>; 2]) = match l.rows {
        Rows::Queries => {
            let row0 = p.token + consumer * ROWS;
            let limit = |d: i32| {
                let row = (row0 + fragment.row + d).min(tokens - 1);
                k.arg_global(Args::POSITIONS).index(row, 4).load::<I32>()
            };
            (k.smem().at(consumer * l.q_set), row0, [limit(0), limit(8)])
        }
        Rows::Heads => (k.smem(), p.head, [p.last, p.last]),
    };

    let zero = k.f32(0.0);
    let softmax = Softmax {
        max: [k.f32(f32::NEG_INFINITY); 2].map(|v| k.var(v)),
        sum: [zero; 2].map(|v| k.var(v)),
    };
    let output = k.vars((l.part / 2) as usize, zero);
    // Byte offset of this consumer's value channels in a stage.
    let v_at = match l.rows {
        Rows::Queries => k.i32((l.dk + l.dr) * l.tile_bytes),
        Rows::Heads => consumer * (l.part / CHANNELS * l.tile_bytes) + (l.dk + l.dr) * l.tile_bytes,
    };
    // A warpgroup of queries behind the last token only keeps the ring moving.
    let works = match l.rows {
        Rows::Queries => row0.lt(tokens),
        Rows::Heads => k.bool(true),
    };

    queries.wait(queries.consumer());
    let position = ring.consumer();
    k.for_(0, p.key_tiles, 1, |tile| {
        ring.wait(position);
        let stage = k
            .smem()
            .offset(l.stages_at)
            .at(position.stage() * l.stage_bytes);
        k.if_(works, || {
            let scores = scores(k, c, l, q_tile, stage);
            let key0 = tile * c.tile_kv;
            // Only tiles that reach behind a row's own position need the mask.
            k.if_((key0 + (c.tile_kv - 1)).gt(p.first), || {
                mask(k, &scores, key0 + fragment.column, limits)
            });
            let weights = update(k, c, &softmax, &scores, &output);
            let before: Vec<_> = output.iter().map(|o| o.get()).collect();
            let offsets: Vec<u32> = (0..c.tile_kv / 16).map(|s| s * 16 * ROW_BYTES).collect();
            let after = k.wgmma(
                Mma {
                    ty: MmaType::Bf16,
                    n: l.part,
                },
                &OperandA::Registers(&weights),
                OperandB {
                    descriptor: k.descriptor_128b(stage.at(v_at), l.tile_bytes, 1024),
                    offsets: &offsets,
                    major: Major::Mn,
                },
                &Init::Accumulate(&before),
            );
            for (o, v) in output.iter().zip(after) {
                o.set(v);
            }
        });
        ring.releaser(thread & 31).leave(position);
        position.advance();
    });

    // Divide by the sums and store. A row sees at least its own key, so its sum is not zero. One division a row:
    // one a value would be most of the kernel's code, each with a path for subnormals.
    let inverse = softmax
        .sum
        .map(|s| k.f32(1.0) / k.reduce(s.get(), 4, |a, b| a + b));
    let values: Vec<_> = output
        .iter()
        .enumerate()
        .map(|(i, o)| o.get() * inverse[i % 4 / 2])
        .collect();
    let out = k.arg_global(Args::OUT);
    let (token_stride, head_stride) = (k.arg_i32(Args::OUT_TOKEN), k.arg_i32(Args::OUT_HEAD));
    let shift =
        |index: Val<'k, I32>, stride: Val<'k, I32>| out.at(index.to_i64() * stride.to_i64() * 2);
    let (base, stride, row_end, column) = match l.rows {
        Rows::Queries => (shift(p.head, head_stride), token_stride, tokens, k.i32(0)),
        Rows::Heads => (
            shift(p.token, token_stride),
            head_stride,
            k.i32(c.heads),
            consumer * l.part,
        ),
    };
    let store = Store {
        base,
        stride,
        dtype: DType::BF16,
        columns: c.dv,
    };
    store.fragment(k, &values, fragment, row0, row_end, column);
}

/// `Q Kᵀ` of a tile, unscaled, in variables so that the mask can be conditional.
fn scores<'k>(
    k: &'k Kernel,
    c: &Attention,
    l: &Layout,
    q_tile: Shared<'k>,
    stage: Shared<'k>,
) -> Vec<crate::emit::Var<'k, F32>> {
    let k_bytes = (l.dk + l.dr) * ROW_BYTES;
    let s = k.wgmma(
        Mma {
            ty: MmaType::Bf16,
            n: c.tile_kv,
        },
        &OperandA::Shared {
            descriptor: k.descriptor_128b(q_tile, 0, 1024),
            offsets: &k_major_offsets(k_bytes, ROWS * ROW_BYTES),
        },
        OperandB {
            descriptor: k.descriptor_128b(stage, 0, 1024),
            offsets: &k_major_offsets(k_bytes, l.tile_bytes),
            major: Major::K,
        },
        &Init::Zero,
    );
    s.into_iter().map(|v| k.var(v)).collect()
}

/// Scores of keys behind a row's position become -inf. `column` is the key of register 0.
fn mask<'k>(
    k: &'k Kernel,
    scores: &[crate::emit::Var<'k, F32>],
    column: Val<'k, I32>,
    limits: [Val<'k, I32>; 2],
) {
    let hidden = k.f32(f32::NEG_INFINITY);
    for (i, s) in scores.iter().enumerate() {
        let key = column + (i / 4 * 8 + i % 2) as i32;
        let visible = key.le(limits[i % 4 / 2]);
        s.set(visible.select(s.get(), hidden));
    }
}

/// One step of the online softmax: rescales the output, returns P as A fragments of the second product.
fn update<'k>(
    k: &'k Kernel,
    c: &Attention,
    softmax: &Softmax<'k>,
    scores: &[crate::emit::Var<'k, F32>],
    output: &[crate::emit::Var<'k, F32>],
) -> Vec<[Val<'k, I32>; 4]> {
    // e^(scale s) = 2^(factor s).
    let factor = k.f32(c.scale * std::f32::consts::LOG2_E);
    let scores: Vec<_> = scores.iter().map(|s| s.get()).collect();
    let row = |i: usize| i % 4 / 2;
    let mut rescale = Vec::new();
    let mut shift = Vec::new();
    for r in 0..2 {
        let before = softmax.max[r].get();
        let mut max = before;
        for (i, s) in scores.iter().enumerate() {
            if row(i) == r {
                max = max.fmax(*s);
            }
        }
        // The four lanes of a quad share a row.
        let max = k.reduce(max, 4, |a, b| a.fmax(b));
        // Nothing visible yet: any finite shift keeps the weights at zero.
        let finite = max.feq(f32::NEG_INFINITY).select(k.f32(0.0), max);
        shift.push(-(finite * factor));
        rescale.push(k.ex2((before - finite) * factor));
        softmax.max[r].set(max);
    }
    let p: Vec<_> = scores
        .iter()
        .enumerate()
        .map(|(i, s)| k.ex2(s.fma(factor, shift[row(i)])))
        .collect();
    for (r, factor) in rescale.iter().enumerate() {
        let mut sum = softmax.sum[r].get() * *factor;
        for (i, p) in p.iter().enumerate() {
            if row(i) == r {
                sum = sum + *p;
            }
        }
        softmax.sum[r].set(sum);
    }
    for (i, o) in output.iter().enumerate() {
        o.set(o.get() * rescale[row(i)]);
    }
    // Registers 8s..8s+8 of S are columns 16s..16s+16: the A fragment of k-step s (PTX ISA 9.7.15.5.1.1).
    p.chunks_exact(8)
        .map(|q| std::array::from_fn(|i| k.pack_bf16x2(q[2 * i], q[2 * i + 1])))
        .collect()
}
