#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <stdexcept>
#include <vector>

#include "analysis/studies/attention_study.h"
#include "tests/analysis/studies/studies_support.h"

namespace moetap::analysis::studies {
namespace {

/// Every row attends to all valid keys alike.
TestArrays uniform_arrays(uint64_t seed) {
  TestArrays arrays = random_arrays(seed, 2, 9, 30, 5, 2);
  for (int64_t l = 0; l < arrays.L; ++l) {
    for (int64_t b = 0; b < arrays.B; ++b) {
      const int64_t n = arrays.length(b);
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j) arrays.attention[arrays.cell(l, b, i, j)] = 1.0F / static_cast<float>(n);
      }
    }
  }
  return arrays;
}

const char* const kRegions[] = {"diagonal", "long_range", "n_terminal", "c_terminal", "n_to_c", "c_to_n"};

std::vector<bool> regions_of(int64_t i, int64_t j, int64_t n) {
  const int64_t q = n / 4, c = 3 * n / 4;
  return {std::abs(i - j) <= 5, std::abs(i - j) > n / 2, i < q && j < q,
          i >= c && j >= c,     i < q && j >= c,         i >= c && j < q};
}

TEST(RegionSpecialization, AgreesWithLoops) {
  const TestArrays arrays = random_arrays(21, 2, 7, 37, 4, 2);
  const Result result = result_of(make_region_specialization, arrays);
  EXPECT_EQ(header(result, "region_specialization"),
            "layer,expert_id,diagonal,long_range,n_terminal,c_terminal,n_to_c,c_to_n,span");
  for (int64_t l = 0; l < arrays.L; ++l) {
    std::vector<std::vector<double>> observed(4, std::vector<double>(6)), expected(4, std::vector<double>(6));
    for_each_slot(arrays, l, [&](int64_t, int64_t n, int64_t i, const std::vector<double>& row, int64_t e, double g) {
      double sum = 0;
      for (const double a : row) sum += a;
      for (int64_t j = 0; j < n; ++j) {
        const std::vector<bool> in = regions_of(i, j, n);
        for (size_t r = 0; r < 6; ++r) {
          if (!in[r]) continue;
          observed[static_cast<size_t>(e)][r] += g * row[static_cast<size_t>(j)] / sum;
          expected[static_cast<size_t>(e)][r] += g / static_cast<double>(n);
        }
      }
    });
    for (size_t e = 0; e < 4; ++e) {
      double low = 1e9, high = -1e9;
      for (size_t r = 0; r < 6; ++r) {
        const double value = observed[e][r] / expected[e][r];
        expect_close(column(result, "region_specialization", kRegions[r])[static_cast<size_t>(l) * 4 + e], value,
                     kRegions[r]);
        low = std::min(low, value);
        high = std::max(high, value);
      }
      expect_close(column(result, "region_specialization", "span")[static_cast<size_t>(l) * 4 + e], high - low, "span");
    }
  }
}

TEST(RegionSpecialization, NotebookAgreesWithItsPatterns) {
  for (const int64_t S : {37, 110}) {
    const TestArrays arrays = random_arrays(22, 1, 5, S, 3, 2);
    const Result result = result_of(make_region_specialization, arrays, notebook_options());
    const int64_t N = std::min<int64_t>(100, S);
    std::vector<std::vector<double>> cells(3, std::vector<double>(7));
    std::vector<double> size(7);
    for (int64_t i = 0; i < N; ++i) {
      for (int64_t j = 0; j < N; ++j) {
        const std::vector<bool> in = regions_of(i, j, N);
        for (size_t r = 0; r < 6; ++r) size[r] += in[r];
        size[6] += 1;
      }
    }
    for_each_slot(arrays, 0, [&](int64_t, int64_t n, int64_t, const std::vector<double>& row, int64_t e, double g) {
      for (int64_t i = 0; i < std::min(n, N); ++i) {  // the row goes to every query
        for (int64_t j = 0; j < std::min(n, N); ++j) {
          const std::vector<bool> in = regions_of(i, j, N);
          for (size_t r = 0; r < 6; ++r)
            cells[static_cast<size_t>(e)][r] += in[r] ? g * row[static_cast<size_t>(j)] : 0;
          cells[static_cast<size_t>(e)][6] += g * row[static_cast<size_t>(j)];
        }
      }
    });
    for (size_t e = 0; e < 3; ++e) {
      for (size_t r = 0; r < 6; ++r) {
        const double value = (cells[e][r] / size[r]) / (cells[e][6] / size[6]);
        expect_close(column(result, "region_specialization", kRegions[r])[e], value, kRegions[r]);
      }
    }
  }
}

TEST(RegionSpecialization, UniformAttentionIsExactlyOne) {
  const Result result = result_of(make_region_specialization, uniform_arrays(23));
  for (const char* const name : kRegions) {
    for (const double value : column(result, "region_specialization", name)) EXPECT_EQ(value, 1) << name;
  }
}

TEST(RegionSpecialization, OneTokenHasOneRegion) {
  TestArrays arrays(1, 1, 1, 2, 1);
  arrays.gates = {.5};
  arrays.attention = {1};
  const Result result = result_of(make_region_specialization, arrays);
  EXPECT_EQ(column(result, "region_specialization", "diagonal")[0], 1);
  EXPECT_TRUE(std::isnan(column(result, "region_specialization", "n_terminal")[0]));
  EXPECT_TRUE(std::isnan(column(result, "region_specialization", "diagonal")[1]));
  EXPECT_EQ(column(result, "region_specialization", "span")[0], 0);
  EXPECT_TRUE(std::isnan(column(result, "region_specialization", "span")[1]));
}

TEST(RegionSpecialization, SharesAScratch) {
  const TestArrays arrays = random_arrays(71, 2, 40, 9, 4, 2);
  expect_equal(result_of(make_region_specialization, arrays),
               result_of(make_region_specialization, arrays, {}, {.scratch = true}));
}

TEST(RegionSpecialization, MergesExactly) {
  const TestArrays arrays = random_arrays(24, 2, 9, 20, 4, 2);
  expect_exact_merge(make_region_specialization, arrays);
  expect_exact_merge(make_region_specialization, arrays, notebook_options());
  expect_padding_is_not_data(make_region_specialization, arrays);
  const Result blocks = result_of(make_region_specialization, arrays, {}, {.query_block = 3});
  expect_equal(result_of(make_region_specialization, arrays), blocks);
}

TEST(RegionSpecialization, TakesTheSummaryWithoutRows) {
  const TestArrays arrays(1, 1, 1, 2, 1);
  const std::unique_ptr<Study> study = make_region_specialization(arrays.shape(), {});
  const std::vector<double> mass = {1, 2}, distance = {3, 4}, flow(2 * 25, .2), weight(2 * 5, 1);
  std::vector<double> values = {1, 2, 3, 4, 5, 6, std::nan(""), 2, 3, 4, 5, 7.5};
  study->observe(AttentionTotals{0, 2, 5, mass, distance, flow, weight, values});
  const Result result = study->finalize();
  EXPECT_EQ(column(result, "region_specialization", "c_to_n"), (std::vector<double>{6, 7.5}));
  EXPECT_EQ(column(result, "region_specialization", "span"), (std::vector<double>{5, 5.5}));
  EXPECT_NO_THROW(study->observe(AttentionTotals{0, 2, 5, mass, distance, flow, weight, values}));
  values[0] = 2;
  EXPECT_THROW(study->observe(AttentionTotals{0, 2, 5, mass, distance, flow, weight, values}), std::runtime_error);
  ByteSink sink;
  study->save(sink);
  ByteSource source(sink.bytes());
  const std::unique_ptr<Study> loaded = make_region_specialization(arrays.shape(), {});
  loaded->load(source);
  expect_equal(result, loaded->finalize());
}

}  // namespace
}  // namespace moetap::analysis::studies
