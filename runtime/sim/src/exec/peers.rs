//! What a kernel writes into the memory of its node's other devices, counted.

use super::state::Core;
use super::sync::lanes;
use crate::isa::{Row64, Space};
use crate::memory::GLOBAL_BASE;

impl Core<'_> {
    /// The lanes of `mask` write `len` bytes each.
    pub fn count_writes(&self, space: Space, addrs: &Row64, mask: u32, len: u64) {
        if self.env.network.is_none() || !matches!(space, Space::Global | Space::Generic) {
            return;
        }
        // Mostly all lanes write to one device.
        let (mut owner, mut bytes) = (None, 0);
        for l in lanes(mask) {
            let address = addrs[l as usize];
            if address < GLOBAL_BASE {
                continue;
            }
            let found = self.env.table.find(address).and_then(|a| a.owner);
            if found != owner {
                self.count_write(owner, bytes);
                (owner, bytes) = (found, 0);
            }
            bytes += len;
        }
        self.count_write(owner, bytes);
    }

    /// A bulk copy writes into global memory.
    pub fn count_copy(&self, address: u64, bytes: u64) {
        if self.env.network.is_some() {
            let owner = self.env.table.find(address).and_then(|a| a.owner);
            self.count_write(owner, bytes);
        }
    }

    fn count_write(&self, owner: Option<u32>, bytes: u64) {
        if let (Some(network), Some(to)) = (self.env.network, owner)
            && to != self.env.rank
        {
            network.fabric.count_nvlink(self.env.rank, to, bytes);
        }
    }
}
