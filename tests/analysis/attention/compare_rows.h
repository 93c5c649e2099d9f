#pragma once

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "analysis/attention/attention_paths.h"
#include "tests/analysis/attention/attention_calls.h"

namespace moetap::analysis {

/// Compares all that rows hold, in units of what float32 can hold.
inline void expect_equal(const AttentionRows& actual, const AttentionRows& expected, double tolerance,
                         const std::string& name) {
  SCOPED_TRACE(name);
  ASSERT_TRUE(at::equal(actual.line, expected.line)) << actual.line << expected.line;
  ASSERT_TRUE(at::equal(actual.region, expected.region));
  ASSERT_TRUE(at::equal(actual.num_keys, expected.num_keys));
  ASSERT_TRUE(at::equal(actual.length, expected.length));
  ASSERT_TRUE(at::equal(actual.position, expected.position));
  ASSERT_TRUE(at::equal(actual.weight, expected.weight));
  const auto compare = [&](const char* what, const at::Tensor& a, const at::Tensor& b) {
    ASSERT_EQ(a.sizes(), b.sizes());
    if (a.numel() == 0) return;
    const at::Tensor difference = (a.to(at::kDouble) - b.to(at::kDouble)).abs() / b.to(at::kDouble).abs().clamp_min(1);
    ASSERT_LE(difference.max().item<double>(), tolerance) << what << "\n" << difference.amax(0);
  };
  compare("values", actual.values, expected.values);
  compare("bins", actual.bins, expected.bins);
  const auto heads = [](const AttentionRows& rows) {
    return rows.head_high.to(at::kDouble) / 16 + rows.head_low.to(at::kDouble) * 0x1p-40;
  };
  const double num_rows = std::max<double>(1, (expected.line == kRow).sum().item<double>());
  compare("heads", heads(actual) / num_rows, heads(expected) / num_rows);
  ASSERT_TRUE(at::equal(actual.head_max_score == 0, expected.head_max_score == 0));
  for (int64_t i = 0; i < actual.head_max_score.numel(); ++i) {
    const int64_t a = actual.head_max_score.flatten()[i].item<int64_t>();
    const int64_t b = expected.head_max_score.flatten()[i].item<int64_t>();
    if (b == 0) continue;
    ASSERT_NEAR(score_of_code(a), score_of_code(b), tolerance * std::max(1.0F, std::abs(score_of_code(b))));
  }
  ASSERT_EQ(actual.matrix.defined(), expected.matrix.defined());
  if (actual.matrix.defined()) compare("matrix", actual.matrix, expected.matrix);
}

/// On one thread: its many small operations would mostly wait for threads.
inline AttentionRows reference(const CallOfTest& test, bool matrix = false) {
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  AttentionRows rows = measure_with_operations(test.call, test.tokens, {matrix});
  at::set_num_threads(threads);
  return rows;
}

inline AttentionRows fast(const CallOfTest& test, bool matrix = false) {
  return measure_on_cpu(test.call, test.tokens, {matrix});
}

}  // namespace moetap::analysis
