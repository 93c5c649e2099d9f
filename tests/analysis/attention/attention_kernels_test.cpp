#include "analysis/attention/attention_kernels.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace moetap::analysis {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

class AttentionKernelsTest : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    const AttentionKernelChoices choices = available_attention_kernels();
    if (GetParam() >= choices.size) GTEST_SKIP() << "this processor lacks the instruction set";
    kernels = choices.items[GetParam()].kernels;
  }
  AttentionKernels kernels = {};
};
INSTANTIATE_TEST_SUITE_P(Sets, AttentionKernelsTest, testing::Values(0, 1, 2));

TEST_P(AttentionKernelsTest, ScoresAreProducts) {
  at::manual_seed(3);
  const at::Tensor keys = at::randn({kTileKeys, kKeyPitch});
  for (const int64_t lanes : {16, 32, 48, 64}) {
    for (const int64_t depth : {1, 7, 64, 128}) {
      const at::Tensor query = at::randn({depth, kBlockRows}), before = at::randn({kTileKeys, kBlockRows});
      const at::Tensor expected = at::matmul(keys.narrow(1, 0, depth), query).narrow(1, kBlockRows - lanes, lanes);
      for (const bool add : {false, true}) {
        at::Tensor scores = before.clone();
        kernels.scores({kBlockRows, lanes, kTileKeys}, query.const_data_ptr<float>() + kBlockRows - lanes,
                       keys.const_data_ptr<float>(), kKeyPitch, depth, add,
                       scores.mutable_data_ptr<float>() + kBlockRows - lanes);
        const at::Tensor written = scores.narrow(1, kBlockRows - lanes, lanes);
        EXPECT_TRUE(
            at::allclose(written, add ? expected + before.narrow(1, kBlockRows - lanes, lanes) : expected, 1e-4, 1e-4));
        EXPECT_TRUE(at::equal(scores.narrow(1, 0, kBlockRows - lanes), before.narrow(1, 0, kBlockRows - lanes)));
      }
    }
  }
}

TEST_P(AttentionKernelsTest, ExponentialsAreGoodToRounding) {
  // One key a lane; P = exp(score).
  for (float x = -86; x < 1; x += 0.0173F) {
    float scores[kLaneGroup], zeros[kLaneGroup] = {}, largest[kLaneGroup], mean[kLaneGroup] = {};
    std::fill_n(scores, kLaneGroup, x);
    std::fill_n(largest, kLaneGroup, -kInfinity);
    double mass[kLaneGroup] = {}, products[kLaneGroup] = {}, distance[kLaneGroup] = {};
    kernels.attend({kLaneGroup, kLaneGroup, 1}, scores, zeros, zeros, zeros, zeros, {mass, products, distance, largest},
                   mean, nullptr, zeros);
    const double expected = std::exp(static_cast<double>(x));
    ASSERT_NEAR(mass[5] / expected, 1, 3e-7) << x;
    ASSERT_NEAR(products[5] / (expected * x), 1, 3e-7) << x;
    ASSERT_EQ(largest[5], x);
    ASSERT_EQ(mean[5], static_cast<float>(mass[5]));
  }
}

TEST_P(AttentionKernelsTest, InfiniteScoresAndNaN) {
  const float special[] = {-kInfinity, -1e30F, -88, 0, NAN};
  float zeros[kLaneGroup] = {};
  for (const float x : special) {
    float scores[2 * kLaneGroup], largest[kLaneGroup];
    std::fill_n(scores, kLaneGroup, -kInfinity);
    std::fill_n(scores + kLaneGroup, kLaneGroup, x);
    std::fill_n(largest, kLaneGroup, -kInfinity);
    double sum[kLaneGroup] = {};
    kernels.softmax({kLaneGroup, kLaneGroup, 2}, scores, largest, sum);
    EXPECT_EQ(std::isnan(sum[3]), std::isnan(x));
    if (x > -kInfinity) {
      EXPECT_EQ(sum[3], 1);
    }
    if (x == -kInfinity) {
      EXPECT_EQ(sum[3], 0);
    }
    EXPECT_EQ(largest[3], std::isnan(x) ? -kInfinity : x);

    float mean[2 * kLaneGroup] = {};
    double mass[kLaneGroup] = {}, products[kLaneGroup] = {}, distance[kLaneGroup] = {};
    kernels.attend({kLaneGroup, kLaneGroup, 2}, scores, zeros, zeros, zeros, zeros, {mass, products, distance, largest},
                   mean, nullptr, zeros);
    EXPECT_EQ(std::isnan(mass[3]), std::isnan(x));
    if (!std::isnan(x)) {
      EXPECT_EQ(mass[3], x == 0 ? 1 : 0) << x;
    }
    if (!std::isnan(x)) {
      EXPECT_EQ(products[3], 0) << x;
    }
  }
}

TEST_P(AttentionKernelsTest, ScoresOfARowAreProducts) {
  at::manual_seed(7);
  for (const int64_t num_keys : {1, 3, 16, 50, 64}) {
    for (const int64_t depth : {16, 64, 144}) {
      for (int64_t heads = 1; heads <= kHeadsAtOnce; ++heads) {
        // Keys lie apart; nothing behind the last is read.
        const at::Tensor keys = at::randn({num_keys, depth + 16}).narrow(1, 0, depth),
                         query = at::randn({heads, depth});
        at::Tensor scores = at::zeros({heads, 80});
        kernels.of_row.scores(heads, query.const_data_ptr<float>(), num_keys, keys.const_data_ptr<float>(), depth + 16,
                              depth, scores.mutable_data_ptr<float>(), 80);
        EXPECT_TRUE(at::allclose(scores.narrow(1, 0, num_keys), at::matmul(query, keys.t()), 1e-4, 1e-4))
            << num_keys << " keys, depth " << depth << ", heads " << heads;
      }
    }
  }
}

TEST_P(AttentionKernelsTest, SumsOfARow) {
  at::manual_seed(9);
  for (const int64_t num_keys : {16, 48, 512, 1040}) {
    const at::Tensor scores = at::randn({num_keys}), positions = at::randperm(num_keys, at::kFloat);
    at::Tensor e = scores.clone();
    const float top = kernels.of_row.largest(num_keys, e.const_data_ptr<float>());
    EXPECT_EQ(top, scores.max().item<float>());
    const ExponentialSums sums =
        kernels.of_row.exponentials(num_keys, e.mutable_data_ptr<float>(), top, 9, positions.const_data_ptr<float>());
    const at::Tensor expected = (scores.to(at::kDouble) - top).exp(), away = (positions.to(at::kDouble) - 9).abs();
    EXPECT_TRUE(at::allclose(e.to(at::kDouble), expected, 1e-6));
    const auto near = [](double actual, const at::Tensor& wanted) {
      EXPECT_NEAR(actual / wanted.sum().item<double>(), 1, 1e-6);
    };
    near(sums.sum, expected);
    near(sums.products, expected * (scores.to(at::kDouble) - top));
    near(sums.distance, expected * away);

    at::Tensor mean = at::ones({num_keys});
    kernels.of_row.add_scaled(num_keys, e.const_data_ptr<float>(), 0.5F, mean.mutable_data_ptr<float>());
    const at::Tensor means = expected * 0.5 + 1;
    EXPECT_TRUE(at::allclose(mean.to(at::kDouble), means, 1e-6));
    const auto half = static_cast<float>(num_keys / 2);
    const DistanceSums distances =
        kernels.of_row.distances(num_keys, mean.const_data_ptr<float>(), 9, positions.const_data_ptr<float>(), half);
    near(distances.distance, means * away);
    near(distances.self, means * away.eq(0));
    near(distances.diagonal, means * away.le(5));
    if (num_keys > 18) near(distances.far, means * away.gt(half));
  }
  const float values[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19};
  for (const int64_t count : {0, 1, 4, 17, 19}) {
    EXPECT_EQ(kernels.of_row.sum(count, values), static_cast<float>(count * (count + 1) / 2));
  }
}

TEST_P(AttentionKernelsTest, InfiniteScoresAndNaNOfARow) {
  float positions[kLaneGroup] = {};
  for (const float x : {-kInfinity, -1e30F, 0.0F, NAN}) {
    float values[kLaneGroup];
    std::fill_n(values, kLaneGroup, -kInfinity);
    values[3] = x;
    EXPECT_EQ(kernels.of_row.largest(kLaneGroup, values), std::isnan(x) ? -kInfinity : x);
    const float shift = std::max(std::isnan(x) ? -kInfinity : x, std::numeric_limits<float>::lowest());
    const ExponentialSums sums = kernels.of_row.exponentials(kLaneGroup, values, shift, 0, positions);
    EXPECT_EQ(std::isnan(sums.sum), std::isnan(x));
    if (!std::isnan(x)) {
      EXPECT_EQ(sums.sum, x == -kInfinity ? 0 : 1);
      EXPECT_EQ(sums.products, 0);
    }
  }
  EXPECT_EQ(kernels.of_row.largest(0, positions), -kInfinity);
}

TEST_P(AttentionKernelsTest, LogarithmsAreGoodToRounding) {
  for (double x = 1.2e-38; x < 1e38; x *= 1.0371) {
    float values[kLaneGroup];
    std::fill_n(values, kLaneGroup, static_cast<float>(x));
    const double expected = std::log(static_cast<double>(values[0]));
    kernels.logarithms({kLaneGroup, kLaneGroup, 1}, values);
    ASSERT_NEAR(values[7], expected, 2e-7 * std::max(0.5, std::abs(expected))) << x;
  }
  float values[kLaneGroup] = {0, -0.0F, 1e-40F, -1, NAN, kInfinity, -kInfinity, 1};
  kernels.logarithms({kLaneGroup, kLaneGroup, 1}, values);
  for (const int zero : {0, 1, 2}) EXPECT_EQ(values[zero], -kInfinity);
  for (const int nan : {3, 4, 6}) EXPECT_TRUE(std::isnan(values[nan]));
  EXPECT_EQ(values[5], kInfinity);
  EXPECT_EQ(values[7], 0);
}

TEST_P(AttentionKernelsTest, AllFormatsAreWidened) {
  const at::Tensor values =
      at::cat({at::randn({100}, at::kDouble), at::tensor({0.0, -0.0, 6e-8, -6.1e-5, 65504.0, -65504.0, 1e9, -1e9})});
  const auto widen = [&](at::ScalarType type, RealFormat format) {
    const at::Tensor from = values.to(type), to = at::empty(values.sizes());
    kernels.widen(from.const_data_ptr(), format, values.numel(), to.mutable_data_ptr<float>());
    EXPECT_TRUE(at::equal(to, from.to(at::kFloat))) << toString(type);
  };
  widen(at::kFloat, RealFormat::kFloat);
  widen(at::kDouble, RealFormat::kDouble);
  widen(at::kHalf, RealFormat::kHalf);
  widen(at::kBFloat16, RealFormat::kBFloat16);
  const at::Tensor nan = at::full({3}, NAN, at::kHalf), to = at::empty({3});
  kernels.widen(nan.const_data_ptr(), RealFormat::kHalf, 3, to.mutable_data_ptr<float>());
  EXPECT_TRUE(at::isnan(to).all().item<bool>());
}

TEST_P(AttentionKernelsTest, SumsOfATile) {
  at::manual_seed(5);
  const int64_t lanes = 48, keys = 13;
  const at::Tensor mean = at::rand({keys, kBlockRows});
  const float* first = mean.const_data_ptr<float>() + kBlockRows - lanes;
  const at::Tensor part = mean.narrow(1, kBlockRows - lanes, lanes).to(at::kDouble);
  const at::Tensor of_lanes = at::empty({keys}), of_keys = at::empty({lanes});
  kernels.sum_lanes({kBlockRows, lanes, keys}, first, of_lanes.mutable_data_ptr<float>());
  kernels.sum_keys({kBlockRows, lanes, keys}, first, of_keys.mutable_data_ptr<float>());
  EXPECT_TRUE(at::allclose(of_lanes.to(at::kDouble), part.sum(1), 1e-5));
  EXPECT_TRUE(at::allclose(of_keys.to(at::kDouble), part.sum(0), 1e-5));

  const at::Tensor i = at::arange(lanes, at::kFloat), j = at::arange(keys, at::kFloat) + 3;
  const at::Tensor away = (i - j.unsqueeze(1)).abs();
  double sums[4][kBlockRows] = {};
  kernels.distances({kBlockRows, lanes, keys}, first, i.const_data_ptr<float>(), j.const_data_ptr<float>(), 9,
                    {sums[0], sums[1], sums[2], sums[3]});
  const at::Tensor expected[] = {part * away, at::where(away == 0, part, 0), at::where(away <= 5, part, 0),
                                 at::where(away > 9, part, 0)};
  for (int which = 0; which < 4; ++which) {
    EXPECT_TRUE(at::allclose(at::from_blob(sums[which], {lanes}, at::kDouble), expected[which].sum(0), 1e-5)) << which;
  }
}

}  // namespace
}  // namespace moetap::analysis
