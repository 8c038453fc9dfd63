//! The shadow of shared memory, and the way to a cell of either memory.

use super::access::Memory;
use super::know::Reader;
use super::shadow::{CELL, Cell, Conflict, Stamp};
use crate::exec::state::Env;

/// Shared memory of each CTA of the cluster.
#[derive(Debug, Default)]
pub struct Shadows {
    ctas: Vec<Vec<Cell>>,
    /// Tells cells of this run from those of earlier ones.
    run: u32,
}

impl Shadows {
    pub fn reset(&mut self, ctas: usize, bytes: u32) {
        self.run = self.run.wrapping_add(1);
        if self.run == 0 {
            // Cells of four billion runs ago must not come back to life.
            self.ctas.clear();
            self.run = 1;
        }
        self.ctas.resize_with(ctas, Vec::new);
        let cells = u64::from(bytes).div_ceil(CELL) as usize;
        for s in &mut self.ctas {
            s.resize_with(cells, Cell::default);
        }
    }

    /// CTAs of the cluster.
    pub fn len(&self) -> usize {
        self.ctas.len()
    }

    /// A cell; none out of bounds, where the access itself faults.
    pub fn cell(&mut self, cta: u32, cell: u64) -> Option<&mut Cell> {
        let cells = self.ctas.get_mut(cta as usize)?;
        Some(cells.get_mut(cell as usize)?.of_run(self.run))
    }

    /// All cells of a CTA.
    pub fn cells(&mut self, cta: usize) -> impl Iterator<Item = &mut Cell> {
        let run = self.run;
        let cells = self.ctas.get_mut(cta).into_iter().flatten();
        cells.map(move |c| c.of_run(run))
    }

    /// One cell of shared or of global memory, as `reader` sees it.
    pub fn access(
        &mut self,
        env: &Env<'_>,
        memory: Memory,
        cell: u64,
        stamp: Stamp,
        reader: &Reader<'_>,
        uses: bool,
    ) -> Result<(), Conflict> {
        match memory {
            Memory::Shared(cta) => match self.cell(cta, cell) {
                Some(c) => c.access(stamp, reader, uses),
                None => Ok(()),
            },
            Memory::Global => match env.check {
                Some(launch) => launch.access(cell, stamp, reader, uses),
                None => Ok(()),
            },
        }
    }
}
