//! Attention over the latent cache, and the write into it.
//!
//! One key head for all query heads (absorbed MLA) takes the decode kernel, whose tiles are heads of a token; a
//! key head for each query head (expanded MLA) takes the prefill kernel, whose tiles are tokens of a head.

use mcc_ir::kernel::{Attention, KernelConfig, MlaCacheWrite};
use mcc_ir::{NodeId, ValueId};

use super::pool::Layouts;
use super::view::Placed;
use super::{Arg, Lowering};
use crate::error::PassError;
use crate::heuristics::attention::{self, AttentionProblem};

impl Lowering<'_> {
    /// `attention(q, q_rope, k, k_rope, v, positions)`
    pub(super) fn attention(&mut self, node: NodeId, scale: f32) -> Result<(), PassError> {
        let mut args = (0..6)
            .map(|i| self.whole(node, i))
            .collect::<Result<Vec<_>, _>>()?;
        let heads = self.extent(node, args[0].value, 1)?;
        let kv_heads = self.extent(node, args[2].value, 1)?;
        let (dk, dr) = (
            self.extent(node, args[0].value, 2)?,
            self.extent(node, args[1].value, 2)?,
        );
        let dv = self.extent(node, args[4].value, 2)?;
        let absorbed = kv_heads == 1;
        let problem = AttentionProblem {
            dk: dk.into(),
            dr: dr.into(),
            dv: dv.into(),
            query_rows: if absorbed { 64 } else { 128 },
        };
        let choice = attention::choose(problem, self.target);
        self.explain(node, choice.to_string());
        let tile = choice.best().ok_or_else(|| {
            self.unsupported(
                node,
                ValueId { node, result: 0 },
                format!(
                    "its heads do not fit the {} bytes of shared memory of `{}`",
                    self.target.smem_bytes, self.target.name
                ),
                "use smaller heads",
            )
        })?;
        let config = Attention {
            heads,
            kv_heads,
            dk,
            dr,
            dv,
            scale,
            tile_kv: tile.kv,
            stages: tile.stages,
        };
        args.push(self.out(node, 0, Layouts::Rows)?);
        let config = if absorbed {
            KernelConfig::AttentionDecode(config)
        } else {
            KernelConfig::AttentionPrefill(config)
        };
        self.launch(node, config, args)
    }

    /// `mla_cache_write(cache, kv, w, positions, table)`: the result is the cache, written in place.
    pub(super) fn mla_cache_write(&mut self, node: NodeId, eps: f32) -> Result<(), PassError> {
        let cache = self.whole(node, 0)?;
        if !self.pool.is_state(&cache.view) {
            return Err(self.unsupported(
                node,
                cache.value,
                "it is overwritten in place, and only a whole state can be",
                "write into a state of the model",
            ));
        }
        let (kv, w) = (self.whole(node, 1)?, self.whole(node, 2)?);
        let latent = self.extent(node, w.value, 0)?;
        let width = self.extent(node, kv.value, 1)?;
        let Some(rope) = width.checked_sub(latent) else {
            return Err(self.unsupported(
                node,
                kv.value,
                format!("its {width} channels are fewer than the {latent} of the latent"),
                "",
            ));
        };
        let result = ValueId { node, result: 0 };
        self.place(
            result,
            Placed {
                data: cache.view.clone(),
                scales: None,
            },
        );
        let args = vec![
            kv,
            w,
            self.whole(node, 3)?,
            self.whole(node, 4)?,
            Arg {
                view: cache.view,
                value: result,
            },
        ];
        self.launch(
            node,
            KernelConfig::MlaCacheWrite(MlaCacheWrite { latent, rope, eps }),
            args,
        )
    }
}
