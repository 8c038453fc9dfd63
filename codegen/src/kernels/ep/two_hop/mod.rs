//! Two hops: once to each node, there once to each GPU, and the same way back (arXiv 2412.19437, section 3.2.2).
//!
//! ```text
//!            node of the token                        node of the expert
//! dispatch   near writers ──ring──► receivers
//!            far writers  ──network──► forwarders ──ring──► receivers
//! combine                   origin ◄──ring── experts' sums
//!                           origin ◄──network── node's sums ◄──ring── experts' sums
//! ```
//!
//! A launch has a block for each channel. A channel takes a run of each rank's tokens and has rings of its own, so that
//! blocks of a rank know nothing of each other. In a block every warp has one role; which is which follows from its
//! number. Messages of a ring keep the order of tokens.
//!
//! Why it cannot lock up: receivers and experts' warps never wait for one ring while another has something to do; every
//! other role waits only for such a one, or for one that does (see each role).
//!
//! | file | what |
//! |---|---|
//! | `rings.rs` | both ends of a ring inside of a node and of one between nodes |
//! | `dispatch.rs`, `combine.rs` | the two families |

mod combine;
mod dispatch;
mod rings;

pub use combine::combine;
pub use dispatch::dispatch;

use crate::emit::system::PeerSite;
use crate::emit::wait::WAIT_LIMIT_NS;
use crate::emit::{I32, Kernel, Val, Var};
use crate::error::CodegenError;
use crate::kernels::unsupported;

/// Most streams that one warp may serve: a bit for each.
const STREAMS: u32 = 63;
/// Most warps of a role.
const ROLE_WARPS: u32 = 8;

/// Warps for a number of streams.
///
/// # Errors
/// When there are more than the warps of a role can serve.
fn warps(name: &str, streams: u32, most: u32) -> Result<u32, CodegenError> {
    let warps = streams.min(most);
    if warps > 0 && streams.div_ceil(warps) > STREAMS {
        return Err(unsupported(
            name,
            format!("{streams} streams for {warps} warps"),
            "up to 63 a warp; take fewer ranks, or the direct form",
        ));
    }
    Ok(warps)
}

/// What the warps of a role do; each gets its number among them.
type Role<'a, 'k> = &'a dyn Fn(Val<'k, I32>);

/// Gives the block's warps their roles, one role behind the other: how many warps, and what they do.
fn assign<'k>(k: &'k Kernel, roles: &[(u32, Role<'_, 'k>)]) {
    let warp = k.tid().ushr(5);
    let mut begin = 0;
    for (count, body) in roles.iter().filter(|(count, _)| *count > 0) {
        let end = begin + count;
        let is_mine = warp.ge(begin.cast_signed()) & warp.lt(end.cast_signed());
        k.if_(is_mine, || body(warp - begin));
        begin = end;
    }
}

/// What a turn for a stream came to.
#[derive(Clone, Copy)]
struct Turn<'k> {
    /// Set to 1 where something was done.
    moved: Var<'k, I32>,
    /// Set to 1 where nothing more will come.
    done: Var<'k, I32>,
}

/// Serves the streams `first, first + step, ..` below `streams` in turn until each is done. `turn` looks whether there is
/// something to do for one, does it, and does not wait. Where nothing moves for too long, a stream's peer is reported.
fn serve<'k>(
    k: &'k Kernel,
    (first, step, streams): (Val<'k, I32>, u32, u32),
    (site, peer): (PeerSite, impl Fn(Val<'k, I32>) -> Val<'k, I32>),
    turn: impl FnOnce(Val<'k, I32>, Turn<'k>),
) {
    // Streams of this warp, a bit each.
    let count = (k.i32(streams) - first + (step - 1)).udiv(step);
    let open = k.var((k.i64(1) << count.to_u64()) - 1);
    let since = k.var(k.global_timer());
    let last = k.var(first);
    k.while_(
        || open.get().ne(0),
        || {
            let t = Turn {
                moved: k.var(k.i32(0)),
                done: k.var(k.i32(0)),
            };
            k.for_(0, count, 1, |i| {
                let bit = k.i64(1) << i.to_u64();
                k.if_((open.get() & bit).ne(0), || {
                    let stream = first + i * step;
                    last.set(stream);
                    t.done.set(k.i32(0));
                    turn(stream, t);
                    k.if_(t.done.get().ne(0), || {
                        open.update(|o| o ^ bit);
                        t.moved.set(k.i32(1));
                    });
                });
            });
            let now = k.global_timer();
            k.if_else(
                t.moved.get().ne(0),
                || since.set(now),
                || {
                    let waited = now - since.get();
                    k.if_(waited.gt(WAIT_LIMIT_NS).unlikely(), || {
                        k.report_peer(site, peer(last.get()), waited);
                    });
                },
            );
        },
    );
}
