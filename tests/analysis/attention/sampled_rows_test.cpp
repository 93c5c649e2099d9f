#include "analysis/attention/sampled_rows.h"

#include <gtest/gtest.h>

#include "tests/analysis/attention/attention_calls.h"

namespace moetap::analysis {
namespace {

at::Tensor numbers(std::vector<int64_t> values) {
  return at::tensor(values, at::kLong);
}

TEST(SampledRowsTest, TakesExactlySoManyOfEachSample) {
  const at::Tensor positions = positions_of({100, 8, 7, 0}, 100);
  const at::Tensor chosen = sampled_rows(1, numbers({0, 1, 2, 3}), "layers.0", positions, 8);
  EXPECT_TRUE(at::equal(chosen.sum(1), numbers({8, 8, 7, 0})));
  EXPECT_FALSE(chosen.bitwise_and(positions < 0).any().item<bool>());
  EXPECT_EQ(sampled_rows(1, numbers({0, 1, 2, 3}), "layers.0", positions, 0).sum().item<int64_t>(), 0);
  EXPECT_TRUE(at::equal(sampled_rows(1, numbers({0, 1, 2, 3}), "layers.0", positions, 1000), positions >= 0));
}

TEST(SampledRowsTest, DependsOnTheSampleAndItsPositionsAlone) {
  const at::Tensor whole = sampled_rows(7, numbers({5, 9}), "a", positions_of({60, 50}, 60), 10);
  const at::Tensor alone = sampled_rows(7, numbers({9}), "a", positions_of({50}, 70, /*left=*/true), 10);
  EXPECT_TRUE(at::equal(alone[0].narrow(0, 20, 50), whole[1].narrow(0, 0, 50)));
}

TEST(SampledRowsTest, DiffersBySeedSampleAndLayer) {
  const at::Tensor positions = positions_of({1000}, 1000);
  const at::Tensor chosen = sampled_rows(7, numbers({5}), "a", positions, 100);
  for (const at::Tensor& other :
       {sampled_rows(8, numbers({5}), "a", positions, 100), sampled_rows(7, numbers({6}), "a", positions, 100),
        sampled_rows(7, numbers({5}), "b", positions, 100)}) {
    const int64_t both = chosen.bitwise_and(other).sum().item<int64_t>();
    EXPECT_LT(both, 40) << "10 are expected of a random choice";
  }
  // Evenly over the sequence.
  for (int64_t quarter = 0; quarter < 4; ++quarter) {
    const int64_t count = chosen.narrow(1, quarter * 250, 250).sum().item<int64_t>();
    EXPECT_GT(count, 10);
    EXPECT_LT(count, 45);
  }
}

TEST(SampledRowsTest, OperationsChooseTheSame) {
  const at::Tensor positions = at::cat({positions_of({90, 3, 0}, 90), positions_of({50, 90, 12}, 90, /*left=*/true)});
  const at::Tensor samples = numbers({0, 1, -5, 1, int64_t{1} << 62, 7});
  for (const int64_t count : {0, 1, 12, 89, 90, 91}) {
    const uint64_t seed = 0x9000000000000001 + static_cast<uint64_t>(count);
    EXPECT_TRUE(at::equal(sampled_rows(seed, samples, "layer", positions, count),
                          sampled_rows_with_operations(seed, samples, "layer", positions, count)))
        << count;
  }
}

TEST(SampledRowsTest, StaysTheSame) {
  const at::Tensor chosen = sampled_rows(1, numbers({0}), "model.layers.0.self_attn", positions_of({64}, 64), 4);
  EXPECT_TRUE(at::equal(chosen[0].nonzero().flatten(), numbers({2, 16, 45, 51}))) << chosen[0].nonzero().flatten();
}

}  // namespace
}  // namespace moetap::analysis
