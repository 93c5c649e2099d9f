#include "plugin/formats/byte_stream.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "tests/plugin/support/error_of.h"

namespace moetap::plugin {
namespace {

constexpr uint64_t kMaxCount = std::numeric_limits<uint64_t>::max();
constexpr int64_t kMinNumber = std::numeric_limits<int64_t>::min();
constexpr int64_t kMaxNumber = std::numeric_limits<int64_t>::max();

std::string bytes_of_count(uint64_t value) {
  ByteWriter writer;
  writer.count(value);
  return writer.take();
}

TEST(ByteStream, CountsComeBackAndSmallOnesAreShort) {
  struct Case {
    uint64_t value;
    size_t bytes;
  };
  for (const auto& [value, bytes] : {Case{0, 1}, Case{1, 1}, Case{127, 1}, Case{128, 2}, Case{16'383, 2},
                                     Case{16'384, 3}, Case{kMaxCount >> 1, 9}, Case{kMaxCount, 10}}) {
    const std::string written = bytes_of_count(value);
    EXPECT_EQ(written.size(), bytes) << value;
    ByteReader reader(written);
    EXPECT_EQ(reader.count(), value);
    EXPECT_TRUE(reader.at_end());
  }
}

TEST(ByteStream, NumbersComeBackAndThoseNearZeroAreShort) {
  struct Case {
    int64_t value;
    size_t bytes;
  };
  for (const auto& [value, bytes] : {Case{0, 1}, Case{-1, 1}, Case{63, 1}, Case{-64, 1}, Case{64, 2}, Case{-65, 2},
                                     Case{kMaxNumber, 10}, Case{kMinNumber, 10}}) {
    ByteWriter writer;
    writer.number(value);
    const std::string written = writer.take();
    EXPECT_EQ(written.size(), bytes) << value;
    EXPECT_EQ(ByteReader(written).number(), value);
  }
}

TEST(ByteStream, RealsComeBackToTheLastBit) {
  using Double = std::numeric_limits<double>;
  using Float = std::numeric_limits<float>;
  const double other_nan = std::bit_cast<double>(uint64_t{0xFFF8'0000'0000'1234});
  const std::vector<double> doubles = {0.0,
                                       -0.0,
                                       0.1,
                                       Double::max(),
                                       Double::lowest(),
                                       Double::denorm_min(),
                                       Double::infinity(),
                                       -Double::infinity(),
                                       Double::quiet_NaN(),
                                       other_nan};
  const std::vector<float> floats = {0.0F,
                                     -0.0F,
                                     0.1F,
                                     Float::max(),
                                     Float::denorm_min(),
                                     -Float::infinity(),
                                     std::bit_cast<float>(uint32_t{0xFFC0'0123})};
  ByteWriter writer;
  for (const double value : doubles) writer.real(value);
  writer.reals(floats);
  writer.reals({});
  const std::string written = writer.take();
  ByteReader reader(written);
  for (const double value : doubles) EXPECT_EQ(std::bit_cast<uint64_t>(reader.real()), std::bit_cast<uint64_t>(value));
  const std::vector<float> read = reader.reals();
  ASSERT_EQ(read.size(), floats.size());
  for (size_t i = 0; i < read.size(); ++i) {
    EXPECT_EQ(std::bit_cast<uint32_t>(read[i]), std::bit_cast<uint32_t>(floats[i]));
  }
  EXPECT_TRUE(reader.reals().empty());
  EXPECT_TRUE(reader.at_end());
}

TEST(ByteStream, TextsAndListsComeBack) {
  using namespace std::string_literals;
  const std::vector<std::string> texts = {"", "a\0b"s, std::string(1000, 'x'), "\xFF\xFE"};
  const std::vector<int32_t> numbers = {0, -1, std::numeric_limits<int32_t>::min(),
                                        std::numeric_limits<int32_t>::max()};
  ByteWriter writer;
  for (const std::string& text : texts) writer.text(text);
  writer.numbers(numbers);
  writer.numbers({});
  const std::string written = writer.take();
  ByteReader reader(written);
  for (const std::string& text : texts) EXPECT_EQ(reader.text(), text);
  EXPECT_EQ(reader.numbers(), numbers);
  EXPECT_TRUE(reader.numbers().empty());
  EXPECT_TRUE(reader.at_end());
}

TEST(ByteStream, SparseCountersComeBack) {
  std::vector<int64_t> mixed(300, 0);
  mixed[0] = 5;
  mixed[100] = kMinNumber;
  mixed[101] = kMaxNumber;
  std::vector<int64_t> zeros_at_both_ends = {0, 0, 1, 0};
  for (const std::vector<int64_t>& values :
       {std::vector<int64_t>{}, std::vector<int64_t>{0}, std::vector<int64_t>(1000, 0), std::vector<int64_t>{1, 2, 3},
        zeros_at_both_ends, mixed}) {
    ByteWriter writer;
    writer.sparse(values);
    writer.count(77);  // what follows must stay where it is
    const std::string written = writer.take();
    ByteReader reader(written);
    std::vector<int64_t> read(values.size(), -1);
    reader.sparse(read);
    EXPECT_EQ(read, values);
    EXPECT_EQ(reader.count(), 77u);
  }
  ByteWriter writer;
  writer.sparse(std::vector<int64_t>(1000, 0));
  EXPECT_EQ(writer.take().size(), 3u);
}

TEST(ByteStream, EveryTruncationIsRefused) {
  ByteWriter writer;
  writer.count(300);
  writer.number(-300);
  writer.real(0.5);
  writer.text("text");
  writer.numbers(std::vector<int32_t>{1, 200});
  writer.reals(std::vector<float>{1, 2});
  writer.sparse(std::vector<int64_t>{0, 0, 400, 0});
  const std::string whole = writer.take();
  const auto read = [](std::string_view bytes) {
    ByteReader reader(bytes);
    reader.count();
    reader.number();
    reader.real();
    reader.text();
    reader.numbers();
    reader.reals();
    std::vector<int64_t> values(4);
    reader.sparse(values);
  };
  EXPECT_EQ(error_of([&] { read(whole); }), "");
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_EQ(error_of([&] { read(std::string_view(whole).substr(0, size)); }), "a frame of the journal ends early")
        << size;
  }
}

// A length is checked before memory is taken for it.
TEST(ByteStream, LengthsBeyondTheBytesAreRefused) {
  for (const uint64_t length : {uint64_t{4}, uint64_t{1} << 62, kMaxCount}) {
    const std::string bytes = bytes_of_count(length) + "abc";
    for (const auto& read :
         std::vector<std::function<void()>>{[&] { ByteReader(bytes).text(); }, [&] { ByteReader(bytes).numbers(); },
                                            [&] { ByteReader(bytes).reals(); }}) {
      EXPECT_EQ(error_of(read), "a frame of the journal ends early") << length;
    }
  }
}

TEST(ByteStream, NumbersThatDoNotFitAreRefused) {
  const std::string nine(9, '\x80');
  EXPECT_EQ(ByteReader(nine + '\x01').count(), uint64_t{1} << 63);
  for (const std::string& bytes : {nine + '\x02', nine + '\x7F', nine + "\x80\x01"}) {
    EXPECT_EQ(error_of([&] { ByteReader(bytes).count(); }),
              "a frame of the journal holds a number of more than 64 bits");
  }
  for (const int64_t value : {int64_t{1} << 31, -(int64_t{1} << 31) - 1, kMaxNumber}) {
    ByteWriter writer;
    writer.count(1);
    writer.number(value);
    const std::string bytes = writer.take();
    EXPECT_EQ(error_of([&] { ByteReader(bytes).numbers(); }),
              "a frame of the journal holds a number of more than 32 bits")
        << value;
  }
}

TEST(ByteStream, WrongRunsOfZerosAreRefused) {
  for (const uint64_t zeros : {uint64_t{0}, uint64_t{3}, kMaxCount}) {
    ByteWriter writer;
    writer.number(0);
    writer.count(zeros);
    const std::string bytes = writer.take();
    std::vector<int64_t> values(2);
    EXPECT_EQ(error_of([&] { ByteReader(bytes).sparse(values); }), "a frame of the journal holds a wrong run") << zeros;
  }
}

}  // namespace
}  // namespace moetap::plugin
