#include "analysis/attention/attention_sums.h"

#include <gtest/gtest.h>

#include "analysis/attention/attention_metrics.h"
#include "analysis/attention/attention_sums_paths.h"
#include "tests/analysis/attention/random_rows.h"

namespace moetap::analysis {
namespace {

AttentionSums sums_of(const RowsOfTest& test) {
  AttentionSums sums = empty_sums(test);
  add_rows(sums, test.rows, test.row);
  add_experts(sums, test.rows, test.row, test.selected, test.weights);
  return sums;
}

/// One sequence of the rows.
RowsOfTest part(const RowsOfTest& whole, int64_t b) {
  RowsOfTest result = whole;
  AttentionRows& rows = result.rows;
  const int64_t lines = rows.num_queries;
  rows.num_sequences = 1;
  for (at::Tensor* tensor : {&rows.line, &rows.values, &rows.bins, &rows.region, &rows.position, &rows.num_keys,
                             &rows.length, &result.selected, &result.weights}) {
    *tensor = tensor->narrow(0, b * lines, lines).contiguous();
  }
  for (at::Tensor* tensor : {&rows.weight, &rows.head_high, &rows.head_low, &rows.head_max_score, &result.row}) {
    *tensor = tensor->narrow(0, b, 1).contiguous();
  }
  return result;
}

void expect_same(const AttentionSums& actual, const AttentionSums& expected) {
  ASSERT_EQ(actual.words.sizes(), expected.words.sizes());
  EXPECT_TRUE(at::equal(actual.words, expected.words)) << (actual.words != expected.words).nonzero().flatten();
}

template <typename Metrics, typename Table>
void expect_near(const Metrics& actual, const Metrics& expected, const Table& table) {
  for (const auto& metric : table) {
    std::visit(
        [&](auto member) {
          const auto compare = [&](const auto& a, const auto& b) {
            if constexpr (requires { a.has_value(); }) {
              ASSERT_EQ(a.has_value(), b.has_value()) << metric.name;
              if (a) {
                EXPECT_NEAR(*a, *b, 1e-9 * std::max(1.0, std::abs(*b))) << metric.name;
              }
            } else {
              EXPECT_NEAR(a, b, 1e-9 * std::max(1.0, std::abs(static_cast<double>(b)))) << metric.name;
            }
          };
          const auto &a = actual.*member, &b = expected.*member;
          if constexpr (requires { a.size(); }) {
            ASSERT_EQ(a.size(), b.size()) << metric.name;
            for (size_t i = 0; i < a.size(); ++i) compare(a[i], b[i]);
          } else if constexpr (requires { (*a).size(); }) {
            ASSERT_EQ(a.has_value(), b.has_value()) << metric.name;
            for (size_t i = 0; a && i < a->size(); ++i) compare((*a)[i], (*b)[i]);
          } else {
            compare(a, b);
          }
        },
        metric.member);
  }
}

TEST(AttentionSumsTest, OperationsAgreeWithLoops) {
  for (const bool sampled : {false, true}) {
    const RowsOfTest test = random_rows(sampled);
    const at::Tensor of_lines = test.row.repeat_interleave(70);
    for (const at::Tensor& row : {test.row, of_lines}) {
      AttentionSums loops = empty_sums(test), operations = empty_sums(test);
      add_rows_on_cpu(loops, test.rows, row);
      add_experts_on_cpu(loops, test.rows, row, test.selected, test.weights);
      add_rows_with_operations(operations, test.rows, row);
      add_experts_with_operations(operations, test.rows, row, test.selected, test.weights);
      normalize(loops);
      normalize(operations);
      expect_near(finalize(operations), finalize(loops), kAttentionMetrics);
      expect_near(finalize_experts(operations), finalize_experts(loops), kAttentionExpertMetrics);
      for (int64_t r = 0; r < 3; ++r) {
        for (const AttentionCounter which : {kQueries, kMeasuredRows, kEmptyRows, kNotFiniteRows}) {
          EXPECT_EQ(operations.counter(r, which), loops.counter(r, which));
        }
        expect_near(finalize(select_row(operations, r)), finalize(select_row(loops, r)), kAttentionMetrics);
      }
    }
  }
}

TEST(AttentionSumsTest, CountsAreThoseOfTheLines) {
  const RowsOfTest test = random_rows();
  const AttentionSums sums = sums_of(test);
  EXPECT_EQ(sums.counter(0, kQueries), 33);
  EXPECT_EQ(sums.counter(1, kQueries), 71);
  EXPECT_EQ(sums.counter(0, kEmptyRows), 1);
  EXPECT_EQ(sums.counter(kMeasuredRows), (test.rows.line == kRow).sum().item<int64_t>());
  EXPECT_EQ(sums.counter(kMeasuredRows) + sums.counter(kEmptyRows), 70 + 33 + 1 + 64);
}

TEST(AttentionSumsTest, MergingIsExactInAnyOrder) {
  for (const bool sampled : {false, true}) {
    const RowsOfTest test = random_rows(sampled);
    const AttentionSums whole = sums_of(test);
    std::vector<AttentionSums> parts;
    for (int64_t b = 0; b < 4; ++b) parts.push_back(sums_of(part(test, b)));
    for (const std::vector<int>& order : {std::vector<int>{0, 1, 2, 3}, {3, 1, 0, 2}, {2, 3, 1, 0}}) {
      AttentionSums merged;
      for (const int i : order) merge(merged, parts[i]);
      expect_same(merged, whole);
    }
    AttentionSums left = parts[0], right = parts[2];
    merge(left, parts[1]);
    merge(right, parts[3]);
    merge(right, left);
    expect_same(right, whole);
    // Rows on their own add up to all of them.
    AttentionSums rows;
    for (int64_t r = 0; r < 3; ++r) merge(rows, select_row(whole, r));
    const AttentionSums total = sum_rows(whole);
    EXPECT_TRUE(at::equal(rows.words, total.words.narrow(0, 0, rows.words.size(0))));
    EXPECT_TRUE(at::equal(select_row(total, 0).words, rows.words));
  }
}

TEST(AttentionSumsTest, LinesWithoutARowCountNowhere) {
  const RowsOfTest test = random_rows();
  AttentionSums all = empty_sums(test), two = empty_sums(test);
  RowsOfTest masked = test;
  masked.row = at::tensor({1, -1, 7, 2}, at::kLong);
  add_rows(two, masked.rows, masked.row);
  add_experts(two, masked.rows, masked.row, masked.selected, masked.weights);
  for (const int64_t b : {0, 3}) merge(all, sums_of(part(test, b)));
  expect_same(two, all);
}

TEST(AttentionSumsTest, WeightsOutOfRangeAndForeignIdsAreCounted) {
  RowsOfTest test = random_rows();
  test.selected.fill_(1);
  test.selected[0][0] = kExperts;
  test.selected[1][0] = -1;
  test.selected[2][1] = -7;
  test.weights.fill_(1);
  test.weights[3][0] = NAN;
  test.weights[4][0] = HUGE_VALF;
  test.weights[6][1] = -HUGE_VALF;
  test.weights[5][1] = NAN;  // an empty row
  for (const bool operations : {false, true}) {
    AttentionSums sums = empty_sums(test);
    (operations ? add_experts_with_operations : add_experts_on_cpu)(sums, test.rows, test.row, test.selected,
                                                                    test.weights);
    normalize(sums);
    const AttentionExpertMetrics metrics = finalize_experts(sums);
    EXPECT_EQ(metrics.unassigned_slots, 3);
    EXPECT_EQ(metrics.out_of_range_weights, 3);
    const auto slots = static_cast<double>(2 * (test.rows.line == kRow).sum().item<int64_t>() - 6);
    EXPECT_EQ(metrics.gate_mass[1], slots);
  }
}

TEST(AttentionSumsTest, SumsThatDoNotFitAreRefused) {
  const RowsOfTest test = random_rows();
  AttentionSums heads = empty_attention_sums(4, 5, true, kExperts, 3), regions = empty_attention_sums(3, 4, true, 0, 3);
  AttentionSums cross = empty_attention_sums(3, 5, false, 0, 3), alone = empty_attention_sums(3, 5, true, 0, 3);
  EXPECT_THROW(add_rows(heads, test.rows, test.row), c10::Error);
  EXPECT_THROW(add_rows(regions, test.rows, test.row), c10::Error);
  EXPECT_THROW(add_rows(cross, test.rows, test.row), c10::Error);
  EXPECT_THROW(add_rows(alone, test.rows, test.row.narrow(0, 0, 3)), c10::Error);
  EXPECT_THROW(add_experts(alone, test.rows, test.row, test.selected, test.weights), c10::Error);
  EXPECT_THROW(merge(alone, sums_of(test)), c10::Error);
  EXPECT_THROW(merge(alone, sum_rows(alone)), c10::Error);
  EXPECT_THROW(select_row(alone, 3), c10::Error);
}

}  // namespace
}  // namespace moetap::analysis
