//! The ops between ranks against statements of what goes where that do not share their code.

use super::*;
use crate::numerics::round_bf16;

/// The ranks of a test: experts spread over nodes and GPUs, and each rank's tokens.
struct World {
    nodes: usize,
    gpus: usize,
    experts: usize,
    top_k: usize,
    /// Most tokens of a rank.
    tokens: usize,
    ranks: Vec<Rank>,
}

/// Operands of a dispatch on one rank.
struct Rank {
    x: Tensor,
    experts: Tensor,
    weights: Tensor,
}

const WIDTH: usize = 200;

impl World {
    /// `own[r]` tokens on rank `r`, whose expert in a slot is `choose(rank, token, slot)`.
    fn new(
        [nodes, gpus, experts, top_k]: [usize; 4],
        own: &[usize],
        quant: bool,
        choose: impl Fn(usize, usize, usize) -> usize,
    ) -> Self {
        let mut rng = Rng::new(21);
        assert_eq!(own.len(), nodes * gpus);
        let ranks = own.iter().enumerate().map(|(rank, &t)| {
            let pairs = (0..t).flat_map(|t| (0..top_k).map(move |s| (t, s)));
            let chosen: Vec<i32> = pairs.map(|(t, s)| choose(rank, t, s) as i32).collect();
            let x = ok(rng.bf16(&[t, WIDTH], 1.0));
            Rank {
                x: if quant { eval1(Op::Quantize, &[&x]) } else { x },
                experts: i32s(&[t, top_k], &chosen),
                weights: ok(rng.f32(&[t, top_k], 1.0)),
            }
        });
        Self {
            ranks: ranks.collect(),
            nodes,
            gpus,
            experts,
            top_k,
            tokens: own.iter().copied().max().unwrap_or(0).max(1),
        }
    }

    /// Routings that find mistakes: even, skewed, all tokens to the same experts, a rank without tokens, no tokens at
    /// all; on one rank, on one node, on several.
    fn all(quant: bool) -> Vec<Self> {
        let mut worlds = Vec::new();
        for [nodes, gpus, experts] in [[1, 1, 4], [1, 4, 8], [2, 2, 8], [4, 1, 8], [2, 4, 16]] {
            let (ranks, k) = (nodes * gpus, 4);
            let shape = [nodes, gpus, experts, k];
            let even = vec![5; ranks];
            let uneven: Vec<usize> = (0..ranks).map(|r| (r * 7 + 3) % 6).collect();
            let mut one_idle = even.clone();
            one_idle[ranks / 2] = 0;
            let spread =
                |r: usize, t: usize, s: usize| (r * 5 + t * 3 + s * (experts / 4)) % experts;
            let skewed = |r: usize, t: usize, s: usize| {
                if t.is_multiple_of(3) {
                    (r + s) % experts
                } else {
                    s
                }
            };
            let last = |_, _, s: usize| experts - 1 - s;
            worlds.push(Self::new(shape, &even, quant, spread));
            worlds.push(Self::new(shape, &uneven, quant, skewed));
            worlds.push(Self::new(shape, &uneven, quant, last));
            worlds.push(Self::new(shape, &one_idle, quant, spread));
            worlds.push(Self::new(shape, &vec![0; ranks], quant, spread));
        }
        worlds
    }

    fn local(&self) -> usize {
        self.experts / self.ranks.len()
    }

    fn capacity(&self) -> usize {
        self.ranks.len() * self.tokens * self.top_k
    }

    fn dispatch(&self, two_hop: bool) -> Op {
        let [n_experts, nodes, gpus, tokens] = self.attrs();
        if two_hop {
            Op::DispatchTwoHop {
                n_experts,
                nodes,
                gpus,
                tokens,
                capacity: self.capacity() as u32,
                channels: 3,
            }
        } else {
            Op::DispatchDirect {
                n_experts,
                nodes,
                gpus,
                tokens,
            }
        }
    }

    fn combine(&self, two_hop: bool, weighted: bool) -> Op {
        let [n_experts, nodes, gpus, tokens] = self.attrs();
        if two_hop {
            Op::CombineTwoHop {
                n_experts,
                nodes,
                gpus,
                tokens,
                capacity: self.capacity() as u32,
                channels: 3,
                weighted,
            }
        } else {
            Op::CombineDirect {
                n_experts,
                nodes,
                gpus,
                tokens,
                weighted,
            }
        }
    }

    fn attrs(&self) -> [u32; 4] {
        [self.experts, self.nodes, self.gpus, self.tokens].map(|n| n as u32)
    }

    fn dispatched(&self, two_hop: bool) -> Vec<Vec<Tensor>> {
        let operands: Vec<Vec<&Tensor>> = self
            .ranks
            .iter()
            .map(|r| vec![&r.x, &r.experts, &r.weights])
            .collect();
        on_ranks(&self.dispatch(two_hop), &operands)
    }

    /// What each rank's experts make of their rows: a factor for each expert, rounded.
    fn expert_rows(
        &self,
        rank: usize,
        rows: &Tensor,
        expert_of_row: &dyn Fn(usize) -> usize,
    ) -> Tensor {
        let values = rows.as_float().unwrap_or_default().chunks_exact(WIDTH);
        let made = values.enumerate().flat_map(|(row, values)| {
            let factor = factor(rank * self.local() + expert_of_row(row));
            values.iter().map(move |v| v * factor)
        });
        ok(Tensor::bf16(rows.shape(), made.collect()))
    }

    /// Dispatch, experts, combine.
    fn round_trip(&self, two_hop: bool, weighted: bool) -> Vec<Tensor> {
        let sent = self.dispatched(two_hop);
        let y: Vec<Tensor> = sent
            .iter()
            .enumerate()
            .map(|(rank, sent)| {
                let rows = self.capacity() / self.top_k;
                let bounds = sent[1].as_i32().unwrap_or_default();
                self.expert_rows(rank, &sent[0], &|row| {
                    if two_hop {
                        let ends = bounds[1..].iter().filter(|end| **end as usize <= row);
                        ends.count().min(self.local() - 1)
                    } else {
                        row / rows
                    }
                })
            })
            .collect();
        let operands: Vec<Vec<&Tensor>> = self
            .ranks
            .iter()
            .zip(&y)
            .zip(&sent)
            .map(|((r, y), sent)| vec![y, &r.experts, &r.weights, &sent[3]])
            .collect();
        let out = on_ranks(&self.combine(two_hop, weighted), &operands);
        out.into_iter().flatten().collect()
    }

    /// The same on one rank that has all experts.
    fn alone(&self, rank: &Rank, weighted: bool) -> Tensor {
        let n_experts = self.experts as u32;
        let sent = eval(Op::Dispatch { n_experts }, &[&rank.x, &rank.experts]);
        let bounds = sent[1].as_i32().unwrap_or_default().to_vec();
        let y = self.expert_rows(0, &sent[0], &|row| {
            bounds[1..]
                .iter()
                .filter(|end| **end as usize <= row)
                .count()
        });
        if weighted {
            eval1(Op::Combine, &[&y, &sent[2], &rank.weights])
        } else {
            eval1(Op::CombineSum, &[&y, &sent[2]])
        }
    }
}

fn factor(expert: usize) -> f32 {
    1.0 + expert as f32 / 7.0
}

fn on_ranks(op: &Op, operands: &[Vec<&Tensor>]) -> Vec<Vec<Tensor>> {
    let dims = Dims::new();
    ok(eval_op_on_ranks(op, operands, &vec![&dims; operands.len()]))
}

#[test]
fn every_rank_gets_the_rows_of_its_experts_in_order_of_their_sources() {
    for world in World::all(false).into_iter().chain(World::all(true)) {
        let (hops, direct) = (world.dispatched(true), world.dispatched(false));
        let row_of = |t: &Tensor, row| t.rows(row, 1).expect("a row");
        for holder in 0..world.ranks.len() {
            let [rows, offsets, weights] = &hops[holder][..3] else {
                panic!("four results");
            };
            let [masked, counts, masked_weights] = &direct[holder][..3] else {
                panic!("four results");
            };
            let masked_rows = world.ranks.len() * world.tokens;
            let flat = masked
                .reshaped(&[world.local() * masked_rows, WIDTH])
                .expect("rows");
            let mut next = 0;
            for l in 0..world.local() {
                assert_eq!(offsets.as_i32().unwrap_or_default()[l] as usize, next);
                let first = next;
                for rank in &world.ranks {
                    let chosen = rank.experts.as_i32().unwrap_or_default();
                    for (pair, _) in chosen
                        .iter()
                        .enumerate()
                        .filter(|(_, e)| **e as usize == holder * world.local() + l)
                    {
                        let x = row_of(&rank.x, pair / world.top_k);
                        let weight = rank.weights.as_float().unwrap_or_default()[pair];
                        assert_eq!(row_of(rows, next), x);
                        assert_eq!(weights.as_float().unwrap_or_default()[next], weight);
                        let at = l * masked_rows + next - first;
                        assert_eq!(row_of(&flat, at), x);
                        assert_eq!(masked_weights.as_float().unwrap_or_default()[at], weight);
                        next += 1;
                    }
                }
                assert_eq!(
                    counts.as_i32().unwrap_or_default()[l] as usize,
                    next - first
                );
            }
            assert_eq!(
                offsets.as_i32().unwrap_or_default().last(),
                Some(&(next as i32))
            );
        }
    }
}

#[test]
fn one_hop_there_and_back_has_the_bits_of_one_rank() {
    for world in World::all(false) {
        for weighted in [false, true] {
            let out = world.round_trip(false, weighted);
            for (rank, out) in world.ranks.iter().zip(out) {
                assert_eq!(out, world.alone(rank, weighted));
            }
        }
    }
}

/// `out` is `sum a_i` with at most three roundings to BF16 (unit roundoff `u = 2^-8`) and an f32 addition (`2^-24`) for
/// each slot, rank and node on the way of each `a_i`: it is off by at most `((1 + u)^3 (1 + 2^-24)^n - 1) sum |a_i|`.
/// BF16 has the exponents of f32, and none of these numbers is near their end.
#[test]
fn two_hops_there_and_back_are_within_their_roundings() {
    for world in World::all(false) {
        let additions = (world.top_k + world.ranks.len() + world.nodes) as i32;
        let bound = (1.0 + 2f64.powi(-8)).powi(3) * (1.0 + 2f64.powi(-24)).powi(additions) - 1.0;
        for weighted in [false, true] {
            let out = world.round_trip(true, weighted);
            for (rank, out) in world.ranks.iter().zip(out) {
                let (x, chosen) = (rank.x.to_f64(), rank.experts.to_f64());
                for (i, got) in out.to_f64().iter().enumerate() {
                    let (t, c) = (i / WIDTH, i % WIDTH);
                    let terms: Vec<f64> = (t * world.top_k..(t + 1) * world.top_k)
                        .map(|pair| {
                            let y =
                                round_bf16(x[t * WIDTH + c] as f32 * factor(chosen[pair] as usize));
                            let weight = if weighted {
                                rank.weights.to_f64()[pair]
                            } else {
                                1.0
                            };
                            weight * f64::from(y)
                        })
                        .collect();
                    let exact: f64 = terms.iter().sum();
                    let size: f64 = terms.iter().map(|a| a.abs()).sum();
                    assert!((got - exact).abs() <= bound * size, "{got} for {exact}");
                }
            }
        }
    }
}

/// `1 + 2^-9 + 2^-8` rounds up to `1 + 2^-7`; not when the middle one is lost in the first sum.
#[test]
fn two_hops_round_in_each_rank_and_in_each_node() {
    let sum = |nodes: usize, gpus: usize, experts: [usize; 3]| {
        let top_k = 3;
        let ranks = nodes * gpus;
        let mut own = vec![0; ranks];
        own[ranks - 1] = 1;
        let mut world = World::new([nodes, gpus, ranks * 3, top_k], &own, false, |_, _, s| {
            experts[s]
        });
        let parts = [1.0, 2f32.powi(-9), 2f32.powi(-8)];
        let source = &mut world.ranks[ranks - 1];
        source.x = bf16(&[1, WIDTH], &[1.0; WIDTH]);
        source.weights = f32s(&[1, 3], &parts);
        let sent = world.dispatched(true);
        let operands: Vec<Vec<&Tensor>> = world
            .ranks
            .iter()
            .zip(&sent)
            .map(|(r, sent)| vec![&sent[0], &r.experts, &r.weights, &sent[3]])
            .collect();
        let out = on_ranks(&world.combine(true, true), &operands);
        out[ranks - 1][0].as_float().map_or(f32::NAN, |v| v[0])
    };
    let (up, down) = (1.0 + 2f32.powi(-7), 1.0);
    assert_eq!(sum(1, 1, [0, 1, 2]), up, "all on one rank");
    assert_eq!(sum(1, 2, [0, 1, 3]), down, "the first two on one rank");
    assert_eq!(sum(1, 3, [0, 3, 6]), up, "all on one node");
    assert_eq!(sum(2, 2, [0, 3, 6]), down, "the first two on one node");
    assert_eq!(sum(3, 1, [0, 3, 6]), up, "each on a node of its own");
}

#[test]
fn what_cannot_be_sent_is_refused_and_says_from_where() {
    let world = World::new([1, 2, 4, 2], &[3, 3], false, |_, _, _| 3);
    let dims = Dims::new();
    let operands: Vec<Vec<&Tensor>> = world
        .ranks
        .iter()
        .map(|r| vec![&r.x, &r.experts, &r.weights])
        .collect();
    let refuse = |op: &Op, operands: &[Vec<&Tensor>]| match eval_op_on_ranks(
        op,
        operands,
        &vec![&dims; operands.len()],
    ) {
        Ok(values) => panic!("evaluated to {values:?}"),
        Err(e) => e.to_string(),
    };
    let dispatch = |n_experts, tokens, capacity| Op::DispatchTwoHop {
        n_experts,
        nodes: 1,
        gpus: 2,
        tokens,
        capacity,
        channels: 1,
    };
    assert_eq!(
        refuse(&dispatch(4, 3, 11), &operands),
        "rank 1: `dispatch_two_hop`: 12 rows come, and `capacity` is 11"
    );
    assert!(
        refuse(&dispatch(4, 2, 12), &operands)
            .contains("rank 0: `dispatch_two_hop`, attribute `tokens`")
    );
    assert!(
        refuse(&dispatch(2, 3, 12), &operands).contains("rank 0: `dispatch_two_hop`: expert 3")
    );
    assert!(refuse(&dispatch(3, 3, 12), &operands).contains("a multiple of the 2 ranks"));
    assert!(
        refuse(&dispatch(4, 3, 12), &operands[..1]).contains("over 2 ranks, and is evaluated on 1")
    );
    let huge = Op::DispatchDirect {
        n_experts: 4,
        nodes: u32::MAX,
        gpus: u32::MAX,
        tokens: u32::MAX,
    };
    assert!(refuse(&huge, &operands).contains("attribute `n_experts`"));
    assert!(refuse(&dispatch(4, u32::MAX, 12), &operands).contains("31 bits"));
}

#[test]
fn copies_are_chosen_by_rank_and_token() {
    // Expert 0 has the copies 0, 3, 5, expert 1 the copies 1, 4, expert 2 only itself.
    let table = i32s(&[3, 3], &[0, 3, 5, 1, 4, -1, 2, -1, -1]);
    let copies = i32s(&[3], &[3, 2, 1]);
    let experts = i32s(&[2, 3], &[0, 1, 2, 2, 1, 0]);
    let dims = Dims::new();
    let operands = vec![vec![&experts, &table, &copies]; 2];
    let out = on_ranks(&Op::Replica, &operands);
    // 23333 = 2 mod 3 and 1 mod 2.
    assert_eq!(out[0][0], i32s(&[2, 3], &[0, 1, 2, 2, 4, 5]));
    assert_eq!(out[1][0], i32s(&[2, 3], &[3, 4, 2, 2, 1, 0]));
    let none = i32s(&[3], &[3, 0, 1]);
    let error = eval_op(&Op::Replica, &[&experts, &table, &none], &dims);
    assert!(error.is_err_and(|e| e.to_string().contains("expert 1 has 0 copies")));
}

#[test]
fn loads_add_up() {
    let load = i32s(&[4], &[10, 0, 7, 0]);
    let experts = i32s(&[3, 2], &[0, 2, 2, 3, 2, 0]);
    assert_eq!(
        eval1(Op::CountExperts, &[&load, &experts]),
        i32s(&[4], &[12, 0, 10, 1])
    );
    assert!(refuse(Op::CountExperts, &[&i32s(&[3], &[0; 3]), &experts]).contains("expert 3"));
}

const LAYER: &str = r#"mir 1
model "layer"
dim T: 0..=4
param @w: bf16[2, 3, 8] = stack(tensor("0"), tensor("1"))
state @load: i32[4]
entry @step(x: bf16[T, 8], experts: i32[T, 2], weights: f32[T, 2]) {
  %0, %1, %2, %3 = dispatch_two_hop %x, %experts, %weights {n_experts = 4, nodes = 2, gpus = 1, tokens = 4, capacity = 16, channels = 1} : bf16[16, 8], i32[3], f32[16], i32[28]
  %4 = grouped_matmul %0, @w, %1 {out = bf16, promote = 128} : bf16[16, 3]
  %5 = combine_two_hop %4, %experts, %weights, %3 {n_experts = 4, nodes = 2, gpus = 1, tokens = 4, capacity = 16, channels = 1, weighted = true} : bf16[T, 3]
  %6 = swiglu_quantize %x : e4m3[T, 4]/f32[1x128]
  %7 = count_experts @load, %experts : i32[4]
  update @load = %7
  return y = %5, gate = %6
}
"#;

#[test]
fn an_entry_runs_on_all_ranks_with_tokens_parameters_and_states_of_their_own() {
    let module = ok(crate::parse::module(LAYER, "layer.mir"));
    let mut rng = Rng::new(5);
    let all = ok(rng.bf16(&[4, 3, 8], 1.0));
    let x = ok(rng.bf16(&[2, 8], 1.0));
    let params: Vec<Values> = (0..2)
        .map(|r| Values::from([("w".into(), all.rows(2 * r, 2).expect("a share"))]))
        .collect();
    let inputs = |x: Tensor, experts: &[i32]| {
        let t = experts.len() / 2;
        let weights = f32s(&[t, 2], &vec![1.0; 2 * t]);
        Values::from([
            ("x".into(), x),
            ("experts".into(), i32s(&[t, 2], experts)),
            ("weights".into(), weights),
        ])
    };
    let inputs = [
        inputs(x.rows(0, 0).expect("no rows"), &[]),
        inputs(x.clone(), &[0, 3, 2, 1]),
    ];
    let mut states = [new_states(&module), new_states(&module)];
    let dims = Dims::new();
    let step = |inputs: &[Values], states: &mut [Values]| {
        let mut ranks: Vec<_> = states
            .iter_mut()
            .zip(inputs)
            .zip(&params)
            .map(|((states, inputs), params)| crate::eval::Rank {
                dims: &dims,
                inputs,
                params,
                states,
            })
            .collect();
        run_ranks(&module, "step", &mut ranks)
    };
    let out = ok(step(&inputs, &mut states));
    assert_eq!(out[0]["y"].shape(), [0, 3]);
    assert_eq!(out[0]["gate"].shape(), [0, 4]);
    let product = Op::GroupedMatmul {
        out: DType::BF16,
        promote: 128,
    };
    // One row to each expert, from experts 0 to 3: tokens 0, 1, 1, 0.
    let rows = ok(crate::eval::layout::take_rows(&x, &[0, 1, 1, 0]).ok_or("rows"));
    let y = eval1(product, &[&rows, &all, &i32s(&[5], &[0, 1, 2, 3, 4])]);
    let slots = i32s(&[2, 2], &[0, 3, 2, 1]);
    assert_eq!(out[1]["y"], eval1(Op::CombineSum, &[&y, &slots]));
    assert_eq!(states[0]["load"], i32s(&[4], &[0; 4]));
    assert_eq!(states[1]["load"], i32s(&[4], &[1; 4]));

    let mut bad = inputs;
    bad[0] = bad[1].clone();
    bad[1].insert("experts".into(), i32s(&[2, 2], &[0, 1, 4, 1]));
    let error = step(&bad, &mut states);
    assert!(error.is_err_and(|e| {
        e.to_string()
            .contains("rank 1: `dispatch_two_hop`: expert 4")
    }));
    assert_eq!(
        states[0]["load"],
        i32s(&[4], &[0; 4]),
        "nothing was counted on either rank"
    );
}
