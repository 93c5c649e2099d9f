#include "analysis/studies/assignment.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <random>
#include <set>
#include <stdexcept>

namespace moetap::analysis::studies {
namespace {

double cost_of(const std::vector<double>& cost, const std::vector<int64_t>& assigned, int64_t columns) {
  double sum = 0;
  for (size_t i = 0; i < assigned.size(); ++i) {
    if (assigned[i] >= 0) sum += cost[i * static_cast<size_t>(columns) + static_cast<size_t>(assigned[i])];
  }
  return sum;
}

double least_cost(const std::vector<double>& cost, size_t rows, size_t columns) {
  std::vector<size_t> places(std::max(rows, columns));
  std::iota(places.begin(), places.end(), size_t{0});
  double least = std::numeric_limits<double>::infinity();
  do {
    double sum = 0;
    for (size_t i = 0; i < std::min(rows, columns); ++i) {
      sum += rows <= columns ? cost[i * columns + places[i]] : cost[places[i] * columns + i];
    }
    least = std::min(least, sum);
  } while (std::next_permutation(places.begin(), places.end()));
  return least;
}

TEST(OptimalAssignment, PrefersTheSumToTheGreedyChoice) {
  EXPECT_EQ(optimal_assignment({0, 1, 1, 9}, 2, 2), (std::vector<int64_t>{1, 0}));
}

TEST(OptimalAssignment, LeavesRowsWithoutAColumn) {
  EXPECT_EQ(optimal_assignment({5, 1, 3}, 3, 1), (std::vector<int64_t>{-1, 0, -1}));
  EXPECT_EQ(optimal_assignment({5, 1, 3}, 1, 3), (std::vector<int64_t>{1}));
  EXPECT_TRUE(optimal_assignment({}, 0, 0).empty());
}

TEST(OptimalAssignment, RefusesAMatrixOfAnotherSize) {
  EXPECT_THROW(optimal_assignment({1, 2, 3}, 2, 2), std::logic_error);
}

TEST(OptimalAssignment, IsTheBestOfAll) {
  std::mt19937 random(3);
  std::uniform_real_distribution<double> unit(-1, 2);
  for (int repeat = 0; repeat < 60; ++repeat) {
    const size_t rows = 1 + random() % 6, columns = 1 + random() % 6;
    std::vector<double> cost(rows * columns);
    for (double& value : cost) value = repeat % 2 == 0 ? unit(random) : static_cast<double>(random() % 3);
    const std::vector<int64_t> assigned =
        optimal_assignment(cost, static_cast<int64_t>(rows), static_cast<int64_t>(columns));
    std::set<int64_t> used;
    for (const int64_t column : assigned) {
      if (column < 0) continue;
      EXPECT_TRUE(used.insert(column).second);
    }
    EXPECT_EQ(used.size(), std::min(rows, columns));
    EXPECT_NEAR(cost_of(cost, assigned, static_cast<int64_t>(columns)), least_cost(cost, rows, columns), 1e-12);
  }
}

}  // namespace
}  // namespace moetap::analysis::studies
