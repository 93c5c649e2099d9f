// The attention kernels against the reference of the CPU, emulated and on a device.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <stdexcept>

#include "analysis/attention/attention_device.h"
#include "analysis/attention/attention_kernel_arguments.h"
#include "tests/analysis/attention/attention_calls.h"
#include "tests/analysis/attention/attention_shapes.h"
#include "tests/analysis/attention/compare_rows.h"
#include "tests/analysis/devices.h"
#include "tests/analysis/emulated_attention.h"

namespace moetap::analysis {
namespace {

enum class Where { kEmulated, kCuda };

std::string where_name(const testing::TestParamInfo<Where>& info) {
  return info.param == Where::kCuda ? "Cuda" : "EmulatedKernel";
}

CallOfTest call_on(at::Device device, CallOfTest test) {
  AttentionCall& call = test.call;
  AttentionTokens& tokens = test.tokens;
  for (at::Tensor* tensor :
       {&call.probabilities, &call.scores, &call.query, &call.key, &call.mask, &call.log_sum_exp,
        &tokens.query_position, &tokens.key_position, &tokens.query_region, &tokens.key_region, &tokens.sampled}) {
    if (tensor->defined()) *tensor = to_device(*tensor, device);
  }
  return test;
}

AttentionRows to_host(AttentionRows rows) {
  for (at::Tensor* tensor :
       {&rows.line, &rows.values, &rows.bins, &rows.region, &rows.position, &rows.num_keys, &rows.length, &rows.weight,
        &rows.head_high, &rows.head_low, &rows.head_max_score, &rows.matrix}) {
    if (tensor->defined()) *tensor = tensor->cpu();
  }
  return rows;
}

class AttentionKernelTest : public testing::TestWithParam<Where> {
 protected:
  void SetUp() override {
    const std::string missing = GetParam() == Where::kCuda ? missing_cuda() : missing_emulation();
    if (!missing.empty()) GTEST_SKIP() << missing;
  }

  static AttentionRows measure(const CallOfTest& test, uint64_t seed = 1, int64_t enough_blocks = kEnoughBlocks,
                               bool matrix = false) {
    const AttentionShape shape = check_attention(test.call, test.tokens);
    const char* refusal = attention_kernel_refusal(test.call, shape);
    if (refusal != nullptr) throw std::runtime_error(refusal);
    if (GetParam() == Where::kEmulated) {
      return measure_with_kernels(EmulatedAttentionKernels(seed, enough_blocks), test.call, test.tokens, {matrix});
    }
    const CallOfTest on_device = call_on(at::kCUDA, test);
    return to_host(measure_on_device(on_device.call, on_device.tokens, {matrix}));
  }

  /// Emulation takes a second for 500 x 500 scores.
  static bool is_slow(const CallOfTest& test) {
    return GetParam() == Where::kEmulated && test.call.query.size(2) > 150;
  }
  /// Scores of hundreds are good to 1e-6 of themselves.
  static double tolerance_of(const CallOfTest& test) { return test.call.scale > 10 ? 2e-4 : 1e-5; }

  /// enough_blocks = 1: all tiles of up to 1,024 keys are one part; else most parts are one tile.
  static void expect_as_reference(const CallOfTest& test, double tolerance = 1e-5, int64_t enough_blocks = 1) {
    expect_equal(measure(test, 1, enough_blocks), reference(test), tolerance, test.name);
  }
  static void expect_matrix_as_reference(const CallOfTest& test) {
    expect_equal(measure(test, 1, 1, /*matrix=*/true), reference(test, /*matrix=*/true), tolerance_of(test), test.name);
  }
};

INSTANTIATE_TEST_SUITE_P(Paths, AttentionKernelTest, testing::Values(Where::kEmulated, Where::kCuda), where_name);

TEST_P(AttentionKernelTest, EveryShape) {
  int64_t number = 0;
  for (const CallOfTest& test : calls_of_all_shapes()) {
    if (is_slow(test)) continue;
    expect_as_reference(test, tolerance_of(test), number++ % 3 == 0 ? kEnoughBlocks : 1);
  }
}

TEST_P(AttentionKernelTest, EveryShapeOfGivenProbabilities) {
  for (const CallOfTest& test : calls_of_all_shapes()) {
    if (is_slow(test)) continue;
    CallOfTest given = with_probabilities(test);
    expect_as_reference(given, tolerance_of(test));
    if (test.name.find("holes") == std::string::npos) continue;
    // What a softmax of nothing but -inf makes, cannot be told from other NaN then.
    given.call.scores = at::Tensor();
    given.name += ", without scores";
    expect_as_reference(given, tolerance_of(test));
  }
}

TEST_P(AttentionKernelTest, HalfPrecision) {
  for (const at::ScalarType type : {at::kHalf, at::kBFloat16}) {
    const std::vector<CallOfTest> shapes = calls_of_all_shapes();
    for (size_t i = type == at::kHalf ? 0 : 1; i < shapes.size(); i += 3) {
      if (is_slow(shapes[i])) continue;
      CallOfTest test = shapes[i];
      test.name += std::string(", ") + toString(type);
      test.call.query = test.call.query.to(type);
      test.call.key = test.call.key.to(type);
      // Products of halves are exact, so that the kernel is as good as in float32.
      expect_as_reference(test, tolerance_of(test));
    }
    CallOfTest given = with_probabilities(random_call({2, 4, 2, 100, 100, 64}), type);
    given.name = toString(type);
    expect_as_reference(given);
  }
  expect_as_reference(with_probabilities(random_call({2, 2, 2, 70, 70, 64}), at::kDouble));
}

TEST_P(AttentionKernelTest, DepthsAndStrides) {
  for (const at::ScalarType type : {at::kHalf, at::kFloat}) {
    for (const int64_t depth : {1, 7, 8, 16, 31, 32, 33, 64, 96, 128, 129, 192, 256, 300}) {
      CallOfTest test = random_call({2, 2, 1, 20, 70, depth});
      test.tokens.self = false;
      test.call.query = test.call.query.to(type);
      test.call.key = test.call.key.to(type);
      test.name = "depth " + std::to_string(depth) + " " + toString(type);
      expect_as_reference(test);
      // Heads behind tokens, as most models have them; then not on pieces of 16 bytes.
      test.call.query = at::randn({2, 20, 2, depth}).to(type).transpose(1, 2);
      test.call.key = at::randn({2, 70, 1, depth + 1}).to(type).narrow(3, 1, depth).transpose(1, 2);
      test.name += ", strides";
      expect_as_reference(test);
    }
  }
}

TEST_P(AttentionKernelTest, TheMatrixIsTheMeanOverHeads) {
  int64_t number = 0;
  for (CallOfTest test : calls_of_all_shapes()) {
    if (is_slow(test)) continue;
    const int64_t kind = number++ % 4;
    if (kind == 1) test = with_probabilities(test);
    if (kind >= 2) {
      const at::ScalarType type = kind == 2 ? at::kHalf : at::kBFloat16;
      test.name += std::string(", ") + toString(type);
      test.call.query = test.call.query.to(type);
      test.call.key = test.call.key.to(type);
    }
    expect_matrix_as_reference(test);
  }
}

TEST_P(AttentionKernelTest, TheMatrixHasNoRowsThatAreNotMeasured) {
  CallOfTest test = random_call({2, 4, 2, 140, 140, 300});  // more of a row than shared memory takes at once
  test.call.causal = true;
  test.tokens.query_position = test.tokens.key_position = positions_of({140, 71}, 140, true);
  test.call.mask = (test.tokens.key_position >= 0).view({2, 1, 1, 140}).logical_and(at::ones({140, 1}, at::kBool));
  test.call.mask[0][0][139].fill_(false);  // an empty row
  test.call.query[0][1][5][0] = NAN;       // of one head
  test.tokens.sampled = at::rand({2, 140}) < 0.7;
  test.tokens.sampled.select(1, 5).fill_(true);
  const AttentionRows rows = measure(test, 1, 1, /*matrix=*/true);
  expect_equal(rows, reference(test, /*matrix=*/true), 1e-5, "by operations");
  EXPECT_EQ(rows.matrix[0][5].abs().sum().item<double>(), 0);
  const AttentionRows again = measure(test, 7, 1, /*matrix=*/true);
  EXPECT_TRUE(at::equal(again.matrix, rows.matrix)) << "the order of blocks and threads";
}

TEST_P(AttentionKernelTest, RowsThatAreNone) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    CallOfTest test = random_call({1, 2, 2, 70, 70, 8});
    test.call.mask = at::ones({70, 70}, at::kBool);
    test.call.mask[3].fill_(false);  // an empty row
    test.call.query[0][1][5][0] = NAN;
    test.call.query[0][0][66].fill_(HUGE_VALF);
    const CallOfTest given = with_probabilities(test);
    test.call.query = test.call.query.to(type);
    test.call.key = test.call.key.to(type);
    for (const CallOfTest& each : {test, given}) {
      const AttentionRows rows = measure(each);
      for (int64_t q = 0; q < 70; ++q) {
        const int64_t expected = q == 3 ? kEmptyRow : (q == 5 || q == 66 ? kNotFiniteRow : kRow);
        EXPECT_EQ(rows.line[q].item<int64_t>(), expected) << q;
      }
      expect_equal(rows, reference(each), 2e-5, each.name);
    }
  }
}

TEST_P(AttentionKernelTest, KeysThatNoRowSeesMayHoldAnything) {
  CallOfTest test = random_call({2, 2, 2, 40, 150, 16});
  test.tokens.self = false;
  test.tokens.key_position = positions_of({100, 64}, 150);
  test.call.mask = (test.tokens.key_position >= 0).view({2, 1, 1, 150});
  const AttentionRows expected = reference(test);
  for (int64_t b = 0; b < 2; ++b) test.call.key[b].narrow(1, b == 0 ? 100 : 64, 50).fill_(NAN);
  expect_equal(measure(test), expected, 1e-5, "NaN behind the end of a cache");
}

TEST_P(AttentionKernelTest, RowsOfTheLowestNumberAreEven) {
  CallOfTest test = random_call({1, 2, 2, 70, 70, 16});
  test.call.mask = at::zeros({1, 1, 70, 70});
  test.call.mask.select(2, 10).fill_(std::numeric_limits<float>::lowest());
  const AttentionRows rows = measure(test);
  EXPECT_NEAR(rows.values[10][kEntropy].item<double>(), std::log(70.0), 1e-5);
  expect_equal(rows, reference(test), 1e-5, "by operations");
}

TEST_P(AttentionKernelTest, SinksTakeWhatKeysLack) {
  CallOfTest test = random_call({2, 3, 3, 90, 90, 16});
  const at::Tensor scores = scores_of(test.call);
  const at::Tensor with_sink = at::cat({scores, at::randn({2, 3, 1, 1}).expand({2, 3, 90, 1}).to(at::kDouble)}, 3);
  test.call = {};
  test.call.scores = scores;
  test.call.probabilities = at::softmax(with_sink, 3).narrow(3, 0, 90);
  const AttentionRows rows = measure(test);
  expect_equal(rows, reference(test), 1e-5, "sinks");
  expect_matrix_as_reference(test);
  EXPECT_LT(rows.values.select(1, kKeyMass).max().item<double>(), 0.9999);
}

TEST_P(AttentionKernelTest, SampledRows) {
  for (const bool causal : {false, true}) {
    CallOfTest test = random_call({2, 2, 2, 300, 300, 32});
    test.call.causal = causal;
    test.tokens.sampled = at::rand({2, 300}) < 0.2;
    expect_as_reference(test);
    const AttentionRows sampled = measure(test);
    test.tokens.sampled = at::Tensor();
    const AttentionRows whole = measure(test);
    const at::Tensor chosen = (sampled.line == kRow).nonzero().squeeze(1);
    const at::Tensor columns = at::arange(received_column(5));
    EXPECT_TRUE(at::equal(sampled.values.index_select(0, chosen).index_select(1, columns),
                          whole.values.index_select(0, chosen).index_select(1, columns)))
        << "the rows beside change a bit";
  }
}

TEST_P(AttentionKernelTest, OneKeyTakesAll) {
  CallOfTest test = random_call({1, 3, 3, 100, 100, 16});
  test.call.mask = at::zeros({1, 1, 1, 100});
  test.call.mask[0][0][0][37] = 80;
  expect_as_reference(test);
}

TEST_P(AttentionKernelTest, PositionsThatAreFarApart) {
  // A window of a cache: few keys, of late positions.
  CallOfTest test = random_call({1, 2, 2, 4, 130, 16});
  test.tokens.key_position = at::arange(5000, 5130, at::kInt).view({1, 130});
  test.tokens.query_position = ints({5126, 5127, 5128, 5129}, {1, 4});
  expect_as_reference(test);
}

TEST_P(AttentionKernelTest, NothingToMeasure) {
  CallOfTest none = random_call({1, 2, 2, 5, 5, 16});
  none.call.key = none.call.key.narrow(2, 0, 0);
  none.tokens.key_position = none.tokens.key_position.narrow(1, 0, 0);
  none.name = "no key";
  expect_as_reference(none);
  none.call.query = none.call.query.narrow(2, 0, 0);
  none.tokens.query_position = none.tokens.query_position.narrow(1, 0, 0);
  EXPECT_EQ(measure(none).num_lines(), 0);
  CallOfTest empty = random_call({2, 2, 2, 5, 5, 16});
  empty.call.query = empty.call.query.narrow(0, 0, 0);
  empty.call.key = empty.call.key.narrow(0, 0, 0);
  empty.tokens.query_position = empty.tokens.key_position = empty.tokens.query_position.narrow(0, 0, 0);
  EXPECT_EQ(measure(empty).num_lines(), 0);
}

TEST_P(AttentionKernelTest, TheOrderOfBlocksAndThreadsDoesNotMatter) {
  CallOfTest test = random_call({2, 4, 2, 150, 150, 32});
  test.call.causal = true;
  test.tokens.query_position = test.tokens.key_position = positions_of({150, 77}, 150, true);
  test.call.mask = (test.tokens.key_position >= 0).view({2, 1, 1, 150});
  const AttentionRows once = measure(test, 1, 1);
  expect_equal(measure(test), once, 1e-6, "other parts");
  for (const uint64_t seed : {2, 3, 4}) {
    const AttentionRows again = measure(test, seed, 1);
    for (const auto tensor : {&AttentionRows::line, &AttentionRows::values, &AttentionRows::bins,
                              &AttentionRows::head_high, &AttentionRows::head_low, &AttentionRows::head_max_score}) {
      EXPECT_TRUE(at::equal(once.*tensor, again.*tensor)) << seed;
    }
  }
}

TEST(AttentionKernelLaunchTest, WhatIsRefusedIsNamed) {
  const CallOfTest good = random_call({1, 2, 2, 6, 6, 8});
  const auto refusal = [&](const std::function<void(CallOfTest&)>& change) -> std::string {
    CallOfTest test = good;
    change(test);
    const AttentionShape shape = check_attention(test.call, test.tokens);
    const char* reason = attention_kernel_refusal(test.call, shape);
    return reason == nullptr ? "" : reason;
  };
  EXPECT_EQ(refusal([](auto&) {}), "");
  EXPECT_EQ(refusal([](auto& test) { test.call.query = test.call.query.to(at::kDouble); }),
            "query and key of different dtypes");
  EXPECT_EQ(refusal([](auto& test) {
              test.call.query = test.call.query.to(at::kDouble);
              test.call.key = test.call.key.to(at::kDouble);
            }),
            "query and key are not half, bfloat16 or float");
  EXPECT_EQ(refusal([](auto& test) {
              test.call.query = test.call.query.narrow(3, 0, 0);
              test.call.key = test.call.key.narrow(3, 0, 0);
            }),
            "heads of size 0");
  EXPECT_EQ(refusal([](auto& test) {
              test.call.mask = at::zeros({6, 6}, at::kFloat8_e5m2);
            }),
            "a dtype that is not bool, half, bfloat16, float or double");
}

TEST(AttentionKernelLaunchTest, MemoryGrowsWithTheLengthAlone) {
  for (const int64_t heads : {1, 8, 32}) {
    const int64_t half = attention_scratch_words({1, heads, heads, 16384, 16384});
    const int64_t whole = attention_scratch_words({1, heads, heads, 32768, 32768});
    EXPECT_LE(whole, 2 * half + 1024);
    // Per token: 376 bytes for sums, 96 for the key, 32 for each head, and what is needed to keep a device busy.
    EXPECT_LE(8 * half, 16384 * (480 + 32 * heads) + (int64_t{2} << 20));
  }
}

TEST(AttentionKernelLaunchTest, WorkIsCutIntoEnoughBlocks) {
  const auto blocks_of = [](const SizesOfTest& sizes) {
    const CallOfTest test = random_call(sizes);
    const AttentionShape shape = check_attention(test.call, test.tokens);
    AttentionRows rows;
    rows.num_sequences = sizes.sequences;
    rows.num_queries = sizes.queries;
    return attention_kernel_launch(test.call, test.tokens, shape, rows, {}).value_blocks;
  };
  EXPECT_GE(blocks_of({1, 32, 8, 1, 8192, 8}), 512) << "a step of generation";
  EXPECT_GE(blocks_of({1, 8, 8, 1024, 1024, 8}), 400) << "a short prompt";
  EXPECT_EQ(blocks_of({1, 1, 1, 1, 1, 8}), 1);
}

}  // namespace
}  // namespace moetap::analysis
