//! A module that uses every op, recipe and odd name at least once; other tests start from its text.

/// Canonical text: the printer gives exactly this back.
pub const EVERYTHING: &str = r#"mir 1
model "every \"op\""
allow reassociate
mesh nodes = 1, gpus = 8, ep = 4, tp = 2, dp = 4
dim T: 1..=256
dim C: 1..=1024
dim R: 0..=256
dim "odd dim": 2..=3
param @embed: bf16[1024, 256] = tensor("model.embed_tokens.weight")
param @norm: bf16[256] = tensor("norm")
param @l0.qkv_a: e4m3[256, 256]/f32[128x128] = concat(tensor("q"), tensor("k\n\\"))
param @experts: e4m3[4, 512, 256]/f32[128x128] = stack(tensor("0"), tensor("1"), tensor("2"), tensor("3"))
param @share: bf16[2, 256] = experts(layer = 1, slots = 2, tensor("0"), tensor("1"), tensor("2"))
param @router: bf16[4, 256] = tensor("router")
param @bias: f32[4] = tensor("bias")
param @k_up: bf16[2, 64, 192] = head_rows(dequant(tensor("kv_b")), heads = 2, start = 64, len = 64)
param @v_up: bf16[2, 192, 64] = transpose(head_rows(dequant(tensor("kv_b")), heads = 2, start = 0, len = 64))
param @rope: f32[1024, 32, 2] = rope_table(dim = 64, theta = 10000.0, positions = 1024, yarn(factor = 40.0, original = 4096.0, beta_fast = 32.0, beta_slow = 1.0, mscale = 0.707, mscale_all_dim = 1e-20))
param @rope_plain: f32[8, 1, 2] = rope_table(dim = 2, theta = 500000.0, positions = 8)
param @latent_norm: bf16[192] = tensor("latent")
param @"odd name, with \"quotes\"": bf16[256] = tensor("odd \u{7}\té")
state @l0.cache: bf16[C, 256]
state @gradient: f32[4, 64, 64]
state @"1.cache": bf16["odd dim", 2*"odd dim"]

entry @everything(tokens: i32[T], positions: i32[T], rows: i32[R], "0": f32[R], top_p: f32[R], uniform: f32[R], wide: e4m3[128, 256]/f32[128x256], weights: f32[T], held: e4m3[4, 32, 256]/f32[1x128], counts: i32[4], masked: f32[4, 32], table: i32[4, 3], grown: bf16[64, 128*R]) allow reassociate, round {
  %0 = gather @embed, %tokens : bf16[T, 256]
  %1 = add %0, %0 : bf16[T, 256]
  %2 = rms_norm %1, @norm {eps = 1e-6} : bf16[T, 256]
  %3 = quantize %2 : e4m3[T, 256]/f32[1x128] allow(exact) keep never("fuse-norm-quantize", "odd \"name\"")
  %4 = dequantize %3 : bf16[T, 256] keep
  %5 = matmul %3, @l0.qkv_a {out = bf16, promote = 128} : bf16[T, 256]
  %6 = reshape %5 {shape = [T, 2, 128]} : bf16[T, 2, 128]
  %7 = rope %6, %positions, @rope {start = 64} : bf16[T, 2, 128]
  %8 = slice %7 {axis = 2, start = 64, len = 64} : bf16[T, 2, 64]
  %9 = slice %7 {axis = 2, start = 0, len = 64} : bf16[T, 2, 64]
  %10 = batched_matmul %9, @v_up {out = bf16} : bf16[T, 2, 192]
  %11 = mla_cache_write @l0.cache, %5, @latent_norm, %positions, @rope {eps = 1e-6} : bf16[C, 256]
  %12 = slice %11 {axis = 1, start = 0, len = 192} : bf16[C, 192]
  %13 = reshape %12 {shape = [C, 1, 192]} : bf16[C, 1, 192]
  %14 = slice %11 {axis = 1, start = 192, len = 64} : bf16[C, 64]
  %15 = attention %10, %8, %13, %14, %13, %positions {scale = 0.13523377} : bf16[T, 2, 192]
  %16 = batched_matmul %15, @k_up {out = f32} : f32[T, 2, 64]
  %17 = matmul %2, @router {out = f32, promote = 32} : f32[T, 4]
  %18, %19 = route %17, @bias {top_k = 2, n_group = 2, topk_group = 1, scaling = 2.5, normalize = true} : i32[T, 2], f32[T, 2]
  %20, %21, %22 = dispatch %3, %18 {n_experts = 4} : e4m3[2*T, 256]/f32[1x128], i32[5], i32[T, 2]
  %23 = grouped_matmul %20, @experts, %21 {out = bf16, promote = 128} : bf16[2*T, 512]
  %24 = swiglu %23 : bf16[2*T, 256]
  %25 = swiglu_quantize %23 : e4m3[2*T, 256]/f32[1x128]
  %26 = combine %24, %22, %19 : bf16[T, 256]
  %27, %28 = rms_norm_quantize %26, @norm {eps = 1e-6} : bf16[T, 256], e4m3[T, 256]/f32[1x128]
  %29, %30 = add_rms_norm %26, %27, @norm {eps = 1e-6} : bf16[T, 256], bf16[T, 256]
  %31, %32, %33 = add_rms_norm_quantize %29, %30, @"odd name, with \"quotes\"" {eps = 1e-30} : bf16[T, 256], bf16[T, 256], e4m3[T, 256]/f32[1x128]
  %34 = concat %31, %32 {axis = 0} : bf16[2*T, 256]
  %35 = cache_write @l0.cache, %31, %positions : bf16[C, 256]
  %36 = gather %34, %rows : bf16[R, 256]
  %37 = matmul %36, @embed {out = f32, promote = 128} : f32[R, 1024]
  %38 = sample %37, %"0", %top_p, %uniform : i32[R]
  %39 = quantize_wide %2 {group = none} : e4m3[T, 256]/f32[1x256]
  %40 = quantize_wide %2 {group = 512} : e4m3[T, 256]/f32[1x512]
  %41 = matmul %39, %wide {out = f32, promote = none} : f32[T, 128]
  %42 = matmul %39, %wide {out = bf16, promote = 256} : bf16[T, 128]
  %43 = matmul_add %3, @l0.qkv_a, %1 {out = bf16, promote = 64} : bf16[T, 256]
  %44 = matmul_swiglu_quantize %3, @l0.qkv_a {promote = 128} : e4m3[T, 128]/f32[1x128]
  %45 = matmul_swiglu_scale_quantize %3, @l0.qkv_a, %weights {promote = 128} : e4m3[T, 128]/f32[1x128]
  %46 = grouped_matmul_swiglu_quantize %20, @experts, %21 {promote = 128} : e4m3[2*T, 256]/f32[1x128]
  %47 = reshape %19 {shape = [2*T]} : f32[2*T]
  %48 = grouped_matmul_swiglu_scale_quantize %20, @experts, %21, %47 {promote = 128} : e4m3[2*T, 256]/f32[1x128]
  %49 = scale_rows %24, %47 : bf16[2*T, 256]
  %50 = masked_matmul %held, @experts, %counts {out = bf16, promote = 128} : bf16[4, 32, 512]
  %51 = quantize %grown : e4m3[64, 128*R]/f32[1x128]
  %52 = weight_grad %51, %51, %21, @gradient {promote = 128} : f32[4, 64, 64]
  %53 = quantize_pow2 %1 : e4m3[T, 256]/f32[1x128]
  %54 = gather %53, %rows : e4m3[R, 256]/f32[1x128]
  %55 = transpose %10 {a = 0, b = 1} : bf16[2, T, 192]
  %56 = expand %13 {axis = 1, len = 3} : bf16[C, 3, 192]
  %57, %58 = append_expert %18, %19 {expert = 4, weight = 1.0} : i32[T, 3], f32[T, 3]
  %59 = row_weights %57, %58 : f32[3*T]
  %60 = combine_sum %24, %22 : bf16[T, 256]
  %61 = combine_add %24, %22, %19, %60 : bf16[T, 256]
  %62, %63, %64 = combine_add_rms_norm_quantize %24, %22, %19, %61, @norm {eps = 1e-6} : bf16[T, 256], bf16[T, 256], e4m3[T, 256]/f32[1x128]
  %65, %66, %67, %68 = dispatch_two_hop %3, %18, %19 {n_experts = 4, nodes = 2, gpus = 2, tokens = 256, capacity = 1024, channels = 2} : e4m3[1024, 256]/f32[1x128], i32[2], f32[1024], i32[2572]
  %69 = dequantize %65 : bf16[1024, 256]
  %70 = combine_two_hop %69, %18, %19, %68 {n_experts = 4, nodes = 2, gpus = 2, tokens = 256, capacity = 1024, channels = 2, weighted = false} : bf16[T, 256]
  %71, %72, %73, %74 = dispatch_direct %70, %18, %19 {n_experts = 4, nodes = 1, gpus = 2, tokens = 256} : bf16[2, 512, 256], i32[2], f32[2, 512], i32[1024]
  %75 = combine_direct %71, %18, %19, %74 {n_experts = 4, nodes = 1, gpus = 2, tokens = 256, weighted = true} : bf16[T, 256]
  %76 = masked_matmul_swiglu_quantize %held, @experts, %counts {promote = 128} : e4m3[4, 32, 256]/f32[1x128]
  %77 = masked_matmul_swiglu_scale_quantize %held, @experts, %counts, %masked {promote = 128} : e4m3[4, 32, 256]/f32[1x128]
  %78 = count_experts %counts, %18 : i32[4]
  %79 = replica %18, %table, %counts : i32[T, 2]
  update @l0.cache = %11
  update @gradient = %52
  return logits = %37, next = %38, "sum of experts" = %26, same = %tokens
}

entry @idle() {
  update @"1.cache" = @"1.cache"
  return
}
"#;
