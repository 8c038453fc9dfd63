// FP16 GEMM of the Ampere kind: cp.async into two stages of shared memory,
// ldmatrix, mma.sync m16n8k16 with FP32 accumulators.
// c[m][n] = sum over k of a[m][k] b[k][n]; all row-major, multiples of a tile.
#include <cuda_fp16.h>
#include <cuda_pipeline_primitives.h>

constexpr int BM = 64, BN = 64, BK = 32, THREADS = 128;
// Rows are padded by 16 bytes, so that ldmatrix meets each bank once.
constexpr int PAD = 8;

struct Stage {
    half a[BM][BK + PAD];
    half b[BK][BN + PAD];
};

__device__ unsigned shared_address(const void* p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); }

__device__ void ldmatrix4(unsigned (&r)[4], const half* p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(p)) : "memory");
}

__device__ void ldmatrix2_trans(unsigned (&r)[2], const half* p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1]) : "r"(shared_address(p)) : "memory");
}

__device__ void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

extern "C" __global__ void __launch_bounds__(THREADS)
mma_gemm(float* c, const half* a, const half* b, int m, int n, int k) {
    extern __shared__ __align__(16) unsigned char raw[];
    Stage* stages = reinterpret_cast<Stage*>(raw);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int row0 = blockIdx.y * BM, col0 = blockIdx.x * BN;
    auto load = [&](Stage& s, int at) {
        for (int i = threadIdx.x; i < BM * BK / 8; i += THREADS) {
            int r = i / (BK / 8), q = i % (BK / 8) * 8;
            __pipeline_memcpy_async(&s.a[r][q], a + static_cast<size_t>(row0 + r) * k + at + q, 16);
        }
        for (int i = threadIdx.x; i < BK * BN / 8; i += THREADS) {
            int r = i / (BN / 8), q = i % (BN / 8) * 8;
            __pipeline_memcpy_async(&s.b[r][q], b + static_cast<size_t>(at + r) * n + col0 + q, 16);
        }
        __pipeline_commit();
    };
    // Warps are 2 x 2, each with 32 x 32 of the tile.
    int wr = warp / 2 * 32, wc = warp % 2 * 32;
    float acc[2][4][4] = {};
    int steps = k / BK;
    load(stages[0], 0);
    for (int step = 0; step < steps; step++) {
        if (step + 1 < steps) {
            load(stages[(step + 1) % 2], (step + 1) * BK);
            __pipeline_wait_prior(1);
        } else {
            __pipeline_wait_prior(0);
        }
        __syncthreads();
        const Stage& s = stages[step % 2];
#pragma unroll
        for (int kk = 0; kk < BK; kk += 16) {
            unsigned fa[2][4], fb[4][2];
#pragma unroll
            for (int i = 0; i < 2; i++) ldmatrix4(fa[i], &s.a[wr + 16 * i + lane % 16][kk + lane / 16 * 8]);
#pragma unroll
            for (int j = 0; j < 4; j++) ldmatrix2_trans(fb[j], &s.b[kk + lane % 16][wc + 8 * j]);
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) mma(acc[i][j], fa[i], fb[j]);
        }
        // The next step loads into the stage that was just read.
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int r = row0 + wr + 16 * i + lane / 4, q = col0 + wc + 8 * j + lane % 4 * 2;
            *reinterpret_cast<float2*>(c + static_cast<size_t>(r) * n + q) = make_float2(acc[i][j][0], acc[i][j][1]);
            *reinterpret_cast<float2*>(c + static_cast<size_t>(r + 8) * n + q) = make_float2(acc[i][j][2], acc[i][j][3]);
        }
}
