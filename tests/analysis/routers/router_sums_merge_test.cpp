#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <numeric>

#include "analysis/routers/router_sums.h"
#include "tests/analysis/routers/router_calls.h"

namespace moetap::analysis {
namespace {

bool same_bits(const RouterSums& a, const RouterSums& b) {
  return a.num_experts == b.num_experts && a.top_k == b.top_k && a.num_rows == b.num_rows &&
         a.has_pairs == b.has_pairs && a.words.numel() == b.words.numel() &&
         std::memcmp(a.words.const_data_ptr(), b.words.const_data_ptr(), a.words.nbytes()) == 0;
}

/// Samples of different lengths, one after the other; some tokens are masked.
struct Stream {
  RouterCall call;
  std::vector<std::vector<int64_t>> samples;  // the tokens of each
  std::vector<bool> masked;                   // of each token
};

Stream random_stream(uint64_t seed) {
  std::mt19937_64 random(seed);
  const CallSize size{120, static_cast<int64_t>(2 + random() % 40), static_cast<int64_t>(1 + random() % 2)};
  Stream stream{random_call(size, seed), {}, {}};
  stream.call.sigmoid_scores = seed % 2 == 0;
  for (int64_t token = 0; token < size.num_tokens; ++token) {
    if (token == 0 || random() % 9 == 0) stream.samples.emplace_back();
    stream.samples.back().push_back(token);
    stream.masked.push_back(random() % 7 == 0);
    if (random() % 10 == 0) stream.call.weights[token][0] = 0;
    if (random() % 10 == 0) stream.call.selected[token][0] = -1;
  }
  return stream;
}

/// One call over these samples, in this order, a row each.
RouterSums observe_samples(Path path, const Stream& stream, const std::vector<std::vector<int64_t>>& samples) {
  std::vector<int64_t> tokens, row;
  for (size_t i = 0; i < samples.size(); ++i) {
    for (const int64_t token : samples[i]) {
      tokens.push_back(token);
      row.push_back(stream.masked[token] ? -1 : static_cast<int64_t>(i));
    }
  }
  return observe_on(path, take(stream.call, tokens), rows_of(row, static_cast<int64_t>(samples.size())));
}

/// Cuts a shuffled list into calls at random places and merges the calls in pairs, in any order.
RouterSums observe_in_pieces(Path path, const Stream& stream, std::vector<std::vector<int64_t>> samples,
                             std::mt19937_64& random) {
  std::shuffle(samples.begin(), samples.end(), random);
  std::vector<RouterSums> parts;
  for (size_t begin = 0; begin < samples.size();) {
    const size_t count = 1 + random() % std::min<size_t>(5, samples.size() - begin);
    parts.push_back(
        sum_rows(observe_samples(path, stream, {samples.begin() + begin, samples.begin() + begin + count})));
    begin += count;
  }
  while (parts.size() > 1) {
    std::shuffle(parts.begin(), parts.end(), random);
    merge(parts[0], parts.back());
    parts.pop_back();
  }
  return parts[0];
}

class MergeTest : public PathTest {};
INSTANTIATE_TEST_SUITE_P(Paths, MergeTest, all_paths(), path_name);

TEST_P(MergeTest, AnySplitIntoBatchesAndSessionsGivesTheSameBits) {
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    const Stream stream = random_stream(seed);
    std::mt19937_64 random(seed);
    const RouterSums whole = sum_rows(observe_samples(GetParam(), stream, stream.samples));
    for (int trial = 0; trial < 4; ++trial) {
      EXPECT_TRUE(same_bits(observe_in_pieces(GetParam(), stream, stream.samples, random), whole)) << seed;
    }
  }
}

TEST_P(MergeTest, CutsWithinASampleLoseTheNeighboursOnly) {
  const Stream stream = random_stream(31);
  std::mt19937_64 random(31);
  std::vector<std::vector<int64_t>> tokens;
  for (int64_t token = 0; token < stream.call.selected.size(0); ++token) tokens.push_back({token});
  RouterSums whole = sum_rows(observe_samples(GetParam(), stream, stream.samples));
  EXPECT_GT(whole.counter(kRepeatPairs), 0);
  whole.words[kRepeatPairs] = 0;
  whole.words[kRepeatHits] = 0;
  EXPECT_TRUE(same_bits(observe_in_pieces(GetParam(), stream, tokens, random), whole));
}

TEST_P(MergeTest, IsAssociativeAndCommutative) {
  const RouterSums a = observe_on(GetParam(), random_call({30, 12, 3}, 1)),
                   b = observe_on(GetParam(), random_call({7, 12, 3}, 2)),
                   c = observe_on(GetParam(), random_call({19, 12, 3}, 3));
  RouterSums left = a, right = b, swapped = c;
  merge(left, b);
  merge(left, c);
  merge(right, c);
  RouterSums grouped = a;
  merge(grouped, right);
  merge(swapped, b);
  merge(swapped, a);
  EXPECT_TRUE(same_bits(left, grouped));
  EXPECT_TRUE(same_bits(left, swapped));
}

TEST(RouterSumsMergeTest, RowsAddUpToTheWhole) {
  const RouterCall call = random_call({24, 9, 2}, 4);
  const RouterSums rows = observe(call, TokenRows{{}, 4}), summed = sum_rows(rows);
  RouterSums merged;
  for (int64_t row = 0; row < 4; ++row) merge(merged, select_row(rows, row));
  EXPECT_EQ(merged.tokens(), 24);
  EXPECT_FALSE(merged.has_pairs);
  EXPECT_TRUE(at::equal(merged.words, select_row(summed, 0).words));
}

TEST(RouterSumsMergeTest, IntoNothingIsACopy) {
  const RouterSums sums = observe(random_call({5, 4, 2}, 5), {});
  RouterSums total;
  merge(total, sums);
  EXPECT_TRUE(same_bits(total, sums));
  merge(total, sums);
  EXPECT_EQ(total.tokens(), 10);
  EXPECT_EQ(sums.tokens(), 5) << "the copy has its own memory";
  merge(total, RouterSums{});
  EXPECT_EQ(total.tokens(), 10);
}

TEST(RouterSumsMergeTest, RefusesOtherRouters) {
  RouterSums total = observe(random_call({5, 4, 2}, 6), {});
  const RouterSums before = on_host(total);
  EXPECT_THROW(merge(total, observe(random_call({5, 6, 2}, 6), {})), c10::Error);
  EXPECT_THROW(merge(total, observe(random_call({5, 4, 3}, 6), {})), c10::Error);
  EXPECT_THROW(merge(total, observe(random_call({6, 4, 2}, 6), TokenRows{{}, 2})), c10::Error);
  EXPECT_THROW(merge(total, select_row(before, 0)), c10::Error) << "one has pairs, the other has none";
  EXPECT_THROW(select_row(total, 1), c10::Error);
  EXPECT_TRUE(same_bits(total, before));
}

TEST(RouterSumsMergeTest, OverflowIsAnErrorAndChangesNothing) {
  RouterSums total = observe(random_call({5, 4, 2}, 7), {});
  RouterSums huge = on_host(total);
  huge.words[RouterSumsLayout::scalar_sum(kLseSquared) + kHighLimb] = std::numeric_limits<int64_t>::max() - 1;
  const RouterSums before = on_host(total);
  EXPECT_THROW(merge(total, huge), c10::Error);
  EXPECT_TRUE(same_bits(total, before));
}

TEST(RouterSumsMergeTest, NormalizeCarriesWithoutChangingTheValue) {
  RouterSums sums = observe(random_call({5, 4, 2}, 8), {});
  const RouterSums before = on_host(sums);
  const int64_t margin = RouterSumsLayout::scalar_sum(kMargin);
  sums.words[margin + kHighLimb] -= 3;
  sums.words[margin + kLowLimb] += int64_t{3} << 36;
  EXPECT_FALSE(same_bits(sums, before));
  normalize(sums);
  EXPECT_TRUE(same_bits(sums, before));
}

TEST(RouterSumsLayoutTest, PairsFillTheirTable) {
  const RouterSumsLayout layout{7, 2, 3};
  int64_t expected = 0;
  for (int64_t i = 0; i < 7; ++i) {
    for (int64_t j = i + 1; j < 7; ++j) EXPECT_EQ(layout.pair_index(i, j), expected++);
  }
  EXPECT_EQ(layout.pair_words(), expected);
  EXPECT_EQ((RouterSumsLayout{7, 1, 3}.pair_words()), 0);
}

}  // namespace
}  // namespace moetap::analysis
