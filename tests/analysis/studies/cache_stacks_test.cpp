#include "analysis/studies/cache_stacks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace moetap::analysis::studies {
namespace {

constexpr uint32_t kNever = OptimalStack::kNever;

std::vector<uint32_t> next_uses(const std::vector<int32_t>& accesses) {
  std::vector<uint32_t> next(accesses.size(), kNever);
  for (size_t i = 0; i < accesses.size(); ++i) {
    const auto again = std::find(accesses.begin() + static_cast<std::ptrdiff_t>(i) + 1, accesses.end(), accesses[i]);
    if (again != accesses.end()) next[i] = static_cast<uint32_t>(again - accesses.begin());
  }
  return next;
}

/// A cache of one size, simulated: which accesses hit. `cache` is what it holds at first and at the end.
std::vector<bool> simulate(const std::vector<int32_t>& accesses, size_t capacity, bool optimal,
                           std::vector<int32_t>& cache) {
  std::vector<bool> hits;
  for (size_t i = 0; i < accesses.size(); ++i) {
    const auto found = std::find(cache.begin(), cache.end(), accesses[i]);
    hits.push_back(found != cache.end());
    if (found != cache.end()) {
      cache.erase(found);
    } else if (cache.size() == capacity) {
      auto leaves = cache.begin();  // the least recent one is first
      if (optimal) {
        const auto next = [&](int32_t expert) {
          const auto use = std::find(accesses.begin() + static_cast<std::ptrdiff_t>(i), accesses.end(), expert);
          return std::pair(use - accesses.begin(), expert);  // never: the end; ties to the higher id
        };
        leaves = std::max_element(cache.begin(), cache.end(), [&](int32_t a, int32_t b) { return next(a) < next(b); });
      }
      cache.erase(leaves);
    }
    cache.push_back(accesses[i]);
  }
  return hits;
}

std::vector<int32_t> random_accesses(std::mt19937& random, int num_experts, size_t size) {
  std::vector<int32_t> accesses(size);
  for (int32_t& access : accesses) access = static_cast<int32_t>(random() % static_cast<unsigned>(num_experts));
  return accesses;
}

TEST(LruStack, GivesTheDistance) {
  LruStack stack(4);
  EXPECT_EQ(stack.access(2), kMiss);
  EXPECT_EQ(stack.access(2), 1);
  EXPECT_EQ(stack.access(0), kMiss);
  EXPECT_EQ(stack.access(3), kMiss);
  EXPECT_EQ(stack.access(2), 3);
  EXPECT_EQ(stack.access(3), 2);
  stack.clear();
  EXPECT_EQ(stack.access(3), kMiss);
}

/// As bytes and as longer numbers.
TEST(LruStack, CountsTheExpertsSinceTheLastAccess) {
  std::mt19937 random(3);
  for (const int num_experts : {1, 31, 256, 257, 700}) {
    LruStack stack(num_experts);
    std::vector<int32_t> accesses;
    for (int i = 0; i < 2000; ++i) {
      if (i == 1000) {
        stack.clear();
        accesses.clear();
      }
      const auto expert = static_cast<int32_t>(random() % static_cast<unsigned>(num_experts));
      std::vector<bool> since(static_cast<size_t>(num_experts));
      int64_t expected = kMiss, others = 0;
      for (size_t back = accesses.size(); back > 0 && expected == kMiss; --back) {
        const int32_t before = accesses[back - 1];
        if (before == expert) expected = others + 1;
        others += !since[static_cast<size_t>(before)];
        since[static_cast<size_t>(before)] = true;
      }
      ASSERT_EQ(stack.access(expert), expected) << num_experts << " experts, access " << i;
      accesses.push_back(expert);
    }
  }
}

TEST(OptimalStack, EvictsTheFarthestNextUse) {
  // 0 1 2 0 1 2: with two experts MIN hits the second 0 (keeps 0, drops 1 for 2 ... ) and one of the others.
  const std::vector<int32_t> accesses = {0, 1, 2, 0, 1, 2};
  const std::vector<uint32_t> next = next_uses(accesses);
  OptimalStack stack;
  int hits = 0;
  for (size_t i = 0; i < accesses.size(); ++i) {
    const int64_t distance = stack.access(accesses[i], static_cast<uint32_t>(i), next[i]);
    hits += distance != kMiss && distance <= 2;
  }
  EXPECT_EQ(hits, 2);
}

TEST(CacheStacks, AgreeWithSimulationsOfEveryCapacity) {
  std::mt19937 random(7);
  for (int repeat = 0; repeat < 80; ++repeat) {
    const int num_experts = 1 + static_cast<int>(random() % (repeat % 2 == 0 ? 7U : 40U));
    const std::vector<std::vector<int32_t>> samples = {random_accesses(random, num_experts, random() % 90),
                                                       random_accesses(random, num_experts, random() % 90)};
    for (const bool is_warm : {false, true}) {
      LruStack lru(num_experts);
      OptimalStack optimal;
      std::vector<std::vector<int32_t>> lru_caches(static_cast<size_t>(num_experts) + 1), optimal_caches = lru_caches;
      for (const std::vector<int32_t>& accesses : samples) {
        std::vector<uint32_t> first_use(static_cast<size_t>(num_experts), kNever);
        for (size_t i = accesses.size(); i > 0; --i) {
          first_use[static_cast<size_t>(accesses[i - 1])] = static_cast<uint32_t>(i - 1);
        }
        if (is_warm) {
          optimal.restart(first_use);
        } else {
          lru.clear();
          optimal.clear();
          for (auto& cache : lru_caches) cache.clear();
          for (auto& cache : optimal_caches) cache.clear();
        }
        const std::vector<uint32_t> next = next_uses(accesses);
        std::vector<int64_t> lru_distances, optimal_distances;
        for (size_t i = 0; i < accesses.size(); ++i) {
          lru_distances.push_back(lru.access(accesses[i]));
          optimal_distances.push_back(optimal.access(accesses[i], static_cast<uint32_t>(i), next[i]));
        }
        for (size_t c = 1; c <= static_cast<size_t>(num_experts); ++c) {
          const std::vector<bool> lru_hits = simulate(accesses, c, false, lru_caches[c]);
          const std::vector<bool> optimal_hits = simulate(accesses, c, true, optimal_caches[c]);
          for (size_t i = 0; i < accesses.size(); ++i) {
            const auto hits = [&](int64_t distance) {
              return distance != kMiss && distance <= static_cast<int64_t>(c);
            };
            EXPECT_EQ(hits(lru_distances[i]), lru_hits[i]) << "lru, capacity " << c << ", access " << i;
            EXPECT_EQ(hits(optimal_distances[i]), optimal_hits[i]) << "optimal, capacity " << c << ", access " << i;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace moetap::analysis::studies
