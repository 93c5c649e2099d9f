// What a finished run keeps of itself for merging, written by SumsWriter and read by RunPart.
#include "plugin/merge/run_part.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <random>

#include "plugin/formats/byte_stream.h"
#include "plugin/formats/frame_log.h"
#include "tests/plugin/merge/split_runs.h"
#include "tests/plugin/support/damaged_file.h"
#include "tests/plugin/support/error_of.h"

namespace moetap::plugin {
namespace {

namespace fs = std::filesystem;

class RunPartTest : public SplitRuns {
 protected:
  RunPartTest() : run_(write("run", script(4, /*shuffled=*/false))) {}

  std::string sums() const { return sums_path(RunPaths(run_, 0)); }
  std::vector<Frame> frames() const {
    std::vector<Frame> all;
    FrameReader reader(sums());
    while (auto frame = reader.next()) all.push_back(std::move(*frame));
    return all;
  }
  void write_frames(const std::vector<Frame>& frames) const {
    std::string bytes;
    for (const Frame& frame : frames) bytes += FrameLog::frame(frame.kind, frame.payload);
    write_text_file(sums(), bytes);
  }
  /// What reading everything of the part says; "" where all was read.
  std::string complaint() const {
    return error_of([&] {
      const RunPart part(run_, 0, true);
      for (const RunPart::Entry& entry : part.entries()) part.samples_of(entry);
      for (const RunPart::Forward& forward : part.forwards()) part.extents_of(forward);
    });
  }
  std::string is_damaged() const { return sums() + ": is damaged, so this run cannot be merged"; }

  const std::string run_;
};

TEST_F(RunPartTest, HoldsEntriesAndForwards) {
  const RunPart part(run_, 0, true);
  EXPECT_EQ(part.samples(), (std::vector<int64_t>{0, 1, 2, 3, 4, 5, 6, 7}));
  ASSERT_EQ(part.entries().size(), 8u);
  for (size_t i = 0; i < 8; ++i) {
    EXPECT_EQ(part.samples_of(part.entries()[i]), std::vector<int64_t>{static_cast<int64_t>(i)});
  }
  const Steps steps = script(4, false);
  ASSERT_EQ(part.forwards().size(), steps.size());
  std::map<std::string, int64_t> rows;
  for (size_t i = 0; i < steps.size(); ++i) {
    const RunPart::Forward& forward = part.forwards()[i];
    EXPECT_EQ(forward.first_sample, 2 * steps[i].group);
    EXPECT_EQ(forward.index, static_cast<int64_t>(i));
    for (const ForwardExtents::Extent& extent : part.extents_of(forward)) {
      EXPECT_EQ(extent.begin, rows[extent.series]) << extent.series;
      rows[extent.series] += extent.rows;
    }
  }
  EXPECT_EQ(part.ending().dump_rows, rows);
  EXPECT_TRUE(part.ending().config.dump_router_input);
}

TEST_F(RunPartTest, RefusesARunWithoutSums) {
  fs::remove(sums());
  EXPECT_NE(complaint().find("is not there"), std::string::npos);
  EXPECT_NE(complaint().find(sums()), std::string::npos);
}

// Each frame has a checksum, so a file that is cut or changed anywhere is not whole.
TEST_F(RunPartTest, RefusesAFileThatIsNotWhole) {
  std::mt19937 random(2);
  const std::string whole = read_text_file(sums());
  for (int trial = 0; trial < 300; ++trial) {
    std::string bytes = damaged(whole, whole.size(), random);
    if (bytes == whole) continue;
    write_text_file(sums(), bytes);
    const std::string said = complaint();
    EXPECT_NE(said.find(sums()), std::string::npos) << said;
    EXPECT_EQ(said.find('\n'), std::string::npos) << said;
  }
}

TEST_F(RunPartTest, RefusesFramesThatAreMissing) {
  const std::vector<Frame> whole = frames();
  for (const uint32_t kind : {uint32_t{kRunStarted}, uint32_t{kRunEnded}, uint32_t{kSeriesNamed}}) {
    std::vector<Frame> left = whole;
    std::erase_if(left, [&](const Frame& frame) { return frame.kind == kind; });
    ASSERT_LT(left.size(), whole.size());
    write_frames(left);
    EXPECT_NE(complaint().find(sums()), std::string::npos) << kind << ": " << complaint();
  }
}

// Whole frames whose content no moetap writes.
TEST_F(RunPartTest, RefusesContentThatNoMoetapWrites) {
  std::mt19937 random(4);
  const std::vector<Frame> whole = frames();
  int told = 0;
  for (int trial = 0; trial < 300; ++trial) {
    std::vector<Frame> changed = whole;
    Frame& frame = changed[random() % changed.size()];
    if (frame.payload.empty()) continue;
    frame.payload = damaged(frame.payload, frame.payload.size(), random);
    write_frames(changed);
    const std::string said = complaint();  // other errors than std::runtime_error pass through and fail the test
    if (said.empty()) continue;            // such as other sums, or other numbers of samples
    ++told;
    EXPECT_NE(said.find(sums()), std::string::npos) << said;
  }
  EXPECT_GT(told, 10);
}

TEST_F(RunPartTest, RefusesExtentsBeforeTheFirstRow) {
  std::vector<Frame> changed = frames();
  for (Frame& frame : changed) {
    if (frame.kind != kForwardsDumped) continue;
    ByteWriter bytes;
    bytes.number(0);
    bytes.number(0);
    bytes.count(1);
    bytes.count(0);
    bytes.number(-7);
    bytes.number(3);
    frame.payload = bytes.take();
  }
  write_frames(changed);
  EXPECT_EQ(complaint(), is_damaged());
}

}  // namespace
}  // namespace moetap::plugin
