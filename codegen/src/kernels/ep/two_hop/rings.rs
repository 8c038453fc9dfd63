//! Rings between ranks: where messages, counters and the state of each end are.
//!
//! ```text
//! near    reader's memory   message [slots]   tail: messages written       writer's memory   head: messages read
//! far     reader's memory   message [chunks][per_chunk]   full [chunks]     writer's memory   head: chunks read
//! ```
//! Counts run on from launch to launch and wrap at 2^32; both ends keep theirs. A tail has the number of the launch
//! beside the count (from bit 33 on) and, in bit 32, whether it is all of this launch; so a reader needs not be told
//! how much will come. The word of a chunk is set by the transfer that brings it: number of the chunk plus one, above 8
//! bits: whether it is the launch's last, and how many messages it has.

use mcc_ir::exchange::{ExpertGroup, Rings};

use super::super::{World, bytes_of};
use crate::emit::system::{PeerSite, Signal};
use crate::emit::{B1, Global, I32, I64, Kernel, Shared, Val, Var};

/// Bits of a chunk's word below its number.
const CHUNK_BITS: i32 = 8;
/// The bit that says that it is the last.
const LAST: i32 = 7;

/// A block's channel: this rank's part of it.
#[derive(Clone, Copy)]
pub(super) struct Channel<'k> {
    pub k: &'k Kernel,
    pub world: World<'k>,
    pub rings: Rings,
    pub group: ExpertGroup,
    /// Its number.
    pub index: Val<'k, I32>,
    /// This rank's node, and its number there.
    pub node: Val<'k, I32>,
    pub gpu: Val<'k, I32>,
}

impl<'k> Channel<'k> {
    pub fn new(k: &'k Kernel, world: World<'k>, rings: Rings, group: ExpertGroup) -> Self {
        let node = world.me.udiv(group.gpus);
        Self {
            k,
            world,
            rings,
            group,
            index: k.block_x(),
            node,
            gpu: world.me - node * group.gpus,
        }
    }

    /// A rank by its node and its number there.
    pub fn rank(self, node: Val<'k, I32>, gpu: Val<'k, I32>) -> Val<'k, I32> {
        node * self.group.gpus + gpu
    }

    /// Counter `ring` of this channel in a region `[channels][ranks]`.
    pub fn near(self, region: u64, ring: Val<'k, I32>) -> Global<'k> {
        self.world
            .counter(region, self.index * self.group.ranks() + ring)
    }

    /// Counter `node` of this channel in a region `[channels][nodes]`.
    pub fn far(self, region: u64, node: Val<'k, I32>) -> Global<'k> {
        self.world
            .counter(region, self.index * self.group.nodes + node)
    }

    /// Message `count` of near ring `ring`, in the reader's numbering, at this rank.
    pub fn near_message(self, ring: Val<'k, I32>, count: Val<'k, I32>) -> Global<'k> {
        let ring = self.index * self.group.ranks() + ring;
        let slot = count & (self.rings.slots - 1).cast_signed();
        let at = ring * self.rings.slots + slot;
        self.world
            .own(self.rings.near)
            .at(bytes_of(at, self.rings.message))
    }

    /// Message `index` of chunk `chunk` of a region `[channels][nodes][chunks][per_chunk]`.
    pub fn far_message(
        self,
        region: u64,
        node: Val<'k, I32>,
        chunk: Val<'k, I32>,
        index: Val<'k, I32>,
    ) -> Global<'k> {
        let at = self.chunk(node, chunk) * self.rings.per_chunk + index;
        self.world.own(region).at(bytes_of(at, self.rings.message))
    }

    /// Which chunk of a region `[channels][nodes][chunks]` that is.
    fn chunk(self, node: Val<'k, I32>, chunk: Val<'k, I32>) -> Val<'k, I32> {
        let place = chunk & (self.rings.chunks - 1).cast_signed();
        (self.index * self.group.nodes + node) * self.rings.chunks + place
    }

    /// The word of a chunk.
    pub fn chunk_word(self, node: Val<'k, I32>, chunk: Val<'k, I32>) -> Global<'k> {
        self.world
            .counter(self.rings.far_full, self.chunk(node, chunk))
    }

    /// Sends the `count` messages of the staged chunk `chunk` to the rank of `node` with this one's number. The whole warp.
    pub fn send_chunk(
        self,
        node: Val<'k, I32>,
        chunk: Val<'k, I32>,
        count: Val<'k, I32>,
        last: bool,
    ) {
        let k = self.k;
        let zero = k.i32(0);
        let from = self.far_message(self.rings.far_staging, node, chunk, zero);
        let to = self.far_message(self.rings.far, self.node, chunk, zero);
        let signal = self.chunk_word(self.node, chunk);
        let low = count | i32::from(last) << LAST;
        let value = ((chunk + 1).to_u64() << i64::from(CHUNK_BITS)) | low.to_u64();
        let pe = self.world.pe(self.rank(node, self.gpu));
        // What all lanes have staged.
        k.sync_warp();
        let put = || {
            k.put_signal(
                (to, from, bytes_of(count, self.rings.message)),
                (signal, value, Signal::Set),
                pe,
            );
        };
        if last {
            // An end without messages has nothing to transfer.
            k.if_else(count.ne(0), put, || {
                k.if_(k.lane().eq(0), || {
                    k.remote_signal(signal, value, Signal::Set, pe);
                });
            });
        } else {
            put();
        }
    }

    /// Whether the ring to `node` has room for one more chunk, where `sent` have been sent; for this lane.
    pub fn far_has_room(self, node: Val<'k, I32>, sent: Val<'k, I32>) -> Val<'k, B1> {
        let head = self.far(self.rings.far_head, node).load_acquire_sys();
        (sent - head.to_i32()).lt(self.rings.chunks.cast_signed())
    }

    /// Whether chunk `chunk` of the ring from `node` has come, and what it has. The whole warp, which gets one answer.
    pub fn look_for_chunk(self, node: Val<'k, I32>, chunk: Val<'k, I32>) -> Chunk<'k> {
        let word = self.chunk_word(node, chunk).load_acquire_sys();
        let low = word.to_i32();
        let is_here = word.ushr(i64::from(CHUNK_BITS)).to_i32().eq(chunk + 1);
        Chunk {
            is_here: all(self.k, is_here),
            is_last: ((low.ushr(LAST)) & 1).ne(0),
            messages: low & ((1 << LAST) - 1),
        }
    }

    /// Tells the writer of the ring from `node` that a chunk has been read. One thread, for the whole warp.
    pub fn free_chunk(self, node: Val<'k, I32>) {
        let k = self.k;
        let head = self.far(self.rings.far_head, self.node);
        let pe = self.world.pe(self.rank(node, self.gpu));
        k.remote_signal(head, k.i64(1), Signal::Add, pe);
    }
}

/// Whether all lanes say so: each has looked for itself, so that each may read what it has seen to be there, and
/// none goes another way than the rest.
pub(super) fn all<'k>(k: &'k Kernel, predicate: Val<'k, B1>) -> Val<'k, B1> {
    k.ballot(predicate).eq(-1)
}

/// What is known of a chunk.
#[derive(Clone, Copy)]
pub(super) struct Chunk<'k> {
    pub is_here: Val<'k, B1>,
    pub is_last: Val<'k, B1>,
    pub messages: Val<'k, I32>,
}

/// The writer's end of a near ring.
#[derive(Clone, Copy)]
pub(super) struct NearWriter<'k> {
    channel: Channel<'k>,
    reader: Val<'k, I32>,
    delta: Val<'k, I64>,
    /// The ring in the reader's numbering, and in the writer's.
    ring: Val<'k, I32>,
    own: Val<'k, I32>,
    /// In the upper half of every tail.
    tag: Val<'k, I64>,
}

impl<'k> NearWriter<'k> {
    pub fn new(
        channel: Channel<'k>,
        reader: Val<'k, I32>,
        (ring, own): (Val<'k, I32>, Val<'k, I32>),
        epoch: Val<'k, I32>,
    ) -> Self {
        Self {
            channel,
            reader,
            delta: channel.world.delta(reader),
            ring,
            own,
            tag: (epoch + 1).to_u64() << 33,
        }
    }

    /// Whether a message more fits, where `sent` have been written; for this lane.
    pub fn has_room(&self, sent: Val<'k, I32>) -> Val<'k, B1> {
        let c = self.channel;
        let head = c.near(c.rings.near_head, self.own).load_acquire_sys();
        (sent - head.to_i32()).lt(c.rings.slots.cast_signed())
    }

    /// Waits for room, has a message written, and hands it over. The whole warp.
    pub fn write(&self, sent: Var<'k, I32>, write: impl FnOnce(Global<'k>)) {
        let k = self.channel.k;
        let before = sent.get();
        k.wait_for_peer(PeerSite::Room, self.reader, || self.has_room(before));
        self.write_now(before, write);
        sent.set(before + 1);
    }

    /// The same where there is room.
    pub fn write_now(&self, sent: Val<'k, I32>, write: impl FnOnce(Global<'k>)) {
        let c = self.channel;
        write(c.near_message(self.ring, sent).shifted(self.delta));
        self.publish(sent + 1, false);
    }

    /// Says that this was all of the launch. The whole warp.
    pub fn close(&self, sent: Val<'k, I32>) {
        self.publish(sent, true);
    }

    fn publish(&self, count: Val<'k, I32>, closed: bool) {
        let (c, k) = (self.channel, self.channel.k);
        k.sync_warp();
        k.if_(k.lane().eq(0), || {
            let closed = k.i64(i64::from(closed) << 32);
            c.near(c.rings.near_tail, self.ring)
                .shifted(self.delta)
                .store_release_sys(self.tag | closed | count.to_u64());
        });
    }
}

/// The reader's end of a near ring.
#[derive(Clone, Copy)]
pub(super) struct NearReader<'k> {
    pub channel: Channel<'k>,
    /// The ring in the reader's numbering, and in the writer's.
    pub ring: Val<'k, I32>,
    pub there: Val<'k, I32>,
    pub writer: Val<'k, I32>,
}

impl<'k> NearReader<'k> {
    /// Whether there is a message after the `read` that have been read, and whether there will be none in launch `epoch`.
    /// The whole warp, which gets one answer.
    ///
    /// A tail of a later launch ends this one too, without a message: a rank goes on to its next dispatch when all ranks
    /// that had tokens of it have answered, so that the one that still looks had none.
    pub fn look(&self, epoch: Val<'k, I32>, read: Val<'k, I32>) -> (Val<'k, B1>, Val<'k, B1>) {
        let (c, k) = (self.channel, self.channel.k);
        let tail = c.near(c.rings.near_tail, self.ring).load_acquire_sys();
        // 31 bits, compared as they wrap.
        let ahead = (tail.ushr(33).to_i32() - (epoch + 1)) << 1;
        let has_more = tail.to_i32().ne(read);
        let is_closed = ((tail.ushr(32)) & 1).ne(0);
        let ready = ahead.eq(0) & has_more;
        let ended = ahead.gt(0) | (ahead.eq(0) & is_closed & !has_more);
        (all(k, ready), all(k, ended))
    }

    /// Message number `count`.
    pub fn message(&self, count: Val<'k, I32>) -> Global<'k> {
        self.channel.near_message(self.ring, count)
    }

    /// Gives `read` messages' slots back. The whole warp has read them.
    pub fn free(&self, read: Val<'k, I32>) {
        let k = self.channel.k;
        k.sync_warp();
        k.if_(k.lane().eq(0), || self.free_by_one(read));
    }

    /// The same by one thread that knows that all have read.
    pub fn free_by_one(&self, read: Val<'k, I32>) {
        let c = self.channel;
        c.near(c.rings.near_head, self.there)
            .shifted(c.world.delta(self.writer))
            .store_release_sys(read.to_u64());
    }
}

/// Words in shared memory: counters of the streams that warps serve.
#[derive(Clone, Copy)]
pub(super) struct Words<'k> {
    pub k: &'k Kernel,
    pub base: Shared<'k>,
}

impl<'k> Words<'k> {
    pub fn new(k: &'k Kernel, offset: u32) -> Self {
        Self {
            k,
            base: k.smem().offset(offset),
        }
    }

    pub fn get(self, index: Val<'k, I32>) -> Val<'k, I32> {
        self.base.at(index * 4).load()
    }

    pub fn set(self, index: Val<'k, I32>, value: Val<'k, I32>) {
        self.base.at(index * 4).store(value);
    }

    /// By one lane of the warp whose word it is; the others see it afterwards.
    pub fn set_by_warp(self, index: Val<'k, I32>, value: Val<'k, I32>) {
        let k = self.k;
        // All lanes have read the old one.
        k.sync_warp();
        k.if_(k.lane().eq(0), || self.set(index, value));
        k.sync_warp();
    }
}
