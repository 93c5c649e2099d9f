#define MOETAP_VECTOR_BYTES 32
#include "analysis/attention/attention_row_kernels_of_set.h"

namespace moetap::analysis {

AttentionKernels avx2_attention_kernels() {
  return all_kernels();
}

}  // namespace moetap::analysis
