#define MOETAP_VECTOR_BYTES 64
#define MOETAP_WIDEST_GROUP FourTokens
#include "analysis/numbers/token_kernels_of_set.h"

namespace moetap::analysis {

TokenKernels avx512_token_kernels() {
  return SetKernels::kernels();
}

}  // namespace moetap::analysis
