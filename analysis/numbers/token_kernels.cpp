#include "analysis/numbers/token_kernels.h"

#include "analysis/numbers/instruction_sets.h"

namespace moetap::analysis {

TokenKernelChoices available_token_kernels() {
  TokenKernelChoices choices{{{"baseline", baseline_token_kernels()}, {}, {}}, 1};
#if defined(__x86_64__)
  const InstructionSet has = processor_instruction_set();
  if (has >= InstructionSet::kAvx2) choices.items[choices.size++] = {"avx2", avx2_token_kernels()};
  if (has >= InstructionSet::kAvx512) choices.items[choices.size++] = {"avx512", avx512_token_kernels()};
#endif
  return choices;
}

const TokenKernels& token_kernels() {
  static const TokenKernels chosen =
      available_token_kernels().items[static_cast<int64_t>(chosen_instruction_set())].kernels;
  return chosen;
}

}  // namespace moetap::analysis
