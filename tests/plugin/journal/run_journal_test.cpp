#include "plugin/journal/run_journal.h"

#include <gtest/gtest.h>

#include "tests/plugin/support/synthetic_forward.h"

namespace moetap::plugin {
namespace {

LoggedForward forward_with(const std::vector<int64_t>& samples, double duration_s) {
  LoggedForward forward;
  for (const int64_t sample : samples) {
    LogPart part;
    part.samples = {sample};
    part.duration_s = duration_s;
    forward.parts.push_back(part);
  }
  return forward;
}

class RunJournalTest : public ::testing::Test {
 protected:
  void add(RunJournal& journal, LoggedForward forward, std::vector<NewFrame> effects = {}) {
    ForwardTally tally;
    tally.index = index_++;
    journal.add(journal.build(std::move(effects), std::move(forward), tally));
  }

  static std::vector<double> durations(const RunJournal& journal, const JournalEntry& entry) {
    std::vector<double> all;
    for (const auto& part : journal.parts(entry)) all.push_back(part.part.duration_s);
    return all;
  }

  TemporaryFolder folder_;
  std::string path_ = folder_.file("journal");
  int64_t index_ = 0;
};

TEST_F(RunJournalTest, PartsOfAnEntryAreChainedInOrder) {
  RunJournal journal(path_, RunJournal::Left::kRefuse);
  journal.begin();
  add(journal, forward_with({5, 3}, 1));
  add(journal, forward_with({3}, 2), {{kMethodRan, "{}"}});  // another frame before it: its parts lie further on
  add(journal, forward_with({5, 5}, 3));                     // a label may name a sample twice
  ASSERT_EQ(journal.entries().size(), 2u);
  // New entries of one forward are in the order of their samples.
  EXPECT_EQ(journal.entries()[0].first_sample, 3);
  EXPECT_EQ(durations(journal, journal.entries()[0]), (std::vector<double>{1, 2}));
  EXPECT_EQ(durations(journal, journal.entries()[1]), (std::vector<double>{1, 3, 3}));
}

TEST_F(RunJournalTest, AReaderFindsTheSameEntries) {
  std::vector<JournalEntry> written;
  {
    RunJournal journal(path_, RunJournal::Left::kRefuse);
    journal.begin();
    add(journal, forward_with({5, 3}, 1));
    add(journal, forward_with({3}, 2));
    written = journal.entries();
  }
  RunJournal journal(path_, RunJournal::Left::kTake);
  EXPECT_NE(journal.left_by().find("pid "), std::string::npos);
  journal.read_only();
  FrameReader frames(journal.frames_path());
  while (const auto frame = frames.next()) journal.take_in(read_forward(*frame));
  ASSERT_EQ(journal.entries().size(), written.size());
  for (size_t i = 0; i < written.size(); ++i) {
    EXPECT_EQ(journal.entries()[i].first_sample, written[i].first_sample);
    EXPECT_EQ(journal.entries()[i].last_part, written[i].last_part);
  }
}

TEST_F(RunJournalTest, AForwardThatIsTooLargeLeavesNothing) {
  RunJournal journal(path_, RunJournal::Left::kRefuse, /*max_part_bytes=*/100);
  journal.begin();
  add(journal, forward_with({0}, 1));
  const std::string before = read_text_file(journal.frames_path());
  LoggedForward large = forward_with({0, 1}, 2);
  large.parts[1].custom[{"", "0"}][std::string(200, 'x')] = 1.0;
  try {
    journal.build({{kMethodRan, "{}"}}, large, {});
    FAIL() << "built";
  } catch (const std::runtime_error& error) {
    EXPECT_TRUE(std::string(error.what()).starts_with("it gives 2")) << error.what();
    EXPECT_TRUE(std::string(error.what())
                    .ends_with("bytes to one log entry, at most 100 fit; use smaller batches or log_per_token: false"))
        << error.what();
  }
  EXPECT_EQ(read_text_file(journal.frames_path()), before);
  EXPECT_EQ(journal.entries().size(), 1u);
  EXPECT_EQ(durations(journal, journal.entries()[0]), (std::vector<double>{1}));
}

TEST_F(RunJournalTest, IsGoneOnceItIsRemoved) {
  RunJournal journal(path_, RunJournal::Left::kRefuse);
  journal.begin();
  add(journal, forward_with({0}, 1));
  std::filesystem::create_directories(path_ + "/folder/of/others");
  journal.remove();
  EXPECT_FALSE(std::filesystem::exists(path_));
  journal.try_to_remove();  // a second time, when nothing is there: nothing is thrown
}

TEST_F(RunJournalTest, AFrameThatNoJournalWroteIsRefused) {
  for (const std::string& payload : {std::string("abc"), std::string(4, '\xFF'), std::string(12, '\0')}) {
    EXPECT_THROW(read_forward({kForward, 0, payload}), std::runtime_error) << payload.size();
  }
}

}  // namespace
}  // namespace moetap::plugin
