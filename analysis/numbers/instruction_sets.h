#pragma once

namespace moetap::analysis {

/// What the loops over vectors are compiled for, the narrowest first.
enum class InstructionSet { kBaseline, kAvx2, kAvx512 };

/// The widest set that this processor has.
InstructionSet processor_instruction_set();

/// The widest set that is used. As LibTorch does, moetap takes what the processor has unless the environment's
/// ATEN_CPU_CAPABILITY (default, avx2 or avx512), which is read once, asks for less.
InstructionSet chosen_instruction_set();

/// `has`, or less if `capability`, the variable's value or null, asks for less.
InstructionSet limited_instruction_set(InstructionSet has, const char* capability);

}  // namespace moetap::analysis
