#include "analysis/numbers/instruction_sets.h"

#include <gtest/gtest.h>

#include "analysis/attention/attention_kernels.h"
#include "analysis/numbers/token_kernels.h"

namespace moetap::analysis {
namespace {

using Set = InstructionSet;

TEST(InstructionSetsTest, TheVariableOfLibTorchAsksForLessNeverForMore) {
  for (const Set has : {Set::kBaseline, Set::kAvx2, Set::kAvx512}) {
    EXPECT_EQ(limited_instruction_set(has, nullptr), has);
    EXPECT_EQ(limited_instruction_set(has, ""), has);
    EXPECT_EQ(limited_instruction_set(has, "unknown"), has);
    EXPECT_EQ(limited_instruction_set(has, "avx512"), has);
    EXPECT_EQ(limited_instruction_set(has, "avx2"), has == Set::kBaseline ? Set::kBaseline : Set::kAvx2);
    EXPECT_EQ(limited_instruction_set(has, "default"), Set::kBaseline);
  }
}

TEST(InstructionSetsTest, KernelsAreThoseOfTheChosenSet) {
  const auto chosen = static_cast<size_t>(chosen_instruction_set());
  const TokenKernelChoices tokens = available_token_kernels();
  ASSERT_LT(static_cast<int64_t>(chosen), tokens.size);
  EXPECT_EQ(token_kernels().softmax, tokens.items[chosen].kernels.softmax);
  const AttentionKernelChoices attention = available_attention_kernels();
  ASSERT_LT(static_cast<int64_t>(chosen), attention.size);
  EXPECT_EQ(attention_kernels().softmax, attention.items[chosen].kernels.softmax);
}

}  // namespace
}  // namespace moetap::analysis
