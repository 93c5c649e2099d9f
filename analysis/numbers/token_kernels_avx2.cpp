#define MOETAP_VECTOR_BYTES 32
#define MOETAP_WIDEST_GROUP TwoTokens
#include "analysis/numbers/token_kernels_of_set.h"

namespace moetap::analysis {

TokenKernels avx2_token_kernels() {
  return SetKernels::kernels();
}

}  // namespace moetap::analysis
