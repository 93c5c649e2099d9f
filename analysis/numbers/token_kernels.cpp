#include "analysis/numbers/token_kernels.h"

namespace moetap::analysis {

TokenKernelChoices available_token_kernels() {
  TokenKernelChoices choices{{{"baseline", baseline_token_kernels()}, {}, {}}, 1};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("popcnt"))
    choices.items[choices.size++] = {"avx2", avx2_token_kernels()};
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("fma") && __builtin_cpu_supports("popcnt")) {
    choices.items[choices.size++] = {"avx512", avx512_token_kernels()};
  }
#endif
  return choices;
}

const TokenKernels& token_kernels() {
  static const TokenKernels widest = [] {
    const TokenKernelChoices choices = available_token_kernels();
    return choices.items[choices.size - 1].kernels;
  }();
  return widest;
}

}  // namespace moetap::analysis
