#include "analysis/studies/cache_stacks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <span>
#include <vector>

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
  std::vector<int32_t> distances;
  stack.access(std::vector<int32_t>{2, 2, 0, 3, 2, 3}, distances);
  EXPECT_EQ(distances, (std::vector<int32_t>{kMiss, 1, kMiss, kMiss, 3, 2}));
  stack.clear();
  stack.access(std::vector<int32_t>{3}, distances);
  EXPECT_EQ(distances.back(), kMiss);
}

/// The distances of `accesses` in a stack that was empty before.
std::vector<int32_t> distances_since(const std::vector<int32_t>& accesses, int num_experts) {
  std::vector<int32_t> distances;
  for (size_t i = 0; i < accesses.size(); ++i) {
    std::vector<bool> since(static_cast<size_t>(num_experts));
    int32_t expected = kMiss, others = 0;
    for (size_t back = i; back > 0 && expected == kMiss; --back) {
      const int32_t before = accesses[back - 1];
      if (before == accesses[i]) expected = others + 1;
      others += !since[static_cast<size_t>(before)];
      since[static_cast<size_t>(before)] = true;
    }
    distances.push_back(expected);
  }
  return distances;
}

/// As bytes and as longer numbers; in pieces of any length.
TEST(LruStack, CountsTheExpertsSinceTheLastAccess) {
  std::mt19937 random(3);
  for (const int num_experts : {1, 31, 256, 257, 700}) {
    LruStack stack(num_experts);
    for (int run = 0; run < 2; ++run) {
      stack.clear();
      const std::vector<int32_t> accesses = random_accesses(random, num_experts, 1000);
      std::vector<int32_t> distances;
      for (size_t first = 0; first < accesses.size();) {
        const size_t n = std::min<size_t>(1 + random() % 70, accesses.size() - first);
        std::vector<int32_t> piece;
        stack.access(std::span(accesses).subspan(first, n), piece);
        ASSERT_EQ(piece.size(), n);
        distances.insert(distances.end(), piece.begin(), piece.end());
        first += n;
      }
      ASSERT_EQ(distances, distances_since(accesses, num_experts)) << num_experts << " experts";
    }
  }
}

TEST(OptimalStack, EvictsTheFarthestNextUse) {
  // 0 1 2 0 1 2: with two experts MIN hits the second 0 (keeps 0, drops 1 for 2 ... ) and one of the others.
  const std::vector<int32_t> accesses = {0, 1, 2, 0, 1, 2};
  OptimalStack stack(3);
  std::vector<int32_t> distances;
  stack.access(accesses, next_uses(accesses), distances);
  EXPECT_EQ(std::count_if(distances.begin(), distances.end(), [](int32_t d) { return d != kMiss && d <= 2; }), 2);
}

/// The loops of every kind of processor move the lists in the same way.
TEST(CacheLoops, AgreeWithEachOther) {
  std::mt19937 random(11);
  for (const int num_experts : {1, 7, 64, 128, 200, 256}) {
    const std::vector<int32_t> accesses = random_accesses(random, num_experts, 3000);
    const std::vector<uint32_t> next = next_uses(accesses);
    std::vector<uint32_t> entries(accesses.size());
    for (size_t i = 0; i < accesses.size(); ++i) {
      entries[i] = next[i] == kNever ? 0x80000000U | static_cast<uint32_t>(accesses[i]) : next[i] + 1;
    }
    std::vector<std::vector<int32_t>> found;
    std::vector<std::vector<uint32_t>> lists;
    for (const CacheLoops* loops : all_cache_loops()) {
      constexpr size_t kBlocks = 4;
      std::vector<uint8_t> places(kBlocks * kPlaceBlock, 255);
      for (size_t e = 0; e < static_cast<size_t>(num_experts); ++e) places[e] = static_cast<uint8_t>(e);
      std::vector<uint32_t> list(static_cast<size_t>(num_experts) + 1 + kListPadding);
      std::vector<int32_t> lru(accesses.size()), optimal(accesses.size());
      uint32_t num_held = 0;
      size_t size = 0;
      loops->lru(places.data(), kBlocks, accesses, num_held, lru.data());
      loops->optimal(list.data(), size, entries, optimal.data());
      EXPECT_EQ(size, num_held);
      lru.insert(lru.end(), optimal.begin(), optimal.end());
      found.push_back(lru);
      lists.push_back(list);
    }
    for (size_t i = 1; i < found.size(); ++i) {
      EXPECT_EQ(found[i], found[0]);
      EXPECT_EQ(lists[i], lists[0]);
    }
  }
}

TEST(CacheStacks, AgreeWithSimulationsOfEveryCapacity) {
  std::mt19937 random(7);
  for (int repeat = 0; repeat < 80; ++repeat) {
    const int num_experts = 1 + static_cast<int>(random() % (repeat % 2 == 0 ? 7U : 40U));
    const std::vector<std::vector<int32_t>> samples = {random_accesses(random, num_experts, random() % 90),
                                                       random_accesses(random, num_experts, random() % 90)};
    for (const bool is_warm : {false, true}) {
      LruStack lru(num_experts);
      OptimalStack optimal(num_experts);
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
        std::vector<int32_t> lru_distances, optimal_distances;
        lru.access(accesses, lru_distances);
        optimal.access(accesses, next, optimal_distances);
        for (size_t c = 1; c <= static_cast<size_t>(num_experts); ++c) {
          const std::vector<bool> lru_hits = simulate(accesses, c, false, lru_caches[c]);
          const std::vector<bool> optimal_hits = simulate(accesses, c, true, optimal_caches[c]);
          for (size_t i = 0; i < accesses.size(); ++i) {
            const auto hits = [&](int32_t distance) {
              return distance != kMiss && distance <= static_cast<int32_t>(c);
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
