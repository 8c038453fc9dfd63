// Control flow: functions that are called, a table of cases, arrays in local
// memory, and loops that lanes leave at different times.
#include <cstdint>

__device__ __noinline__ unsigned gcd(unsigned a, unsigned b) {
    while (b != 0) {
        unsigned r = a % b;
        a = b;
        b = r;
    }
    return a;
}

struct Pair { unsigned long long sum; int depth; };

__device__ __noinline__ Pair collatz(unsigned n) {
    Pair p{0, 0};
    while (n != 1) {
        p.sum += n;
        p.depth++;
        if (p.depth > 300) return p;
        n = n % 2 ? 3 * n + 1 : n / 2;
    }
    return p;
}

extern "C" __global__ void control(unsigned* out, const unsigned* x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    unsigned v = x[i], r;
    switch (v % 9) {
        case 0: r = v + 1; break;
        case 1: r = v * 3; break;
        case 2: r = v ^ 0xff; break;
        case 3: r = gcd(v, 360360); break;
        case 4: r = __popc(v); break;
        case 5: { Pair p = collatz(v % 1000 + 1); r = static_cast<unsigned>(p.sum) ^ p.depth; break; }
        case 6: r = v >> 3; // falls through
        case 7: r = v - 7; break;
        default: r = ~v;
    }
    // A sort of a local array, indexed at run time.
    uint8_t a[16];
    unsigned s = v;
    for (int k = 0; k < 16; k++) { s = s * 1664525 + 1013904223; a[k] = s >> 24; }
    for (int k = 1; k < 16; k++) {
        uint8_t key = a[k];
        int j = k - 1;
        while (j >= 0 && a[j] > key) { a[j + 1] = a[j]; j--; }
        a[j + 1] = key;
    }
    unsigned digest = 0;
    for (int k = 0; k < 16; k++) digest = digest * 31 + a[k] * (k + v % 3);
    out[2 * i] = r;
    out[2 * i + 1] = digest + a[v % 16];
}
