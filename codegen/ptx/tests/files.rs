//! Whole modules: LLVM's output (`llvm_mix.ptx` is `llc -mcpu=sm_90a
//! -mattr=+ptx86 -O3 llvm_mix.ll` of LLVM 22) and hand-written Hopper code.
//! `ptxas` accepts each file, as it is and as printed.

use mcc_ptx::{
    Address, Base, Body, Directive, Imm, Init, Inst, Item, Linkage, Mod, Module, Op, Operand,
    Scope, Space, SpecialReg, Stmt, Symbol, Type, parse,
};

const LLVM_MIX: &str = include_str!("data/llvm_mix.ptx");
const HOPPER_GEMM: &str = include_str!("data/hopper_gemm.ptx");

fn module(source: &str) -> Module {
    parse(source).unwrap_or_else(|e| panic!("{e}"))
}

fn body<'a>(module: &'a Module, entry: &str) -> &'a Body {
    module
        .entry(entry)
        .and_then(|f| f.body.as_ref())
        .expect("the entry has a body")
}

fn insts(body: &Body, op: Op) -> Vec<&Inst> {
    body.insts().filter(|i| i.op == op).collect()
}

fn name(body: &Body, operand: &Operand) -> String {
    match operand {
        Operand::Reg(r) => body.reg_name(*r).expect("the register is declared"),
        other => panic!("{other:?} is no register"),
    }
}

#[test]
fn files_round_trip() {
    for source in [LLVM_MIX, HOPPER_GEMM] {
        let first = module(source);
        let printed = first.to_string();
        let second = module(&printed);
        assert_eq!(first, second);
        assert_eq!(printed, second.to_string());
    }
}

#[test]
fn llvm_output_reads_as_meant() {
    let m = module(LLVM_MIX);
    assert_eq!((m.version.major, m.version.minor), (8, 6));
    assert_eq!(m.target, ["sm_90a"]);
    let dynamic = m
        .variables()
        .find(|v| v.name == "dyn")
        .expect("dyn is declared");
    assert_eq!(
        (dynamic.linkage, dynamic.bytes(), dynamic.alignment()),
        (Linkage::Extern, 0, 128)
    );

    let k1 = m.entry("k1").expect("k1 is defined");
    assert_eq!(k1.params[2].bytes(), 128);
    assert_eq!(k1.params[2].alignment(), 64);
    assert!(k1.directives.contains(&Directive::MaxNtid(vec![128])));
    assert!(
        k1.directives
            .contains(&Directive::ReqNctaPerCluster(vec![2, 1, 1]))
    );

    let body = body(&m, "k1");
    let table = body.stmts.iter().find_map(|s| match s {
        Stmt::BranchTargets { label, .. } => Some(*label),
        _ => None,
    });
    let targets = table
        .and_then(|t| body.branch_targets(t))
        .expect("the switch has a table");
    assert_eq!(targets.len(), 6);
    assert_eq!(
        insts(body, Op::BrxIdx)[0].operands[1],
        Operand::Label(table.expect("found"))
    );

    // The forward declaration of `callee` has id of its definition's name.
    let call = insts(body, Op::Call)[0];
    let Operand::Sym(Symbol::Item(id), 0) = call.operands[1] else {
        panic!("{call:?}")
    };
    assert_eq!(m.callee(id).map(|f| f.name.as_str()), Some("callee"));
    assert!(matches!(&call.operands[2], Operand::Args(args) if args.len() == 2));
}

#[test]
fn the_least_target_is_that_of_the_neediest_instruction() {
    let (version, sm) = module(HOPPER_GEMM).least_target();
    // red.async came with PTX ISA 8.1, wgmma is for sm_90a alone.
    assert_eq!(((version.major, version.minor), sm), ((8, 1), 901));
    let plain = ".version 8.6\n.target sm_90a\n.address_size 64\n.entry k()\n{\n.reg .b32 a;\n\
                 redux.sync.add.s32 a, a, -1;\n}\n";
    let (version, sm) = module(plain).least_target();
    assert_eq!(((version.major, version.minor), sm), ((7, 0), 80));
}

#[test]
fn initialisers_keep_addresses() {
    let m = module(HOPPER_GEMM);
    let trace = m
        .variables()
        .find(|v| v.name == "trace")
        .expect("trace is declared");
    let Some(Init::List(list)) = &trace.init else {
        panic!("{trace:?}")
    };
    assert_eq!(list[0], Init::Int(0));
    let Init::Addr {
        item,
        offset: 8,
        generic: true,
        mask: None,
    } = list[1]
    else {
        panic!("{list:?}")
    };
    assert_eq!(m.item(item).map(Item::name), Some("counter"));
    let scale = m
        .variables()
        .find(|v| v.name == "scale")
        .expect("scale is declared");
    let half = Init::F64(0.5f64.to_bits());
    assert_eq!(
        scale.init,
        Some(Init::List(vec![Init::F32(1f32.to_bits()), half]))
    );
}

#[test]
fn one_name_in_two_scopes_is_two_registers_and_two_labels() {
    let m = module(HOPPER_GEMM);
    let body = body(&m, "gemm");
    let waits = insts(body, Op::MbarrierTryWait);
    assert_eq!(waits.len(), 2);
    assert_eq!(name(body, &waits[0].operands[0]), "ok");
    assert_eq!(name(body, &waits[1].operands[0]), "ok");
    assert_ne!(waits[0].operands[0], waits[1].operands[0]);

    let wait_labels: Vec<_> = insts(body, Op::Bra)
        .into_iter()
        .filter_map(|i| {
            if let Operand::Label(l) = i.operands[0] {
                Some(l)
            } else {
                None
            }
        })
        .filter(|l| body.labels[l.index()] == "wait")
        .collect();
    assert_eq!(wait_labels.len(), 2);
    assert_ne!(wait_labels[0], wait_labels[1]);
    // Each is the label in front of its own wait.
    for (label, wait) in wait_labels.iter().zip(waits) {
        let at = body
            .stmts
            .iter()
            .position(|s| *s == Stmt::Label(*label))
            .expect("defined");
        assert!(matches!(&body.stmts[at + 1], Stmt::Inst(i) if i.operands == wait.operands));
    }
}

#[test]
fn an_inner_label_hides_the_outer_one_even_when_it_follows() {
    let m = module(
        ".version 8.6\n.target sm_90a\n.address_size 64\n.entry k()\n{\nx: {\n bra x;\n x: bra x;\n \
         }\n bra x;\n}\n",
    );
    let body = body(&m, "k");
    let targets: Vec<_> = body.insts().map(|i| i.operands[0].clone()).collect();
    let label = |n| Operand::Label(mcc_ptx::LabelId(n));
    assert_eq!(targets, [label(1), label(1), label(0)]);
}

#[test]
fn operands_of_every_shape() {
    let m = module(HOPPER_GEMM);
    let body = body(&m, "gemm");
    let load = insts(body, Op::CpAsyncBulkTensor)[1];
    assert!(load.has(Mod::MulticastCluster) && load.has(Mod::L2CacheHint) && load.has(Mod::D2));
    assert_eq!(
        (load.space(0), load.space(1)),
        (Some(Space::SharedCluster), Some(Space::Global))
    );
    let Operand::Tensor {
        map: Address {
            base: Base::Reg(_),
            offset: 0,
        },
        coords,
    } = &load.operands[1]
    else {
        panic!("{load:?}")
    };
    assert_eq!(coords[1], Operand::Imm(Imm::Int(0)));
    assert!(matches!(
        load.operands[0],
        Operand::Mem(Address {
            base: Base::Sym(Symbol::Item(_)),
            offset: 17408
        })
    ));

    let wgmma = insts(body, Op::WgmmaMmaAsync);
    let shape = wgmma[0].shape().expect("wgmma has a shape");
    assert_eq!((shape.m, shape.n, shape.k), (64, 16, Some(32)));
    assert_eq!(wgmma[0].ty(1), Some(Type::E4m3));
    assert!(matches!(&wgmma[1].operands[1], Operand::Vector(a) if a.len() == 4));
    assert_eq!(wgmma[1].operands[5], Operand::Imm(Imm::Int(-1)));

    let elect = insts(body, Op::Elect)[0];
    assert!(matches!(&elect.operands[0], Operand::Pair(a, b)
        if **a == Operand::Sink && name(body, b) == "%p2"));

    let setp = body
        .insts()
        .find(|i| i.op == Op::Setp && i.has(Mod::And))
        .expect("it is there");
    assert!(matches!(setp.operands[3], Operand::Not(_)));

    let store = body
        .insts()
        .find(|i| i.op == Op::St && i.has(Mod::Relaxed))
        .expect("there");
    assert_eq!((store.scope(), store.vector_len()), (Some(Scope::Gpu), 4));
    assert!(matches!(
        store.operands[0],
        Operand::Mem(Address { offset: -16, .. })
    ));
    assert!(store.guard.is_some_and(|g| !g.negated));

    let tid = insts(body, Op::Mov)[0];
    assert_eq!(tid.operands[1], Operand::Special(SpecialReg::TidX));
    let line = HOPPER_GEMM
        .lines()
        .position(|l| l.contains("%tid.x"))
        .expect("there")
        + 1;
    assert_eq!(tid.line as usize, line);
}

/// Twenty thousand lines, as a persistent kernel with everything unrolled has.
/// `ptxas` takes semantics, scope and state space in any order; they are kept in
/// that of the ISA.
#[test]
fn memory_words_come_in_any_order() {
    let text = ".version 8.6 .target sm_90a .address_size 64 .visible .entry k() {
        .reg .b32 %r<4>; .reg .b64 %rd<2>; .reg .f32 %f<2>;
        atom.global.gpu.acq_rel.add.u32 %r1, [%rd1], %r2;
        atom.global.acq_rel.gpu.cas.b32 %r1, [%rd1], %r2, %r3;
        red.gpu.global.release.add.f32 [%rd1], %f1;
        ld.global.acquire.gpu.b32 %r1, [%rd1];
        st.global.sys.release.b32 [%rd1], %r1;
    }";
    let printed = module(text).to_string();
    for line in [
        "atom.acq_rel.gpu.global.add.u32",
        "atom.acq_rel.gpu.global.cas.b32",
        "red.release.gpu.global.add.f32",
        "ld.acquire.gpu.global.b32",
        "st.release.sys.global.b32",
    ] {
        assert!(printed.contains(line), "{printed}");
    }
    assert_eq!(module(&printed).to_string(), printed);
}

#[test]
fn a_large_module_round_trips() {
    let mut source = String::from(
        ".version 8.6\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 p)\n{\n\
         .reg .b32 %r<20000>;\n.reg .b64 %rd<8>;\n.reg .pred %p<8>;\nld.param.b64 %rd1, [p];\n",
    );
    for n in 1..5000 {
        let (a, b, c) = (n, n + 5000, n + 10000);
        source.push_str(&format!(
            "\tld.global.nc.v2.b32 \t{{%r{a}, %r{b}}}, [%rd1+{n}];\n\tfma.rn.f32 \t%r{c}, %r{a}, \
             %r{b}, 0f3F800000;\n@!%p1 bra \t$L{n};\n\tst.global.b32 \t[%rd1], %r{c};\n$L{n}:\n"
        ));
    }
    source.push_str("ret;\n}\n");
    let first = module(&source);
    assert_eq!(body(&first, "k").insts().count(), 4 * 4999 + 2);
    assert_eq!(module(&first.to_string()), first);
}
