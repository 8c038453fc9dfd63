// Atomics: a histogram in shared memory, every operation on global memory, a
// loop of compare-and-swap, and a sum whose last block does the rest, told by a
// counter after __threadfence.

struct Totals {
    unsigned add, smallest, largest, ands, ors, xors, wraps, claims;
    unsigned long long wide_add, wide_max;
    float float_add;
    int signed_min;
    double product;
};

constexpr int BINS = 32;

__device__ unsigned finished;

extern "C" __global__ void
atomics(Totals* t, unsigned* bins, unsigned long long* partial, unsigned long long* total, const unsigned* x, int n) {
    __shared__ unsigned local[BINS];
    __shared__ unsigned long long sum;
    __shared__ bool last;
    if (threadIdx.x < BINS) local[threadIdx.x] = 0;
    if (threadIdx.x == 0) sum = 0;
    __syncthreads();
    unsigned long long mine = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        unsigned v = x[i];
        mine += v;
        atomicAdd(&local[v % BINS], 1u);
        atomicAdd(&t->add, v);
        atomicMin(&t->smallest, v);
        atomicMax(&t->largest, v);
        atomicAnd(&t->ands, v | 0xff00ff00u);
        atomicOr(&t->ors, v & 0x00ffff00u);
        atomicXor(&t->xors, v);
        atomicInc(&t->wraps, 99);
        atomicAdd(&t->wide_add, static_cast<unsigned long long>(v) << 20);
        atomicMax(&t->wide_max, static_cast<unsigned long long>(v) << 30);
        // Small whole numbers add up exactly in any order.
        atomicAdd(&t->float_add, static_cast<float>(v % 8));
        atomicMin(&t->signed_min, static_cast<int>(v) - 1000000);
        // There is no atomic product.
        auto* bits = reinterpret_cast<unsigned long long*>(&t->product);
        // Others write it at the same time, so a plain load would be a race.
        unsigned long long old = *const_cast<volatile unsigned long long*>(bits), seen;
        do {
            seen = old;
            double next = __longlong_as_double(static_cast<long long>(seen)) * (v % 2 ? 2.0 : 1.0);
            old = atomicCAS(bits, seen, static_cast<unsigned long long>(__double_as_longlong(next)));
        } while (old != seen);
        atomicExch(&t->claims, i + 1);
    }
    atomicAdd(&sum, mine);
    __syncthreads();
    if (threadIdx.x < BINS) atomicAdd(&bins[threadIdx.x], local[threadIdx.x]);
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = sum;
        // The partial sum before the count.
        __threadfence();
        last = atomicAdd(&finished, 1) == gridDim.x - 1;
    }
    __syncthreads();
    if (last && threadIdx.x == 0) {
        __threadfence();
        unsigned long long all = 0;
        for (int b = 0; b < gridDim.x; b++) all += *const_cast<volatile unsigned long long*>(partial + b);
        *total = all;
        // Ready for the next launch.
        atomicExch(&finished, 0u);
    }
}
