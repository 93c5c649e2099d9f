#include "plugin/formats/frame_log.h"

#include <gtest/gtest.h>

#include <cstring>

#include "tests/plugin/support/error_of.h"
#include "tests/plugin/support/file_size_limit.h"
#include "tests/plugin/support/temporary_folder.h"

namespace moetap::plugin {
namespace {

constexpr size_t kHeadBytes = 24;
constexpr size_t kLengthAt = 8;  // Note [Frames]

struct Read {
  std::vector<Frame> frames;
  int64_t whole_bytes = 0;
};

Read read_all(const std::string& path) {
  Read read;
  FrameReader reader(path);
  while (auto frame = reader.next()) read.frames.push_back(std::move(*frame));
  EXPECT_FALSE(reader.next().has_value()) << "the end is not the end";
  read.whole_bytes = reader.whole_bytes();
  return read;
}

class FrameLogTest : public ::testing::Test {
 protected:
  /// Three frames: "first", an empty one, and one of 100 bytes.
  void write_frames() {
    FrameLog log(path_);
    for (size_t i = 0; i < payloads_.size(); ++i) {
      EXPECT_EQ(log.next_payload(), end_of_[i] + static_cast<int64_t>(kHeadBytes));
      log.append(static_cast<uint32_t>(i + 1), payloads_[i]);
    }
    log.sync();
  }

  void expect_frames(size_t number) {
    const Read read = read_all(path_);
    ASSERT_EQ(read.frames.size(), number);
    EXPECT_EQ(read.whole_bytes, end_of_[number]);
    for (size_t i = 0; i < number; ++i) {
      EXPECT_EQ(read.frames[i].kind, i + 1);
      EXPECT_EQ(read.frames[i].payload, payloads_[i]);
      EXPECT_EQ(read.frames[i].payload_begin, end_of_[i] + static_cast<int64_t>(kHeadBytes));
    }
  }

  TemporaryFolder folder_;
  const std::string path_ = folder_.file("a.log");
  const std::vector<std::string> payloads_ = {"first", "", std::string(100, 'x')};
  const std::vector<int64_t> end_of_ = {0, 29, 53, 177};  // bytes of the first so many frames
};

TEST_F(FrameLogTest, FramesComeBack) {
  write_frames();
  expect_frames(3);
  EXPECT_EQ(FrameReader(path_).size_bytes(), end_of_[3]);
}

TEST_F(FrameLogTest, AnEmptyFileHasNoFrames) {
  { FrameLog log(path_); }
  expect_frames(0);
}

TEST_F(FrameLogTest, ATruncatedFileHasTheFramesBeforeTheCut) {
  write_frames();
  const std::string whole = read_text_file(path_);
  for (size_t size = 0; size < whole.size(); ++size) {
    write_text_file(path_, whole.substr(0, size));
    const auto frames = std::upper_bound(end_of_.begin(), end_of_.end(), static_cast<int64_t>(size)) - end_of_.begin();
    expect_frames(static_cast<size_t>(frames - 1));
  }
}

TEST_F(FrameLogTest, AFlippedBitEndsTheFrames) {
  write_frames();
  const std::string whole = read_text_file(path_);
  for (auto at = static_cast<size_t>(end_of_[1]); at < static_cast<size_t>(end_of_[2]) + kHeadBytes + 9; ++at) {
    for (const int bit : {0, 7}) {
      std::string damaged = whole;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << bit));
      write_text_file(path_, damaged);
      expect_frames(at < static_cast<size_t>(end_of_[2]) ? 1 : 2);
    }
  }
}

// No memory is taken for a length that the file cannot hold.
TEST_F(FrameLogTest, AHugeLengthEndsTheFrames) {
  write_frames();
  std::string bytes = read_text_file(path_);
  for (const uint64_t length : {uint64_t{101}, uint64_t{1} << 62, ~uint64_t{0} - kHeadBytes, ~uint64_t{0}}) {
    std::memcpy(bytes.data() + end_of_[2] + kLengthAt, &length, sizeof(length));
    write_text_file(path_, bytes);
    expect_frames(2);
  }
}

TEST_F(FrameLogTest, AFileOfSomethingElseHasNoFrames) {
  write_text_file(path_, std::string(100, 'x'));
  EXPECT_TRUE(read_all(path_).frames.empty());
}

TEST_F(FrameLogTest, GoesOnBehindTheFramesThatCount) {
  write_frames();
  {
    FrameLog log(path_, end_of_[1]);
    EXPECT_EQ(log.next_payload(), end_of_[1] + static_cast<int64_t>(kHeadBytes));
    log.append(2, payloads_[1]);
  }
  expect_frames(2);
}

TEST_F(FrameLogTest, OpensOnlyWhatItMay) {
  write_text_file(path_, "");
  EXPECT_EQ(error_of([&] { FrameLog log(path_); }), "cannot write " + path_ + ": File exists");
  const std::string none = folder_.file("none");
  EXPECT_EQ(error_of([&] { FrameLog log(none, 0); }), "cannot write " + none + ": No such file or directory");
  EXPECT_EQ(error_of([&] { FrameLog log(folder_.path(), 0); }), "cannot write " + folder_.path() + ": Is a directory");
  EXPECT_EQ(error_of([&] { FrameLog log("/dev/full", 0); }), "cannot write /dev/full: Invalid argument");
  EXPECT_EQ(error_of([&] { FrameReader reader(none); }), "cannot read " + none + ": No such file or directory");
  EXPECT_EQ(error_of([&] { FrameReader reader(folder_.path()); }),
            "cannot read " + folder_.path() + ": not a regular file");
}

TEST_F(FrameLogTest, AFrameThatDoesNotFitOnTheDiskIsTakenBack) {
  FrameLog log(path_);
  log.append(1, payloads_[0]);
  {
    const FileSizeLimit limit(100);
    EXPECT_EQ(error_of([&] { log.append(2, payloads_[2]); }), "cannot write " + path_ + ": File too large");
  }
  EXPECT_EQ(std::filesystem::file_size(path_), static_cast<uintmax_t>(end_of_[1]));
  log.append(2, payloads_[1]);  // as if someone had freed some space
  expect_frames(2);
}

TEST_F(FrameLogTest, ABatchIsWrittenAtItsEnd) {
  FrameLog log(path_);
  log.append(1, payloads_[0]);
  log.begin_batch();
  const int64_t second = log.next_payload();
  log.append(2, payloads_[1]);
  const int64_t third = log.next_payload();
  log.append(3, payloads_[2]);
  EXPECT_EQ(third, end_of_[2] + static_cast<int64_t>(kHeadBytes));
  expect_frames(1);  // what a killed process leaves
  EXPECT_EQ(log.gathered_from(end_of_[0] + static_cast<int64_t>(kHeadBytes)), "");
  EXPECT_EQ(log.gathered_from(third), payloads_[2]);
  EXPECT_EQ(log.gathered_from(second).size(), kHeadBytes + payloads_[2].size());
  log.end_batch();
  expect_frames(3);
  EXPECT_EQ(log.gathered_from(third), "");
  log.append(4, payloads_[0]);  // no batch goes on
  EXPECT_EQ(read_all(path_).frames.size(), 4u);
}

TEST_F(FrameLogTest, ABatchThatDoesNotFitOnTheDiskIsTakenBackAsAWhole) {
  FrameLog log(path_);
  log.append(1, payloads_[0]);
  log.begin_batch();
  {
    const FileSizeLimit limit(100);
    log.append(2, payloads_[1]);
    log.append(3, payloads_[2]);
    EXPECT_EQ(error_of([&] { log.end_batch(); }), "cannot write " + path_ + ": File too large");
  }
  expect_frames(1);
  EXPECT_EQ(log.next_payload(), end_of_[1] + static_cast<int64_t>(kHeadBytes));
  log.append(2, payloads_[1]);
  expect_frames(2);
}

TEST_F(FrameLogTest, SyncNoticesThatTheFileIsGone) {
  FrameLog log(path_);
  log.append(1, payloads_[0]);
  log.sync();
  const std::string gone = "cannot write " + path_ + ": it was removed while the run goes on";
  std::filesystem::rename(path_, path_ + ".old");
  EXPECT_EQ(error_of([&] { log.sync(); }), gone);
  write_text_file(path_, "another file of that name");
  EXPECT_EQ(error_of([&] { log.sync(); }), gone);
  EXPECT_EQ(error_of([&] { log.check_in_place(); }), gone);
  std::filesystem::rename(path_ + ".old", path_);
  EXPECT_EQ(error_of([&] { log.sync(); }), "");
}

}  // namespace
}  // namespace moetap::plugin
