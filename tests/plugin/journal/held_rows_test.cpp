#include "plugin/journal/held_rows.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <random>

#include "plugin/journal/held_values.h"

namespace moetap::plugin {
namespace {

struct HeldTensors {
  at::Tensor logits, scores, selected, weights;
  std::unique_ptr<bool[]> valid;
  HeldRouter router;
};

analysis::HostPlane plane(const at::Tensor& tensor) {
  return tensor.defined() ? analysis::HostPlane{tensor.const_data_ptr(), tensor.scalar_type(), tensor.size(1)}
                          : analysis::HostPlane{};
}

/// Rows of `length` tokens each through a softmax router.
HeldTensors held_call(int64_t rows, int64_t length, int64_t experts, int64_t top_k, at::ScalarType dtype,
                      bool renormalised = true) {
  at::manual_seed(static_cast<uint64_t>(rows + 10 * experts + top_k));
  HeldTensors held;
  held.logits = at::randn({rows * length, experts}).to(dtype);
  const auto [weights, ids] = held.logits.to(at::kFloat).softmax(-1).topk(top_k, -1);
  held.selected = ids.to(at::kInt);
  held.weights = (renormalised ? weights / weights.sum(-1, true) : weights).contiguous();
  held.router.values = {rows * length,       experts, top_k, plane(held.logits), {}, {}, plane(held.selected),
                        plane(held.weights), false,   rows};
  return held;
}

void expect_same_planes(const analysis::HostRouterCall& a, const analysis::HostRouterCall& b) {
  const auto same = [&](const analysis::HostPlane& x, const analysis::HostPlane& y, int64_t columns) {
    ASSERT_EQ(x.defined(), y.defined());
    if (!x.defined()) return;
    ASSERT_EQ(x.dtype, y.dtype);
    const auto bytes = static_cast<int64_t>(c10::elementSize(x.dtype));
    for (int64_t token = 0; token < a.num_tokens; ++token) {
      EXPECT_EQ(std::memcmp(static_cast<const char*>(x.data) + token * x.row_stride * bytes,
                            static_cast<const char*>(y.data) + token * y.row_stride * bytes,
                            static_cast<size_t>(columns * bytes)),
                0);
    }
  };
  ASSERT_EQ(a.num_tokens, b.num_tokens);
  ASSERT_EQ(a.num_experts, b.num_experts);
  ASSERT_EQ(a.top_k, b.top_k);
  EXPECT_EQ(a.sigmoid_scores, b.sigmoid_scores);
  same(a.logits, b.logits, a.num_experts);
  same(a.scores, b.scores, a.num_experts);
  same(a.selected, b.selected, a.top_k);
  same(a.weights, b.weights, a.top_k);
}

std::string encoded(const std::vector<HeldRows>& rows) {
  ByteWriter bytes;
  encode(bytes, rows);
  return bytes.take();
}

TEST(HeldRowsTest, AllValuesComeBack) {
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16}) {
    for (const bool renormalised : {true, false}) {
      for (const int64_t length : {1, 2}) {
        HeldTensors held = held_call(3, length, 64, 8, dtype, renormalised);
        if (length == 2) held.weights.mul_(1.7);  // no softmax of the logits
        held.scores = held.logits.sigmoid();
        held.router.values.scores = plane(held.scores);
        held.router.values.sigmoid_scores = true;
        for (int64_t row = 0; row < 3; ++row) {
          const HeldRows rows = rows_of(held.router, row, 5, true);
          const std::string bytes = encoded({rows});
          ByteReader reader(bytes);
          const auto decoded = decode_held_rows(reader);
          EXPECT_TRUE(reader.at_end());
          ASSERT_EQ(decoded.size(), 1u);
          EXPECT_EQ(decoded[0].layer, 5u);
          EXPECT_EQ(decoded[0].before, -1);
          EXPECT_TRUE(decoded[0].per_token);
          expect_same_planes(decoded[0].values, rows.values);
        }
      }
    }
  }
}

TEST(HeldRowsTest, OneTokenOfEightExpertsTakesFewBytes) {
  for (const bool renormalised : {true, false}) {
    const HeldTensors held = held_call(1, 1, 64, 8, at::kFloat, renormalised);
    EXPECT_LE(encoded({rows_of(held.router, 0, 0, true)}).size(), 245u);
  }
  const HeldTensors halves = held_call(1, 1, 64, 8, at::kBFloat16);
  EXPECT_LE(encoded({rows_of(halves.router, 0, 0, true)}).size(), 180u);
}

TEST(HeldRowsTest, PaddingIsLeftOutInEveryOrder) {
  for (const auto order : {analysis::RowOrder::kRowByRow, analysis::RowOrder::kInterleaved}) {
    HeldTensors held = held_call(2, 2, 4, 2, at::kFloat);
    const bool valid[] = {true, true, false, false};
    held.router.values.valid = valid;
    held.router.values.order = order;
    const bool interleaved = order == analysis::RowOrder::kInterleaved;  // then each row has a valid token
    const HeldRows first = rows_of(held.router, 0, 0, false), second = rows_of(held.router, 1, 0, false);
    EXPECT_EQ(first.values.num_tokens, interleaved ? 1 : 2);
    EXPECT_EQ(second.values.num_tokens, interleaved ? 1 : 0);
    if (interleaved) {
      EXPECT_EQ(second.values.logits.data, held.logits[1].const_data_ptr());
    }
    // All rows together are what the call is as a whole.
    analysis::RouterSums whole = analysis::empty_router_sums(4, 2, 2), total;
    analysis::observe_host(held.router.values, host_sums(whole));
    add_to(total, first);
    add_to(total, second);
    EXPECT_TRUE(at::equal(total.words, sum_rows(whole).words));
  }
}

TEST(HeldRowsTest, DamagedBytesAreRefusedOrReadWithinBounds) {
  const HeldTensors held = held_call(1, 2, 16, 4, at::kFloat);
  const std::string bytes = encoded({rows_of(held.router, 0, 1, true)});
  for (size_t size = 0; size < bytes.size(); ++size) {
    ByteReader reader(std::string_view(bytes).substr(0, size));
    EXPECT_THROW(decode_held_rows(reader), std::runtime_error) << size;
  }
  std::mt19937 random(1);
  for (int round = 0; round < 20000; ++round) {
    std::string damaged = bytes;
    for (int i = 0; i < 3; ++i) damaged[random() % damaged.size()] = static_cast<char>(random());
    try {
      ByteReader reader(damaged);
      for (const HeldRows& rows : decode_held_rows(reader)) {
        if (rows.values.num_experts < 4096) measured(rows);
      }
    } catch (const std::exception&) {
      // Said by an exception.
    }
  }
}

}  // namespace
}  // namespace moetap::plugin
