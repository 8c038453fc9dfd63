// A pipeline of bulk copies over mbarriers: one thread fills a ring of stages
// with cp.async.bulk, all threads take them, and the results leave by a bulk
// store from shared memory. Written with libcu++ (cuda::barrier, cuda::ptx).
#include <cuda/barrier>
#include <cuda/ptx>

namespace ptx = cuda::ptx;
using barrier = cuda::barrier<cuda::thread_scope_block>;

constexpr int STAGES = 3;
constexpr int CHUNK = 512;
constexpr int THREADS = 128;

// out[i] = a x[i] + y[i]; n is a multiple of CHUNK.
extern "C" __global__ void __launch_bounds__(THREADS)
bulk_pipeline(float* out, const float* x, const float* y, float a, int n) {
    __shared__ alignas(128) float xs[STAGES][CHUNK];
    __shared__ alignas(128) float ys[STAGES][CHUNK];
    __shared__ alignas(128) float result[2][CHUNK];
#pragma nv_diag_suppress static_var_with_dynamic_init
    __shared__ barrier full[STAGES], empty[STAGES];
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; s++) {
            init(&full[s], 1);
            init(&empty[s], THREADS);
        }
        ptx::fence_proxy_async(ptx::space_shared);
    }
    __syncthreads();

    int chunks = n / CHUNK;
    int mine = blockIdx.x < chunks ? (chunks - blockIdx.x + gridDim.x - 1) / gridDim.x : 0;
    auto fill = [&](int step) {
        int s = step % STAGES;
        size_t at = static_cast<size_t>(blockIdx.x + step * gridDim.x) * CHUNK;
        (void)cuda::device::barrier_arrive_tx(full[s], 1, 2 * sizeof(xs[0]));
        auto* bar = cuda::device::barrier_native_handle(full[s]);
        ptx::cp_async_bulk(ptx::space_cluster, ptx::space_global, xs[s], x + at, sizeof(xs[0]), bar);
        ptx::cp_async_bulk(ptx::space_cluster, ptx::space_global, ys[s], y + at, sizeof(ys[0]), bar);
    };
    if (threadIdx.x == 0)
        for (int step = 0; step < STAGES && step < mine; step++) fill(step);

    for (int step = 0; step < mine; step++) {
        int s = step % STAGES, round = step / STAGES;
        full[s].wait_parity(round % 2 != 0);
        float* to = result[step % 2];
        for (int i = threadIdx.x; i < CHUNK; i += THREADS) to[i] = a * xs[s][i] + ys[s][i];
        (void)empty[s].arrive();
        // The store reads what other threads wrote, by the asynchronous proxy.
        ptx::fence_proxy_async(ptx::space_shared);
        __syncthreads();
        if (threadIdx.x == 0) {
            size_t at = static_cast<size_t>(blockIdx.x + step * gridDim.x) * CHUNK;
            ptx::cp_async_bulk(ptx::space_global, ptx::space_shared, out + at, to, sizeof(result[0]));
            ptx::cp_async_bulk_commit_group();
            // The other buffer is free when all stores but the newest have read.
            ptx::cp_async_bulk_wait_group_read(ptx::n32_t<1>{});
            if (step + STAGES < mine) {
                empty[s].wait_parity(round % 2 != 0);
                fill(step + STAGES);
            }
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) ptx::cp_async_bulk_wait_group(ptx::n32_t<0>{});
}
