//! Dispatch and combine over the ranks of an expert group.
//!
//! | file | families | graph ops |
//! |---|---|---|
//! | `direct.rs` | `direct_dispatch_send`, `_receive`, `direct_combine_send`, `_receive` | `dispatch_direct`, `combine_direct` |
//! | `two_hop/` | `two_hop_dispatch`, `two_hop_combine` | `dispatch_two_hop`, `combine_two_hop` |
//!
//! Every rank runs the same kernels in the same order. They meet in the `Exchange` buffer, whose layout is
//! [`mcc_ir::exchange`]'s; the `World` buffer tells a rank its number and where its peers' buffers are. Counters in it
//! are never set back, so that no launch has to clean up behind another.

pub mod direct;
pub mod two_hop;

use mcc_ir::exchange::{COUNTER, ExpertGroup, WORLD_HEADER};
use mcc_ir::program::{Expr, Param};

use super::{Launch, unsupported};
use crate::emit::pipeline::SmemMap;
use crate::emit::{B1, Global, I32, I64, Kernel, Val};
use crate::error::CodegenError;

/// Bytes of a vector access.
const VECTOR: u32 = 16;
/// Vector loads of a lane in flight while a row is copied.
const IN_FLIGHT: u32 = 4;
/// Lanes of a warp.
const WARP: u32 = 32;
/// Channels of a scale group.
const GROUP: u32 = 128;

/// What every family of this folder asks of its group.
///
/// # Errors
/// [`CodegenError::Unsupported`], naming the limit.
fn check(name: &str, g: &ExpertGroup, row_bytes: u32) -> Result<(), CodegenError> {
    let refuse = |what: String, supported| Err(unsupported(name, what, supported));
    let ranks = g.ranks();
    if ranks == 0 || g.experts == 0 || !g.experts.is_multiple_of(ranks) {
        return refuse(
            format!("{} experts on {ranks} ranks", g.experts),
            "a multiple of the ranks",
        );
    }
    if g.nodes > 64 || g.gpus > 8 {
        return refuse(
            format!("{} nodes of {} GPUs", g.nodes, g.gpus),
            "up to 64 nodes of up to 8",
        );
    }
    if g.top_k == 0 || g.top_k > WARP || g.experts > 1 << mcc_ir::exchange::EXPERT_BITS {
        return refuse(
            format!("{} of {} experts", g.top_k, g.experts),
            "1 to 32 of up to 4096",
        );
    }
    let pairs = u64::from(ranks) * u64::from(g.tokens) * u64::from(g.top_k);
    if g.tokens == 0 || g.tokens > u32::from(u16::MAX) || pairs > i32::MAX as u64 {
        return refuse(
            format!("{} tokens a rank, {pairs} rows to experts in all", g.tokens),
            "1 to 65535, and fewer than 2^31",
        );
    }
    if row_bytes == 0 || !row_bytes.is_multiple_of(VECTOR) {
        return refuse(
            format!("rows of {row_bytes} bytes"),
            "a multiple of 16 bytes",
        );
    }
    Ok(())
}

/// A launch of a fixed number of blocks: those that wait for other ranks are all there at once.
fn launch(blocks: u32, block: u32, smem: SmemMap, params: Vec<Param>) -> Launch {
    Launch {
        grid: [
            Expr::Const(u64::from(blocks)),
            Expr::Const(1),
            Expr::Const(1),
        ],
        block,
        cluster: 1,
        smem_bytes: smem.bytes(),
        params,
    }
}

/// The expert group as a kernel sees it.
#[derive(Clone, Copy)]
struct World<'k> {
    k: &'k Kernel,
    /// This kernel's range of the rank's own `Exchange` buffer.
    exchange: Global<'k>,
    /// The `World` buffer.
    world: Global<'k>,
    /// This rank's number.
    me: Val<'k, I32>,
    /// NVSHMEM's number of rank 0.
    first_pe: Val<'k, I32>,
}

impl<'k> World<'k> {
    /// From the positions of the parameters `exchange` and `world`.
    fn new(k: &'k Kernel, (exchange, world): (usize, usize)) -> Self {
        let world = k.arg_global(world);
        Self {
            k,
            exchange: k.arg_global(exchange),
            world,
            me: world.load(),
            first_pe: world.offset(8).load(),
        }
    }

    /// A region of the own buffer.
    fn own(self, offset: u64) -> Global<'k> {
        self.exchange.at(self.k.i64(offset.cast_signed()))
    }

    /// Counter `index` of a region of counters.
    fn counter(self, region: u64, index: Val<'k, I32>) -> Global<'k> {
        self.own(region).index(index, COUNTER)
    }

    /// Address of a rank's whole buffer; 0 where it is not mapped.
    fn base(self, rank: Val<'k, I32>) -> Val<'k, I64> {
        self.world.offset(4 * WORLD_HEADER).index(rank, 8).load()
    }

    /// What leads from a place of the own buffer to the same place of a mapped rank's.
    fn delta(self, rank: Val<'k, I32>) -> Val<'k, I64> {
        self.base(rank) - self.base(self.me)
    }

    /// Whether a rank's buffer can be written with plain stores.
    fn is_mapped(self, rank: Val<'k, I32>) -> Val<'k, B1> {
        self.base(rank).ne(0)
    }

    /// NVSHMEM's number of a rank.
    fn pe(self, rank: Val<'k, I32>) -> Val<'k, I32> {
        self.first_pe + rank
    }
}

/// `row * bytes`, in 64 bits.
fn bytes_of<'k>(row: Val<'k, I32>, bytes: u32) -> Val<'k, I64> {
    row.to_i64() * i64::from(bytes)
}

/// Element `index` of an operand of 32-bit integers.
fn word<'k>(k: &'k Kernel, pointer: usize, index: Val<'k, I32>) -> Val<'k, I32> {
    k.arg_global(pointer).index(index, 4).load()
}

/// Copies a row of `bytes` bytes, by the lanes of a warp.
fn copy_row<'k>(k: &'k Kernel, from: Global<'k>, to: Global<'k>, bytes: u32) {
    let (vectors, stride) = (bytes / VECTOR, WARP * IN_FLIGHT);
    let whole = vectors / stride * stride;
    if whole > 0 {
        k.for_(k.lane(), whole, stride, |i| {
            let v: [[Val<'k, I32>; 4]; IN_FLIGHT as usize] =
                std::array::from_fn(|n| from.index(i + n as u32 * WARP, VECTOR).load_vec());
            for (n, v) in (0..).zip(v) {
                to.index(i + n * WARP, VECTOR).store_vec(v);
            }
        });
    }
    if whole < vectors {
        k.for_(k.lane() + whole, vectors, WARP, |i| {
            let v: [Val<'k, I32>; 4] = from.index(i, VECTOR).load_vec();
            to.index(i, VECTOR).store_vec(v);
        });
    }
}
