#include "analysis/attention/attention_kernels.h"

#include "analysis/numbers/instruction_sets.h"

namespace moetap::analysis {

AttentionKernelChoices available_attention_kernels() {
  AttentionKernelChoices choices{{{"baseline", baseline_attention_kernels()}, {}, {}}, 1};
#if defined(__x86_64__)
  const InstructionSet has = processor_instruction_set();
  if (has >= InstructionSet::kAvx2) choices.items[choices.size++] = {"avx2", avx2_attention_kernels()};
  if (has >= InstructionSet::kAvx512) choices.items[choices.size++] = {"avx512", avx512_attention_kernels()};
#endif
  return choices;
}

const AttentionKernels& attention_kernels() {
  static const AttentionKernels chosen =
      available_attention_kernels().items[static_cast<int64_t>(chosen_instruction_set())].kernels;
  return chosen;
}

}  // namespace moetap::analysis
