//! NVSHMEM's device functions: puts, signals, and the order among them.
//!
//! In: a call and the lanes that make it. Out: a [`Message`] for the network,
//! or a fault: a `_warp` function that not all lanes call alike, a target that
//! is not symmetric memory, a rank that does not exist.

use super::state::Core;
use super::sync::lanes;
use crate::error::{Exec, FaultKind, illegal, trouble};
use crate::isa::{FULL, Nvshmem, NvshmemCall, Space};
use crate::network::{Data, Message, Network, Sender, Signal};

/// `nvshmemx_signal_op_t` of NVSHMEM's headers.
const SIGNAL_SET: u64 = 9;
const SIGNAL_ADD: u64 = 10;

/// A signal as its caller names it.
struct Asked {
    address: u64,
    value: u64,
    op: u64,
}

impl<'a> Core<'a> {
    pub fn nvshmem(&mut self, n: &Nvshmem, active: u32) -> Exec<()> {
        let Some(network) = self.env.network else {
            return Err(illegal(
                "NVSHMEM's functions need the devices of a `World`: this one stands alone",
            ));
        };
        match n.call {
            NvshmemCall::Fence => {
                self.w.fences += 1;
                self.check_put_fence();
            }
            NvshmemCall::Quiet => {
                if network.quiet(self.sender()) {
                    self.flight.progress += 1;
                }
                self.check_put_quiet(active);
            }
            NvshmemCall::Put | NvshmemCall::PutSignal => self.put(n, network, active)?,
            NvshmemCall::Signal => {
                for lane in lanes(active) {
                    let [address, value, op, pe] = self.arguments(n, lane)?;
                    let signal = Asked { address, value, op };
                    self.send(network, lane, pe, None, Some(signal))?;
                }
            }
        }
        Ok(())
    }

    fn sender(&self) -> Sender {
        (
            self.env.cluster_id(self.flight.cluster),
            self.warp_id() as u32,
        )
    }

    /// What one lane passes.
    fn arguments<const N: usize>(&self, n: &Nvshmem, lane: u32) -> Exec<[u64; N]> {
        let mut out = [0; N];
        // Decoding has seen that there are so many, and how wide each is.
        let wide = |i: usize| match n.call {
            NvshmemCall::Put => i < 3,
            NvshmemCall::PutSignal => i < 5,
            _ => i < 2,
        };
        for (i, (v, &at)) in out.iter_mut().zip(&n.args).enumerate() {
            let size = if wide(i) { 8 } else { 4 };
            let place = self
                .resolve(Space::Local, at.into(), size, lane)
                .ok_or_else(|| illegal("an argument outside of local memory"))?;
            *v = self.load(place, size as u8);
        }
        Ok(out)
    }

    /// A put of the whole warp.
    fn put(&mut self, n: &Nvshmem, network: &Network<'a>, active: u32) -> Exec<()> {
        if active != FULL {
            return Err(trouble(
                None,
                FaultKind::Divergent {
                    of: "of a warp",
                    active,
                    expected: FULL,
                },
            ));
        }
        let mut first = None;
        for lane in lanes(active) {
            let asked: [u64; 7] = match n.call {
                NvshmemCall::Put => {
                    let [target, source, bytes, pe] = self.arguments(n, lane)?;
                    [target, source, bytes, 0, 0, 0, pe]
                }
                _ => self.arguments(n, lane)?,
            };
            if *first.get_or_insert(asked) != asked {
                let message = "the lanes of a warp put with different arguments";
                return Err(trouble(Some(lane), FaultKind::Illegal(message.into())));
            }
        }
        let Some([target, source, bytes, address, value, op, pe]) = first else {
            return Ok(());
        };
        let signal = Asked { address, value, op };
        let signal = (n.call == NvshmemCall::PutSignal).then_some(signal);
        let data = Data {
            source,
            target,
            bytes,
        };
        self.send(network, 0, pe, Some(data), signal)
    }

    fn send(
        &mut self,
        network: &Network<'a>,
        lane: u32,
        pe: u64,
        data: Option<Data>,
        signal: Option<Asked>,
    ) -> Exec<()> {
        let wrong = |message: String| trouble(Some(lane), FaultKind::Illegal(message));
        let (fabric, from) = (network.fabric, self.env.rank);
        let to = pe as u32;
        if to >= fabric.ranks() {
            let last = fabric.ranks() - 1;
            return Err(wrong(format!(
                "a put to PE {}: there are 0 to {last}",
                to as i32
            )));
        }
        let symmetric = |what: &str, address: u64, bytes: u64, pe: u32| {
            fabric.translate(from, pe, address, bytes).ok_or_else(|| {
                wrong(format!(
                    "{what}: {bytes} bytes at {address:#x} do not lie in one piece of this rank's symmetric memory"
                ))
            })
        };
        let data = match data {
            Some(d) if d.bytes > 0 => Some(Data {
                source: symmetric("the source of a put", d.source, d.bytes, from)?,
                target: symmetric("the target of a put", d.target, d.bytes, to)?,
                bytes: d.bytes,
            }),
            _ => None,
        };
        let mut told = None;
        if let Some(s) = signal {
            if !s.address.is_multiple_of(8) {
                return Err(trouble(
                    Some(lane),
                    FaultKind::Misaligned {
                        space: "global",
                        address: s.address,
                        align: 8,
                    },
                ));
            }
            if s.op != SIGNAL_SET && s.op != SIGNAL_ADD {
                return Err(wrong(format!(
                    "signal operation {}: NVSHMEM_SIGNAL_SET is {SIGNAL_SET}, NVSHMEM_SIGNAL_ADD is {SIGNAL_ADD}",
                    s.op
                )));
            }
            told = Some(Signal {
                address: symmetric("a signal", s.address, 8, to)?,
                value: s.value,
                adds: s.op == SIGNAL_ADD,
                carried: None,
            });
        }
        if self.w.early >> lane & 1 != 0 {
            let address = data.map_or(0, |d| d.source);
            return Err(self.early_access(Space::Global, address, lane));
        }
        let carried = self.check_put(lane, to, data, told.as_ref())?;
        if let Some(told) = &mut told {
            told.carried = carried;
        }
        let message = Message {
            sender: self.sender(),
            from,
            to,
            fences: self.w.fences,
            data,
            signal: told,
        };
        if message.data.is_some() || message.signal.is_some() {
            // Whoever waits for it may find it there at once.
            self.flight.progress += u64::from(network.send(message));
        }
        Ok(())
    }
}
