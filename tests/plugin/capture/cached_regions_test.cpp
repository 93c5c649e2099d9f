#include "plugin/capture/cached_regions.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/plugin/support/tensors.h"

namespace moetap::plugin {
namespace {

at::Tensor bytes(std::vector<int64_t> values, at::IntArrayRef sizes) {
  return longs(std::move(values)).to(at::kByte).reshape(sizes);
}

const std::string kText = "language_model";

TEST(CachedRegionsTest, RegionsStandBehindThoseOfEarlierForwards) {
  CachedRegions cached;
  cached.keep(kText, {3, 8}, bytes({0, 1, 2, 3}, {2, 2}));
  // In another order of samples.
  const auto all = cached.behind_cache(kText, {8, 3}, 2, bytes({5, 6}, {2, 1}));
  ASSERT_TRUE(all);
  expect_equal(*all, bytes({2, 3, 5, 0, 1, 6}, {2, 3}));
  cached.keep(kText, {8, 3}, *all);
  expect_equal(*cached.behind_cache(kText, {3}, 3, bytes({7}, {1, 1})), bytes({0, 1, 6, 7}, {1, 4}));
}

TEST(CachedRegionsTest, EveryLayerOfAForwardSeesTheSameCache) {
  CachedRegions cached;
  cached.keep(kText, {0}, bytes({1, 2}, {1, 2}));
  const at::Tensor step = bytes({3}, {1, 1});
  for (int layer = 0; layer < 3; ++layer) {
    const auto all = cached.behind_cache(kText, {0}, 2, step);
    ASSERT_TRUE(all) << layer;
    expect_equal(*all, bytes({1, 2, 3}, {1, 3}));
    cached.keep(kText, {0}, *all);
  }
}

TEST(CachedRegionsTest, WhatNobodyKeptIsNotKnown) {
  CachedRegions cached;
  cached.keep(kText, {0}, bytes({1, 2}, {1, 2}));
  EXPECT_FALSE(cached.behind_cache(kText, {1}, 2, bytes({3}, {1, 1}))) << "another sample";
  EXPECT_FALSE(cached.behind_cache(kText, {0}, 3, bytes({3}, {1, 1}))) << "a longer cache";
  EXPECT_FALSE(cached.behind_cache(kText, {0, 1}, 2, bytes({3}, {1, 1}))) << "not a sample a sequence";
  cached.keep(kText, {0, 1}, bytes({9, 9}, {1, 2}));
  EXPECT_FALSE(cached.behind_cache(kText, {1}, 2, bytes({3}, {1, 1})));
  expect_equal(*cached.behind_cache(kText, {0}, 2, bytes({3}, {1, 1})), bytes({1, 2, 3}, {1, 3}));
}

TEST(CachedRegionsTest, ComponentsHaveCachesOfTheirOwn) {
  CachedRegions cached;
  cached.keep("decoder", {0}, bytes({1, 2}, {1, 2}));
  cached.keep("encoder", {0}, bytes({5, 6, 7}, {1, 3}));
  expect_equal(*cached.behind_cache("decoder", {0}, 2, bytes({3}, {1, 1})), bytes({1, 2, 3}, {1, 3}));
  EXPECT_FALSE(cached.behind_cache(kText, {0}, 2, bytes({3}, {1, 1})));
}

TEST(CachedRegionsTest, OldSamplesAreForgotten) {
  CachedRegions cached;
  const auto end = static_cast<int64_t>(CachedRegions::kMaxSamples) + 1;
  for (int64_t sample = 0; sample < end; ++sample) cached.keep(kText, {sample}, bytes({1}, {1, 1}));
  EXPECT_FALSE(cached.behind_cache(kText, {0}, 1, bytes({3}, {1, 1})));
  EXPECT_TRUE(cached.behind_cache(kText, {1}, 1, bytes({3}, {1, 1})));
}

}  // namespace
}  // namespace moetap::plugin
