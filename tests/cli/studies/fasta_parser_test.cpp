#include "cli/studies/fasta_parser.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace moetap::cli {
namespace {

/// Records of the text, handed over in pieces of at most `piece` bytes.
std::vector<std::string> records_of(const std::string& text, size_t piece = std::string::npos) {
  std::vector<std::string> records;
  FastaParser parser([&](std::string_view letters) { records.emplace_back(letters); });
  for (size_t at = 0; at < text.size(); at += std::min(piece, text.size())) {
    parser.read(std::string_view(text).substr(at, piece));
  }
  parser.finish();
  return records;
}

using Records = std::vector<std::string>;

TEST(FastaParser, JoinsLines) {
  EXPECT_EQ(records_of(">one\nACd\n  EF \n\n>two x\nGH"), (Records{"ACdEF", "GH"}));
  EXPECT_EQ(records_of(">one\r\nAC\r\nDE\r\n>two\rF"), (Records{"ACDE", "F"}));
}

TEST(FastaParser, TextBeforeTheFirstHeaderIsARecord) {
  EXPECT_EQ(records_of("AC\n>one\nD\n"), (Records{"AC", "D"}));
  EXPECT_EQ(records_of("\n \n>one\nD\n"), (Records{"D"}));
}

TEST(FastaParser, RecordsMayBeEmpty) {
  EXPECT_EQ(records_of(">one\n>two\n>three\nA"), (Records{"", "", "A"}));
  EXPECT_EQ(records_of(""), Records{});
  EXPECT_EQ(records_of(">"), (Records{""}));
}

TEST(FastaParser, PiecesMakeNoDifference) {
  std::mt19937_64 random(5);
  const std::string letters = ">>AC d\n\r\n\n\t";
  for (int round = 0; round < 2000; ++round) {
    std::string text;
    for (uint64_t n = random() % 60; n > 0; --n) text += letters[random() % letters.size()];
    const Records whole = records_of(text);
    EXPECT_EQ(records_of(text, 1), whole) << text;
    EXPECT_EQ(records_of(text, 1 + random() % 7), whole) << text;
  }
}

TEST(FastaParser, ZeroBytesAreNoText) {
  EXPECT_THROW(records_of(std::string("AC\0D", 4)), std::runtime_error);
}

}  // namespace
}  // namespace moetap::cli
