// The functions of CUDA's math library, and its integer, half, bfloat16 and FP8
// intrinsics: every thread writes one result of each.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

constexpr int FLOATS = 40, DOUBLES = 14, INTEGERS = 30;

// x in (0, 8); y in (-4, 4).
extern "C" __global__ void floats(float* out, const float* xs, const float* ys) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    float x = xs[i], y = ys[i];
    out += i * FLOATS;
    int n = 0;
    out[n++] = sinf(x);
    out[n++] = cosf(x);
    // So large that the argument is reduced with all of 2/pi.
    out[n++] = sinf(x * 1e6f);
    out[n++] = tanf(y);
    out[n++] = asinf(y / 4);
    out[n++] = acosf(y / 4);
    out[n++] = atanf(y);
    out[n++] = atan2f(y, x);
    out[n++] = sinhf(y);
    out[n++] = coshf(y);
    out[n++] = tanhf(y);
    out[n++] = expf(y);
    out[n++] = exp2f(y);
    out[n++] = exp10f(y);
    out[n++] = expm1f(y);
    out[n++] = logf(x);
    out[n++] = log2f(x);
    out[n++] = log10f(x);
    out[n++] = log1pf(x);
    out[n++] = powf(x, y);
    out[n++] = sqrtf(x);
    out[n++] = rsqrtf(x);
    out[n++] = cbrtf(y);
    out[n++] = hypotf(x, y);
    out[n++] = erff(y);
    out[n++] = erfcf(x / 4);
    out[n++] = lgammaf(x);
    out[n++] = tgammaf(x);
    out[n++] = fmodf(x, 0.7f);
    out[n++] = remainderf(y, 0.7f);
    out[n++] = floorf(y);
    out[n++] = ceilf(y);
    out[n++] = rintf(y);
    out[n++] = roundf(y);
    out[n++] = truncf(y);
    out[n++] = ldexpf(y, 5);
    out[n++] = logbf(x);
    out[n++] = copysignf(x, y);
    out[n++] = x / y;
    out[n++] = fmaf(x, y, 1.5f);
}

extern "C" __global__ void doubles(double* out, const double* xs, const double* ys) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    double x = xs[i], y = ys[i];
    out += i * DOUBLES;
    int n = 0;
    out[n++] = sin(x);
    out[n++] = cos(x * 1e6);
    out[n++] = exp(y);
    out[n++] = log(x);
    out[n++] = pow(x, y);
    out[n++] = sqrt(x);
    out[n++] = rsqrt(x);
    out[n++] = tanh(y);
    out[n++] = erf(y / 4);
    out[n++] = atan2(y, x);
    out[n++] = fmod(x, 0.7);
    out[n++] = x / y;
    out[n++] = cbrt(y);
    out[n++] = fma(x, y, 1.5);
}

extern "C" __global__ void integers(unsigned* out, const unsigned* xs, const unsigned* ys) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned x = xs[i], y = ys[i];
    unsigned long long wide = static_cast<unsigned long long>(x) << 32 | y;
    long long swide = static_cast<long long>(wide);
    out += i * INTEGERS;
    int n = 0;
    out[n++] = x / (y | 1);
    out[n++] = static_cast<int>(x) / static_cast<int>(y >> 8 | 1);
    out[n++] = x % 1000;
    out[n++] = static_cast<unsigned>(wide / (x | 1));
    out[n++] = static_cast<unsigned>(swide % (static_cast<int>(y) | 1));
    out[n++] = __umulhi(x, y);
    out[n++] = __mulhi(static_cast<int>(x), static_cast<int>(y));
    out[n++] = static_cast<unsigned>(__umul64hi(wide, wide ^ 0x5555));
    out[n++] = __popc(x) + __popcll(wide);
    out[n++] = __clz(x >> 5) * 100 + __clzll(wide >> 40);
    out[n++] = __ffs(x << 3) * 100 + __ffsll(wide << 35);
    out[n++] = __brev(x);
    out[n++] = __byte_perm(x, y, 0x7351);
    out[n++] = __funnelshift_l(x, y, y);
    out[n++] = __funnelshift_rc(x, y, y % 64);
    out[n++] = __sad(static_cast<int>(x), static_cast<int>(y), 7u);
    out[n++] = __hadd(static_cast<int>(x), static_cast<int>(y));
    out[n++] = __dp4a(static_cast<int>(x), static_cast<int>(y), -5);
    out[n++] = __dp4a(x, y, 5u);
    out[n++] = __vadd4(x, y);
    out[n++] = __vmaxs2(x, y);
    out[n++] = static_cast<unsigned>(__float2int_rn(__uint_as_float((x & 0x007fffff) | 0x45000000)));
    out[n++] = __float2uint_rz(__uint2float_rn(x));
    out[n++] = __float_as_uint(__uint2float_rz(x));
    half h = __ushort_as_half(static_cast<unsigned short>(x & 0xbbff)), g = __ushort_as_half(static_cast<unsigned short>(y & 0xbbff));
    out[n++] = __half_as_ushort(__hfma(h, g, h)) | __half_as_ushort(__hmul(h, g)) << 16;
    half2 hh = __halves2half2(h, g), r2 = __hadd2(hh, __hmul2(hh, hh));
    out[n++] = __half_as_ushort(__low2half(r2)) | __half_as_ushort(__high2half(r2)) << 16;
    __nv_bfloat16 p = __float2bfloat16(__half2float(h)), q = __float2bfloat16(__half2float(g));
    out[n++] = __bfloat16_as_ushort(__hadd(p, q)) | __bfloat16_as_ushort(__hmax(p, q)) << 16;
    out[n++] = __nv_cvt_float_to_fp8(__half2float(h) * 100, __NV_SATFINITE, __NV_E4M3) | __nv_cvt_float_to_fp8(__half2float(g) * 100, __NV_SATFINITE, __NV_E5M2) << 8;
    out[n++] = __nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(x & 0x7777), __NV_E4M3).x;
    out[n++] = (x < y) + 2 * (static_cast<int>(x) < static_cast<int>(y)) + 4 * (h < g) + 8 * __hisnan(h);
}
