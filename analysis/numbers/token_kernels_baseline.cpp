#define MOETAP_VECTOR_BYTES 16
#define MOETAP_WIDEST_GROUP Lanes
#include "analysis/numbers/token_kernels_of_set.h"

namespace moetap::analysis {

TokenKernels baseline_token_kernels() {
  return SetKernels::kernels();
}

}  // namespace moetap::analysis
