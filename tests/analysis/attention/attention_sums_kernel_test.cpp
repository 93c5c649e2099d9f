// The kernels of attention sums against the loops of the CPU, emulated and on a device.
#include "analysis/attention/attention_sums_kernel_arguments.h"

#include <gtest/gtest.h>

#include <string>

#include "analysis/attention/attention_device.h"
#include "analysis/attention/attention_sums_paths.h"
#include "tests/analysis/attention/random_rows.h"
#include "tests/analysis/devices.h"
#include "tests/analysis/emulated_attention.h"

namespace moetap::analysis {
namespace {

enum class Where { kEmulated, kCuda };

std::string where_name(const testing::TestParamInfo<Where>& info) {
  return info.param == Where::kCuda ? "Cuda" : "EmulatedKernel";
}

/// What is added to sums: rows, then the experts of their tokens.
struct Added {
  RowsOfTest rows;
  int64_t num_rows = 3, num_experts = kExperts;

  AttentionSums empty() const {
    const AttentionRows& of = rows.rows;
    return empty_attention_sums(of.num_heads, of.num_regions, of.self, num_experts, num_rows);
  }
};

AttentionSums with_loops(const Added& added) {
  AttentionSums sums = added.empty();
  const RowsOfTest& test = added.rows;
  const at::Tensor row = row_of_sequences(sums, test.rows, test.row);
  add_rows_on_cpu(sums, test.rows, row);
  add_experts_on_cpu(sums, test.rows, row, test.selected.to(at::kLong), test.weights);
  normalize(sums);
  return sums;
}

RowsOfTest on_cuda(RowsOfTest test) {
  AttentionRows& rows = test.rows;
  for (at::Tensor* tensor :
       {&rows.line, &rows.values, &rows.bins, &rows.region, &rows.position, &rows.num_keys, &rows.length, &rows.weight,
        &rows.head_high, &rows.head_low, &rows.head_max_score, &test.row, &test.selected, &test.weights}) {
    if (tensor->defined()) *tensor = tensor->to(at::kCUDA);
  }
  return test;
}

class AttentionSumsKernelTest : public testing::TestWithParam<Where> {
 protected:
  void SetUp() override {
    const std::string missing = GetParam() == Where::kCuda ? missing_cuda() : missing_emulation();
    if (!missing.empty()) GTEST_SKIP() << missing;
  }

  static AttentionSums with_kernels(const Added& added, uint64_t seed = 1) {
    AttentionSums sums = added.empty();
    RowsOfTest test = added.rows;
    const char* refusal = attention_sums_kernel_refusal(test.rows, test.row, test.selected, test.weights);
    if (refusal != nullptr) throw std::runtime_error(refusal);
    if (GetParam() == Where::kEmulated) {
      const EmulatedAttentionKernels kernels(seed);
      kernels.add_rows(sums, test.rows, test.row);
      kernels.add_experts(sums, test.rows, test.row, test.selected, test.weights);
    } else {
      test = on_cuda(test);
      sums.words = sums.words.to(at::kCUDA);
      add_rows(sums, test.rows, test.row);
      add_experts(sums, test.rows, test.row, test.selected, test.weights);
      sums.words = sums.words.cpu();
    }
    normalize(sums);
    return sums;
  }

  static void expect_as_loops(const Added& added, const std::string& name, uint64_t seed = 1) {
    const AttentionSums actual = with_kernels(added, seed), expected = with_loops(added);
    EXPECT_TRUE(at::equal(actual.words, expected.words))
        << name << ": words " << (actual.words != expected.words).nonzero().flatten();
  }
};

INSTANTIATE_TEST_SUITE_P(Paths, AttentionSumsKernelTest, testing::Values(Where::kEmulated, Where::kCuda), where_name);

TEST_P(AttentionSumsKernelTest, SumsHaveTheBitsOfTheLoops) {
  for (const int64_t regions : {1, 5, 16}) expect_as_loops({random_rows(false, regions)}, std::to_string(regions));
}

TEST_P(AttentionSumsKernelTest, SampledRowsHaveVariances) {
  const Added added{random_rows(/*sampled=*/true)};
  const AttentionSums actual = with_kernels(added), expected = with_loops(added);
  const AttentionSumsLayout layout = actual.layout();
  if (GetParam() == Where::kEmulated) {
    EXPECT_TRUE(at::equal(actual.words, expected.words));
    return;
  }
  // A device may add a square in one operation, of other rounding.
  const int64_t first = layout.high(layout.variance(0)), count = layout.num_columns();
  const auto of = [&](const AttentionSums& sums) { return sums.words.narrow(0, first, count).to(at::kDouble); };
  EXPECT_LE((of(actual) - of(expected)).abs().max().item<double>(), 1);
}

TEST_P(AttentionSumsKernelTest, TypesOfIdsAndWeights) {
  const RowsOfTest test = random_rows();
  for (const at::ScalarType type : {at::kFloat, at::kHalf, at::kBFloat16, at::kDouble}) {
    Added added{test};
    added.rows.weights = test.weights.to(type);
    if (type != at::kFloat) added.rows.selected = test.selected.to(at::kInt);
    expect_as_loops(added, toString(type));
  }
  Added added{test};
  added.rows.weights = at::Tensor();
  expect_as_loops(added, "no weights");
}

TEST_P(AttentionSumsKernelTest, RowsOfSequences) {
  Added added{random_rows()};
  added.rows.row = at::tensor({1, -1, 7, 2}, at::kLong);
  expect_as_loops(added, "sequences without a row");
  added.rows.row = at::Tensor();
  added.num_rows = 4;
  expect_as_loops(added, "a row a sequence");
  added.num_rows = 1;
  expect_as_loops(added, "one row");
}

TEST_P(AttentionSumsKernelTest, ManySlotsAndExperts) {
  Added added{random_rows()};
  at::manual_seed(3);
  for (const int64_t top_k : {1, 9}) {  // one block of an expert, then three
    for (const int64_t experts : {1, 33, 200}) {
      added.num_experts = experts;
      added.rows.selected = at::randint(-1, experts + 1, {4 * 70, top_k}, at::kLong);
      added.rows.weights = at::rand({4 * 70, top_k});
      expect_as_loops(added, std::to_string(experts) + " experts, top-" + std::to_string(top_k));
    }
  }
  added.rows.selected.fill_(117);
  expect_as_loops(added, "all to one");
}

TEST_P(AttentionSumsKernelTest, WeightsOutOfRangeAndForeignIdsAreCounted) {
  Added added{random_rows()};
  RowsOfTest& test = added.rows;
  test.selected.fill_(1);
  test.selected[0][0] = kExperts;
  test.selected[1][0] = -1;
  test.selected[2][1] = -7;
  test.selected[5][0] = -1;  // of an empty row, which is not counted
  test.weights.fill_(1);
  test.weights[3][0] = NAN;
  test.weights[4][0] = HUGE_VALF;
  test.weights[6][1] = -HUGE_VALF;
  test.weights[5][1] = NAN;
  expect_as_loops(added, "counters");
  const AttentionSums sums = with_kernels(added);
  const auto* words = sums.words.const_data_ptr<int64_t>() + sums.layout().shared_begin();
  EXPECT_EQ(words[kUnassignedSlots], 3);
  EXPECT_EQ(words[kWeightsOutOfRange], 3);
}

TEST_P(AttentionSumsKernelTest, TheOrderOfBlocksAndThreadsDoesNotMatter) {
  for (const uint64_t seed : {2, 3, 4}) expect_as_loops({random_rows(true)}, "seed " + std::to_string(seed), seed);
}

TEST(AttentionSumsKernelLaunchTest, WhatIsRefusedIsNamed) {
  const RowsOfTest test = random_rows();
  const auto refusal = [&](const at::Tensor& row, const at::Tensor& selected, const at::Tensor& weights) {
    const char* reason = attention_sums_kernel_refusal(test.rows, row, selected, weights);
    return std::string(reason == nullptr ? "" : reason);
  };
  EXPECT_EQ(refusal(test.row, test.selected, test.weights), "");
  EXPECT_EQ(refusal({}, test.selected, {}), "");
  EXPECT_EQ(refusal(test.row.repeat_interleave(70), {}, {}), "each line has a row of its own");
  EXPECT_EQ(refusal({}, test.selected.t().contiguous().t(), {}), "ids or weights that lie apart");
  EXPECT_EQ(refusal({}, test.selected, test.weights.to(at::kFloat8_e5m2)),
            "weights that are not half, bfloat16, float or double");
}

TEST(AttentionSumsKernelLaunchTest, WorkIsCutIntoEnoughBlocks) {
  RowsOfTest test = random_rows();
  const auto blocks = [&](int64_t experts) {
    const AttentionSums sums = empty_attention_sums(3, 5, true, experts, 1);
    return expert_sums_launch(sums, test.rows, {}, test.selected, test.weights).blocks;
  };
  EXPECT_EQ(blocks(6), 6) << "few slots";
  test.selected = at::zeros({8192, 8}, at::kInt);
  test.weights = at::Tensor();
  EXPECT_EQ(blocks(8), 512);
  EXPECT_EQ(blocks(128), 512);
  EXPECT_EQ(blocks(1024), 1024);
}

}  // namespace
}  // namespace moetap::analysis
