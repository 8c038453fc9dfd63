target triple = "nvptx64-nvidia-cuda"
target datalayout = "e-p6:32:32-i64:64-i128:128-i256:256-v16:16-v32:32-n16:32:64"
@dyn = external addrspace(3) global [0 x i8], align 128
@st = internal addrspace(3) global [64 x float] poison, align 16
@tab = addrspace(4) constant [4 x float] [float 1.0, float 2.0, float 3.0, float 4.0], align 16
@gv = addrspace(1) global i32 7
@ptrs = addrspace(1) global [2 x ptr] [ptr addrspacecast (ptr addrspace(1) @gv to ptr), ptr null]
%s = type { i8, ptr addrspace(1), i16 }
@packed = addrspace(1) global <{ i8, ptr addrspace(1), i16 }> <{ i8 1, ptr addrspace(1) @gv, i16 3 }>
declare i32 @llvm.nvvm.read.ptx.sreg.tid.x()
declare i32 @llvm.nvvm.read.ptx.sreg.ctaid.x()
declare i64 @llvm.nvvm.read.ptx.sreg.globaltimer()
declare void @llvm.nvvm.barrier.cta.sync.aligned.all(i32)
declare float @llvm.fma.f32(float,float,float)
declare float @llvm.nvvm.ex2.approx.f(float)
declare float @llvm.nvvm.rsqrt.approx.f(float)
declare float @llvm.sqrt.f32(float)
declare {i32,i1} @llvm.nvvm.shfl.sync.bfly.i32p(i32,i32,i32,i32)
declare float @llvm.nvvm.shfl.sync.bfly.f32(i32,float,i32,i32)
declare i32 @llvm.ctpop.i32(i32)
declare i32 @llvm.ctlz.i32(i32,i1)
declare i32 @llvm.bitreverse.i32(i32)
declare i32 @llvm.fshl.i32(i32,i32,i32)
declare i64 @llvm.fshl.i64(i64,i64,i64)
declare float @llvm.maxnum.f32(float,float)
declare float @llvm.maximum.f32(float,float)
declare i32 @llvm.smax.i32(i32,i32)
declare i32 @llvm.nvvm.redux.sync.add(i32,i32)
declare i32 @llvm.nvvm.vote.ballot.sync(i32,i1)
declare <2 x bfloat> @llvm.fma.v2bf16(<2 x bfloat>,<2 x bfloat>,<2 x bfloat>)
declare <2 x half> @llvm.fma.v2f16(<2 x half>,<2 x half>,<2 x half>)
declare void @llvm.nvvm.mbarrier.init.shared(ptr addrspace(3), i32)
declare void @llvm.nvvm.cp.async.bulk.tensor.g2s.tile.2d(ptr addrspace(7), ptr addrspace(3), ptr, i32, i32, i16, i64, i1, i1, i32)
declare void @llvm.nvvm.cp.async.bulk.tensor.s2g.tile.2d(ptr addrspace(3), ptr, i32, i32, i64, i1)
declare void @llvm.nvvm.fence.proxy.async()
declare void @llvm.nvvm.barrier.cluster.arrive()
declare void @llvm.nvvm.setmaxnreg.inc.sync.aligned.u32(i32)
declare i16 @llvm.nvvm.ff.to.e4m3x2.rn(float,float)
declare <2 x half> @llvm.nvvm.e4m3x2.to.f16x2.rn(i16)
declare i32 @ext(i32, ptr)
define internal i32 @callee(i32 %x, [4 x i32] %arr) noinline {
  %a = extractvalue [4 x i32] %arr, 2
  %r = mul i32 %x, %a
  ret i32 %r
}
define ptx_kernel void @k1(ptr addrspace(1) noalias readonly align 16 %in, ptr addrspace(1) align 16 %out, ptr byval([128 x i8]) align 64 "nvvm.grid_constant" %tm, i32 %n, i8 %b8, i16 %h, double %d) "nvvm.maxntid"="128" "nvvm.minctasm"="1" "nvvm.cluster_dim"="2,1,1" {
entry:
  %t = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()
  %c = call i32 @llvm.nvvm.read.ptx.sreg.ctaid.x()
  %g = call i64 @llvm.nvvm.read.ptx.sreg.globaltimer()
  %i0 = mul i32 %c, 128
  %i = add i32 %i0, %t
  %lt = icmp slt i32 %i, %n
  br i1 %lt, label %body, label %exit
body:
  %i64 = sext i32 %i to i64
  %p = getelementptr <4 x float>, ptr addrspace(1) %in, i64 %i64
  %v = load <4 x float>, ptr addrspace(1) %p, align 16
  %e0 = extractelement <4 x float> %v, i32 0
  %e1 = extractelement <4 x float> %v, i32 1
  %e2 = extractelement <4 x float> %v, i32 2
  %f = call float @llvm.fma.f32(float %e0, float %e1, float %e2)
  %x = call float @llvm.nvvm.ex2.approx.f(float %f)
  %y = call float @llvm.nvvm.rsqrt.approx.f(float %x)
  %z = fdiv float %x, %y
  %zz = call float @llvm.sqrt.f32(float %z)
  %m = call float @llvm.maximum.f32(float %zz, float %e0)
  %m2 = call float @llvm.maxnum.f32(float %m, float %e1)
  %sh = call float @llvm.nvvm.shfl.sync.bfly.f32(i32 -1, float %m2, i32 16, i32 31)
  %bf = fptrunc float %sh to bfloat
  %bfx = fpext bfloat %bf to float
  %hf = fptrunc float %bfx to half
  %hadd = fadd half %hf, 1.0
  %hx = fpext half %hadd to float
  %dd = fpext float %hx to double
  %ds = fadd double %dd, %d
  %df = fptrunc double %ds to float
  %fi = fptosi float %df to i32
  %pc = call i32 @llvm.ctpop.i32(i32 %fi)
  %lz = call i32 @llvm.ctlz.i32(i32 %pc, i1 false)
  %br = call i32 @llvm.bitreverse.i32(i32 %lz)
  %fs = call i32 @llvm.fshl.i32(i32 %br, i32 %fi, i32 7)
  %sx = sext i32 %fs to i64
  %fs64 = call i64 @llvm.fshl.i64(i64 %sx, i64 %g, i64 13)
  %ext = sext i8 %b8 to i32
  %exh = zext i16 %h to i32
  %mx = call i32 @llvm.smax.i32(i32 %ext, i32 %exh)
  %rx = call i32 @llvm.nvvm.redux.sync.add(i32 %mx, i32 -1)
  %bl = call i32 @llvm.nvvm.vote.ballot.sync(i32 -1, i1 %lt)
  %q = sdiv i32 %rx, %bl
  %rm = urem i32 %q, 7
  %q64 = udiv i64 %fs64, 12345
  %wide = mul i64 %q64, 17
  switch i32 %rm, label %d0 [ i32 0, label %s0
    i32 1, label %s1
    i32 2, label %s2
    i32 3, label %s3
    i32 4, label %s4 
    i32 5, label %s5 ]
s0: 
  store volatile i32 1, ptr addrspace(3) @st
  br label %d0
s1:
  store atomic i32 2, ptr addrspace(1) @gv release, align 4
  br label %d0
s2:
  %ld = load atomic i32, ptr addrspace(1) @gv acquire, align 4
  store i32 %ld, ptr addrspace(3) @dyn
  br label %d0
s3:
  %at = atomicrmw add ptr addrspace(1) @gv, i32 5 syncscope("device") acq_rel
  %cx = cmpxchg ptr addrspace(1) @gv, i32 0, i32 1 acq_rel monotonic
  %atf = atomicrmw fadd ptr addrspace(1) %out, float 1.0 monotonic
  br label %d0
s4:
  %xa = xor i32 %rm, %q
  %aa = and i32 %xa, %fi
  %oa = or i32 %aa, %bl
  %st = getelementptr i32, ptr addrspace(1) %out, i32 %oa
  store <4 x i32> <i32 1, i32 2, i32 3, i32 4>, ptr addrspace(1) %st, align 16
  br label %d0
s5:
  %cc = call i32 @callee(i32 %q, [4 x i32] [i32 1, i32 2, i32 3, i32 4])
  %fp = inttoptr i64 %wide to ptr
  %ic = call i32 %fp(i32 %cc)
  %loc = alloca [16 x i32]
  %lp = getelementptr i32, ptr %loc, i32 %ic
  store i32 5, ptr %lp
  %ce = call i32 @ext(i32 %ic, ptr %loc)
  store i32 %ce, ptr addrspace(1) @gv
  br label %d0
d0:
  call void @llvm.nvvm.barrier.cta.sync.aligned.all(i32 0)
  %s2v = call {i32,i1} @llvm.nvvm.shfl.sync.bfly.i32p(i32 -1, i32 %q, i32 1, i32 31)
  %sp = extractvalue {i32,i1} %s2v, 1
  %sel = select i1 %sp, i64 %wide, i64 3
  %op = getelementptr i64, ptr addrspace(1) %out, i64 %i64
  store i64 %sel, ptr addrspace(1) %op
  %tabp = getelementptr float, ptr addrspace(4) @tab, i32 %q
  %tv = load float, ptr addrspace(4) %tabp
  store float %tv, ptr addrspace(1) %out
  br label %exit
exit:
  ret void
}
define ptx_kernel void @k2(ptr addrspace(1) %out, ptr byval([128 x i8]) align 64 "nvvm.grid_constant" %tm) "nvvm.reqntid"="256,1,1" "nvvm.maxnreg"="168" {
  call void @llvm.nvvm.mbarrier.init.shared(ptr addrspace(3) @dyn, i32 1)
  call void @llvm.nvvm.fence.proxy.async()
  %cd = addrspacecast ptr addrspace(3) @dyn to ptr addrspace(7)
  call void @llvm.nvvm.cp.async.bulk.tensor.g2s.tile.2d(ptr addrspace(7) %cd, ptr addrspace(3) @dyn, ptr %tm, i32 0, i32 64, i16 3, i64 0, i1 1, i1 0, i32 0)
  call void @llvm.nvvm.cp.async.bulk.tensor.s2g.tile.2d(ptr addrspace(3) @dyn, ptr %tm, i32 0, i32 64, i64 0, i1 0)
  call void @llvm.nvvm.barrier.cluster.arrive()
  call void @llvm.nvvm.setmaxnreg.inc.sync.aligned.u32(i32 232)
  call void asm sideeffect "{\0A.reg .pred P1;\0ALAB_WAIT:\0Ambarrier.try_wait.parity.shared::cta.b64 P1, [$0], $1;\0A@P1 bra DONE;\0Abra LAB_WAIT;\0ADONE:\0A}", "r,r"(i32 0, i32 1)
  call void asm sideeffect "{\0A.reg .pred P1;\0ALAB_WAIT:\0Ambarrier.try_wait.parity.shared::cta.b64 P1, [$0], $1;\0A@P1 bra DONE;\0Abra LAB_WAIT;\0ADONE:\0A}", "r,r"(i32 0, i32 1)
  %e = call i16 @llvm.nvvm.ff.to.e4m3x2.rn(float 1.0, float 2.0)
  %hh = call <2 x half> @llvm.nvvm.e4m3x2.to.f16x2.rn(i16 %e)
  %h2 = call <2 x half> @llvm.fma.v2f16(<2 x half> %hh, <2 x half> %hh, <2 x half> %hh)
  %b2 = load <2 x bfloat>, ptr addrspace(1) %out
  %b3 = call <2 x bfloat> @llvm.fma.v2bf16(<2 x bfloat> %b2, <2 x bfloat> %b2, <2 x bfloat> %b2)
  store <2 x bfloat> %b3, ptr addrspace(1) %out
  %o2 = getelementptr i8, ptr addrspace(1) %out, i64 -4
  store <2 x half> %h2, ptr addrspace(1) %o2
  %w = call { float, float, float, float } asm sideeffect "{\0A.reg .pred p;\0Asetp.ne.b32 p, $6, 0;\0Awgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 {$0, $1, $2, $3}, $4, $5, p, 1, 1;\0A}", "=f,=f,=f,=f,l,l,r"(i64 1, i64 2, i32 1)
  %w0 = extractvalue { float, float, float, float } %w, 0
  store float %w0, ptr addrspace(1) %out
  ret void
}
