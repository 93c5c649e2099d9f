#define MOETAP_VECTOR_BYTES 16
#include "analysis/attention/attention_kernels_of_set.h"

namespace moetap::analysis {

AttentionKernels baseline_attention_kernels() {
  return SetKernels::kernels();
}

}  // namespace moetap::analysis
