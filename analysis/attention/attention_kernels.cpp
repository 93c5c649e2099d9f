#include "analysis/attention/attention_kernels.h"

namespace moetap::analysis {

AttentionKernelChoices available_attention_kernels() {
  AttentionKernelChoices choices{{{"baseline", baseline_attention_kernels()}, {}, {}}, 1};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    choices.items[choices.size++] = {"avx2", avx2_attention_kernels()};
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      choices.items[choices.size++] = {"avx512", avx512_attention_kernels()};
    }
  }
#endif
  return choices;
}

const AttentionKernels& attention_kernels() {
  static const AttentionKernels widest = [] {
    const AttentionKernelChoices choices = available_attention_kernels();
    return choices.items[choices.size - 1].kernels;
  }();
  return widest;
}

}  // namespace moetap::analysis
