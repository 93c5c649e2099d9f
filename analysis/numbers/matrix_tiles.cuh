#pragma once

#include <cstdint>

// What a warp computes with tensor cores, and what goes with it. All 32 lanes call a product together. Tests define
// these functions differently, so that a kernel runs on the CPU: see tests/analysis/emulated_matrix_tiles.h.
//
// Note [Tiles of a product]
// sums[16, 8] += a[16, n] b[n, 8]. With g = lane / 4 and t = lane % 4, a lane holds
//   sums: (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)
//   a of 16 bits, n = 16, two values a word: (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8), each with its right
//   neighbour;  b: (2t, g), (2t + 8, g), each with the value below it
//   a of 32 bits, n = 8: (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4);  b: (t, g), (t + 4, g)
#ifdef __CUDACC__

namespace moetap::analysis::warp {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define MOETAP_MULTIPLY(SHAPE, A0, A1, A2, A3, B0, B1) __trap()
#else
#define MOETAP_MULTIPLY(SHAPE, A0, A1, A2, A3, B0, B1)                                                        \
  asm volatile("mma.sync.aligned." SHAPE " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n" \
               : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])                                   \
               : "r"(A0), "r"(A1), "r"(A2), "r"(A3), "r"(B0), "r"(B1))
#endif

__device__ inline void multiply_halves(float (&sums)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                       uint32_t b0, uint32_t b1) {
  MOETAP_MULTIPLY("m16n8k16.row.col.f32.f16.f16.f32", a0, a1, a2, a3, b0, b1);
}
__device__ inline void multiply_bfloats(float (&sums)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                        uint32_t b0, uint32_t b1) {
  MOETAP_MULTIPLY("m16n8k16.row.col.f32.bf16.bf16.f32", a0, a1, a2, a3, b0, b1);
}
/// Of floats the upper 19 bits count.
__device__ inline void multiply_short_floats(float (&sums)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                             uint32_t b0, uint32_t b1) {
  MOETAP_MULTIPLY("m16n8k8.row.col.f32.tf32.tf32.f32", a0, a1, a2, a3, b0, b1);
}
#undef MOETAP_MULTIPLY

/// Two floats as halves, the first in the low bits.
__device__ inline uint32_t pack_halves(float first, float second) {
  uint32_t word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
  return word;
}
struct TwoFloats {
  float first, second;
};
__device__ inline TwoFloats unpack_halves(uint32_t word) {
  TwoFloats values;
  asm("{ .reg .f16 low, high;\n mov.b32 {low, high}, %2;\n cvt.f32.f16 %0, low;\n cvt.f32.f16 %1, high; }"
      : "=f"(values.first), "=f"(values.second)
      : "r"(word));
  return values;
}

/// 2^x to 2^-22 of itself; 0 below 2^-126.
__device__ inline float approximate_exp2(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}
/// The logarithm to the base 2, to 2^-22; -inf of 0 and NaN of negative values.
__device__ inline float approximate_log2(float x) {
  float logarithm;
  asm("lg2.approx.f32 %0, %1;" : "=f"(logarithm) : "f"(x));
  return logarithm;
}

/// Raises a word of memory to `value`.
__device__ inline void raise(int64_t* word, int64_t value) {
  atomicMax(reinterpret_cast<long long*>(word), static_cast<long long>(value));
}
__device__ inline void set_bits(int32_t* word, int32_t bits) {
  atomicOr(word, bits);
}

}  // namespace moetap::analysis::warp

#endif
