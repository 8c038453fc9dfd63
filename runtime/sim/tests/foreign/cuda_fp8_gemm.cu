// Block-scaled FP8 GEMM of the Hopper kind, as DeepSeek-V3 has it: TMA into a
// ring of stages, mbarriers, a producer warp and a consumer warpgroup, wgmma,
// and the promotion of each 128 of K to an FP32 sum.
// out[m][n] = sum over k of (a a_scale)(b b_scale), a in rows of k with a scale
// for every 128 of k, b in rows of k with a scale for every 128 x 128.
#include <cuda.h>
#include <cstdint>

constexpr int BM = 64, BN = 64, BK = 128, STAGES = 3, THREADS = 160;

struct __align__(1024) Shared {
    uint8_t a[STAGES][BM * BK];
    uint8_t b[STAGES][BN * BK];
    uint64_t full[STAGES], empty[STAGES];
};

__device__ uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

__device__ void init_barrier(uint64_t* bar, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(bar)), "r"(count) : "memory");
}

__device__ void wait(uint64_t* bar, int parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n"
        "}" ::"r"(shared_address(bar)), "r"(parity) : "memory");
}

__device__ void load_tile(void* to, const CUtensorMap* map, int k, int row, uint64_t* bar) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
            shared_address(to)),
        "l"(map), "r"(k), "r"(row), "r"(shared_address(bar)) : "memory");
}

// A tile of rows of 128 bytes with the 128-byte swizzle.
__device__ uint64_t descriptor(const void* tile) {
    uint64_t start = (shared_address(tile) & 0x3ffff) >> 4;
    return start | uint64_t(1) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}

__device__ void wgmma(float (&d)[32], uint64_t a, uint64_t b, int scale_d) {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "setp.ne.b32 p, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "%32, %33, p, 1, 1;\n"
        "}"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
        : "l"(a), "l"(b), "r"(scale_d));
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
fp8_gemm(float* out, const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b,
         const float* a_scale, const float* b_scale, int n, int k) {
    extern __shared__ __align__(1024) uint8_t raw[];
    Shared& s = *reinterpret_cast<Shared*>(raw);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int row0 = blockIdx.x * BM, col0 = blockIdx.y * BN, blocks = k / BK;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            init_barrier(&s.full[i], 1);
            init_barrier(&s.empty[i], 4);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    if (warp == 4) {
        if (lane != 0) return;
        for (int i = 0; i < blocks; i++) {
            int at = i % STAGES, round = i / STAGES;
            // A barrier that nothing has completed counts its phase 1 as past.
            wait(&s.empty[at], (round & 1) ^ 1);
            asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&s.full[at])),
                         "r"(BM * BK + BN * BK) : "memory");
            load_tile(s.a[at], &a, i * BK, row0, &s.full[at]);
            load_tile(s.b[at], &b, i * BK, col0, &s.full[at]);
        }
        return;
    }
    int row = row0 + 16 * warp + lane / 4;
    float sum[32] = {};
    for (int i = 0; i < blocks; i++) {
        int at = i % STAGES;
        float scale_b = b_scale[col0 / 128 * blocks + i];
        float low = a_scale[row * blocks + i] * scale_b, high = a_scale[(row + 8) * blocks + i] * scale_b;
        wait(&s.full[at], i / STAGES & 1);
        float acc[32];
#pragma unroll
        for (int e = 0; e < 32; e++) {
            acc[e] = 0;
            // Or the compiler moves the zeros behind the fence.
            asm volatile("" : "+f"(acc[e])::"memory");
        }
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int q = 0; q < BK / 32; q++)
            wgmma(acc, descriptor(s.a[at] + 32 * q), descriptor(s.b[at] + 32 * q), q != 0);
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
        // The registers are the product's only now.
#pragma unroll
        for (int e = 0; e < 32; e++) asm volatile("" : "+f"(acc[e])::"memory");
        if (lane == 0)
            asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&s.empty[at])) : "memory");
#pragma unroll
        for (int e = 0; e < 32; e++) sum[e] = fmaf(acc[e], e / 2 % 2 ? high : low, sum[e]);
    }
#pragma unroll
    for (int e = 0; e < 32; e += 2) {
        size_t r = row + 8 * (e / 2 % 2);
        *reinterpret_cast<float2*>(out + r * n + col0 + 8 * (e / 4) + lane % 4 * 2) = make_float2(sum[e], sum[e + 1]);
    }
}
