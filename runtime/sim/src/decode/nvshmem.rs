//! Calls of NVSHMEM's device functions, which are declared and have no body.
//!
//! In: a call of an external function. Out: an [`Op::Nvshmem`], where the
//! function is one that the simulator knows and is declared as NVSHMEM's
//! bitcode has it (`libnvshmem_device_sm_90.bc` 3.8; NVSHMEM API, "Remote
//! memory access", "Signaling operations", "Memory ordering").

use mcc_ptx::Function;

use super::{Decoded, Decoder, invalid, unsupported};
use crate::isa::{Nvshmem, NvshmemCall, Op};

/// Name, meaning, and the bytes of each parameter.
const CALLS: [(&str, NvshmemCall, &[u64]); 5] = [
    // void *dest, const void *source, size_t bytes, int pe
    ("nvshmemx_putmem_nbi_warp", NvshmemCall::Put, &[8, 8, 8, 4]),
    // void *dest, const void *source, size_t bytes, uint64_t *sig_addr, uint64_t signal, int sig_op, int pe
    (
        "nvshmemx_putmem_signal_nbi_warp",
        NvshmemCall::PutSignal,
        &[8, 8, 8, 8, 8, 4, 4],
    ),
    // uint64_t *sig_addr, uint64_t signal, int sig_op, int pe
    ("nvshmemx_signal_op", NvshmemCall::Signal, &[8, 8, 4, 4]),
    ("nvshmem_fence", NvshmemCall::Fence, &[]),
    ("nvshmem_quiet", NvshmemCall::Quiet, &[]),
];

impl Decoder<'_> {
    /// A call of `name`, whose arguments lie at these places in local memory.
    pub(super) fn nvshmem(
        &mut self,
        name: &str,
        declared: Option<&Function>,
        args: Vec<u32>,
    ) -> Decoded<()> {
        let Some((_, call, sizes)) = CALLS.iter().find(|c| c.0 == name) else {
            let known = CALLS.map(|c| c.0).join(", ");
            return unsupported(format!("the NVSHMEM function `{name}` (known are {known})"));
        };
        let params = declared.map_or(&[][..], |f| &f.params);
        let found: Vec<u64> = params.iter().map(|p| p.bytes()).collect();
        let returns = declared.is_some_and(|f| !f.returns.is_empty());
        if found != *sizes || args.len() != sizes.len() || returns {
            return invalid(format!(
                "`{name}` takes parameters of {sizes:?} bytes and returns nothing; here they are of {found:?} bytes"
            ));
        }
        self.kernel.puts = true;
        let call = Nvshmem { call: *call, args };
        self.push(Op::Nvshmem(Box::new(call)));
        Ok(())
    }
}
