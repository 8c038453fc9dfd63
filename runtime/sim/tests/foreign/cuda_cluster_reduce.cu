// The sum of an array by clusters of four blocks: each block sums its part, and
// the first one reads the others' sums from their shared memory. A histogram is
// kept in distributed shared memory as well: each block owns a quarter of the
// bins, and all blocks of the cluster count into it.
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>

namespace cg = cooperative_groups;

constexpr int BLOCKS = 4;
constexpr int BINS_PER_BLOCK = 16;

extern "C" __global__ void __cluster_dims__(BLOCKS, 1, 1)
cluster_reduce(unsigned long long* sums, unsigned* bins, const unsigned* x, int per_cluster) {
    __shared__ unsigned long long mine;
    __shared__ unsigned local_bins[BINS_PER_BLOCK];
    cg::cluster_group cluster = cg::this_cluster();
    cg::thread_block block = cg::this_thread_block();
    unsigned rank = cluster.block_rank();
    if (threadIdx.x == 0) mine = 0;
    if (threadIdx.x < BINS_PER_BLOCK) local_bins[threadIdx.x] = 0;
    // Nobody may count into a block that has not cleared its bins.
    cluster.sync();

    x += static_cast<size_t>(blockIdx.x / BLOCKS) * per_cluster;
    unsigned long long sum = 0;
    for (int i = rank * blockDim.x + threadIdx.x; i < per_cluster; i += BLOCKS * blockDim.x) {
        unsigned v = x[i];
        sum += v;
        unsigned bin = v % (BLOCKS * BINS_PER_BLOCK);
        atomicAdd(cluster.map_shared_rank(local_bins, bin / BINS_PER_BLOCK) + bin % BINS_PER_BLOCK, 1u);
    }
    cg::thread_block_tile<32> warp = cg::tiled_partition<32>(block);
    sum = cg::reduce(warp, sum, cg::plus<unsigned long long>());
    if (warp.thread_rank() == 0) atomicAdd(&mine, sum);
    cluster.sync();

    if (rank == 0 && threadIdx.x == 0) {
        unsigned long long total = 0;
        for (int r = 0; r < BLOCKS; r++) total += *cluster.map_shared_rank(&mine, r);
        sums[blockIdx.x / BLOCKS] = total;
    }
    if (threadIdx.x < BINS_PER_BLOCK) atomicAdd(bins + rank * BINS_PER_BLOCK + threadIdx.x, local_bins[threadIdx.x]);
    // The first block reads the others' memory: they may not end before.
    cluster.sync();
}
