// Note [Held calls]: a run whose router calls are held gives the same files as one whose calls are measured at once.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <functional>

#include "plugin/run/run_files.h"
#include "plugin/run/run_recovery.h"
#include "plugin/session/forward_recorder.h"
#include "tests/plugin/support/recorded_run.h"
#include "tests/plugin/support/run_contents.h"

namespace moetap::plugin {
namespace {

/// The files of a run, which count what they are given.
class CountingFiles final : public RecordSink {
 public:
  struct Counts {
    int64_t held_records = 0, measured_records = 0;
  };

  CountingFiles(const Config& config, bool takes_held, Counts& counts)
      : files_(config), takes_held_(takes_held), counts_(counts) {}

  bool takes_held_calls() const override { return takes_held_ && files_.takes_held_calls(); }
  void count(const Counters& counters) override { files_.count(counters); }
  void add_model(std::shared_ptr<const ModelDescription> model) override { files_.add_model(std::move(model)); }
  void write(const ForwardRecord& record) override {
    EXPECT_TRUE(record.held.empty() || record.routers.empty());
    if (!record.held.empty()) ++counts_.held_records;
    if (!record.routers.empty()) ++counts_.measured_records;
    files_.write(record);
  }
  void begin_batch() override { files_.begin_batch(); }
  void end_batch() override { files_.end_batch(); }
  void flush() override { files_.flush(); }
  void leave_unfinished() override { files_.leave_unfinished(); }
  void close(const Counters& counters, const RunTimes& times) override { files_.close(counters, times); }

 private:
  RunFiles files_;
  const bool takes_held_;
  Counts& counts_;
};

/// How the routers of a run report.
struct Spelling {
  std::string name;
  int64_t experts = 8, top_k = 2, batch = 2, length = 1, layers = 3, calls = 1;
  at::ScalarType dtype = at::kFloat;
  std::string scoring = "softmax";
  bool weighted = true, padded = false, flat = false, sequence_first = false;
  LogEntries entries = LogEntries::kRow;
  Dump dump = Dump::kNone;
  bool log_per_token = true;
  bool is_held = true;
};

ReportedRouter router_report(const Spelling& of) {
  std::vector<int64_t> sizes = {of.batch, of.length, of.experts};
  if (of.sequence_first) sizes = {of.length, of.batch, of.experts};
  if (of.flat) sizes = {of.batch * of.length, of.experts};
  const at::Tensor logits = at::randn(sizes).to(of.dtype);
  const at::Tensor scores = of.scoring == "sigmoid" ? logits.sigmoid() : logits.to(at::kFloat).softmax(-1);
  auto [weights, ids] = scores.topk(of.top_k, -1);
  if (of.top_k > 1) ids.select(-1, 1).masked_fill_(weights.select(-1, 1).lt(0.15), -1);
  if (!of.weighted) return {logits, {}, {ids}, {}, -1, "slots"};
  return {logits, of.scoring == "sigmoid" ? at::Tensor() : scores, {ids}, {weights.masked_fill(ids.eq(-1), 0)}, -1,
          "slots"};
}

/// Runs 40 forwards; `take_files` gets the directory before the run is closed.
CountingFiles::Counts run(const Spelling& of, const std::string& folder, bool takes_held,
                          const std::function<void(const std::string&)>& take_files = nullptr) {
  Config config;
  config.output_dir = folder;
  config.log_per_token = of.log_per_token;
  config.log_entries = of.entries;
  config.dump = of.dump;
  config.probe_tokens = 5;
  CountingFiles::Counts counts;
  const auto recording =
      std::make_shared<Recording>(config, std::make_unique<CountingFiles>(config, takes_held, counts));
  ModelDescription model = gates(of.layers);
  model.instance = "instance";
  for (hooks::HookPoint& hook : model.hooks) {
    hook.scoring = of.scoring;
    hook.weights_are_scaled_scores = false;
  }
  const auto description = std::make_shared<const ModelDescription>(model);
  const auto binding = std::make_shared<ModelBinding>(recording, description);
  at::manual_seed(11);
  for (int64_t forward = 0; forward < 40; ++forward) {
    at::Tensor mask = at::ones({of.batch, of.length}, at::kLong);
    if (of.padded) mask.copy_(at::rand({of.batch, of.length}).lt(0.6));
    const at::Tensor ids = at::zeros({of.batch, of.length}, at::kLong);
    ForwardRecorder recorder(binding, "forward", c10::List<std::optional<at::Tensor>>({ids, mask}));
    for (int64_t call = 0; call < of.calls; ++call) {
      for (int64_t layer = 0; layer < of.layers; ++layer) recorder.router(layer, router_report(of));
    }
    recorder.end();
    if (forward == 10) recording->flush();  // the writer counts the tokens that the probe has
  }
  recording->flush();
  if (take_files) take_files(folder);
  recording->close();
  return counts;
}

std::vector<Spelling> spellings() {
  return {
      {.name = "steps of a batch"},
      {.name = "one token", .experts = 64, .top_k = 8, .batch = 1},
      {.name = "top-1", .top_k = 1},
      {.name = "two tokens a sample", .batch = 3, .length = 2},
      {.name = "three tokens a sample", .length = 3},
      {.name = "padding", .batch = 4, .length = 2, .padded = true},
      {.name = "flattened", .batch = 4, .flat = true},
      {.name = "sequence first", .batch = 3, .length = 2, .padded = true, .sequence_first = true},
      {.name = "bfloat16", .dtype = at::kBFloat16},
      {.name = "half", .dtype = at::kHalf},
      {.name = "double", .dtype = at::kDouble},
      {.name = "sigmoid", .scoring = "sigmoid"},
      {.name = "without weights", .weighted = false},
      {.name = "a loop", .calls = 3},
      {.name = "tokens are not logged", .log_per_token = false},
      {.name = "an entry a forward", .entries = LogEntries::kForward},
      {.name = "a dump", .batch = 3, .padded = true, .dump = Dump::kTopk},
      {.name = "all logits are dumped", .dump = Dump::kFull, .is_held = false},
      {.name = "many tokens", .experts = 128, .batch = 40, .length = 2, .is_held = false},
  };
}

class HeldForwards : public ::testing::TestWithParam<Spelling> {
 protected:
  TemporaryFolder folder_;
};

TEST_P(HeldForwards, GiveTheFilesOfMeasuredOnes) {
  const Spelling& of = GetParam();
  const auto held = run(of, folder_.file("held"), /*takes_held=*/true);
  const auto measured = run(of, folder_.file("measured"), /*takes_held=*/false);
  EXPECT_EQ(measured.held_records, 0);
  const bool in_records =
      of.is_held && of.length <= kMaxHeldTokens && of.dump == Dump::kNone && of.entries == LogEntries::kRow;
  // The first calls of a hook are checked, and measured for that.
  EXPECT_EQ(held.held_records > 20, in_records) << held.held_records;
  EXPECT_EQ(held.held_records + held.measured_records, 40);
  const RunContents a = read_run(folder_.file("held")), b = read_run(folder_.file("measured"));
  EXPECT_EQ(difference(a, b), "");
  EXPECT_EQ(a.manifest.at("counters").dump(), b.manifest.at("counters").dump());
}

TEST_P(HeldForwards, AreRecoveredFromTheJournal) {
  const Spelling& of = GetParam();
  run(of, folder_.file("held"), /*takes_held=*/true, [&](const std::string& path) {
    std::filesystem::copy(path, folder_.file("killed"), std::filesystem::copy_options::recursive);
  });
  const RunRecovery recovery = recover_run(folder_.file("killed"));
  EXPECT_EQ(recovery.errors, std::vector<std::string>());
  EXPECT_EQ(difference(read_run(folder_.file("held")), read_run(folder_.file("killed"))), "");
}

INSTANTIATE_TEST_SUITE_P(Spellings, HeldForwards, ::testing::ValuesIn(spellings()), [](const auto& info) {
  std::string name = info.param.name;
  for (char& letter : name) letter = std::isalnum(static_cast<unsigned char>(letter)) ? letter : '_';
  return name;
});

}  // namespace
}  // namespace moetap::plugin
