#include "analysis/studies/token_id_counts.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <stdexcept>

namespace moetap::analysis::studies {
namespace {

using Row = std::vector<uint32_t>;

Row row_of(const TokenIdCounts& counts, int32_t id) {
  Row row;
  counts.read(static_cast<size_t>(counts.find(id)), 1, row);
  return row;
}

TEST(TokenIdCounts, CountPastAByte) {
  TokenIdCounts counts({2, 3});
  const std::vector<int32_t> both = {0, 2}, one = {1};
  for (int i = 0; i < 300; ++i) counts.add(counts.row_of(7), 1, both);
  counts.add(counts.row_of(7), 1, one);
  counts.add(counts.row_of(2000000000), 1, one);
  EXPECT_EQ(row_of(counts, 7), (Row{300, 1, 300}));
  EXPECT_EQ(row_of(counts, 2000000000), (Row{0, 1, 0}));
  EXPECT_EQ(counts.find(8), -1);
  EXPECT_EQ(counts.find(2000000001), -1);
  EXPECT_EQ(counts.ids(), (std::vector<int32_t>{7, 2000000000}));
}

TEST(TokenIdCounts, AddUpInAnyOrder) {
  std::mt19937 random(1);
  std::vector<TokenIdCounts> parts;
  for (int i = 0; i < 3; ++i) parts.emplace_back(std::vector<int64_t>{2, 4});
  std::map<int32_t, Row> expected;
  for (int i = 0; i < 4000; ++i) {
    const auto id = static_cast<int32_t>(random() % 9 * (random() % 2 == 0 ? 1 : 300000));
    const std::vector<int32_t> counters = {static_cast<int32_t>(random() % 4)};
    TokenIdCounts& part = parts[random() % 3];
    part.check_room(1);
    part.add(part.row_of(id), 1, counters);
    Row& row = expected.try_emplace(id, 4, 0).first->second;
    ++row[static_cast<size_t>(counters[0])];
  }
  for (const auto& order : {std::vector<size_t>{0, 1, 2}, {2, 0, 1}}) {
    TokenIdCounts total({2, 4});
    for (const size_t part : order) total.merge(parts[part]);
    ByteSink sink;
    total.save(sink);
    ByteSource source(sink.bytes());
    TokenIdCounts loaded({2, 4});
    loaded.load(source);
    for (const TokenIdCounts* counts : {&total, &loaded}) {
      ASSERT_EQ(counts->num_ids(), static_cast<int64_t>(expected.size()));
      for (const auto& [id, row] : expected) EXPECT_EQ(row_of(*counts, id), row);
    }
  }
}

TEST(TokenIdCounts, RefuseMoreTokensThanACounterHolds) {
  TokenIdCounts counts({1});
  counts.check_room(int64_t{UINT32_MAX});
  EXPECT_THROW(counts.check_room(1), std::runtime_error);
}

}  // namespace
}  // namespace moetap::analysis::studies
