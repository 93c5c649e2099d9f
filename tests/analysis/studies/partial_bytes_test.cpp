#include "analysis/studies/partial_bytes.h"

#include <gtest/gtest.h>

#include <limits>

namespace moetap::analysis::studies {
namespace {

std::string sample_bytes() {
  ByteSink sink;
  sink.integer(-7);
  sink.real(0.1);
  sink.text("layer 3");
  ExactSum sum;
  sum.add(-2.25);
  sink.sum(sum);
  sink.values(std::vector<int32_t>{1, -1, 5});
  sink.values(std::vector<double>{});
  sink.sums({sum, ExactSum()});
  return sink.bytes();
}

void read_all(ByteSource& source) {
  source.integer();
  source.real();
  source.text();
  source.sum();
  source.values<int32_t>();
  source.values<double>();
  source.sums();
}

TEST(PartialBytes, GivesBackWhatWasWritten) {
  const std::string bytes = sample_bytes();
  ByteSource source(bytes);
  EXPECT_EQ(source.integer(), -7);
  EXPECT_EQ(source.real(), 0.1);
  EXPECT_EQ(source.text(), "layer 3");
  EXPECT_EQ(source.sum().value(), -2.25);
  EXPECT_EQ(source.values<int32_t>(3), (std::vector<int32_t>{1, -1, 5}));
  EXPECT_TRUE(source.values<double>().empty());
  EXPECT_EQ(source.sums(2)[0].value(), -2.25);
  EXPECT_TRUE(source.at_end());
}

TEST(PartialBytes, EveryCutIsRefused) {
  const std::string bytes = sample_bytes();
  for (size_t size = 0; size < bytes.size(); ++size) {
    const std::string cut = bytes.substr(0, size);
    ByteSource source(cut);
    EXPECT_THROW(read_all(source), std::runtime_error) << size;
  }
}

TEST(PartialBytes, LengthsThatAreNotThereAreRefusedBeforeMemoryIsTaken) {
  for (const int64_t length : {int64_t{-1}, int64_t{9}, std::numeric_limits<int64_t>::max(),
                               std::numeric_limits<int64_t>::min(), int64_t{1} << 61}) {
    ByteSink sink;
    sink.integer(length);
    sink.integer(0);
    EXPECT_THROW(ByteSource(sink.bytes()).values<double>(), std::runtime_error) << length;
    EXPECT_THROW(ByteSource(sink.bytes()).text(), std::runtime_error) << length;
    EXPECT_THROW(ByteSource(sink.bytes()).sums(), std::runtime_error) << length;
  }
}

TEST(PartialBytes, AnotherNumberOfValuesIsRefused) {
  ByteSink sink;
  sink.values(std::vector<int64_t>{1, 2, 3});
  EXPECT_THROW(ByteSource(sink.bytes()).values<int64_t>(2), std::runtime_error);
  EXPECT_EQ(ByteSource(sink.bytes()).values<int64_t>(3).size(), 3U);
}

}  // namespace
}  // namespace moetap::analysis::studies
