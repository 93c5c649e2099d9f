#include "analysis/numbers/instruction_sets.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>

namespace moetap::analysis {

InstructionSet processor_instruction_set() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("popcnt")) {
    const bool has_avx512 =
        __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return has_avx512 ? InstructionSet::kAvx512 : InstructionSet::kAvx2;
  }
#endif
  return InstructionSet::kBaseline;
}

InstructionSet limited_instruction_set(InstructionSet has, const char* capability) {
  const std::string_view limit = capability == nullptr ? "" : capability;
  if (limit == "default") return InstructionSet::kBaseline;
  return limit == "avx2" ? std::min(has, InstructionSet::kAvx2) : has;
}

InstructionSet chosen_instruction_set() {
  static const InstructionSet chosen =
      limited_instruction_set(processor_instruction_set(), std::getenv("ATEN_CPU_CAPABILITY"));
  return chosen;
}

}  // namespace moetap::analysis
