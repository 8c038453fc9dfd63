//! `two_hop_combine`.
//!
//! Roles of a block's warps, in order:
//!
//! ```text
//! experts    sum of a token's rows on this rank, into the ring of the GPU that speaks for its node, all sources in turn
//! nodes      sum of this node's GPUs, to the token's rank on another node, all other nodes in turn
//! origins    sum of the nodes, for this rank's own tokens; the warps share the channels of a row
//! ```
//! Each sum is FP32, in the order of slots, ranks and nodes, and is rounded to BF16 once (three roundings in all).
//! Experts and nodes serve their streams in turn and never wait for one of them; origins wait for both: no circle.
//!
//! Messages need no numbers: a ring has those of a source's tokens in their order, as the dispatch before had them.

use mcc_ir::exchange::{ExpertGroup, TwoHopCombine, TwoHopRecord};

use super::super::{VECTOR, WARP, World, check, launch, word};
use super::rings::{Channel, NearReader, NearWriter, Words, all};
use super::{ROLE_WARPS, Role, assign, serve, warps};
use crate::emit::pipeline::SmemMap;
use crate::emit::system::PeerSite;
use crate::emit::{B1, F32, Global, I32, I64, Kernel, Val};
use crate::error::CodegenError;
use crate::kernels::row::{CHUNK, load8, pack8, round8};
use crate::kernels::{Family, MatrixArg, Params, unsupported};

/// Barrier of the origins.
const ORIGINS: i32 = 1;
/// Most warps of nodes, and those of origins.
const NODE_WARPS: u32 = 4;
const ORIGIN_WARPS: u32 = 4;

/// Warps of each role.
#[derive(Clone, Copy)]
struct Roles {
    experts: u32,
    nodes: u32,
}

/// Positions of the parameters.
#[derive(Clone, Copy)]
struct Args {
    y: MatrixArg,
    row_weights: usize,
    experts: usize,
    record: usize,
    meeting: (usize, usize),
    out: MatrixArg,
    tokens: usize,
}

/// Offsets of what a block keeps in shared memory.
#[derive(Clone, Copy)]
struct Memory {
    /// `[ranks]`: messages written to each near ring.
    sent: u32,
    /// `[ranks]`: messages read from each near ring, by experts' node.
    read: u32,
    /// `[ranks]`: messages of each source that are done, of experts.
    done: u32,
    /// `[nodes]`: chunks sent to each node, messages of the one that is filled, messages done, of nodes.
    far_sent: u32,
    filled: u32,
    forwarded: u32,
    /// `[origin warps][gpus + 2 * nodes]`: messages read from this node's GPUs; chunks and messages of the chunk read
    /// from each node.
    origins: u32,
}

/// `two_hop_combine`.
///
/// # Errors
/// [`CodegenError::Unsupported`], naming the limit.
pub fn combine<'a>(name: &str, c: &'a TwoHopCombine) -> Result<Family<'a>, CodegenError> {
    let g = c.group;
    check(name, &g, 2 * c.width)?;
    if c.channels == 0 {
        return Err(unsupported(name, "0 channels", "at least one"));
    }
    let roles = Roles {
        experts: warps(name, g.ranks(), ROLE_WARPS)?,
        nodes: warps(name, g.nodes - 1, NODE_WARPS)?,
    };
    let mut smem = SmemMap::default();
    let mut words = |n: u32| smem.reserve(4 * n, 16);
    let memory = Memory {
        sent: words(g.ranks()),
        read: words(g.ranks()),
        done: words(g.ranks()),
        far_sent: words(g.nodes),
        filled: words(g.nodes),
        forwarded: words(g.nodes),
        origins: words(ORIGIN_WARPS * (g.gpus + 2 * g.nodes)),
    };
    let mut p = Params::default();
    let args = Args {
        y: p.matrix(),
        row_weights: p.pointer(),
        experts: p.pointer(),
        record: p.pointer(),
        meeting: (p.pointer(), p.pointer()),
        out: p.matrix(),
        tokens: p.extent(2, 0),
    };
    let threads = WARP * (roles.experts + roles.nodes + ORIGIN_WARPS);
    let launch = launch(c.channels, threads, smem, p.list);
    Ok(Family::new(launch, move |k| {
        Body::new(k, c, args, memory, roles).emit();
    }))
}

/// The kernel while it is written.
struct Body<'a, 'k> {
    k: &'k Kernel,
    c: &'a TwoHopCombine,
    g: ExpertGroup,
    args: Args,
    roles: Roles,
    record: TwoHopRecord,
    world: World<'k>,
    channel: Channel<'k>,
    epoch: Val<'k, I32>,
    sent: Words<'k>,
    read: Words<'k>,
    done: Words<'k>,
    far_sent: Words<'k>,
    filled: Words<'k>,
    forwarded: Words<'k>,
    origins: Words<'k>,
}

impl<'a, 'k> Body<'a, 'k> {
    fn new(k: &'k Kernel, c: &'a TwoHopCombine, args: Args, m: Memory, roles: Roles) -> Self {
        let world = World::new(k, args.meeting);
        let rings = c.layout().rings;
        let channel = Channel::new(k, world, rings, c.group);
        Self {
            k,
            c,
            g: c.group,
            args,
            roles,
            record: TwoHopRecord::new(&c.group, c.channels),
            world,
            channel,
            epoch: world.own(rings.epochs).index(channel.index, 4).load(),
            sent: Words::new(k, m.sent),
            read: Words::new(k, m.read),
            done: Words::new(k, m.done),
            far_sent: Words::new(k, m.far_sent),
            filled: Words::new(k, m.filled),
            forwarded: Words::new(k, m.forwarded),
            origins: Words::new(k, m.origins),
        }
    }

    fn threads(&self) -> u32 {
        WARP * (self.roles.experts + self.roles.nodes + ORIGIN_WARPS)
    }

    fn emit(&self) {
        let (k, r) = (self.k, self.roles);
        self.load_state();
        k.sync_threads();
        let roles: [(u32, Role<'_, 'k>); 3] = [
            (r.experts, &|warp| self.experts(warp)),
            (r.nodes, &|warp| self.nodes(warp)),
            (ORIGIN_WARPS, &|warp| self.origins(warp)),
        ];
        assign(k, &roles);
        k.sync_warp();
        k.sync_threads();
        self.store_state();
    }

    /// A word of an origin warp: `region` 0 are the node's GPUs, 1 the chunks of each node, 2 the messages of the chunk.
    fn origin_word(&self, warp: Val<'k, I32>, region: u32, index: Val<'k, I32>) -> Val<'k, I32> {
        let (gpus, nodes) = (self.g.gpus, self.g.nodes);
        let begin = match region {
            0 => 0,
            1 => gpus,
            _ => gpus + nodes,
        };
        warp * (gpus + 2 * nodes) + index + begin
    }

    fn load_state(&self) {
        let (k, c, g, rings) = (self.k, self.channel, self.g, self.channel.rings);
        let low = |at: Global<'k>| at.load::<I32>();
        let zero = k.i32(0);
        k.for_(k.tid(), g.ranks(), self.threads(), |i| {
            self.sent.set(i, low(c.near(rings.near_sent, i)));
            self.read.set(i, low(c.near(rings.near_read, i)));
            self.done.set(i, zero);
        });
        k.for_(k.tid(), ORIGIN_WARPS * g.gpus, self.threads(), |i| {
            let warp = i.udiv(g.gpus);
            let gpu = i - warp * g.gpus;
            let ring = c.rank(c.node, gpu);
            let read = low(c.near(rings.near_read, ring));
            self.origins.set(self.origin_word(warp, 0, gpu), read);
        });
        if g.nodes > 1 {
            k.for_(k.tid(), g.nodes, self.threads(), |i| {
                self.far_sent.set(i, low(c.far(rings.far_sent, i)));
                self.filled.set(i, zero);
                self.forwarded.set(i, zero);
            });
            k.for_(k.tid(), ORIGIN_WARPS * g.nodes, self.threads(), |i| {
                let warp = i.udiv(g.nodes);
                let node = i - warp * g.nodes;
                let read = low(c.far(rings.far_read, node));
                self.origins.set(self.origin_word(warp, 1, node), read);
                self.origins.set(self.origin_word(warp, 2, node), zero);
            });
        }
    }

    fn store_state(&self) {
        let (k, c, g, rings) = (self.k, self.channel, self.g, self.channel.rings);
        let zero = k.i32(0);
        k.for_(k.tid(), g.ranks(), self.threads(), |i| {
            c.near(rings.near_sent, i).store(self.sent.get(i));
            // Rings of this rank's own tokens are the origins', the others the nodes'.
            let node = i.udiv(g.gpus);
            let gpu = i - node * g.gpus;
            let own = self.origins.get(self.origin_word(zero, 0, gpu));
            let read = node.eq(c.node).select(own, self.read.get(i));
            c.near(rings.near_read, i).store(read);
        });
        if g.nodes > 1 {
            k.for_(k.tid(), g.nodes, self.threads(), |i| {
                c.far(rings.far_sent, i).store(self.far_sent.get(i));
                let read = self.origins.get(self.origin_word(zero, 1, i));
                c.far(rings.far_read, i).store(read);
            });
        }
        k.if_(k.tid().eq(0), || {
            let epochs = self.world.own(rings.epochs);
            epochs.index(c.index, 4).store(self.epoch + 1);
        });
    }

    /// Word `index` of a part of the record.
    fn recorded(&self, part: u64, index: Val<'k, I32>) -> Val<'k, I32> {
        let k = self.k;
        k.arg_global(self.args.record)
            .at(k.i64(4 * part.cast_signed()))
            .index(index, 4)
            .load()
    }

    /// The chunks of a row that a lane has: `body` gets the number of each.
    fn chunks(&self, first: Val<'k, I32>, step: u32, body: impl FnOnce(Val<'k, I32>)) {
        self.k.for_(first, self.c.width / CHUNK, step, body);
    }

    // ── Roles ────────────────────────────────────────────────────────────────────────────────────────

    /// Sums of tokens' rows on this rank, one stream for each source rank.
    fn experts(&self, warp: Val<'k, I32>) {
        let (k, c, g) = (self.k, self.channel, self.g);
        let speaker = |source: Val<'k, I32>| c.rank(c.node, source.urem(g.gpus));
        let streams = (warp, self.roles.experts, g.ranks());
        serve(k, streams, (PeerSite::Room, speaker), |source, turn| {
            let index = c.index * g.ranks() + source;
            let done = self.done.get(source);
            let messages = self.recorded(self.record.received, index);
            k.if_(done.lt(messages), || {
                // The speaker numbers its rings by the node of the source and the GPU of the expert.
                let there = c.rank(source.udiv(g.gpus), c.gpu);
                let ring = NearWriter::new(c, speaker(source), (there, source), self.epoch);
                let sent = self.sent.get(source);
                k.if_(all(k, ring.has_room(sent)), || {
                    turn.moved.set(k.i32(1));
                    let at = index * self.record.per_channel + done;
                    ring.write_now(sent, |to| self.sum_rows(at, to));
                    self.sent.set_by_warp(source, sent + 1);
                    self.done.set_by_warp(source, done + 1);
                });
            });
            k.if_(done.ge(messages), || turn.done.set(k.i32(1)));
        });
    }

    /// Sum of the rows of message `at` of the record.
    fn sum_rows(&self, at: Val<'k, I32>, to: Global<'k>) {
        let (k, g, a) = (self.k, self.g, self.args);
        let mine = k.var(k.i32(-1i64));
        let weight = k.var(k.f32(0.0));
        k.if_(k.lane().lt(g.top_k.cast_signed()), || {
            let row = self.recorded(self.record.rows, at * g.top_k + k.lane());
            mine.set(row);
            if self.c.weighted {
                k.if_(row.ge(0), || {
                    weight.set(k.arg_global(a.row_weights).index(row, 4).load());
                });
            }
        });
        let rows: Vec<Val<'k, I32>> = (0..g.top_k)
            .map(|slot| k.shfl_idx(mine.get(), k.i32(slot)))
            .collect();
        let weights: Vec<Val<'k, F32>> = (0..g.top_k)
            .map(|slot| k.shfl_idx(weight.get(), k.i32(slot)))
            .collect();
        let stride = k.arg_i32(a.y.stride).to_i64() * 2;
        self.chunks(k.lane(), WARP, |chunk| {
            let acc: [_; 8] = std::array::from_fn(|_| k.var(k.f32(0.0)));
            for (row, weight) in rows.iter().zip(&weights) {
                k.if_(row.ge(0), || {
                    let from = k.arg_global(a.y.pointer).at(row.to_i64() * stride);
                    let v = load8(from.index(chunk, VECTOR));
                    for (acc, v) in acc.iter().zip(v) {
                        acc.update(|sum| {
                            if self.c.weighted {
                                weight.fma(v, sum)
                            } else {
                                sum + v
                            }
                        });
                    }
                });
            }
            let sums = acc.map(|v| v.get());
            to.index(chunk, VECTOR).store_vec(pack8(k, &sums));
        });
    }

    /// Ring of the sums that GPU `gpu` of this node makes for the tokens of `source`, whom this rank speaks for.
    fn sums_of(&self, source: Val<'k, I32>, gpu: Val<'k, I32>) -> NearReader<'k> {
        let c = self.channel;
        NearReader {
            channel: c,
            ring: c.rank(source.udiv(self.g.gpus), gpu),
            there: source,
            writer: c.rank(c.node, gpu),
        }
    }

    /// Sums of this node's GPUs for tokens of other nodes, one stream for each.
    fn nodes(&self, warp: Val<'k, I32>) {
        let (k, c, g) = (self.k, self.channel, self.g);
        let node_of = |stream: Val<'k, I32>| (c.node + 1 + stream).urem(g.nodes);
        let peer = |stream| c.rank(node_of(stream), c.gpu);
        let streams = (warp, self.roles.nodes, g.nodes - 1);
        serve(k, streams, (PeerSite::Messages, peer), |stream, turn| {
            let node = node_of(stream);
            let source = c.rank(node, c.gpu);
            let index = c.index * g.nodes + node;
            let done = self.forwarded.get(node);
            let messages = self.recorded(self.record.forwarded, index);
            k.if_(done.lt(messages), || {
                let at = index * self.record.per_channel + done;
                let mask = self.recorded(self.record.masks, at);
                let sent = self.far_sent.get(node);
                let filled = self.filled.get(node);
                // A chunk that has messages has found its room.
                let room = filled.gt(0) | all(k, c.far_has_room(node, sent));
                let ready = k.var(room.to_i32());
                k.for_(0, g.gpus, 1, |gpu| {
                    k.if_((mask.ushr(gpu) & 1).ne(0), || {
                        let ring = self.sums_of(source, gpu);
                        let (there, _) = ring.look(self.epoch, self.read.get(ring.ring));
                        ready.update(|r| r & there.to_i32());
                    });
                });
                k.if_(ready.get().ne(0), || {
                    turn.moved.set(k.i32(1));
                    let to = c.far_message(c.rings.far_staging, node, sent, filled);
                    self.chunks(k.lane(), WARP, |chunk| {
                        let sum =
                            self.sum_gpus(source, mask, chunk, &|ring| self.read.get(ring.ring));
                        to.index(chunk, VECTOR).store_vec(pack8(k, &sum));
                    });
                    k.for_(0, g.gpus, 1, |gpu| {
                        k.if_((mask.ushr(gpu) & 1).ne(0), || {
                            let ring = self.sums_of(source, gpu);
                            let read = self.read.get(ring.ring) + 1;
                            ring.free(read);
                            self.read.set_by_warp(ring.ring, read);
                        });
                    });
                    self.forwarded.set_by_warp(node, done + 1);
                    let count = filled + 1;
                    let is_full = count.eq(c.rings.per_chunk.cast_signed());
                    k.if_else(
                        is_full | (done + 1).eq(messages),
                        || {
                            c.send_chunk(node, sent, count, false);
                            self.far_sent.set_by_warp(node, sent + 1);
                            self.filled.set_by_warp(node, k.i32(0));
                        },
                        || self.filled.set_by_warp(node, count),
                    );
                });
            });
            k.if_(done.ge(messages), || turn.done.set(k.i32(1)));
        });
    }

    /// FP32 sum of a chunk over the GPUs of `mask`, in their order; `read` is how many messages of a ring are read.
    fn sum_gpus(
        &self,
        source: Val<'k, I32>,
        mask: Val<'k, I32>,
        chunk: Val<'k, I32>,
        read: &dyn Fn(NearReader<'k>) -> Val<'k, I32>,
    ) -> [Val<'k, F32>; 8] {
        let k = self.k;
        let acc: [_; 8] = std::array::from_fn(|_| k.var(k.f32(0.0)));
        k.for_(0, self.g.gpus, 1, |gpu| {
            k.if_((mask.ushr(gpu) & 1).ne(0), || {
                let ring = self.sums_of(source, gpu);
                let v = load8(ring.message(read(ring)).index(chunk, VECTOR));
                for (acc, v) in acc.iter().zip(v) {
                    acc.update(|sum| sum + v);
                }
            });
        });
        acc.map(|v| v.get())
    }

    /// Sums of this rank's tokens. Every warp goes through all tokens of the channel, with its share of the row.
    fn origins(&self, warp: Val<'k, I32>) {
        let (k, c, g, a) = (self.k, self.channel, self.g, self.args);
        let tokens = k.arg_i32(a.tokens);
        let each = (tokens + (self.c.channels - 1)).udiv(self.c.channels);
        let from = (c.index * each).min(tokens);
        let to = (from + each).min(tokens);
        k.for_(from, to, 1, |token| {
            let rank = k.var(k.i32(-1i64));
            k.if_(k.lane().lt(g.top_k.cast_signed()), || {
                let expert = word(k, a.experts, token * g.top_k + k.lane());
                rank.set(expert.udiv(g.local()));
            });
            let rank = rank.get();
            let is_slot = rank.ge(0);
            let first = c.node * g.gpus;
            let here = is_slot & rank.ge(first) & rank.lt(first + g.gpus);
            let bit = here.select(k.i32(1) << (rank - first), k.i32(0));
            let mask = k.reduce(bit, WARP, |a, b| a | b);
            // Nodes that have sums of this token, a bit for each.
            let nodes = k.var(k.i64(0));
            k.for_(0, g.nodes, 1, |node| {
                let is_there = is_slot & rank.udiv(g.gpus).eq(node);
                k.if_(k.ballot(is_there).ne(0), || {
                    nodes.update(|m| m | (k.i64(1) << node.to_u64()));
                });
            });
            let nodes = nodes.get();
            self.await_sums(warp, mask, nodes);
            self.sum_nodes(warp, token, mask, nodes);
            let over = self.chunks_over(warp, nodes);
            // All warps have read: the slots are free.
            k.sync_warp();
            k.sync_named(k.i32(ORIGINS), WARP * ORIGIN_WARPS);
            self.free_sums(warp, mask, nodes, over);
        });
    }

    /// Waits for all messages of a token. What each lane reads it has waited for by itself.
    fn await_sums(&self, warp: Val<'k, I32>, mask: Val<'k, I32>, nodes: Val<'k, I64>) {
        let (k, c, g, me) = (self.k, self.channel, self.g, self.world.me);
        k.for_(0, g.gpus, 1, |gpu| {
            k.if_((mask.ushr(gpu) & 1).ne(0), || {
                let ring = self.sums_of(me, gpu);
                let read = self.origins.get(self.origin_word(warp, 0, gpu));
                k.wait_for_peer(PeerSite::Messages, ring.writer, || {
                    ring.look(self.epoch, read).0
                });
            });
        });
        if g.nodes > 1 {
            k.for_(0, g.nodes, 1, |node| {
                k.if_(self.is_far(nodes, node), || {
                    let chunk = self.origins.get(self.origin_word(warp, 1, node));
                    k.wait_for_peer(PeerSite::Messages, c.rank(node, c.gpu), || {
                        c.look_for_chunk(node, chunk).is_here
                    });
                });
            });
        }
    }

    fn sum_nodes(
        &self,
        warp: Val<'k, I32>,
        token: Val<'k, I32>,
        mask: Val<'k, I32>,
        nodes: Val<'k, I64>,
    ) {
        let (k, c, g, me) = (self.k, self.channel, self.g, self.world.me);
        let out = self.args.out;
        let stride = k.arg_i32(out.stride).to_i64() * 2;
        let to = k.arg_global(out.pointer).at(token.to_i64() * stride);
        self.chunks(warp * WARP + k.lane(), WARP * ORIGIN_WARPS, |chunk| {
            let acc: [_; 8] = std::array::from_fn(|_| k.var(k.f32(0.0)));
            let add = |values: [Val<'k, F32>; 8]| {
                for (acc, v) in acc.iter().zip(values) {
                    acc.update(|sum| sum + v);
                }
            };
            k.for_(0, g.nodes, 1, |node| {
                k.if_((nodes.ushr(node.to_u64()) & 1).ne(0), || {
                    let near = || {
                        let sum = self.sum_gpus(me, mask, chunk, &|ring| {
                            let gpu = ring.writer - c.node * g.gpus;
                            self.origins.get(self.origin_word(warp, 0, gpu))
                        });
                        add(round8(k, &sum));
                    };
                    if g.nodes == 1 {
                        return near();
                    }
                    k.if_else(node.eq(c.node), near, || {
                        let at = self.origins.get(self.origin_word(warp, 1, node));
                        let index = self.origins.get(self.origin_word(warp, 2, node));
                        let message = c.far_message(c.rings.far, node, at, index);
                        add(load8(message.index(chunk, VECTOR)));
                    });
                });
            });
            let sums = acc.map(|v| v.get());
            to.index(chunk, VECTOR).store_vec(pack8(k, &sums));
        });
    }

    /// Whether another node has a sum.
    fn is_far(&self, nodes: Val<'k, I64>, node: Val<'k, I32>) -> Val<'k, B1> {
        node.ne(self.channel.node) & (nodes.ushr(node.to_u64()) & 1).ne(0)
    }

    /// Nodes whose chunk ends with the message just read. Looked at while it cannot change yet.
    fn chunks_over(&self, warp: Val<'k, I32>, nodes: Val<'k, I64>) -> Val<'k, I64> {
        let (k, c) = (self.k, self.channel);
        let over = k.var(k.i64(0));
        if self.g.nodes > 1 {
            k.for_(0, self.g.nodes, 1, |node| {
                k.if_(self.is_far(nodes, node), || {
                    let chunk = self.origins.get(self.origin_word(warp, 1, node));
                    let index = self.origins.get(self.origin_word(warp, 2, node));
                    let messages = c.look_for_chunk(node, chunk).messages;
                    k.if_((index + 1).eq(messages), || {
                        over.update(|m| m | (k.i64(1) << node.to_u64()));
                    });
                });
            });
        }
        over.get()
    }

    /// Every warp counts on; the first one tells the writers.
    fn free_sums(
        &self,
        warp: Val<'k, I32>,
        mask: Val<'k, I32>,
        nodes: Val<'k, I64>,
        over: Val<'k, I64>,
    ) {
        let (k, c, g, me) = (self.k, self.channel, self.g, self.world.me);
        let tells = k.lane().eq(0) & warp.eq(0);
        k.for_(0, g.gpus, 1, |gpu| {
            k.if_((mask.ushr(gpu) & 1).ne(0), || {
                let at = self.origin_word(warp, 0, gpu);
                let read = self.origins.get(at) + 1;
                self.origins.set_by_warp(at, read);
                k.if_(tells, || self.sums_of(me, gpu).free_by_one(read));
            });
        });
        if g.nodes == 1 {
            return;
        }
        k.for_(0, g.nodes, 1, |node| {
            k.if_(self.is_far(nodes, node), || {
                let (chunk_at, index_at) = (
                    self.origin_word(warp, 1, node),
                    self.origin_word(warp, 2, node),
                );
                let chunk = self.origins.get(chunk_at);
                let index = self.origins.get(index_at) + 1;
                let is_over = (over.ushr(node.to_u64()) & 1).ne(0);
                k.if_else(
                    is_over,
                    || {
                        self.origins.set_by_warp(index_at, k.i32(0));
                        self.origins.set_by_warp(chunk_at, chunk + 1);
                        k.if_(tells, || c.free_chunk(node));
                    },
                    || self.origins.set_by_warp(index_at, index),
                );
            });
        });
    }
}
