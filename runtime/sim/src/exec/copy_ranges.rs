//! Which memory an asynchronous copy reads and writes, for the checkers.

use super::copy::Work;
use super::state::Core;
use crate::check::{Engine, Range};
use crate::error::Exec;
use crate::isa::Space;

impl Core<'_> {
    /// Tells the checkers which ranges a copy touches, before it does.
    pub(super) fn check_issue(&mut self, work: &Work, lane: u32) -> Exec<()> {
        let size = match work {
            Work::LoadTensor { tile, .. } | Work::StoreTensor { tile, .. } => tile.bytes(),
            Work::Load { bytes, .. } | Work::Store { bytes, .. } => u64::from(*bytes),
            _ => 0,
        };
        // What shared memory cannot hold is out of bounds when it is performed;
        // up to 4 GiB of it have no shadow.
        if size > u64::from(self.env.shared_bytes()) {
            return Ok(());
        }
        let range = |space, address, len, writes| Range {
            space,
            address,
            len,
            writes,
        };
        match work {
            Work::LoadTensor { tile, coords, to } => {
                for (dst, mbar) in to.each() {
                    self.check_mbar_use(mbar, 1 << lane, true)?;
                    let engine = Engine::BulkLoad { mbar };
                    self.check_engine(engine, range(Space::Shared, dst, tile.bytes(), true), lane)?;
                }
                let engine = Engine::BulkLoad {
                    mbar: to.each().next().map_or(0, |(_, mbar)| mbar),
                };
                for (at, len) in tile.rows(coords) {
                    self.check_engine(engine, range(Space::Global, at, len, false), lane)?;
                }
            }
            Work::Load {
                src,
                src_space,
                bytes,
                to,
            } => {
                let len = u64::from(*bytes);
                for (dst, mbar) in to.each() {
                    self.check_mbar_use(mbar, 1 << lane, true)?;
                    let engine = Engine::BulkLoad { mbar };
                    self.check_engine(engine, range(Space::Shared, dst, len, true), lane)?;
                    self.check_engine(engine, range(*src_space, *src, len, false), lane)?;
                }
            }
            Work::StoreTensor {
                tile,
                coords,
                src,
                reduce,
            } => {
                let read = range(Space::Shared, *src, tile.bytes(), false);
                self.check_engine(Engine::BulkRead, read, lane)?;
                let engine = Engine::BulkWrite {
                    reduces: reduce.is_some(),
                };
                for (at, len) in tile.rows(coords) {
                    self.check_engine(engine, range(Space::Global, at, len, true), lane)?;
                }
            }
            Work::Store {
                src,
                dst,
                bytes,
                reduce,
            } => {
                let len = u64::from(*bytes);
                let read = range(Space::Shared, *src, len, false);
                self.check_engine(Engine::BulkRead, read, lane)?;
                let engine = Engine::BulkWrite {
                    reduces: reduce.is_some(),
                };
                self.check_engine(engine, range(Space::Global, *dst, len, true), lane)?;
            }
            Work::CpAsync {
                src,
                dst,
                bytes,
                read,
            } => {
                let write = range(Space::Shared, *dst, u64::from(*bytes), true);
                self.check_engine(Engine::CpAsync, write, lane)?;
                let read = range(Space::Global, *src, u64::from(*read), false);
                self.check_engine(Engine::CpAsync, read, lane)?;
            }
            Work::CpArrive { .. } => {}
        }
        Ok(())
    }
}
