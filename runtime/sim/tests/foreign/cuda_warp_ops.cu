// Every warp-wide operation of CUDA C++, with whole warps and with some lanes
// away. Each thread writes WORDS results.

constexpr int WORDS = 16;

extern "C" __global__ void warp_ops(unsigned* out, const unsigned* x) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x % 32;
    unsigned v = x[i];
    const unsigned all = 0xffffffff;
    unsigned r[WORDS] = {};
    r[0] = __shfl_sync(all, v, v % 32);
    r[1] = __shfl_up_sync(all, v, 3, 16);
    r[2] = __shfl_down_sync(all, v, 5, 8);
    r[3] = __shfl_xor_sync(all, v, 9);
    unsigned long long wide = __shfl_xor_sync(all, (static_cast<unsigned long long>(v) << 32) | i, 1);
    r[4] = static_cast<unsigned>(wide >> 32) ^ static_cast<unsigned>(wide);
    r[5] = __ballot_sync(all, v % 3 == 0);
    r[6] = (__any_sync(all, v % 64 == 7) ? 1 : 0) | (__all_sync(all, v < 1000) ? 2 : 0) | (__uni_sync(all, v % 2) ? 4 : 0);
    r[7] = __match_any_sync(all, v % 4);
    int same;
    r[8] = __match_all_sync(all, v / 1024, &same);
    r[8] ^= same ? 1 : 0;
    r[9] = __reduce_add_sync(all, v);
    r[10] = static_cast<unsigned>(__reduce_min_sync(all, static_cast<int>(v) - 500));
    r[11] = __reduce_max_sync(all, v) ^ __reduce_xor_sync(all, v);
    if (v % 2 == 0) {
        // Only the even ones are here.
        unsigned here = __activemask();
        r[12] = __popc(here);
        r[13] = __reduce_or_sync(here, 1u << lane);
        r[14] = __shfl_sync(here, v, __ffs(here) - 1);
    } else {
        r[12] = 1000;
    }
    __syncwarp();
    // An inclusive scan in the classic way.
    unsigned scan = v;
    for (int d = 1; d < 32; d *= 2) {
        unsigned below = __shfl_up_sync(all, scan, d);
        if (lane >= d) scan += below;
    }
    r[15] = scan;
    for (int w = 0; w < WORDS; w++) out[i * WORDS + w] = r[w];
}
