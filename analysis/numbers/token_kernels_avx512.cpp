#define MOETAP_VECTOR_BYTES 64
#define MOETAP_WIDEST_GROUP FourTokens
#include "analysis/numbers/token_kernels_of_set.h"

namespace moetap::analysis {
namespace {

/// `add_common` for processors that count the bits of eight words at once. What does not fill a vector is not masked:
/// the next load would have to wait for the store.
__attribute__((target("avx512vpopcntdq"))) void add_common_by_eights(const uint64_t* sets, int64_t n, int64_t* sums) {
  for (int64_t i = 0; i < n; ++i) {
    const __m512i set = _mm512_set1_epi64(static_cast<int64_t>(sets[i]));
    int64_t j = i + 1;
    for (; j + 8 <= n; j += 8, sums += 8) {
      const __m512i common = _mm512_popcnt_epi64(_mm512_and_si512(set, _mm512_loadu_si512(sets + j)));
      _mm512_storeu_si512(sums, _mm512_add_epi64(_mm512_loadu_si512(sums), common));
    }
    for (; j < n; ++j) *sums++ += __builtin_popcountll(sets[i] & sets[j]);
  }
}

}  // namespace

TokenKernels avx512_token_kernels() {
  TokenKernels kernels = SetKernels::kernels();
  if (__builtin_cpu_supports("avx512vpopcntdq")) {
    kernels.add_common = add_common_by_eights;
    kernels.common_a_pair = 12;
  }
  return kernels;
}

}  // namespace moetap::analysis
