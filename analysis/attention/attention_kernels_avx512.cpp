#define MOETAP_VECTOR_BYTES 64
#include "analysis/attention/attention_kernels_of_set.h"

namespace moetap::analysis {

AttentionKernels avx512_attention_kernels() {
  return SetKernels::kernels();
}

}  // namespace moetap::analysis
