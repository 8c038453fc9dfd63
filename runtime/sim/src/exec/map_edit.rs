//! Tensor maps that a kernel writes: `tensormap.replace` and
//! `tensormap.cp_fenceproxy` (PTX ISA, the sections of these names).
//!
//! A kernel starts from 128 zero bytes, or from the copy of a map, in shared or
//! global memory, and replaces fields. The map is checked as a whole when it is
//! used, not before, since it is only whole at the end.

use super::alu::Consts;
use super::state::Core;
use crate::check::Access;
use crate::error::{Exec, FaultKind, trouble};
use crate::isa::{Addr, MapReplace, Order, Space};
use crate::tensor_map::MapBytes;

impl Core<'_> {
    pub fn map_replace(&mut self, i: &MapReplace, active: u32, consts: Consts<'_>) -> Exec<()> {
        let addrs = self.addresses(i.addr, active, consts);
        let values = self.w.regs.get_wide(consts, i.value);
        for lane in (0..32u32).filter(|l| active >> l & 1 != 0) {
            self.check_map(i.space, addrs[lane as usize], 1 << lane, true, true)?;
            let place = self.place(i.space, addrs[lane as usize], 128, 64, lane)?;
            let mut map = MapBytes([0; 128]);
            self.read(place, &mut map.0);
            map.replace(i.field, i.index, values[lane as usize])
                .map_err(|m| trouble(Some(lane), FaultKind::TensorMap(m)))?;
            self.write(place, &map.0)?;
        }
        Ok(())
    }

    /// Copies a map from shared to global memory, once for the whole warp.
    pub fn map_copy(&mut self, to: Addr, from: Addr, active: u32, consts: Consts<'_>) -> Exec<()> {
        self.converged(active, "of the warp")?;
        let lane = active.trailing_zeros() & 31;
        let (to, from) = (
            self.addresses(to, active, consts)[lane as usize],
            self.addresses(from, active, consts)[lane as usize],
        );
        self.check_map(Space::Shared, from, active, true, false)?;
        self.check_map(Space::Global, to, active, false, true)?;
        let source = self.place(Space::Shared, from, 128, 128, lane)?;
        let mut bytes = [0; 128];
        self.read(source, &mut bytes);
        let target = self.place(Space::Global, to, 128, 128, lane)?;
        self.write(target, &bytes)
    }

    /// Tells the checkers of an access to a whole map: by one lane, or by the
    /// first eight, 16 bytes each, when the warp acts as one.
    fn check_map(
        &mut self,
        space: Space,
        at: u64,
        lanes: u32,
        reads: bool,
        writes: bool,
    ) -> Exec<()> {
        if self.check.is_none() {
            return Ok(());
        }
        let access = Access {
            space,
            len: 16,
            reads,
            writes,
            order: Order::WEAK,
        };
        if lanes.count_ones() > 8 {
            let addrs = std::array::from_fn(|l| at + 16 * (l as u64 % 8));
            return self.check_access(access, &addrs, lanes & 0xff, 0);
        }
        for part in 0..8 {
            self.check_access(access, &[at + 16 * part; 32], lanes, 0)?;
        }
        Ok(())
    }
}
