//! One hop: every row goes straight to the rank of its expert, and every expert's row straight back.
//!
//! ```text
//! dispatch_send      a warp takes a (token, slot) pair: message into the inbox of (expert, this rank), counter + 1
//!                    a thread takes an expert: how many rows it gets from here
//! dispatch_receive   a block takes an (expert, source) pair: waits for the counts of the sources up to this one, which
//!                    say where its rows begin, and for its rows; packs them
//! combine_send       a warp takes a row: back into the inbox of its pair, counter + 1
//! combine_receive    a block takes a token: waits for its experts' rows, sums them up
//! ```
//! Between a send and its receive nothing holds an SM. A row's place among its expert's follows from the ranks' numbers
//! and the order of tokens, whatever came first.
//!
//! How an inbox is used again: a rank sends rows of the next dispatch when its combine is through, which waits for every
//! rank that had rows of it; so those have read their inbox. Counts come from every rank, also from one that a rank
//! owes nothing: they alternate between two places. A rank can be ahead by one dispatch, not by two, since it
//! needs everybody's counts of the one between.
//!
//! Word of a count: the rows sent since the beginning (32 bits), the number of the launch (16), the rows of this
//! launch (16). The rows that have come are counted over all launches, so that a receiver keeps nothing.

use mcc_ir::exchange::{DirectCombine, DirectDispatch};

use super::{GROUP, VECTOR, WARP, World, bytes_of, check, copy_row, launch, word};
use crate::emit::pipeline::SmemMap;
use crate::emit::system::{PeerSite, Signal};
use crate::emit::{F32, Global, I32, I64, Kernel, Val};
use crate::error::CodegenError;
use crate::kernels::row::{CHUNK, RowShape, bf16_at, load8, pack8};
use crate::kernels::{Family, Params, unsupported};

/// Threads of the kernels that move rows.
const THREADS: u32 = 256;
const WARPS: u32 = THREADS / WARP;

fn check_blocks(name: &str, blocks: u32) -> Result<(), CodegenError> {
    if blocks == 0 {
        return Err(unsupported(name, "0 blocks", "at least one"));
    }
    Ok(())
}

/// This warp's number in the launch.
fn warp_of_launch(k: &Kernel) -> Val<'_, I32> {
    k.block_x() * WARPS + k.tid().ushr(5)
}

/// This thread's number in the launch.
fn thread_of_launch(k: &Kernel) -> Val<'_, I32> {
    k.block_x() * THREADS + k.tid()
}

/// Launches of this kernel so far: every block counts for itself, so that none waits for another.
struct Epoch<'k> {
    at: Global<'k>,
    now: Val<'k, I32>,
}

impl<'k> Epoch<'k> {
    fn begin(k: &'k Kernel, words: Global<'k>) -> Self {
        let at = words.index(k.block_x(), 4);
        Self { at, now: at.load() }
    }

    /// 0 or 1 in turn.
    fn parity(&self) -> Val<'k, I32> {
        self.now & 1
    }

    /// 16 bits that tell this launch from the ones before it; never 0 in a place that has not been written.
    fn tag(&self) -> Val<'k, I32> {
        (self.now + 1) & 0xffff
    }

    /// All threads have read it.
    fn end(self, k: &'k Kernel) {
        k.sync_threads();
        k.if_(k.tid().eq(0), || self.at.store(self.now + 1));
    }
}

/// `direct_dispatch_send`.
///
/// # Errors
/// [`CodegenError::Unsupported`], naming the limit.
pub fn dispatch_send<'a>(name: &str, c: &'a DirectDispatch) -> Result<Family<'a>, CodegenError> {
    let row = row_bytes(c);
    check(name, &c.group, row)?;
    check_blocks(name, c.blocks)?;
    let mut p = Params::default();
    let x = p.matrix();
    let scales = c.quant.then(|| p.scales());
    let (experts, weights, offsets, slots) = (p.pointer(), p.pointer(), p.pointer(), p.pointer());
    let meeting = (p.pointer(), p.pointer());
    let tokens = p.extent(0, 0);
    let (g, at, message) = (&c.group, c.layout(), c.message_bytes());
    let body = move |k: &Kernel| {
        let world = World::new(k, meeting);
        let epoch = Epoch::begin(k, world.own(at.epochs));
        let offset = |e| word(k, offsets, e);

        // One message into `to`.
        let write = |to: Global<'_>, pair: Val<'_, I32>| {
            let token = pair.udiv(g.top_k);
            k.if_(k.lane().eq(0), || {
                let weight = word(k, weights, pair);
                to.store_vec([pair, weight, k.i32(0), k.i32(0)]);
            });
            let element = if c.quant { 1 } else { 2 };
            let stride = k.arg_i32(x.stride).to_i64() * i64::from(element);
            let from = k.arg_global(x.pointer).at(token.to_i64() * stride);
            copy_row(k, from, to.offset(VECTOR), row);
            if let Some(s) = scales {
                k.for_(k.lane(), c.width.div_ceil(GROUP), WARP, |group| {
                    let index = group.to_i64() * k.arg_i32(s.stride).to_i64() + token.to_i64();
                    let scale = k.arg_global(s.pointer).at(index * 4).load::<F32>();
                    to.offset(VECTOR + row).index(group, 4).store(scale);
                });
            }
            // What all lanes have written, the first one releases.
            k.sync_warp();
        };
        let pairs = k.arg_i32(tokens) * g.top_k;
        k.for_(warp_of_launch(k), pairs, c.blocks * WARPS, |pair| {
            let e = word(k, experts, pair);
            let number = word(k, slots, pair) - offset(e);
            let rank = e.udiv(g.local());
            let box_of = (e - rank * g.local()) * g.ranks() + world.me;
            let place = world
                .own(at.inbox)
                .at(bytes_of(box_of * g.tokens + number, message));
            let delivered = world.counter(at.delivered, box_of);
            let near = || {
                let delta = world.delta(rank);
                write(place.shifted(delta), pair);
                k.if_(k.lane().eq(0), || {
                    delivered.shifted(delta).add_release_sys(k.i64(1));
                });
            };
            if g.nodes == 1 {
                return near();
            }
            k.if_else(world.is_mapped(rank), near, || {
                let staging = world.own(at.staging).at(bytes_of(pair, message));
                write(staging, pair);
                k.put_signal(
                    (place, staging, k.i64(i64::from(message))),
                    (delivered, k.i64(1), Signal::Add),
                    world.pe(rank),
                );
            });
        });
        k.for_(thread_of_launch(k), g.experts, c.blocks * THREADS, |e| {
            let rows = offset(e + 1) - offset(e);
            let sent = world.counter(at.sent, e);
            let total = sent.load::<I64>() + rows.to_i64();
            sent.store(total);
            let word = (total << 32) | (epoch.tag() << 16).to_u64() | rows.to_u64();
            let rank = e.udiv(g.local());
            let local = e - rank * g.local();
            let row = epoch.parity() * g.local() + local;
            let count = world.counter(at.counts, row * g.ranks() + world.me);
            let near = || count.shifted(world.delta(rank)).store_release_sys(word);
            if g.nodes == 1 {
                return near();
            }
            k.if_else(world.is_mapped(rank), near, || {
                k.remote_signal(count, word, Signal::Set, world.pe(rank));
            });
        });
        epoch.end(k);
    };
    let launch = launch(c.blocks, THREADS, SmemMap::default(), p.list);
    Ok(Family::new(launch, body))
}

/// `direct_dispatch_receive`.
///
/// # Errors
/// [`CodegenError::Unsupported`], naming the limit.
pub fn dispatch_receive<'a>(name: &str, c: &'a DirectDispatch) -> Result<Family<'a>, CodegenError> {
    let row = row_bytes(c);
    check(name, &c.group, row)?;
    check_blocks(name, c.blocks)?;
    let mut p = Params::default();
    let meeting = (p.pointer(), p.pointer());
    let rows = p.pointer();
    let strides = [p.stride(2, 0), p.stride(2, 1)];
    let scales = c.quant.then(|| {
        let scales = p.pointer();
        (scales, [p.stride(3, 0), p.stride(3, 2)])
    });
    let (counts, row_weights, record) = (p.pointer(), p.pointer(), p.pointer());
    let (g, at, message) = (&c.group, c.layout(), c.message_bytes());
    let mut smem = SmemMap::default();
    // Rows of each source, then the total of the one whose rows are packed.
    let numbers = smem.reserve(4 * (g.ranks() + 1), 16);
    let body = move |k: &Kernel| {
        let world = World::new(k, meeting);
        let epoch = Epoch::begin(k, world.own(at.epochs + 4 * u64::from(c.blocks)));
        let numbers = k.smem().offset(numbers);
        let ranks = g.ranks();
        k.for_(k.block_x(), g.local() * ranks, c.blocks, |item| {
            let expert = item.udiv(ranks);
            let source = item - expert * ranks;
            // Others may still read what the item before left there.
            k.sync_threads();
            k.for_(k.tid(), source + 1, THREADS, |rank| {
                let row = epoch.parity() * g.local() + expert;
                let count = world.counter(at.counts, row * ranks + rank);
                let word = k.var(k.i64(0));
                k.wait_for_peer(PeerSite::Counts, rank, || {
                    word.set(count.load_acquire_sys());
                    (word.get().to_i32().ushr(16)).eq(epoch.tag())
                });
                let word = word.get();
                numbers.at(rank * 4).store(word.to_i32() & 0xffff);
                k.if_(rank.eq(source), || {
                    numbers.offset(4 * ranks).store(word.ushr(32).to_i32());
                });
            });
            k.sync_threads();
            let before = k.var(k.i32(0));
            k.for_(k.lane(), source, WARP, |rank| {
                before.update(|n| n + numbers.at(rank * 4).load::<I32>());
            });
            let first = k.reduce(before.get(), WARP, |a, b| a + b);
            let count = numbers.at(source * 4).load::<I32>();
            let box_of = expert * ranks + source;
            k.if_(k.tid().eq(0), || {
                let total = numbers.offset(4 * ranks).load::<I32>();
                let delivered = world.counter(at.delivered, box_of);
                k.wait_for_peer(PeerSite::Rows, source, || {
                    (delivered.load_acquire_sys().to_i32() - total).ge(0)
                });
                k.if_(source.eq(ranks.cast_signed() - 1), || {
                    k.arg_global(counts).index(expert, 4).store(first + count);
                });
            });
            k.sync_threads();
            k.for_(k.tid().ushr(5), count, WARPS, |n| {
                let from = world
                    .own(at.inbox)
                    .at(bytes_of(box_of * g.tokens + n, message));
                let place = first + n;
                let element = if c.quant { 1 } else { 2 };
                // Expert and one more index of an operand, by their strides.
                let index = |strides: [usize; 2], inner| {
                    let inner: Val<'_, I32> = inner;
                    expert.to_i64() * k.arg_i32(strides[0]).to_i64()
                        + inner.to_i64() * k.arg_i32(strides[1]).to_i64()
                };
                let to = k.arg_global(rows).at(index(strides, place) * element);
                copy_row(k, from.offset(VECTOR), to, row);
                if let Some((scales, strides)) = scales {
                    k.for_(k.lane(), c.width.div_ceil(GROUP), WARP, |group| {
                        let scale = from.offset(VECTOR + row).index(group, 4).load::<F32>();
                        let index = index(strides, group) + place.to_i64();
                        k.arg_global(scales).at(index * 4).store(scale);
                    });
                }
                k.if_(k.lane().eq(0), || {
                    let [pair, weight, ..]: [Val<'_, I32>; 4] = from.load_vec();
                    let index = expert * c.rows() + place;
                    k.arg_global(row_weights).index(index, 4).store(weight);
                    let origin = source * (g.tokens * g.top_k) + pair;
                    k.arg_global(record).index(index, 4).store(origin);
                });
            });
        });
        epoch.end(k);
    };
    Ok(Family::new(launch(c.blocks, THREADS, smem, p.list), body))
}

/// `direct_combine_send`.
///
/// # Errors
/// [`CodegenError::Unsupported`], naming the limit.
pub fn combine_send<'a>(name: &str, c: &'a DirectCombine) -> Result<Family<'a>, CodegenError> {
    let row = 2 * c.width;
    check(name, &c.group, row)?;
    check_blocks(name, c.blocks)?;
    let mut p = Params::default();
    let y = p.pointer();
    let strides = [p.stride(0, 0), p.stride(0, 1)];
    let (counts, record, offsets) = (p.pointer(), p.pointer(), p.pointer());
    let meeting = (p.pointer(), p.pointer());
    let (g, at) = (&c.group, c.layout());
    let body = move |k: &Kernel| {
        let world = World::new(k, meeting);
        // What will have come back to this rank when this combine is through.
        k.for_(thread_of_launch(k), g.experts, c.blocks * THREADS, |e| {
            let expected = world.counter(at.expected, e);
            let rows = word(k, offsets, e + 1) - word(k, offsets, e);
            expected.store(expected.load::<I64>() + rows.to_i64());
        });
        let room = g.ranks() * g.tokens;
        k.for_(0, g.local(), 1, |expert| {
            let count = word(k, counts, expert);
            k.for_(warp_of_launch(k), count, c.blocks * WARPS, |n| {
                let index = expert * room + n;
                let origin = word(k, record, index);
                let rank = origin.udiv(g.tokens * g.top_k);
                let pair = origin - rank * (g.tokens * g.top_k);
                let from = expert.to_i64() * k.arg_i32(strides[0]).to_i64()
                    + n.to_i64() * k.arg_i32(strides[1]).to_i64();
                let from = k.arg_global(y).at(from * 2);
                let place = world.own(at.inbox).at(bytes_of(pair, row));
                let delivered = world.counter(at.delivered, world.me * g.local() + expert);
                let near = || {
                    let delta = world.delta(rank);
                    copy_row(k, from, place.shifted(delta), row);
                    k.sync_warp();
                    k.if_(k.lane().eq(0), || {
                        delivered.shifted(delta).add_release_sys(k.i64(1));
                    });
                };
                if g.nodes == 1 {
                    return near();
                }
                k.if_else(world.is_mapped(rank), near, || {
                    let staging = world.own(at.staging).at(bytes_of(index, row));
                    copy_row(k, from, staging, row);
                    k.sync_warp();
                    k.put_signal(
                        (place, staging, k.i64(i64::from(row))),
                        (delivered, k.i64(1), Signal::Add),
                        world.pe(rank),
                    );
                });
            });
        });
    };
    let launch = launch(c.blocks, THREADS, SmemMap::default(), p.list);
    Ok(Family::new(launch, body))
}

/// `direct_combine_receive`: FP32 sums in slot order, one rounding.
///
/// # Errors
/// [`CodegenError::Unsupported`], naming the limit.
pub fn combine_receive<'a>(name: &str, c: &'a DirectCombine) -> Result<Family<'a>, CodegenError> {
    let row = 2 * c.width;
    check(name, &c.group, row)?;
    check_blocks(name, c.blocks)?;
    let shape = RowShape::new(name, c.width)?;
    let mut p = Params::default();
    let (experts, weights) = (p.pointer(), p.pointer());
    let meeting = (p.pointer(), p.pointer());
    let out = p.matrix();
    let tokens = p.extent(0, 0);
    let (g, at) = (&c.group, c.layout());
    let body = move |k: &Kernel| {
        let world = World::new(k, meeting);
        k.for_(k.block_x(), k.arg_i32(tokens), c.blocks, |token| {
            k.if_(k.tid().lt(g.top_k.cast_signed()), || {
                let pair = token * g.top_k + k.tid();
                let e = word(k, experts, pair);
                let delivered = world.counter(at.delivered, e);
                let expected = world.counter(at.expected, e).load::<I64>();
                k.wait_for_peer(PeerSite::Rows, e.udiv(g.local()), || {
                    (delivered.load_acquire_sys() - expected).ge(0)
                });
            });
            k.sync_threads();
            for i in 0..shape.chunks() {
                let chunk = shape.chunk(k, i);
                shape.inside(k, i, chunk, || {
                    let mut acc = [k.f32(0.0); 8];
                    for slot in 0..g.top_k {
                        let pair = token * g.top_k + slot;
                        let from = world.own(at.inbox).at(bytes_of(pair, row));
                        let v = load8(from.index(chunk, VECTOR));
                        if c.weighted {
                            let weight = k.arg_global(weights).index(pair, 4).load::<F32>();
                            acc = std::array::from_fn(|j| weight.fma(v[j], acc[j]));
                        } else {
                            acc = std::array::from_fn(|j| acc[j] + v[j]);
                        }
                    }
                    let to = k.arg_global(out.pointer);
                    bf16_at(to, token, k.arg_i32(out.stride), chunk * CHUNK)
                        .store_vec(pack8(k, &acc));
                });
            }
        });
    };
    let launch = launch(c.blocks, shape.threads, SmemMap::default(), p.list);
    Ok(Family::new(launch, body))
}

/// Bytes of a row's values.
fn row_bytes(c: &DirectDispatch) -> u32 {
    c.width * if c.quant { 1 } else { 2 }
}
