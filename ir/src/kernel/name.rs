//! Kernel names: the PTX entry that a config becomes.
//!
//! In: a [`KernelConfig`]. Out: a name in snake case, for example `gemm_fp8_n512_k256_bf16_m64n64s4`.
//! Holds afterwards: the name is a PTX identifier (PTX ISA, "Identifiers"), and distinct configs have
//! distinct names, so that a name means the same kernel in every build and in every snapshot.

use super::{Attention, Epilogue, GemmForm, GemmTile, KernelConfig, Normed, Share};
use crate::types::DType;

impl KernelConfig {
    /// The family alone, for example `gemm_fp8`.
    #[must_use]
    pub fn family(&self) -> &'static str {
        match self {
            Self::GemmFp8(_) => "gemm_fp8",
            Self::GemmBf16(_) => "gemm_bf16",
            Self::AttentionPrefill(_) => "attention_prefill",
            Self::AttentionDecode(_) => "attention_decode",
            Self::RmsNorm(_) => "rms_norm",
            Self::Quantize(_) => "quantize",
            Self::Swiglu(_) => "swiglu",
            Self::Rope(_) => "rope",
            Self::MlaCacheWrite(_) => "mla_cache_write",
            Self::Add(_) => "add",
            Self::ScaleRows(_) => "scale_rows",
            Self::Gather(_) => "gather",
            Self::Route(_) => "route",
            Self::MoePlan(_) => "moe_plan",
            Self::Expand(_) => "expand",
            Self::Combine(_) => "combine",
            Self::RowWeights(_) => "row_weights",
            Self::AppendExpert(_) => "append_expert",
            Self::DirectDispatchSend(_) => "direct_dispatch_send",
            Self::DirectDispatchReceive(_) => "direct_dispatch_receive",
            Self::DirectCombineSend(_) => "direct_combine_send",
            Self::DirectCombineReceive(_) => "direct_combine_receive",
            Self::TwoHopDispatch(_) => "two_hop_dispatch",
            Self::TwoHopCombine(_) => "two_hop_combine",
            Self::Sample(_) => "sample",
        }
    }

    /// Name of the PTX entry: the family, then every choice of the config.
    #[must_use]
    pub fn name(&self) -> String {
        let family = self.family();
        match self {
            Self::GemmFp8(c) => {
                // 128 is the interval of the published model; only another one is worth a word.
                let promote = match c.promote {
                    128 => String::new(),
                    p => format!("_p{p}"),
                };
                let (form, epilogue, tile) = (form(c.form), epilogue(c.epilogue), tile(c.tile));
                let (n, k, out) = (c.n, c.k, dtype(c.out));
                format!("{family}{form}_n{n}_k{k}_{out}{epilogue}_{tile}{promote}")
            }
            Self::GemmBf16(c) => {
                let (form, epilogue, tile) = (form(c.form), epilogue(c.epilogue), tile(c.tile));
                let (n, k, out) = (c.n, c.k, dtype(c.out));
                format!("{family}{form}_n{n}_k{k}_{out}{epilogue}_{tile}")
            }
            Self::AttentionPrefill(c) | Self::AttentionDecode(c) => attention(family, c),
            Self::RmsNorm(c) => {
                let add = if c.residual { "_add" } else { "" };
                let (width, eps) = (c.width, float(c.eps));
                format!("{family}_w{width}_e{eps}{add}{}", written(c.normed()))
            }
            Self::Quantize(c) => format!("{family}_w{}", c.width),
            Self::Swiglu(c) => format!(
                "{family}_w{}{}",
                c.width,
                if c.quant { "_quant" } else { "" }
            ),
            Self::Rope(c) => format!("{family}_h{}_w{}_s{}_d{}", c.heads, c.width, c.start, c.dim),
            Self::MlaCacheWrite(c) => {
                format!("{family}_l{}_r{}_e{}", c.latent, c.rope, float(c.eps))
            }
            Self::Add(c) => format!("{family}_w{}", c.width),
            Self::ScaleRows(c) => format!("{family}_w{}", c.width),
            Self::Gather(c) => format!(
                "{family}_w{}{}",
                c.width,
                if c.quant { "_quant" } else { "" }
            ),
            Self::Route(c) => format!(
                "{family}_e{}_k{}_g{}_t{}_x{}{}",
                c.experts,
                c.top_k,
                c.n_group,
                c.topk_group,
                float(c.scaling),
                if c.normalize { "_norm" } else { "" }
            ),
            Self::MoePlan(c) => format!("{family}_e{}_k{}", c.experts, c.top_k),
            Self::Expand(c) => {
                format!(
                    "{family}_w{}_k{}{}",
                    c.width,
                    c.top_k,
                    if c.quant { "_quant" } else { "" }
                )
            }
            Self::Combine(c) => {
                let plain = if c.weighted { "" } else { "_plain" };
                let add = if c.residual { "_add" } else { "" };
                let norm = c.norm.map_or_else(String::new, |norm| {
                    format!("_e{}{}", float(norm.eps), written(norm))
                });
                format!("{family}_w{}_k{}{plain}{add}{norm}", c.width, c.top_k)
            }
            Self::RowWeights(c) => format!("{family}_k{}", c.top_k),
            Self::AppendExpert(c) => {
                format!("{family}_k{}_n{}_x{}", c.top_k, c.expert, float(c.weight))
            }
            Self::DirectDispatchSend(c) | Self::DirectDispatchReceive(c) => {
                let quant = flag(c.quant, "_quant");
                format!(
                    "{family}_w{}{quant}_{}_b{}",
                    c.width,
                    c.group.name(),
                    c.blocks
                )
            }
            Self::DirectCombineSend(c) | Self::DirectCombineReceive(c) => {
                let weighted = flag(c.weighted, "_weighted");
                format!(
                    "{family}_w{}{weighted}_{}_b{}",
                    c.width,
                    c.group.name(),
                    c.blocks
                )
            }
            Self::TwoHopDispatch(c) => {
                let (quant, group) = (flag(c.quant, "_quant"), c.group.name());
                format!(
                    "{family}_w{}{quant}_{group}_r{}_c{}",
                    c.width, c.capacity, c.channels
                )
            }
            Self::TwoHopCombine(c) => {
                let (weighted, group) = (flag(c.weighted, "_weighted"), c.group.name());
                format!(
                    "{family}_w{}{weighted}_{group}_r{}_c{}",
                    c.width, c.capacity, c.channels
                )
            }
            Self::Sample(c) => format!("{family}_v{}", c.vocab),
        }
    }
}

fn flag(on: bool, word: &str) -> &str {
    if on { word } else { "" }
}

fn form(form: GemmForm) -> String {
    match form {
        GemmForm::Dense => String::new(),
        GemmForm::Batched { heads } => format!("_b{heads}"),
        GemmForm::Grouped { groups } => format!("_g{groups}"),
        GemmForm::Masked { groups } => format!("_masked{groups}"),
        GemmForm::KGrouped { groups } => format!("_kg{groups}"),
    }
}

/// What a norm writes.
fn written(norm: Normed) -> String {
    let parts = [
        (norm.emit_sum, "_sum"),
        (norm.emit_norm, "_norm"),
        (norm.emit_quant, "_quant"),
    ];
    parts
        .into_iter()
        .filter(|(on, _)| *on)
        .map(|(_, part)| part)
        .collect()
}

fn epilogue(epilogue: Epilogue) -> &'static str {
    match epilogue {
        Epilogue::Store => "",
        Epilogue::Add => "_add",
        Epilogue::Accumulate => "_acc",
        Epilogue::SwigluQuantize { weighted: false } => "_swiglu",
        Epilogue::SwigluQuantize { weighted: true } => "_swiglu_weighted",
    }
}

/// `m128n128s5`, then what is not plain: `x` swapped, `ca` and `cb` clusters that share A or B, `k` split K, `r` raster.
fn tile(t: GemmTile) -> String {
    let swap = if t.swap { "x" } else { "" };
    let share = match t.share {
        Share::None => "",
        Share::A => "ca",
        Share::B => "cb",
    };
    let or = |value: u32, plain: u32, letter: char| match value {
        v if v == plain => String::new(),
        v => format!("{letter}{v}"),
    };
    let plain = GemmTile::new(t.m, t.n, t.stages);
    format!(
        "m{}n{}s{}{swap}{share}{}{}",
        t.m,
        t.n,
        t.stages,
        or(t.split_k, plain.split_k, 'k'),
        or(t.raster, plain.raster, 'r')
    )
}

fn attention(family: &str, c: &Attention) -> String {
    format!(
        "{family}_h{}_k{}_dk{}_dr{}_dv{}_x{}_t{}s{}",
        c.heads,
        c.kv_heads,
        c.dk,
        c.dr,
        c.dv,
        float(c.scale),
        c.tile_kv,
        c.stages
    )
}

fn dtype(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "f32",
        DType::BF16 => "bf16",
        DType::E4M3 => "e4m3",
        DType::I32 => "i32",
    }
}

/// A float in letters that an identifier may hold: `1e-6` becomes `1em6`, `2.5` becomes `2p5e0`.
///
/// Rust prints the shortest digits that read back as the same float, so distinct floats stay distinct.
fn float(value: f32) -> String {
    format!("{value:e}").replace('-', "m").replace('.', "p")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{GemmFp8, RmsNorm};

    fn rms_norm(eps: f32) -> KernelConfig {
        KernelConfig::RmsNorm(RmsNorm {
            width: 256,
            eps,
            residual: true,
            emit_sum: true,
            emit_norm: false,
            emit_quant: true,
        })
    }

    #[test]
    fn names_spell_out_the_config() {
        let gemm = GemmFp8 {
            n: 512,
            k: 256,
            form: GemmForm::Dense,
            epilogue: Epilogue::Store,
            out: DType::BF16,
            promote: 128,
            tile: GemmTile::new(64, 64, 4),
        };
        let grouped = GemmFp8 {
            form: GemmForm::Grouped { groups: 16 },
            promote: 64,
            tile: GemmTile {
                swap: true,
                share: Share::A,
                split_k: 2,
                ..gemm.tile
            },
            ..gemm.clone()
        };
        assert_eq!(
            KernelConfig::GemmFp8(gemm).name(),
            "gemm_fp8_n512_k256_bf16_m64n64s4"
        );
        assert_eq!(
            KernelConfig::GemmFp8(grouped).name(),
            "gemm_fp8_g16_n512_k256_bf16_m64n64s4xcak2_p64"
        );
        assert_eq!(rms_norm(1e-6).name(), "rms_norm_w256_e1em6_add_sum_quant");
    }

    #[test]
    fn neighbouring_floats_get_distinct_names() {
        let eps = 1e-6_f32;
        assert_ne!(rms_norm(eps).name(), rms_norm(eps.next_up()).name());
    }
}
