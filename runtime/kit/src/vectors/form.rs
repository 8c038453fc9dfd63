//! The forms of one `wgmma`: how wide, how many steps of K, where the operands lie; and its probe kernel as PTX.
//!
//! In: types and a form. Out: a kernel in which each block multiplies one tile, and the places of each code and
//! result in the memory that the kernel copies as it is.
//! Holds: the layouts are written here from the PTX ISA's figures, apart from the simulator's own, so that a
//! mistake in one of them shows.
//!
//! The kernel copies the images of A and B to shared memory with plain loads and stores, makes them visible to the
//! tensor core with `fence.proxy.async` (PTX ISA 9.7.13.4), loads the accumulators, and issues one `wgmma` a step.

use std::fmt::Write;

use super::types::{Accumulator, Types, element_name};

/// Rows of A that one `wgmma` takes.
pub(super) const M: usize = 64;
/// Bytes of K of one `wgmma`, for every type.
pub(super) const K_BYTES: usize = 32;
/// Threads of a warpgroup.
pub(super) const THREADS: usize = 128;
/// Alignment of a tile: the largest swizzle atom.
const ATOM: usize = 1024;

/// Where the operands lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// K innermost, 8 x 16-byte core matrices without swizzle.
    Plain,
    /// K innermost, swizzled in spans of so many bytes.
    Swizzled(usize),
    /// M or N innermost, swizzled in spans of 128 bytes: 16-bit types, 64 rows.
    Transposed,
}

/// One way to use an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    pub n: usize,
    /// `wgmma` instructions in a row into the same accumulators.
    pub steps: usize,
    pub layout: Layout,
    /// A comes from registers; the layout is B's alone.
    pub a_in_registers: bool,
    /// The first step's `scale-d`: whether C is added at all.
    pub scale_d: bool,
}

impl Form {
    /// The forms that are tried for some types.
    pub fn all(types: Types) -> Vec<Self> {
        let shared = |n, steps, layout| Self {
            n,
            steps,
            layout,
            a_in_registers: false,
            scale_d: true,
        };
        let swizzled = Layout::Swizzled;
        let mut forms = vec![
            shared(64, 1, swizzled(128)),
            shared(8, 1, Layout::Plain),
            shared(16, 4, swizzled(128)),
            shared(32, 2, swizzled(64)),
            shared(24, 3, swizzled(32)),
            Self {
                scale_d: false,
                ..shared(40, 2, Layout::Plain)
            },
            Self {
                a_in_registers: true,
                ..shared(16, 4, swizzled(128))
            },
        ];
        if types.transposable() {
            forms.push(shared(64, 4, Layout::Transposed));
        }
        forms
    }

    /// For people: `m64n16k32 x 4, 128B swizzle, A in registers`.
    pub fn name(self, types: Types) -> String {
        let mut name = format!("m64n{}k{}", self.n, types.a.k());
        if self.steps > 1 {
            let _ = write!(name, " x {}", self.steps);
        }
        match self.layout {
            Layout::Plain => name.push_str(", no swizzle"),
            Layout::Swizzled(span) => {
                let _ = write!(name, ", {span}B swizzle");
            }
            Layout::Transposed => name.push_str(", MN-major"),
        }
        if self.a_in_registers {
            name.push_str(", A in registers");
        }
        if !self.scale_d {
            name.push_str(", scale-d 0");
        }
        name
    }

    /// Results of one tile.
    pub const fn results(self) -> usize {
        M * self.n
    }

    /// Bytes of the image of A or B with so many rows.
    const fn image_bytes(self, rows: usize) -> usize {
        let bytes = self.steps * K_BYTES;
        match self.layout {
            Layout::Swizzled(span) => rows * bytes.next_multiple_of(span),
            Layout::Plain | Layout::Transposed => rows * bytes,
        }
    }

    pub const fn a_bytes(self) -> usize {
        if self.a_in_registers {
            M * K_BYTES * self.steps
        } else {
            self.image_bytes(M)
        }
    }

    pub const fn b_bytes(self) -> usize {
        self.image_bytes(self.n)
    }

    /// Registers of a thread that hold C and D.
    pub const fn registers(self, accumulator: Accumulator) -> usize {
        self.n / 2 / accumulator.per_register()
    }

    /// Bytes of C or D of a tile.
    pub const fn c_bytes(self, accumulator: Accumulator) -> usize {
        self.registers(accumulator) * THREADS * 4
    }

    /// Dynamic shared memory of a block.
    pub const fn smem_bytes(self) -> usize {
        self.b_offset() + self.b_bytes()
    }

    const fn b_offset(self) -> usize {
        if self.a_in_registers {
            0
        } else {
            self.a_bytes().next_multiple_of(ATOM)
        }
    }

    /// Where byte `byte` of K of step `step` of a row lies in an image of `rows` rows.
    pub fn place(self, rows: usize, step: usize, row: usize, byte: usize) -> usize {
        let at = step * K_BYTES + byte;
        match self.layout {
            // PTX ISA 9.7.15.5.1: core matrices of 8 rows, neighbours along K first.
            Layout::Plain => {
                let matrices = self.steps * K_BYTES / 16;
                (row / 8 * matrices + at / 16) * 128 + row % 8 * 16 + at % 16
            }
            Layout::Swizzled(span) => {
                swizzle(span, at / span * rows * span + row * span + at % span)
            }
            // Groups of 8 k; in each, one span of 64 rows for every k.
            Layout::Transposed => {
                let k = at / 2;
                swizzle(128, k / 8 * 1024 + k % 8 * 128 + row * 2 + at % 2)
            }
        }
    }

    /// Where a byte of A lies when registers hold it (PTX ISA 9.7.15.5.1, fragment of A): register i of a lane has
    /// 4 bytes of K from byte 4 (lane % 4) + 16 (i / 2) of row 16 warp + lane / 4 + 8 (i % 2).
    pub fn register_place(step: usize, row: usize, byte: usize) -> usize {
        let lane = row % 8 * 4 + byte % 16 / 4;
        let thread = row / 16 * 32 + lane;
        let register = byte / 16 * 2 + row % 16 / 8;
        ((step * 4 + register) * THREADS + thread) * 4 + byte % 4
    }

    /// Where a byte of A lies.
    pub fn a_place(self, step: usize, row: usize, byte: usize) -> usize {
        if self.a_in_registers {
            Self::register_place(step, row, byte)
        } else {
            self.place(M, step, row, byte)
        }
    }

    /// Where a result lies in the image of C and D, in results (PTX ISA 9.7.15.5.1, fragment of D): registers in
    /// turn, in each all threads.
    pub fn c_place(accumulator: Accumulator, row: usize, column: usize) -> usize {
        let lane = row % 8 * 4 + column % 8 / 2;
        let thread = row / 16 * 32 + lane;
        let pair = column / 8 * 2 + row % 16 / 8;
        match accumulator {
            Accumulator::F32 => (2 * pair + column % 2) * THREADS + thread,
            Accumulator::F16 => (pair * THREADS + thread) * 2 + column % 2,
        }
    }

    /// Bits 16 to 63 of a descriptor of `rows` rows (PTX ISA 9.7.15.5.1.2), and the distance from step to step.
    fn descriptor(self, rows: usize, step: usize) -> (u64, usize) {
        let fields = |leading: usize, stride: usize, swizzle: u64| {
            (leading as u64 >> 4) << 16 | (stride as u64 >> 4) << 32 | swizzle << 62
        };
        match self.layout {
            Layout::Plain => (fields(128, self.steps * 256, 0), step * 256),
            Layout::Swizzled(span) => {
                let mode = match span {
                    128 => 1,
                    64 => 2,
                    _ => 3,
                };
                let at = step * K_BYTES;
                // The leading offset is not used by swizzled K-major layouts; 1 is what others write.
                (
                    fields(16, 8 * span, mode),
                    at / span * rows * span + at % span,
                )
            }
            Layout::Transposed => (fields(16, 1024, 1), step * 2048),
        }
    }

    /// The kernel `probe`, with addresses of A, B, C and D and the first `scale-d` as parameters.
    pub fn ptx(self, types: Types) -> String {
        Kernel {
            form: self,
            types,
            text: String::new(),
        }
        .write()
    }
}

/// Which 16-byte unit of a span a byte moves to: the address' bits above the span's are folded onto it.
const fn swizzle(span: usize, at: usize) -> usize {
    at ^ (at >> 3 & (span - 16))
}

/// The kernel's name in its PTX.
pub(super) const ENTRY: &str = "probe";

struct Kernel {
    form: Form,
    types: Types,
    text: String,
}

impl Kernel {
    fn line(&mut self, line: impl AsRef<str>) {
        self.text.push_str("    ");
        self.text.push_str(line.as_ref());
        self.text.push('\n');
    }

    fn write(mut self) -> String {
        let Form { steps, .. } = self.form;
        let registers = self.form.registers(self.types.accumulator);
        self.text = format!(
            ".version 8.0\n.target sm_90a\n.address_size 64\n\n\
             .extern .shared .align {ATOM} .b8 smem[];\n\n\
             .visible .entry {ENTRY}(.param .u64 a, .param .u64 b, .param .u64 c, .param .u64 d, .param .u32 scale)\n\
             .maxntid {THREADS}, 1, 1\n{{\n"
        );
        self.line(".reg .pred %p<4>;");
        self.line(format!(
            ".reg .b32 %r<16>, %a<{}>, %d<{registers}>;",
            4 * steps
        ));
        self.line(".reg .b64 %rd<16>;");
        for (i, name) in ["a", "b", "c", "d"].iter().enumerate() {
            self.line(format!("ld.param.u64 %rd{i}, [{name}];"));
            self.line(format!("cvta.to.global.u64 %rd{i}, %rd{i};"));
        }
        self.line("ld.param.u32 %r0, [scale];");
        self.line("setp.ne.b32 %p0, %r0, 0;");
        self.line("mov.u32 %r1, %tid.x;");
        self.line("mov.u32 %r2, %ctaid.x;");
        self.line("setp.eq.b32 %p1, %r1, %r1;");
        self.line("mov.u32 %r3, smem;");
        self.operands();
        self.accumulators();
        // Writes by the generic proxy, then reads by the async one.
        self.line("fence.proxy.async.shared::cta;");
        self.line("bar.sync 0;");
        self.products();
        for i in 0..registers {
            self.line(format!("st.global.b32 [%rd3+{}], %d{i};", i * THREADS * 4));
        }
        self.line("ret;");
        self.text.push_str("}\n");
        self.text
    }

    /// Moves a pointer to this block's tile and this thread's `unit` bytes of it.
    fn advance(&mut self, pointer: &str, bytes: usize, unit: usize) {
        self.line(format!("mul.wide.u32 %rd8, %r2, {bytes};"));
        self.line(format!("add.s64 {pointer}, {pointer}, %rd8;"));
        self.line(format!("mul.wide.u32 %rd8, %r1, {unit};"));
        self.line(format!("add.s64 {pointer}, {pointer}, %rd8;"));
    }

    fn operands(&mut self) {
        let form = self.form;
        if form.a_in_registers {
            self.advance("%rd0", form.a_bytes(), 4);
            for i in 0..4 * form.steps {
                self.line(format!("ld.global.b32 %a{i}, [%rd0+{}];", i * THREADS * 4));
            }
        } else {
            self.copy("%rd0", form.a_bytes(), 0);
        }
        self.copy("%rd1", form.b_bytes(), form.b_offset());
    }

    /// Copies an image to shared memory, 16 bytes a thread and turn.
    fn copy(&mut self, pointer: &str, bytes: usize, to: usize) {
        self.advance(pointer, bytes, 16);
        self.line("shl.b32 %r4, %r1, 4;");
        self.line("add.s32 %r4, %r4, %r3;");
        let turn = THREADS * 16;
        for at in (0..bytes).step_by(turn) {
            let left = (bytes - at).min(turn);
            let guard = if left < turn {
                self.line(format!("setp.lt.u32 %p2, %r1, {};", left / 16));
                "@%p2 "
            } else {
                ""
            };
            self.line(format!(
                "{guard}ld.global.v4.b32 {{%r8, %r9, %r10, %r11}}, [{pointer}+{at}];"
            ));
            self.line(format!(
                "{guard}st.shared.v4.b32 [%r4+{}], {{%r8, %r9, %r10, %r11}};",
                to + at
            ));
        }
    }

    fn accumulators(&mut self) {
        let bytes = self.form.c_bytes(self.types.accumulator);
        self.advance("%rd2", bytes, 4);
        self.advance("%rd3", bytes, 4);
        for i in 0..self.form.registers(self.types.accumulator) {
            self.line(format!("ld.global.b32 %d{i}, [%rd2+{}];", i * THREADS * 4));
        }
    }

    fn products(&mut self) {
        let (form, types) = (self.form, self.types);
        // Bits 0 to 13 of a descriptor: bits 4 to 17 of the address.
        for (pointer, offset) in [("%rd4", 0), ("%rd5", form.b_offset())] {
            self.line(format!("add.s32 %r5, %r3, {offset};"));
            self.line("and.b32 %r5, %r5, 0x3ffff;");
            self.line("shr.u32 %r5, %r5, 4;");
            self.line(format!("cvt.u64.u32 {pointer}, %r5;"));
        }
        let registers = form.registers(types.accumulator);
        let list: Vec<String> = (0..registers).map(|i| format!("%d{i}")).collect();
        let list = list.join(", ");
        let instruction = format!(
            "wgmma.mma_async.sync.aligned.m64n{}k{}.{}",
            form.n,
            types.a.k(),
            types.name()
        );
        // 16-bit types say for each operand in shared memory whether M or N is innermost.
        let transposed = u8::from(form.layout == Layout::Transposed);
        let flags = match (types.transposable(), form.a_in_registers) {
            (false, _) => String::new(),
            (true, true) => format!(", {transposed}"),
            (true, false) => format!(", {transposed}, {transposed}"),
        };
        self.line("wgmma.fence.sync.aligned;");
        for step in 0..form.steps {
            let (a_word, a_at) = form.descriptor(M, step);
            let (b_word, b_at) = form.descriptor(form.n, step);
            let a = if form.a_in_registers {
                let i = 4 * step;
                format!("{{%a{i}, %a{}, %a{}, %a{}}}", i + 1, i + 2, i + 3)
            } else {
                self.line(format!(
                    "add.s64 %rd6, %rd4, {:#x};",
                    a_word + (a_at as u64 >> 4)
                ));
                "%rd6".to_owned()
            };
            self.line(format!(
                "add.s64 %rd7, %rd5, {:#x};",
                b_word + (b_at as u64 >> 4)
            ));
            let predicate = if step == 0 { "%p0" } else { "%p1" };
            self.line(format!(
                "{instruction} {{{list}}}, {a}, %rd7, {predicate}, 1, 1{flags};"
            ));
        }
        self.line("wgmma.commit_group.sync.aligned;");
        self.line("wgmma.wait_group.sync.aligned 0;");
    }
}

/// For error messages and reports: the instruction of some types.
pub(super) fn instruction(types: Types) -> String {
    let k = types.a.k();
    debug_assert_eq!(k, types.b.k(), "{}", element_name(types.b));
    format!("wgmma.mma_async.m64nNk{k}.{}", types.name())
}
