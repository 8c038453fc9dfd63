//! `two_hop_dispatch`.
//!
//! Roles of a block's warps, in order:
//!
//! ```text
//! near writers   one for each GPU of the node: this rank's messages into its ring
//! far writers    this rank's messages to the rank of the same number on other nodes, a node after the other
//! forwarders     messages of other nodes on to this node's GPUs, each once, several sources in turn
//! receivers      messages into the rows of their experts, all sources in turn
//! ```
//! Receivers wait for nobody but for the counts at the start. Near writers and forwarders wait for receivers, far writers
//! for forwarders, which serve their sources in turn: no circle.
//!
//! Where a row goes follows from the counts of all ranks, which are exchanged first: rows of an expert are in the order of
//! their source rank and there of their tokens.

use mcc_ir::exchange::{EXPERT_BITS, ExpertGroup, TwoHopDispatch, TwoHopRecord};

use super::super::{GROUP, WARP, World, check, copy_row, launch, word};
use super::rings::{Channel, NearReader, NearWriter, Words};
use super::{ROLE_WARPS, Role, assign, serve, warps};
use crate::emit::pipeline::SmemMap;
use crate::emit::system::{PeerSite, Signal};
use crate::emit::{B1, F32, Global, I32, Kernel, Val};
use crate::error::CodegenError;
use crate::kernels::{Family, MatrixArg, Params, ScalesArg, unsupported};

/// Barrier of the receivers.
const RECEIVERS: i32 = 1;
/// Most warps that write to other nodes, and that forward.
const FAR_WARPS: u32 = 4;

/// Warps of each role.
#[derive(Clone, Copy)]
struct Roles {
    near: u32,
    far: u32,
    forward: u32,
    receive: u32,
}

/// Positions of the parameters.
#[derive(Clone, Copy)]
struct Args {
    x: MatrixArg,
    scales: Option<ScalesArg>,
    experts: usize,
    weights: usize,
    offsets_all: usize,
    slots: usize,
    meeting: (usize, usize),
    rows: MatrixArg,
    rows_scales: Option<ScalesArg>,
    offsets: usize,
    row_weights: usize,
    record: usize,
    tokens: usize,
}

impl Args {
    fn new(c: &TwoHopDispatch) -> (Self, Params) {
        let mut p = Params::default();
        let args = Self {
            x: p.matrix(),
            scales: c.quant.then(|| p.scales()),
            experts: p.pointer(),
            weights: p.pointer(),
            offsets_all: p.pointer(),
            slots: p.pointer(),
            meeting: (p.pointer(), p.pointer()),
            rows: p.matrix(),
            rows_scales: c.quant.then(|| p.scales()),
            offsets: p.pointer(),
            row_weights: p.pointer(),
            record: p.pointer(),
            tokens: p.extent(0, 0),
        };
        (args, p)
    }
}

/// Offsets of what a block keeps in shared memory.
#[derive(Clone, Copy)]
struct Memory {
    /// `[ranks][local]`: the first row of a source's rows of an expert.
    first: u32,
    /// `[local]`: rows of an expert.
    totals: u32,
    /// `[ranks]`: messages written to each near ring as a writer.
    sent: u32,
    /// `[ranks]`: messages read from each near ring, now and at the start.
    read: u32,
    start: u32,
    /// `[nodes]`: chunks read from each far ring, and messages forwarded in this launch.
    far_read: u32,
    forwarded: u32,
}

/// `two_hop_dispatch`.
///
/// # Errors
/// [`CodegenError::Unsupported`], naming the limit.
pub fn dispatch<'a>(name: &str, c: &'a TwoHopDispatch) -> Result<Family<'a>, CodegenError> {
    let g = c.group;
    check(name, &g, row_bytes(c))?;
    if c.channels == 0 || c.capacity == 0 {
        return Err(unsupported(
            name,
            format!("{} channels, room for {} rows", c.channels, c.capacity),
            "at least one of each",
        ));
    }
    if g.tokens >= 1 << (31 - EXPERT_BITS) {
        return Err(unsupported(name, format!("{} tokens", g.tokens), "fewer"));
    }
    let others = g.nodes - 1;
    let roles = Roles {
        near: g.gpus,
        far: others.min(FAR_WARPS),
        forward: warps(name, others, FAR_WARPS)?,
        receive: warps(name, g.ranks(), ROLE_WARPS)?,
    };
    let mut smem = SmemMap::default();
    let mut words = |n: u32| smem.reserve(4 * n, 16);
    let memory = Memory {
        first: words(g.ranks() * g.local()),
        totals: words(g.local()),
        sent: words(g.ranks()),
        read: words(g.ranks()),
        start: words(g.ranks()),
        far_read: words(g.nodes),
        forwarded: words(g.nodes),
    };
    let (args, params) = Args::new(c);
    let threads = WARP * (roles.near + roles.far + roles.forward + roles.receive);
    let launch = launch(c.channels, threads, smem, params.list);
    Ok(Family::new(launch, move |k| {
        Body::new(k, c, args, memory, roles).emit();
    }))
}

fn row_bytes(c: &TwoHopDispatch) -> u32 {
    c.width * if c.quant { 1 } else { 2 }
}

/// The kernel while it is written.
struct Body<'a, 'k> {
    k: &'k Kernel,
    c: &'a TwoHopDispatch,
    g: ExpertGroup,
    args: Args,
    roles: Roles,
    record: TwoHopRecord,
    world: World<'k>,
    channel: Channel<'k>,
    /// Launches before this one.
    epoch: Val<'k, I32>,
    /// This rank's tokens of the channel.
    from: Val<'k, I32>,
    to: Val<'k, I32>,
    first: Words<'k>,
    totals: Words<'k>,
    sent: Words<'k>,
    read: Words<'k>,
    start: Words<'k>,
    far_read: Words<'k>,
    forwarded: Words<'k>,
}

impl<'a, 'k> Body<'a, 'k> {
    fn new(k: &'k Kernel, c: &'a TwoHopDispatch, args: Args, m: Memory, roles: Roles) -> Self {
        let world = World::new(k, args.meeting);
        let rings = c.layout().rings;
        let channel = Channel::new(k, world, rings, c.group);
        let tokens = k.arg_i32(args.tokens);
        let each = (tokens + (c.channels - 1)).udiv(c.channels);
        let from = (channel.index * each).min(tokens);
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
            from,
            to: (from + each).min(tokens),
            first: Words::new(k, m.first),
            totals: Words::new(k, m.totals),
            sent: Words::new(k, m.sent),
            read: Words::new(k, m.read),
            start: Words::new(k, m.start),
            far_read: Words::new(k, m.far_read),
            forwarded: Words::new(k, m.forwarded),
        }
    }

    fn threads(&self) -> u32 {
        let r = self.roles;
        WARP * (r.near + r.far + r.forward + r.receive)
    }

    fn emit(&self) {
        let (k, r) = (self.k, self.roles);
        self.send_counts();
        self.load_state();
        k.sync_threads();
        let roles: [(u32, Role<'_, 'k>); 4] = [
            (r.near, &|gpu| self.write_near(gpu)),
            (r.far, &|warp| self.write_far(warp)),
            (r.forward, &|warp| self.forward(warp)),
            (r.receive, &|warp| self.receive(warp)),
        ];
        assign(k, &roles);
        k.sync_warp();
        k.sync_threads();
        self.store_state();
    }

    /// How many rows each expert gets from this rank, to its rank.
    fn send_counts(&self) {
        let (k, g, world) = (self.k, self.g, self.world);
        let first = k.block_x() * self.threads() + k.tid();
        let bound = |e| word(k, self.args.offsets_all, e);
        k.for_(first, g.experts, self.c.channels * self.threads(), |e| {
            let rows = bound(e + 1) - bound(e);
            let value = ((self.epoch + 1).to_u64() << 32) | rows.to_u64();
            let rank = e.udiv(g.local());
            let source = (self.epoch & 1) * g.ranks() + world.me;
            let count = source * g.local() + (e - rank * g.local());
            let count = world.counter(self.c.layout().counts, count);
            let near = || count.shifted(world.delta(rank)).store_release_sys(value);
            if g.nodes == 1 {
                return near();
            }
            k.if_else(world.is_mapped(rank), near, || {
                k.remote_signal(count, value, Signal::Set, world.pe(rank));
            });
        });
    }

    /// Counters of the block's streams from where they were left.
    fn load_state(&self) {
        let (k, c, rings) = (self.k, self.channel, self.channel.rings);
        let low = |at: Global<'k>| at.load::<I32>();
        k.for_(k.tid(), self.g.ranks(), self.threads(), |i| {
            self.sent.set(i, low(c.near(rings.near_sent, i)));
            let read = low(c.near(rings.near_read, i));
            self.read.set(i, read);
            self.start.set(i, read);
        });
        if self.g.nodes > 1 {
            k.for_(k.tid(), self.g.nodes, self.threads(), |i| {
                self.far_read.set(i, low(c.far(rings.far_read, i)));
                self.forwarded.set(i, k.i32(0));
            });
        }
    }

    fn store_state(&self) {
        let (k, c, rings) = (self.k, self.channel, self.channel.rings);
        k.for_(k.tid(), self.g.ranks(), self.threads(), |i| {
            c.near(rings.near_sent, i).store(self.sent.get(i));
            c.near(rings.near_read, i).store(self.read.get(i));
        });
        if self.g.nodes > 1 {
            k.for_(k.tid(), self.g.nodes, self.threads(), |i| {
                c.far(rings.far_read, i).store(self.far_read.get(i));
            });
        }
        k.if_(k.tid().eq(0), || {
            let epochs = self.world.own(rings.epochs);
            epochs.index(c.index, 4).store(self.epoch + 1);
        });
    }

    // ── Messages ─────────────────────────────────────────────────────────────────────────────────────

    /// Lane `s`'s expert of `token`, -1 in lanes without a slot.
    fn expert_of(&self, token: Val<'k, I32>) -> Val<'k, I32> {
        let k = self.k;
        let expert = k.var(k.i32(-1i64));
        k.if_(k.lane().lt(self.g.top_k.cast_signed()), || {
            let pair = token * self.g.top_k + k.lane();
            expert.set(word(k, self.args.experts, pair));
        });
        expert.get()
    }

    /// The rank of an expert, or one that nobody is.
    fn rank_of(&self, expert: Val<'k, I32>) -> Val<'k, I32> {
        let rank = expert.udiv(self.g.local());
        expert.lt(0).select(self.k.i32(-1i64), rank)
    }

    /// Whether some lane says so.
    fn any(&self, predicate: Val<'k, B1>) -> Val<'k, B1> {
        self.k.ballot(predicate).ne(0)
    }

    /// Bytes of a message up to its source, to its experts, to its weights.
    fn parts(&self) -> [u32; 3] {
        let scales = if self.c.quant {
            4 * self.c.width.div_ceil(GROUP)
        } else {
            0
        };
        let source = row_bytes(self.c) + scales;
        [source, source + 8, source + 8 + 4 * self.g.top_k]
    }

    /// Writes the message of one of this rank's tokens.
    fn compose(&self, token: Val<'k, I32>, expert: Val<'k, I32>, to: Global<'k>) {
        let (k, a) = (self.k, self.args);
        let [source, experts, weights] = self.parts();
        let row = row_bytes(self.c);
        let element = if self.c.quant { 1 } else { 2 };
        let stride = k.arg_i32(a.x.stride).to_i64() * i64::from(element);
        let from = k.arg_global(a.x.pointer).at(token.to_i64() * stride);
        copy_row(k, from, to, row);
        if let Some(s) = a.scales {
            k.for_(k.lane(), self.c.width.div_ceil(GROUP), WARP, |group| {
                let index = group.to_i64() * k.arg_i32(s.stride).to_i64() + token.to_i64();
                let scale = k.arg_global(s.pointer).at(index * 4).load::<F32>();
                to.offset(row).index(group, 4).store(scale);
            });
        }
        k.if_(k.lane().eq(0), || {
            to.offset(source).store(self.world.me);
            to.offset(source + 4).store(token);
        });
        k.if_(expert.ge(0), || {
            let pair = token * self.g.top_k + k.lane();
            let number = word(k, a.slots, pair) - word(k, a.offsets_all, expert);
            let entry = (number << EXPERT_BITS.cast_signed()) | expert;
            to.offset(experts).index(k.lane(), 4).store(entry);
            let weight = word(k, a.weights, pair);
            to.offset(weights).index(k.lane(), 4).store(weight);
        });
    }

    /// Lane `s`'s entry of a message, -1 in lanes without a slot.
    fn entry(&self, message: Global<'k>) -> Val<'k, I32> {
        let k = self.k;
        let [_, experts, _] = self.parts();
        let entry = k.var(k.i32(-1i64));
        k.if_(k.lane().lt(self.g.top_k.cast_signed()), || {
            entry.set(message.offset(experts).index(k.lane(), 4).load());
        });
        entry.get()
    }

    fn expert_of_entry(&self, entry: Val<'k, I32>) -> Val<'k, I32> {
        let mask = (1 << EXPERT_BITS) - 1;
        entry.lt(0).select(entry, entry & mask)
    }

    // ── Roles ────────────────────────────────────────────────────────────────────────────────────────

    /// This rank's tokens to one GPU of its node.
    fn write_near(&self, gpu: Val<'k, I32>) {
        let (k, c) = (self.k, self.channel);
        let reader = c.rank(c.node, gpu);
        let ring = NearWriter::new(c, reader, (self.world.me, reader), self.epoch);
        let sent = k.var(self.sent.get(reader));
        k.for_(self.from, self.to, 1, |token| {
            let expert = self.expert_of(token);
            k.if_(self.any(self.rank_of(expert).eq(reader)), || {
                ring.write(sent, |to| self.compose(token, expert, to));
            });
        });
        ring.close(sent.get());
        self.sent.set_by_warp(reader, sent.get());
    }

    /// This rank's tokens to other nodes. Nodes begin with the next one, so that not all ranks write to the same first.
    fn write_far(&self, warp: Val<'k, I32>) {
        let (k, c, rings) = (self.k, self.channel, self.channel.rings);
        k.for_(warp + 1, self.g.nodes, self.roles.far, |distance| {
            let node = (c.node + distance).urem(self.g.nodes);
            let peer = c.rank(node, c.gpu);
            let sent = k.var(c.far(rings.far_sent, node).load::<I32>());
            let count = k.var(k.i32(0));
            let room = || {
                let before = sent.get();
                k.wait_for_peer(PeerSite::Room, peer, || c.far_has_room(node, before));
            };
            k.for_(self.from, self.to, 1, |token| {
                let expert = self.expert_of(token);
                let there = self.rank_of(expert).udiv(self.g.gpus).eq(node) & expert.ge(0);
                k.if_(self.any(there), || {
                    k.if_(count.get().eq(0), room);
                    let to = c.far_message(rings.far_staging, node, sent.get(), count.get());
                    self.compose(token, expert, to);
                    count.update(|n| n + 1);
                    k.if_(count.get().eq(rings.per_chunk.cast_signed()), || {
                        c.send_chunk(node, sent.get(), count.get(), false);
                        sent.update(|n| n + 1);
                        count.set(k.i32(0));
                    });
                });
            });
            k.if_(count.get().eq(0), room);
            c.send_chunk(node, sent.get(), count.get(), true);
            sent.update(|n| n + 1);
            k.if_(k.lane().eq(0), || {
                c.far(rings.far_sent, node).store(sent.get());
            });
        });
    }

    /// Messages of other nodes on to the GPUs of this one.
    fn forward(&self, warp: Val<'k, I32>) {
        let (k, c, g) = (self.k, self.channel, self.g);
        let node_of = |stream: Val<'k, I32>| (c.node + 1 + stream).urem(g.nodes);
        let peer = |stream| c.rank(node_of(stream), c.gpu);
        let streams = (warp, self.roles.forward, g.nodes - 1);
        serve(k, streams, (PeerSite::Messages, peer), |stream, turn| {
            let node = node_of(stream);
            let source = c.rank(node, c.gpu);
            let read = self.far_read.get(node);
            let chunk = c.look_for_chunk(node, read);
            let index = c.index * g.nodes + node;
            let record = k.arg_global(self.args.record);
            k.if_(chunk.is_here, || {
                turn.moved.set(k.i32(1));
                let done = self.forwarded.get(node);
                k.for_(0, chunk.messages, 1, |i| {
                    let message = c.far_message(c.rings.far, node, read, i);
                    let mask = self.forward_one(message, node, source);
                    k.if_(k.lane().eq(0), || {
                        let at = index * self.record.per_channel + done + i;
                        record
                            .at(k.i64(4 * self.record.masks.cast_signed()))
                            .index(at, 4)
                            .store(mask);
                    });
                });
                let done = done + chunk.messages;
                self.forwarded.set_by_warp(node, done);
                self.far_read.set_by_warp(node, read + 1);
                k.if_(k.lane().eq(0), || c.free_chunk(node));
                k.if_(chunk.is_last, || {
                    k.for_(0, g.gpus, 1, |gpu| {
                        let own = c.rank(node, gpu);
                        self.near_of(source, own, gpu).close(self.sent.get(own));
                    });
                    k.if_(k.lane().eq(0), || {
                        record
                            .at(k.i64(4 * self.record.forwarded.cast_signed()))
                            .index(index, 4)
                            .store(done);
                    });
                    turn.done.set(k.i32(1));
                });
            });
        });
    }

    /// The ring to a GPU of this node for the tokens of `source`.
    fn near_of(
        &self,
        source: Val<'k, I32>,
        own: Val<'k, I32>,
        gpu: Val<'k, I32>,
    ) -> NearWriter<'k> {
        let c = self.channel;
        NearWriter::new(c, c.rank(c.node, gpu), (source, own), self.epoch)
    }

    /// One message to each GPU that has an expert of it; a bit for each.
    fn forward_one(
        &self,
        message: Global<'k>,
        node: Val<'k, I32>,
        source: Val<'k, I32>,
    ) -> Val<'k, I32> {
        let (k, c, g) = (self.k, self.channel, self.g);
        let expert = self.expert_of_entry(self.entry(message));
        let rank = self.rank_of(expert);
        let first = c.node * g.gpus;
        let here = rank.ge(first) & rank.lt(first + g.gpus);
        let bit = here.select(k.i32(1) << (rank - first), k.i32(0));
        let mask = k.reduce(bit, WARP, |a, b| a | b);
        k.for_(0, g.gpus, 1, |gpu| {
            k.if_((mask.ushr(gpu) & 1).ne(0), || {
                let own = c.rank(node, gpu);
                let ring = self.near_of(source, own, gpu);
                let sent = k.var(self.sent.get(own));
                ring.write(sent, |to| copy_row(k, message, to, c.rings.message));
                self.sent.set_by_warp(own, sent.get());
            });
        });
        mask
    }

    /// Messages into the rows of this rank's experts.
    fn receive(&self, warp: Val<'k, I32>) {
        let (k, c, g) = (self.k, self.channel, self.g);
        self.place_rows(warp);
        let writer = |source: Val<'k, I32>| c.rank(c.node, source.urem(g.gpus));
        let streams = (warp, self.roles.receive, g.ranks());
        serve(k, streams, (PeerSite::Messages, writer), |source, turn| {
            let ring = NearReader {
                channel: c,
                ring: source,
                there: c.rank(source.udiv(g.gpus), c.gpu),
                writer: writer(source),
            };
            let read = self.read.get(source);
            let (ready, ended) = ring.look(self.epoch, read);
            let index = c.index * g.ranks() + source;
            let number = read - self.start.get(source);
            k.if_(ready, || {
                turn.moved.set(k.i32(1));
                let at = index * self.record.per_channel + number;
                self.receive_one(ring.message(read), source, at);
                ring.free(read + 1);
                self.read.set_by_warp(source, read + 1);
            });
            k.if_(ended, || {
                k.if_(k.lane().eq(0), || {
                    k.arg_global(self.args.record)
                        .at(k.i64(4 * self.record.received.cast_signed()))
                        .index(index, 4)
                        .store(number);
                });
                turn.done.set(k.i32(1));
            });
        });
    }

    /// One message; it is number `at` of those that the record has room for.
    fn receive_one(&self, message: Global<'k>, source: Val<'k, I32>, at: Val<'k, I32>) {
        let (k, g, a) = (self.k, self.g, self.args);
        let [_, _, weights] = self.parts();
        let entry = self.entry(message);
        let expert = self.expert_of_entry(entry);
        let is_mine = self.rank_of(expert).eq(self.world.me);
        let local = expert - self.world.me * g.local();
        let row = k.var(k.i32(-1i64));
        k.if_(is_mine, || {
            let first = self.first.get(source * g.local() + local);
            row.set(first + entry.ushr(EXPERT_BITS.cast_signed()));
            let weight = message.offset(weights).index(k.lane(), 4).load::<I32>();
            k.arg_global(a.row_weights)
                .index(row.get(), 4)
                .store(weight);
        });
        let row = row.get();
        k.if_(k.lane().lt(g.top_k.cast_signed()), || {
            k.arg_global(a.record)
                .at(k.i64(4 * self.record.rows.cast_signed()))
                .index(at * g.top_k + k.lane(), 4)
                .store(row);
        });
        let bytes = row_bytes(self.c);
        let element = if self.c.quant { 1 } else { 2 };
        k.for_(0, g.top_k, 1, |slot| {
            let row = k.shfl_idx(row, slot);
            k.if_(row.ge(0), || {
                let stride = k.arg_i32(a.rows.stride).to_i64() * i64::from(element);
                let to = k.arg_global(a.rows.pointer).at(row.to_i64() * stride);
                copy_row(k, message, to, bytes);
                if let Some(s) = a.rows_scales {
                    k.for_(k.lane(), self.c.width.div_ceil(GROUP), WARP, |group| {
                        let scale = message.offset(bytes).index(group, 4).load::<F32>();
                        let index = group.to_i64() * k.arg_i32(s.stride).to_i64() + row.to_i64();
                        k.arg_global(s.pointer).at(index * 4).store(scale);
                    });
                }
            });
        });
    }

    /// From the counts of all ranks: where each source's rows of each expert begin. All receivers.
    fn place_rows(&self, warp: Val<'k, I32>) {
        let (k, g) = (self.k, self.g);
        let threads = WARP * self.roles.receive;
        let thread = warp * WARP + k.lane();
        let meet = || {
            k.sync_warp();
            k.sync_named(k.i32(RECEIVERS), threads);
        };
        k.for_(thread, g.ranks() * g.local(), threads, |i| {
            let at = (self.epoch & 1) * (g.ranks() * g.local()) + i;
            let count = self.world.counter(self.c.layout().counts, at);
            let value = k.var(k.i64(0));
            k.wait_for_peer(PeerSite::Counts, i.udiv(g.local()), || {
                value.set(count.load_acquire_sys());
                value.get().ushr(32).to_i32().eq(self.epoch + 1)
            });
            self.first.set(i, value.get().to_i32());
        });
        meet();
        // Rows of the sources before, in each expert.
        k.for_(thread, g.local(), threads, |expert| {
            let rows = k.var(k.i32(0));
            k.for_(0, g.ranks(), 1, |source| {
                let at = source * g.local() + expert;
                let count = self.first.get(at);
                self.first.set(at, rows.get());
                rows.update(|n| n + count);
            });
            self.totals.set(expert, rows.get());
        });
        meet();
        // Rows of the experts before.
        k.for_(thread, g.local(), threads, |expert| {
            let rows = k.var(k.i32(0));
            k.for_(0, expert, 1, |e| rows.update(|n| n + self.totals.get(e)));
            let begin = rows.get();
            let end = begin + self.totals.get(expert);
            k.if_(end.gt(self.c.capacity.cast_signed()).unlikely(), || {
                k.report_peer(PeerSite::Capacity, self.world.me, k.i64(0));
            });
            k.for_(0, g.ranks(), 1, |source| {
                let at = source * g.local() + expert;
                self.first.set(at, self.first.get(at) + begin);
            });
            k.if_(self.channel.index.eq(0), || {
                let offsets = k.arg_global(self.args.offsets);
                k.if_(expert.eq(0), || offsets.store(k.i32(0)));
                offsets.index(expert + 1, 4).store(end);
            });
        });
        meet();
    }
}
