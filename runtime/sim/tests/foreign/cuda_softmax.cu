// Softmax over the rows of a matrix: a block a row, each thread a stride of the
// row in registers, maximum and sum by warp shuffles and shared memory.
#include <math_constants.h>

constexpr int THREADS = 256;
constexpr int PER_THREAD = 4;

template <typename Op>
__device__ float block_reduce(float v, float identity, Op op) {
    __shared__ float partial[THREADS / 32];
    for (int d = 16; d > 0; d /= 2) v = op(v, __shfl_xor_sync(0xffffffff, v, d));
    // The partial results of an earlier call may still be read.
    __syncthreads();
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = v;
    __syncthreads();
    v = threadIdx.x % 32 < THREADS / 32 ? partial[threadIdx.x % 32] : identity;
    for (int d = THREADS / 64; d > 0; d /= 2) v = op(v, __shfl_xor_sync(0xffffffff, v, d));
    return __shfl_sync(0xffffffff, v, 0);
}

extern "C" __global__ void __launch_bounds__(THREADS)
softmax(float* __restrict__ out, const float* __restrict__ x, int columns) {
    x += static_cast<size_t>(blockIdx.x) * columns;
    out += static_cast<size_t>(blockIdx.x) * columns;
    float v[PER_THREAD], top = -CUDART_INF_F, sum = 0;
#pragma unroll
    for (int i = 0; i < PER_THREAD; i++) {
        int at = threadIdx.x + i * THREADS;
        v[i] = at < columns ? x[at] : -CUDART_INF_F;
        top = fmaxf(top, v[i]);
    }
    top = block_reduce(top, -CUDART_INF_F, [](float a, float b) { return fmaxf(a, b); });
#pragma unroll
    for (int i = 0; i < PER_THREAD; i++) {
        v[i] = expf(v[i] - top);
        sum += v[i];
    }
    sum = block_reduce(sum, 0.0f, [](float a, float b) { return a + b; });
#pragma unroll
    for (int i = 0; i < PER_THREAD; i++) {
        int at = threadIdx.x + i * THREADS;
        if (at < columns) out[at] = v[i] / sum;
    }
}
