//! Every kernel family in the sizes of DeepSeek-V3 (arXiv 2412.19437): one entry for each shape of
//! `bench/shapes.json` and each of its extents.
//!
//!     mcc build bench/models/kernels.rs -o kernels.mccb
//!
//! An entry is named `<shape>_m64` or `<shape>_t1_c4096`; its dims `M64`, `T1`, `C4096` are open at run time up to
//! the number in their name, so that kernels are chosen for the extents at which they are measured. Some entries
//! need more than the kernel they are about: FP8 products quantise their input first, as models do, and a
//! quantised value ends in a small product, since an output cannot be block-scaled. The shape's `kernel` says which
//! step is meant. The bundle holds no weights; `--synthetic` makes them.

use std::error::Error;

use mcc_dsl::{
    Attention, Dim, Entry, Model, Param, Routing, Tensor, attention, bf16, concat, f32, fp8_weight,
    i32, tensor,
};
use mcc_ir::{ParamSource, Type};
use serde_json::{Map, Value};

/// Small enough to cost nothing beside the step before it.
const TAIL: u64 = 128;
const EPS: f32 = 1e-6;
/// Positions of the rope table, at least every context that is measured.
const POSITIONS: u64 = 4096;

fn main() -> Result<(), Box<dyn Error>> {
    let document: Value = serde_json::from_str(include_str!("../shapes.json"))?;
    let mut bench = Bench {
        model: Model::new("kernels"),
        dims: Vec::new(),
        params: Vec::new(),
    };
    for shape in list(&document, "shapes")? {
        for dims in list(shape, "dims")? {
            let dims = dims
                .as_object()
                .ok_or("`dims` holds something that is no object")?;
            bench.entry(&Shape(shape), dims)?;
        }
    }
    print!("{}", bench.model.finish()?);
    Ok(())
}

/// The model under construction, with what its entries share.
struct Bench {
    model: Model,
    dims: Vec<(String, Dim)>,
    params: Vec<(String, Param)>,
}

/// A row of the table.
#[derive(Clone, Copy)]
struct Shape<'a>(&'a Value);

impl Shape<'_> {
    fn text(&self, field: &str) -> Result<&str, String> {
        let value = self.0.get(field).and_then(Value::as_str);
        value.ok_or_else(|| format!("{}: `{field}` is missing", self.0))
    }

    fn numbers<const N: usize>(&self, fields: [&str; N]) -> Result<[u64; N], String> {
        let mut numbers = [0; N];
        for (number, field) in numbers.iter_mut().zip(fields) {
            *number = self.number(field)?;
        }
        Ok(numbers)
    }

    fn number(&self, field: &str) -> Result<u64, String> {
        let value = self.0.get(field).and_then(Value::as_u64);
        value.ok_or_else(|| format!("{}: `{field}` is missing", self.0))
    }
}

fn list<'a>(value: &'a Value, field: &str) -> Result<&'a [Value], String> {
    let list = value.get(field).and_then(Value::as_array);
    list.map(Vec::as_slice)
        .ok_or_else(|| format!("`{field}` is missing"))
}

impl Bench {
    /// A dim that is open up to its usual extent.
    fn dim(&mut self, letter: &str, extent: u64) -> Dim {
        let name = format!("{letter}{extent}");
        if let Some((_, dim)) = self.dims.iter().find(|(known, _)| *known == name) {
            return dim.clone();
        }
        let dim = self.model.dim(&name, 1..=extent);
        self.dims.push((name, dim.clone()));
        dim
    }

    /// A parameter; entries of the same shape share theirs.
    fn param(&mut self, name: &str, ty: Type) -> Param {
        self.param_from(name, ty, tensor(name))
    }

    fn param_from(&mut self, name: &str, ty: Type, source: ParamSource) -> Param {
        if let Some((_, param)) = self.params.iter().find(|(known, _)| known == name) {
            return param.clone();
        }
        let param = self.model.param(name, ty, source);
        self.params.push((name.to_owned(), param.clone()));
        param
    }

    fn rope_table(&mut self, rotated: u64) -> Param {
        let source = ParamSource::RopeTable {
            dim: rotated,
            theta: 10_000.0,
            positions: POSITIONS,
            yarn: None,
        };
        self.param_from("rope_table", f32((POSITIONS, rotated / 2, 2)), source)
    }

    /// A product that reads a quantised value, so that the value is computed.
    fn tail(&mut self, width: u64) -> Param {
        self.param(&format!("tail_{width}"), fp8_weight((TAIL, width)))
    }

    fn entry(
        &mut self,
        shape: &Shape<'_>,
        dims: &Map<String, Value>,
    ) -> Result<(), Box<dyn Error>> {
        let mut name = shape.text("name")?.to_owned();
        let mut extents = Vec::new();
        for (letter, extent) in dims {
            let extent = extent.as_u64().ok_or("an extent is no number")?;
            extents.push((letter.as_str(), self.dim(letter, extent), extent));
        }
        // JSON objects have no order of their own: tokens, then context.
        extents.sort_by_key(|(letter, ..)| std::cmp::Reverse(*letter));
        for (letter, _, extent) in &extents {
            name.push_str(&format!("_{}{extent}", letter.to_lowercase()));
        }
        let dim = |letter: &str| -> Result<Dim, String> {
            let found = extents.iter().find(|(known, ..)| *known == letter);
            found
                .map(|(_, dim, _)| dim.clone())
                .ok_or_else(|| format!("{name}: needs the dim `{letter}`"))
        };
        match shape.text("op")? {
            "fp8_gemm" => self.fp8_gemm(&name, shape, &dim("M")?),
            "fp8_grouped_gemm" => self.fp8_grouped_gemm(&name, shape, &dim("M")?),
            "fp8_masked_gemm" => self.fp8_masked_gemm(&name, shape, extent_of(dims, "M")?),
            "fp8_weight_grad" => self.fp8_weight_grad(&name, shape, extent_of(dims, "B")?),
            "bf16_gemm" => self.bf16_gemm(&name, shape, &dim("M")?),
            "batched_gemm" => self.batched_gemm(&name, shape, &dim("T")?),
            "attention_prefill" => self.attention_prefill(&name, shape, &dim("T")?, &dim("C")?),
            "mla_decode" => self.mla_decode(&name, shape, &dim("T")?, &dim("C")?),
            "rms_norm" => self.rms_norm(&name, shape, &dim("T")?),
            "add_rms_norm_quantize" => self.add_rms_norm_quantize(&name, shape, &dim("T")?),
            "swiglu_quantize" => self.swiglu_quantize(&name, shape, &dim("T")?),
            "quantize" => self.quantize(&name, shape, &dim("T")?),
            "rope" => self.rope(&name, shape, &dim("T")?),
            "cache_write" => self.cache_write(&name, shape, &dim("T")?, &dim("C")?),
            "gather" => self.gather(&name, shape, &dim("T")?),
            "add" => self.add(&name, shape, &dim("T")?),
            "route" => self.route(&name, shape, &dim("T")?),
            "dispatch" => self.dispatch(&name, shape, &dim("T")?),
            "combine" => self.combine(&name, shape, &dim("T")?),
            "sample" => self.sample(&name, shape, &dim("T")?),
            other => Err(format!("{name}: no entry is known for the op `{other}`")),
        }?;
        Ok(())
    }

    fn fp8_gemm(&mut self, name: &str, shape: &Shape<'_>, m: &Dim) -> Result<(), String> {
        let [n, k] = shape.numbers(["n", "k"])?;
        let w = self.param(shape.text("name")?, fp8_weight((n, k)));
        self.model.entry(name, |e| {
            e.output("y", &e.input("x", bf16((m, k))).quantize().matmul(&w))
        });
        Ok(())
    }

    /// Rows sorted by group: `offsets[g]..offsets[g + 1]` belong to group `g`.
    fn fp8_grouped_gemm(&mut self, name: &str, shape: &Shape<'_>, m: &Dim) -> Result<(), String> {
        let [groups, n, k] = shape.numbers(["groups", "n", "k"])?;
        let w = self.param(shape.text("name")?, fp8_weight((groups, n, k)));
        self.model.entry(name, |e| {
            let x = e.input("x", bf16((m, k)));
            let offsets = e.input("offsets", i32((groups + 1,)));
            e.output("y", &x.quantize().grouped_matmul(&w, &offsets));
        });
        Ok(())
    }

    /// The first `counts[g]` of the `rows` that each group has room for; only the outermost extent of an input may be
    /// open, and that is the group.
    fn fp8_masked_gemm(&mut self, name: &str, shape: &Shape<'_>, rows: u64) -> Result<(), String> {
        let [groups, n, k] = shape.numbers(["groups", "n", "k"])?;
        let w = self.param(shape.text("name")?, fp8_weight((groups, n, k)));
        self.model.entry(name, |e| {
            let x = e.input("x", bf16((groups, rows, k)));
            let counts = e.input("counts", i32((groups,)));
            e.output("y", &x.quantize().masked_matmul(&w, &counts));
        });
        Ok(())
    }

    /// Both factors have a row for each channel and a column for each token, and are quantised along the tokens.
    fn fp8_weight_grad(
        &mut self,
        name: &str,
        shape: &Shape<'_>,
        blocks: u64,
    ) -> Result<(), String> {
        let [groups, m, n] = shape.numbers(["groups", "m", "n"])?;
        let tokens = 128 * blocks;
        let gradient = self.model.state(name, f32((groups, m, n)));
        self.model.entry(name, |e| {
            let (x, y) = (e.input("x", bf16((m, tokens))), e.input("y", bf16((n, tokens))));
            let offsets = e.input("offsets", i32((groups + 1,)));
            let sum = gradient.add_weight_grad(&x.quantize(), &y.quantize(), &offsets);
            e.update(&gradient, &sum);
        });
        Ok(())
    }

    fn bf16_gemm(&mut self, name: &str, shape: &Shape<'_>, m: &Dim) -> Result<(), String> {
        let [n, k] = shape.numbers(["n", "k"])?;
        let w = self.param(shape.text("name")?, bf16((n, k)));
        self.model.entry(name, |e| {
            e.output("y", &e.input("x", bf16((m, k))).matmul(&w))
        });
        Ok(())
    }

    /// The key up-projection that absorbed attention moves to the queries.
    fn batched_gemm(&mut self, name: &str, shape: &Shape<'_>, t: &Dim) -> Result<(), String> {
        let [heads, n, k] = shape.numbers(["heads", "n", "k"])?;
        let w = self.param(shape.text("name")?, bf16((heads, n, k)));
        self.model.entry(name, |e| {
            e.output("y", &e.input("x", bf16((t, heads, k))).batched_matmul(&w))
        });
        Ok(())
    }

    /// Multi-head latent attention with expanded keys and values (report, section 2.1.1); 64 of the `qk` channels
    /// are rotated.
    fn attention_prefill(
        &mut self,
        name: &str,
        shape: &Shape<'_>,
        t: &Dim,
        c: &Dim,
    ) -> Result<(), String> {
        let [heads, qk, v] = shape.numbers(["heads", "qk", "v"])?;
        let (nope, rope) = (qk - ROTATED, ROTATED);
        self.model.entry(name, |e| {
            let k = e.input("k", bf16((c, heads, nope)));
            let v = e.input("v", bf16((c, heads, v)));
            attend(e, t, c, heads, (nope, rope), (&k, &v));
        });
        Ok(())
    }

    /// The same with absorbed projections: all heads share one latent key, whose first `v` channels are the value.
    fn mla_decode(
        &mut self,
        name: &str,
        shape: &Shape<'_>,
        t: &Dim,
        c: &Dim,
    ) -> Result<(), String> {
        let [heads, qk, latent] = shape.numbers(["heads", "qk", "v"])?;
        self.model.entry(name, |e| {
            let shared = e.input("latent", bf16((c, 1, latent)));
            attend(e, t, c, heads, (latent, qk - latent), (&shared, &shared));
        });
        Ok(())
    }

    fn rms_norm(&mut self, name: &str, shape: &Shape<'_>, t: &Dim) -> Result<(), String> {
        let hidden = shape.number("hidden")?;
        let w = self.param("norm", bf16((hidden,)));
        self.model.entry(name, |e| {
            e.output("y", &e.input("x", bf16((t, hidden))).rms_norm(&w, EPS))
        });
        Ok(())
    }

    fn add_rms_norm_quantize(
        &mut self,
        name: &str,
        shape: &Shape<'_>,
        t: &Dim,
    ) -> Result<(), String> {
        let hidden = shape.number("hidden")?;
        let (w, tail) = (self.param("norm", bf16((hidden,))), self.tail(hidden));
        self.model.entry(name, |e| {
            let sum = e.input("x", bf16((t, hidden))) + e.input("residual", bf16((t, hidden)));
            e.output("y", &sum.rms_norm(&w, EPS).quantize().matmul(&tail));
            e.output("sum", &sum);
        });
        Ok(())
    }

    fn swiglu_quantize(&mut self, name: &str, shape: &Shape<'_>, t: &Dim) -> Result<(), String> {
        let width = shape.number("width")?;
        let tail = self.tail(width);
        self.model.entry(name, |e| {
            let x = e.input("x", bf16((t, 2 * width)));
            e.output("y", &x.swiglu().quantize().matmul(&tail));
        });
        Ok(())
    }

    fn quantize(&mut self, name: &str, shape: &Shape<'_>, t: &Dim) -> Result<(), String> {
        let hidden = shape.number("hidden")?;
        let tail = self.tail(hidden);
        self.model.entry(name, |e| {
            e.output(
                "y",
                &e.input("x", bf16((t, hidden))).quantize().matmul(&tail),
            )
        });
        Ok(())
    }

    fn rope(&mut self, name: &str, shape: &Shape<'_>, t: &Dim) -> Result<(), String> {
        let [heads, width, rotated] = shape.numbers(["heads", "width", "rotated"])?;
        let table = self.rope_table(rotated);
        self.model.entry(name, |e| {
            let x = e.input("x", bf16((t, heads, width)));
            e.output(
                "y",
                &x.rope(&e.input("positions", i32((t,))), &table, width - rotated),
            );
        });
        Ok(())
    }

    /// Norm of the latent, rotation of the shared key, and the write into the cache, as models write them.
    fn cache_write(
        &mut self,
        name: &str,
        shape: &Shape<'_>,
        t: &Dim,
        c: &Dim,
    ) -> Result<(), String> {
        let [latent, rotated] = shape.numbers(["latent", "rotated"])?;
        let (table, w) = (
            self.rope_table(rotated),
            self.param("latent_norm", bf16((latent,))),
        );
        let cache = self
            .model
            .state(&format!("cache_{name}"), bf16((c, latent + rotated)));
        self.model.entry(name, |e| {
            let kv = e.input("kv", bf16((t, latent + rotated)));
            let positions = e.input("positions", i32((t,)));
            let normed = kv.slice(1, 0..latent).rms_norm(&w, EPS);
            let row = concat(1, [&normed, &kv.slice(1, latent..latent + rotated)]);
            e.update(
                &cache,
                &cache.write(&row.rope(&positions, &table, latent), &positions),
            );
        });
        Ok(())
    }

    fn gather(&mut self, name: &str, shape: &Shape<'_>, t: &Dim) -> Result<(), String> {
        let table = self.param(
            "table",
            bf16((shape.number("rows")?, shape.number("hidden")?)),
        );
        self.model.entry(name, |e| {
            e.output("y", &table.gather(&e.input("tokens", i32((t,)))))
        });
        Ok(())
    }

    fn add(&mut self, name: &str, shape: &Shape<'_>, t: &Dim) -> Result<(), String> {
        let hidden = shape.number("hidden")?;
        self.model.entry(name, |e| {
            e.output(
                "y",
                &(e.input("a", bf16((t, hidden))) + e.input("b", bf16((t, hidden)))),
            );
        });
        Ok(())
    }

    fn route(&mut self, name: &str, shape: &Shape<'_>, t: &Dim) -> Result<(), String> {
        let experts = shape.number("experts")?;
        let bias = self.param("bias", f32((experts,)));
        let small = |field: &str| {
            shape
                .number(field)
                .map(|n| u32::try_from(n).unwrap_or(u32::MAX))
        };
        let routing = Routing {
            top_k: small("top")?,
            n_group: small("groups")?,
            topk_group: small("top_groups")?,
            scaling: 2.5,
            normalize: true,
        };
        self.model.entry(name, |e| {
            let (experts, weights) = e.input("logits", f32((t, experts))).route(&bias, routing);
            e.output("experts", &experts);
            e.output("weights", &weights);
        });
        Ok(())
    }

    /// Sorts the (token, slot) pairs by expert and copies the rows.
    fn dispatch(&mut self, name: &str, shape: &Shape<'_>, t: &Dim) -> Result<(), String> {
        let [experts, hidden, top] = shape.numbers(["experts", "hidden", "top"])?;
        let plan_only = shape.text("kernel")? == "moe_plan";
        let n_experts = u32::try_from(experts).map_err(|e| e.to_string())?;
        self.model.entry(name, |e| {
            let chosen = e.input("experts", i32((t, top)));
            let (rows, offsets, slots) =
                e.input("x", bf16((t, hidden))).dispatch(&chosen, n_experts);
            if !plan_only {
                e.output("rows", &rows);
            }
            e.output("offsets", &offsets);
            e.output("slots", &slots);
        });
        Ok(())
    }

    fn combine(&mut self, name: &str, shape: &Shape<'_>, t: &Dim) -> Result<(), String> {
        let [hidden, top] = shape.numbers(["hidden", "top"])?;
        let rows = t
            .times(top)
            .ok_or_else(|| format!("{name}: too many rows"))?;
        self.model.entry(name, |e| {
            let y = e.input("y", bf16((&rows, hidden)));
            let slots = e.input("slots", i32((t, top)));
            e.output(
                "out",
                &y.combine(&slots, &e.input("weights", f32((t, top)))),
            );
        });
        Ok(())
    }

    fn sample(&mut self, name: &str, shape: &Shape<'_>, t: &Dim) -> Result<(), String> {
        let vocab = shape.number("vocab")?;
        self.model.entry(name, |e| {
            let [temperature, top_p, uniform] =
                &["temperature", "top_p", "uniform"].map(|n| e.input(n, f32((t,))));
            let logits = e.input("logits", f32((t, vocab)));
            e.output("next", &logits.sample(temperature, top_p, uniform));
        });
        Ok(())
    }
}

/// The value of a dim that is fixed in the entry.
fn extent_of(dims: &Map<String, Value>, letter: &str) -> Result<u64, String> {
    let extent = dims.get(letter).and_then(Value::as_u64);
    extent.ok_or_else(|| format!("needs the dim `{letter}`"))
}

/// Rotated channels of a key in DeepSeek-V3.
const ROTATED: u64 = 64;

/// Causal attention over `(k, v)`; `channels` without and with rotation.
fn attend(
    e: &Entry,
    t: &Dim,
    c: &Dim,
    heads: u64,
    channels: (u64, u64),
    (k, v): (&Tensor, &Tensor),
) {
    let (plain, rotated) = channels;
    let q = &e.input("q", bf16((t, heads, plain)));
    let q_rope = &e.input("q_rope", bf16((t, heads, rotated)));
    let k_rope = &e.input("k_rope", bf16((c, rotated)));
    let positions = &e.input("positions", i32((t,)));
    // Of the heads before absorption, in both forms: 128 channels and the rotated ones.
    let scale = (1.0 / f64::sqrt((128 + ROTATED) as f64)) as f32;
    let out = attention(Attention {
        q,
        q_rope,
        k,
        k_rope,
        v,
        positions,
        scale,
    });
    e.output("out", &out);
}
