//! Costs that can be worked out by hand.

use super::*;

fn on(mesh: Option<&str>, op: &Op, operands: &[&str], usual: &[DimHint]) -> OpCost {
    let mut module = Module::new("costs");
    module.mesh = mesh.map(|mesh| mesh.parse().unwrap());
    module.add_dim("T", 1, 16).unwrap();
    module.add_dim("C", 1, 1 << 62).unwrap();
    let types: Vec<Type> = operands.iter().map(|ty| ty.parse().unwrap()).collect();
    let results = op.infer(&types).unwrap();
    let operands: Vec<Operand<'_>> = types
        .iter()
        .map(|ty| Operand {
            ty,
            stored: false,
            again: false,
        })
        .collect();
    let target = Target::load("h100").unwrap();
    CostModel::new(&module, "e", &target, usual).of(op, &operands, &results)
}

fn of(op: &Op, operands: &[&str]) -> OpCost {
    on(None, op, operands, &[])
}

fn written(cost: &OpCost) -> Vec<u64> {
    cost.writes.iter().map(|write| write.bytes).collect()
}

fn time(cost: &OpCost, of: Bound) -> Femtoseconds {
    let found = cost.fixed.iter().find(|(bound, _)| *bound == of);
    found.map_or(0, |(_, time)| *time)
}

#[test]
fn a_cache_write_moves_the_rows_of_the_step_alone() {
    let cost = of(&Op::CacheWrite, &["bf16[C, 192]", "bf16[T, 192]", "i32[T]"]);
    let rows = 16 * 192 * 2;
    assert_eq!((cost.reads, written(&cost)), (rows + 16 * 4, vec![rows]));
}

#[test]
fn a_gather_reads_the_rows_that_it_takes() {
    let cost = of(&Op::Gather, &["bf16[1024, 256]", "i32[T]"]);
    assert_eq!(cost.reads, 16 * 256 * 2 + 16 * 4);
}

#[test]
fn scales_count_and_partial_groups_count_whole() {
    let cost = of(&Op::Quantize, &["bf16[T, 300]"]);
    assert_eq!(written(&cost), [16 * 300 + 16 * 3 * 4]);
    let weights = of(&Op::Dequantize, &["e4m3[300, 200]/f32[128x128]"]);
    assert_eq!(weights.reads, 300 * 200 + 3 * 2 * 4);
}

#[test]
fn a_view_is_free_and_a_reshape_that_moves_scales_is_not() {
    let shape = |dims: &[u64]| Op::Reshape {
        shape: dims.iter().map(|n| Dim::Const(*n)).collect(),
    };
    assert_eq!(of(&shape(&[4, 128]), &["bf16[512]"]).launches, 0);
    assert_eq!(
        of(&shape(&[8, 512]), &["e4m3[4, 2, 512]/f32[1x128]"]).launches,
        0
    );
    assert_eq!(
        of(&shape(&[4, 1024]), &["e4m3[4, 2, 512]/f32[1x128]"]).launches,
        1
    );
}

#[test]
fn large_products_are_bound_by_the_tensor_cores_and_small_ones_by_memory() {
    let matmul = Op::Matmul {
        out: mcc_ir::types::DType::BF16,
        promote: 128,
    };
    let large = of(&matmul, &["bf16[4096, 4096]", "bf16[4096, 4096]"]);
    assert_eq!(large.bound(|_| true), Bound::Tensor);
    let small = of(&matmul, &["bf16[T, 4096]", "bf16[4096, 4096]"]);
    assert_eq!(small.bound(|_| true), Bound::Hbm);
    // E4M3 runs at twice the rate, and promotes: a quarter of that at intervals of 128, nearly all at 32.
    let fp8 = |promote| {
        let op = Op::Matmul {
            out: mcc_ir::types::DType::BF16,
            promote,
        };
        of(
            &op,
            &[
                "e4m3[4096, 4096]/f32[1x128]",
                "e4m3[4096, 4096]/f32[128x128]",
            ],
        )
    };
    let (long, short) = (fp8(128), fp8(32));
    assert_eq!(time(&long, Bound::Tensor), time(&large, Bound::Tensor) / 2);
    assert_eq!(time(&short, Bound::Vector), time(&long, Bound::Vector) * 4);
    assert!(time(&long, Bound::Vector) * 4 < time(&long, Bound::Tensor));
    assert_eq!(time(&large, Bound::Vector), 0);
}

#[test]
fn what_fits_the_l2_need_not_come_from_device_memory() {
    let small = of(&Op::Add, &["bf16[T, 4096]", "bf16[T, 4096]"]);
    assert_eq!(
        (small.far_bytes(|_| true), small.bytes(|_| true)),
        (0, 3 * 16 * 4096 * 2)
    );
    let large = of(&Op::Add, &["bf16[4096, 7168]", "bf16[4096, 7168]"]);
    assert_eq!(large.far_bytes(|_| true), large.bytes(|_| true));
    assert_eq!(large.bound(|_| true), Bound::Hbm);
}

#[test]
fn an_operand_that_is_there_twice_is_read_once() {
    let ty: Type = "bf16[4096, 7168]".parse().unwrap();
    let operand = |again| Operand {
        ty: &ty,
        stored: false,
        again,
    };
    let target = Target::load("h100").unwrap();
    let model = CostModel::new(&Module::new("m"), "e", &target, &[]);
    let cost = model.of(
        &Op::Add,
        &[operand(false), operand(true)],
        std::slice::from_ref(&ty),
    );
    assert_eq!(cost.reads, 4096 * 7168 * 2);
}

/// A token's row in FP8 takes 7168 codes and 56 scales of 4 bytes: 7,392 bytes for each destination, and 14,336 in
/// BF16, over each kind of link.
#[test]
fn rows_in_fp8_with_their_scales_halve_what_links_carry() {
    let mesh = Some("nodes=4,gpus=8,ep=32");
    let dispatch = Op::Dispatch { n_experts: 256 };
    let rows = |row: &str| on(mesh, &dispatch, &[row, "i32[T, 8]"], &[]);
    let (bf16, fp8) = (rows("bf16[T, 7168]"), rows("e4m3[T, 7168]/f32[1x128]"));
    let copies = Copies::of(&"nodes=4,gpus=8,ep=32".parse().unwrap(), 8);
    assert_eq!(fp8.ib_bytes, Copies::bytes(copies.ib, 16, 7168 + 224));
    assert_eq!(
        fp8.nvlink_bytes,
        Copies::bytes(copies.nvlink, 16, 7168 + 224)
    );
    assert_eq!(bf16.ib_bytes, Copies::bytes(copies.ib, 16, 14_336));
    assert_eq!(rows("bf16[T, 7168]").bound(|_| true), Bound::Ib);
    // One rank sends nothing.
    let one = of(&dispatch, &["bf16[T, 7168]", "i32[T, 8]"]);
    assert_eq!((one.ib_bytes, one.nvlink_bytes), (0, 0));
    // The way back is in BF16.
    let back = on(
        mesh,
        &Op::Combine,
        &["bf16[8*T, 7168]", "i32[T, 8]", "f32[T, 8]"],
        &[],
    );
    assert_eq!(back.ib_bytes, bf16.ib_bytes);
}

#[test]
fn a_rank_reads_its_own_experts_and_of_them_those_with_rows() {
    let product = Op::GroupedMatmul {
        out: mcc_ir::types::DType::BF16,
        promote: 128,
    };
    let operands = [
        "e4m3[8*T, 128]/f32[1x128]",
        "e4m3[256, 128, 128]/f32[128x128]",
        "i32[257]",
    ];
    let rows = 8 * 16 * (128 + 4) + 257 * 4;
    let expert = 128 * 128 + 4;
    let one = |usual| DimHint {
        entry: "e".into(),
        dim: "T".into(),
        usual,
    };
    let reads = |mesh, hints: &[DimHint]| on(mesh, &product, &operands, hints).reads;
    assert_eq!(reads(None, &[]), rows + 128 * expert);
    assert_eq!(reads(Some("nodes=4,gpus=8,ep=32"), &[]), rows + 8 * expert);
    let single = 8 * (128 + 4) + 257 * 4;
    assert_eq!(reads(None, &[one(1)]), single + 8 * expert);
}

#[test]
fn extents_beyond_any_memory_saturate() {
    let cost = of(&Op::Add, &["bf16[C, 192]", "bf16[C, 192]"]);
    assert_eq!(cost.bytes(|_| true), u64::MAX);
    let time = cost.total(|_| true).time;
    assert_eq!(
        time,
        cost.overhead + femtoseconds(u64::MAX, cost.hbm_bytes_per_s)
    );
}
