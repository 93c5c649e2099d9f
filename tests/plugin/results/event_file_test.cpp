#include "plugin/results/event_file.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "tests/plugin/support/error_of.h"
#include "tests/plugin/support/temporary_folder.h"

namespace moetap::plugin {
namespace {

// RFC 3720, appendix B.4, and the check value of the catalogue of CRC algorithms.
TEST(EventFileTest, TheChecksumIsThatOfTheStandard) {
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);
  EXPECT_EQ(crc32c(std::string(32, '\xFF')), 0x62A8AB43u);
  EXPECT_EQ(crc32c(""), 0u);
}

TEST(EventFileTest, RecordsHaveTheirLengthAndTheirChecksums) {
  const TemporaryFolder folder;
  EventFile file(folder.file("board"), 1000);
  file.add(300, 1001.5, {{"a", 0.5}, {"layer/0", -2}});
  const std::string bytes = read_text_file(file.path());
  size_t place = 0;
  std::vector<std::string> events;
  const auto masked = [](std::string_view of) {
    const uint32_t crc = crc32c(of);
    return (crc >> 15 | crc << 17) + 0xA282EAD8u;
  };
  while (place < bytes.size()) {
    uint64_t length = 0;
    uint32_t of_length = 0, of_data = 0;
    std::memcpy(&length, &bytes.at(place), 8);
    std::memcpy(&of_length, &bytes.at(place + 8), 4);
    EXPECT_EQ(of_length, masked(std::string_view(bytes).substr(place, 8)));
    events.push_back(bytes.substr(place + 12, length));
    std::memcpy(&of_data, &bytes.at(place + 12 + length), 4);
    EXPECT_EQ(of_data, masked(events.back()));
    place += 16 + length;
  }
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].substr(9), std::string("\x1A\x0D", 2) + "brain.Event:2");
  // Step 300 as a varint; values of 8 and 14 bytes: tag and a float.
  EXPECT_EQ(events[1].substr(9), std::string("\x10\xAC\x02\x2A\x1A", 5) +
                                     std::string("\x0A\x08\x0A\x01"
                                                 "a\x15\x00\x00\x00\x3F",
                                                 10) +
                                     std::string("\x0A\x0E\x0A\x07"
                                                 "layer/0\x15\x00\x00\x00\xC0",
                                                 16));
}

TEST(EventFileTest, AFolderThatCannotBeMadeIsNamed) {
  const TemporaryFolder folder;
  write_text_file(folder.file("file"), "");
  const std::string error = error_of([&] { EventFile(folder.file("file/board"), 0); });
  EXPECT_NE(error.find("cannot write " + folder.file("file/board")), std::string::npos) << error;
}

}  // namespace
}  // namespace moetap::plugin
