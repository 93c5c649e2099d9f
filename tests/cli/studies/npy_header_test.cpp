#include "cli/studies/npy_header.h"

#include <gtest/gtest.h>

#include <random>
#include <stdexcept>

#include "tests/support/damaged_bytes.h"

namespace moetap::cli {
namespace {

std::string file_with(const std::string& literal, char version = 1) {
  std::string bytes("\x93NUMPY", 6);
  bytes += version;
  bytes += '\0';
  for (size_t i = 0; i < (version == 1 ? 2U : 4U); ++i) bytes += static_cast<char>(literal.size() >> (8 * i));
  return bytes + literal;
}

constexpr const char* kLiteral = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n";

TEST(NpyHeader, ReadsWhatNumPyWrites) {
  for (const char version : {1, 2, 3}) {
    const std::string bytes = file_with(kLiteral, version);
    const NpyHeader header = parse_npy_header(bytes, static_cast<int64_t>(bytes.size()) + 24);
    EXPECT_EQ(header.kind, NpyKind::kReal);
    EXPECT_EQ(header.element_bytes, 4);
    EXPECT_FALSE(header.fortran_order);
    EXPECT_EQ(header.shape, (std::vector<int64_t>{2, 3}));
    EXPECT_EQ(header.num_elements, 6);
    EXPECT_EQ(header.data_begin, static_cast<int64_t>(bytes.size()));
    EXPECT_THROW(parse_npy_header(bytes, static_cast<int64_t>(bytes.size()) + 23), std::runtime_error);
  }
}

TEST(NpyHeader, ReadsScalarsVectorsAndOldSizes) {
  const auto shape_of = [](const std::string& shape) {
    const std::string bytes = file_with("{'descr': '|b1', 'fortran_order': True, 'shape': " + shape + "}");
    return parse_npy_header(bytes, 1 << 20).shape;
  };
  EXPECT_EQ(shape_of("()"), (std::vector<int64_t>{}));
  EXPECT_EQ(shape_of("(7,)"), (std::vector<int64_t>{7}));
  EXPECT_EQ(shape_of("(2L, 3L)"), (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(shape_of("(0, 3)"), (std::vector<int64_t>{0, 3}));
}

/// Whatever the bytes are: a header that fits the file, or one line.
TEST(NpyHeader, SurvivesDamage) {
  std::mt19937_64 random(1);
  const std::string whole = file_with(kLiteral) + std::string(24, '\1');
  int64_t read = 0;
  for (int round = 0; round < tests::fuzz_rounds(1000000); ++round) {
    const std::string bytes = tests::damaged(whole, random);
    try {
      const auto size = static_cast<int64_t>(bytes.size());
      const NpyHeader header = parse_npy_header(bytes, size);
      ++read;
      ASSERT_LE(header.data_begin + header.num_elements * header.element_bytes, size);
      int64_t elements = 1;
      for (const int64_t of : header.shape) {
        ASSERT_GE(of, 0);
        elements *= of;
      }
      ASSERT_EQ(elements, header.num_elements);
    } catch (const std::runtime_error& error) {
      ASSERT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    }
  }
  EXPECT_GT(read, 1000);
}

}  // namespace
}  // namespace moetap::cli
