//! What ranks write into each other's memory: the groups of ranks that share experts, the forms of dispatch and combine
//! between them, and where everything lies in the `Exchange` buffer.
//!
//! Every rank has a buffer of the same size and layout (a symmetric one); the same offset means the same thing on all of
//! them. Each form has a range of it, which holds rings or inboxes, counters that are never set back, and the state that
//! a rank keeps for itself from one launch to the next. A range is zero before its first launch.
//!
//! ```text
//! form        dispatch                                        combine
//! direct      every row straight to its expert's rank         every expert's row straight back
//! two hops    once to each node, there once to each GPU       each GPU's sum, each node's sum, back
//! ```
//!
//! Sources: arXiv 2412.19437, sections 3.2.2 and 3.4; the message of a token is DeepEP's (its numbers, padding to 16 bytes).

use serde::{Deserialize, Serialize};

/// Elements that share a scale.
const SCALE_GROUP: u32 = 128;
/// Regions begin at multiples of this: a line of L2, so that no counter shares one with another rank's.
const ALIGN: u64 = 128;
/// Bytes of a counter.
pub const COUNTER: u32 = 8;
/// 32-bit words before the table of addresses in the `World` buffer: rank, ranks, first PE, 0.
pub const WORLD_HEADER: u32 = 4;
/// Tokens of a message list word: `expert` in the low bits, above it the row's number among its source's rows of that
/// expert.
pub const EXPERT_BITS: u32 = 12;
/// Slots of a ring between two GPUs of a node.
const NODE_SLOTS: u32 = 8;
/// Chunks of a ring between two nodes, and messages of a chunk. A chunk is one transfer.
const NET_CHUNKS: u32 = 8;
/// See [`NET_CHUNKS`].
const NET_MESSAGES: u32 = 4;

/// Ranks that the experts are spread over. Rank `r` is GPU `r % gpus` of node `r / gpus` and has the experts
/// `r * local..(r + 1) * local`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ExpertGroup {
    /// Experts of all ranks, replicas of redundant ones included.
    pub experts: u32,
    /// Experts a token.
    pub top_k: u32,
    /// Nodes.
    pub nodes: u32,
    /// GPUs of each.
    pub gpus: u32,
    /// The most tokens of one rank in a step.
    pub tokens: u32,
}

impl ExpertGroup {
    /// Ranks.
    #[must_use]
    pub const fn ranks(&self) -> u32 {
        self.nodes * self.gpus
    }

    /// Experts of a rank.
    #[must_use]
    pub const fn local(&self) -> u32 {
        self.experts / self.ranks()
    }

    /// Rows that one rank's experts can get at most.
    #[must_use]
    pub const fn most_rows(&self) -> u64 {
        let slots = if self.top_k < self.local() {
            self.top_k
        } else {
            self.local()
        };
        self.ranks() as u64 * self.tokens as u64 * slots as u64
    }

    /// 32-bit words of the `World` buffer: the header, then 64-bit addresses of the ranks' `Exchange` buffers.
    #[must_use]
    pub const fn world_words(&self) -> u64 {
        WORLD_HEADER as u64 + 2 * self.ranks() as u64
    }

    /// `n4g8_e256_k8_t128`
    pub(crate) fn name(&self) -> String {
        format!(
            "n{}g{}_e{}_k{}_t{}",
            self.nodes, self.gpus, self.experts, self.top_k, self.tokens
        )
    }
}

/// The regions of a range, in order.
#[derive(Default)]
struct Regions {
    end: u64,
}

impl Regions {
    fn take(&mut self, bytes: u64) -> u64 {
        let at = self.end;
        self.end = (at + bytes).next_multiple_of(ALIGN);
        at
    }
}

/// Dispatch in one hop: one row for each token and expert, straight into the expert's inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DirectDispatch {
    /// Who takes part.
    pub group: ExpertGroup,
    /// Channels of a row.
    pub width: u32,
    /// E4M3 codes with 1x128 scales; BF16 else.
    pub quant: bool,
    /// Blocks of a launch.
    pub blocks: u32,
}

/// Byte offsets into the range of a [`DirectDispatch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectDispatchLayout {
    /// `u64 [2][local][ranks]`: how many rows come from a rank, for even and odd launches.
    pub counts: u64,
    /// `u64 [local][ranks]`: rows that have come from a rank, since the beginning.
    pub delivered: u64,
    /// `message [local][ranks][tokens]`.
    pub inbox: u64,
    /// `message [tokens][top_k]`, the rank's own: messages to other nodes on their way.
    pub staging: u64,
    /// `u64 [experts]`, the rank's own: rows sent to each expert since the beginning.
    pub sent: u64,
    /// `u32 [2][blocks]`, the rank's own: launches so far, of send and of receive.
    pub epochs: u64,
    /// Bytes of it all.
    pub bytes: u64,
}

impl DirectDispatch {
    /// Bytes of a message: 16 of header (number of the (token, slot) pair, its weight), codes, scales.
    #[must_use]
    pub const fn message_bytes(&self) -> u32 {
        (16 + payload(self.width, self.quant)).next_multiple_of(16)
    }

    /// Rows that each expert has room for.
    #[must_use]
    pub const fn rows(&self) -> u32 {
        self.group.ranks() * self.group.tokens
    }

    /// Where everything is.
    #[must_use]
    pub fn layout(&self) -> DirectDispatchLayout {
        let g = &self.group;
        let (local, ranks, tokens) = (
            u64::from(g.local()),
            u64::from(g.ranks()),
            u64::from(g.tokens),
        );
        let counter = u64::from(COUNTER);
        let message = u64::from(self.message_bytes());
        let mut r = Regions::default();
        DirectDispatchLayout {
            counts: r.take(2 * local * ranks * counter),
            delivered: r.take(local * ranks * counter),
            inbox: r.take(local * ranks * tokens * message),
            staging: r.take(if g.nodes > 1 {
                tokens * u64::from(g.top_k) * message
            } else {
                0
            }),
            sent: r.take(u64::from(g.experts) * counter),
            epochs: r.take(2 * u64::from(self.blocks) * 4),
            bytes: r.end,
        }
    }
}

/// Combine in one hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DirectCombine {
    /// Who takes part.
    pub group: ExpertGroup,
    /// Channels of a row.
    pub width: u32,
    /// Whether rows are multiplied by their routing weights.
    pub weighted: bool,
    /// Blocks of a launch.
    pub blocks: u32,
}

/// Byte offsets into the range of a [`DirectCombine`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectCombineLayout {
    /// `u64 [experts]`: rows that have come back from an expert, since the beginning.
    pub delivered: u64,
    /// `bf16 [tokens][top_k][width]`.
    pub inbox: u64,
    /// `bf16 [local][ranks * tokens][width]`, the rank's own: rows to other nodes on their way.
    pub staging: u64,
    /// `u64 [experts]`, the rank's own: rows that should have come back from each expert since the beginning.
    pub expected: u64,
    /// Bytes of it all.
    pub bytes: u64,
}

impl DirectCombine {
    /// Where everything is.
    #[must_use]
    pub fn layout(&self) -> DirectCombineLayout {
        let g = &self.group;
        let row = u64::from(self.width) * 2;
        let experts = u64::from(g.experts) * u64::from(COUNTER);
        let mut r = Regions::default();
        DirectCombineLayout {
            delivered: r.take(experts),
            inbox: r.take(u64::from(g.tokens) * u64::from(g.top_k) * row),
            staging: r.take(if g.nodes > 1 {
                u64::from(g.local()) * u64::from(g.ranks()) * u64::from(g.tokens) * row
            } else {
                0
            }),
            expected: r.take(experts),
            bytes: r.end,
        }
    }
}

/// 32-bit words of a direct dispatch's record: for each row of each local expert where it came from,
/// `(rank * tokens + token) * top_k + slot`.
#[must_use]
pub const fn direct_record_words(group: &ExpertGroup) -> u64 {
    group.local() as u64 * group.ranks() as u64 * group.tokens as u64
}

/// Rings between the ranks of a two-hop exchange, and what a message weighs there.
///
/// A channel is one block of each rank. Between two GPUs of a node there is a ring for each channel and each rank whose
/// tokens travel, in the memory of the one that reads; between two nodes one for each channel, between the GPUs of equal
/// number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rings {
    /// Bytes of a message.
    pub message: u32,
    /// Messages of a ring inside of a node.
    pub slots: u32,
    /// Chunks of a ring between nodes.
    pub chunks: u32,
    /// Messages of a chunk.
    pub per_chunk: u32,
    /// `message [channels][ranks][slots]`.
    pub near: u64,
    /// `u64 [channels][ranks]`: messages written to the ring, with the launch's number and whether they are all.
    pub near_tail: u64,
    /// `u64 [channels][ranks]`, at the writer: messages read. The rank is the ring's, as the writer numbers its rings.
    pub near_head: u64,
    /// `u64 [channels][ranks]`, the writer's own: messages written since the beginning.
    pub near_sent: u64,
    /// `u64 [channels][ranks]`, the reader's own: messages read since the beginning.
    pub near_read: u64,
    /// `message [channels][nodes][chunks][per_chunk]`.
    pub far: u64,
    /// `u64 [channels][nodes][chunks]`: which chunk is there, whether it is the last of the launch, how many messages.
    pub far_full: u64,
    /// `u64 [channels][nodes]`, at the writer: chunks read since the beginning.
    pub far_head: u64,
    /// `message [channels][nodes][chunks][per_chunk]`, the writer's own: chunks on their way.
    pub far_staging: u64,
    /// `u64 [channels][nodes]`, the writer's own: chunks written since the beginning.
    pub far_sent: u64,
    /// `u64 [channels][nodes]`, the reader's own: chunks read since the beginning.
    pub far_read: u64,
    /// `u32 [channels]`, the rank's own: launches so far.
    pub epochs: u64,
}

fn rings(r: &mut Regions, group: &ExpertGroup, channels: u32, message: u32) -> Rings {
    let (ranks, nodes) = (u64::from(group.ranks()), u64::from(group.nodes));
    let (channels, bytes) = (u64::from(channels), u64::from(message));
    let counter = u64::from(COUNTER);
    let near = channels * ranks;
    let far = if group.nodes > 1 { channels * nodes } else { 0 };
    let chunks = u64::from(NET_CHUNKS);
    let chunk = u64::from(NET_MESSAGES) * bytes;
    Rings {
        message,
        slots: NODE_SLOTS,
        chunks: NET_CHUNKS,
        per_chunk: NET_MESSAGES,
        near: r.take(near * u64::from(NODE_SLOTS) * bytes),
        near_tail: r.take(near * counter),
        near_head: r.take(near * counter),
        near_sent: r.take(near * counter),
        near_read: r.take(near * counter),
        far: r.take(far * chunks * chunk),
        far_full: r.take(far * chunks * counter),
        far_head: r.take(far * counter),
        far_staging: r.take(far * chunks * chunk),
        far_sent: r.take(far * counter),
        far_read: r.take(far * counter),
        epochs: r.take(channels * 4),
    }
}

/// Dispatch in two hops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TwoHopDispatch {
    /// Who takes part.
    pub group: ExpertGroup,
    /// Channels of a row.
    pub width: u32,
    /// E4M3 codes with 1x128 scales; BF16 else.
    pub quant: bool,
    /// Rows that a rank's experts have room for.
    pub capacity: u32,
    /// Blocks of a launch.
    pub channels: u32,
}

/// Byte offsets into the range of a [`TwoHopDispatch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TwoHopDispatchLayout {
    /// `u64 [2][ranks][local]`: how many rows come from a rank, for even and odd launches.
    pub counts: u64,
    /// Where messages travel.
    pub rings: Rings,
    /// Bytes of it all.
    pub bytes: u64,
}

impl TwoHopDispatch {
    /// Bytes of a message: codes, scales, source (8 bytes), experts and weights of all slots. 7,472 for DeepSeek-V3.
    #[must_use]
    pub const fn message_bytes(&self) -> u32 {
        (payload(self.width, self.quant) + 8 + 8 * self.group.top_k).next_multiple_of(16)
    }

    /// Where everything is.
    #[must_use]
    pub fn layout(&self) -> TwoHopDispatchLayout {
        let g = &self.group;
        let mut r = Regions::default();
        let counts = r.take(2 * u64::from(g.ranks()) * u64::from(g.local()) * u64::from(COUNTER));
        let rings = rings(&mut r, g, self.channels, self.message_bytes());
        TwoHopDispatchLayout {
            counts,
            rings,
            bytes: r.end,
        }
    }
}

/// Combine in two hops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TwoHopCombine {
    /// Who takes part.
    pub group: ExpertGroup,
    /// Channels of a row.
    pub width: u32,
    /// Whether rows are multiplied by their routing weights.
    pub weighted: bool,
    /// Rows that a rank's experts have room for.
    pub capacity: u32,
    /// Blocks of a launch: those of the dispatch.
    pub channels: u32,
}

/// Byte offsets into the range of a [`TwoHopCombine`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TwoHopCombineLayout {
    /// Where messages travel.
    pub rings: Rings,
    /// Bytes of it all.
    pub bytes: u64,
}

impl TwoHopCombine {
    /// Where everything is.
    #[must_use]
    pub fn layout(&self) -> TwoHopCombineLayout {
        let mut r = Regions::default();
        let rings = rings(&mut r, &self.group, self.channels, self.width * 2);
        TwoHopCombineLayout {
            rings,
            bytes: r.end,
        }
    }
}

/// What a two-hop dispatch notes for its combine, as 32-bit words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TwoHopRecord {
    /// Tokens that a channel can have.
    pub per_channel: u32,
    /// `[channels][ranks]`: messages received from a rank.
    pub received: u64,
    /// `[channels][ranks][per_channel][top_k]`: the row of each slot, -1 where its expert is on another rank.
    pub rows: u64,
    /// `[channels][nodes]`: messages forwarded for the rank of that node with this GPU's number.
    pub forwarded: u64,
    /// `[channels][nodes][per_channel]`: a bit for each GPU that a message went to.
    pub masks: u64,
    /// Words of it all.
    pub words: u64,
}

impl TwoHopRecord {
    /// Of a group and its channels.
    #[must_use]
    pub const fn new(group: &ExpertGroup, channels: u32) -> Self {
        let per_channel = group.tokens.div_ceil(channels);
        let (ranks, nodes) = (group.ranks() as u64, group.nodes as u64);
        let (channels, tokens) = (channels as u64, per_channel as u64);
        let rows = channels * ranks;
        let forwarded = rows + channels * ranks * tokens * group.top_k as u64;
        let masks = forwarded + channels * nodes;
        Self {
            per_channel,
            received: 0,
            rows,
            forwarded,
            masks,
            words: masks + channels * nodes * tokens,
        }
    }
}

/// Bytes of a row's values and scales.
const fn payload(width: u32, quant: bool) -> u32 {
    if quant {
        width + 4 * width.div_ceil(SCALE_GROUP)
    } else {
        2 * width
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v3() -> ExpertGroup {
        ExpertGroup {
            experts: 256,
            top_k: 8,
            nodes: 4,
            gpus: 8,
            tokens: 128,
        }
    }

    #[test]
    fn messages_have_the_published_sizes() {
        let dispatch = |quant| TwoHopDispatch {
            group: v3(),
            width: 7168,
            quant,
            capacity: 1024,
            channels: 20,
        };
        assert_eq!(dispatch(true).message_bytes(), 7472);
        assert_eq!(dispatch(false).message_bytes(), 14_336 + 80);
        let direct = DirectDispatch {
            group: v3(),
            width: 7168,
            quant: true,
            blocks: 132,
        };
        // DeepEP, low latency: 16 + 7168 + 224.
        assert_eq!(direct.message_bytes(), 7408);
    }

    #[test]
    fn regions_follow_each_other_on_lines_of_their_own() {
        let layout = DirectDispatch {
            group: v3(),
            width: 256,
            quant: true,
            blocks: 3,
        }
        .layout();
        let order = [
            layout.counts,
            layout.delivered,
            layout.inbox,
            layout.staging,
            layout.sent,
            layout.epochs,
            layout.bytes,
        ];
        assert!(order.windows(2).all(|w| w[0] < w[1]));
        assert!(order.iter().all(|at| at % ALIGN == 0));
        assert_eq!(v3().most_rows(), 32 * 128 * 8);
    }
}
