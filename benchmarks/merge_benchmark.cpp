// moetap merge of a large dump: 1,000,000 tokens of 48 routers, top-8 of 64 experts with fp16 weights, in forwards of
// 2,048 tokens and in steps of one token for each of 8 samples, recorded by four ranks that took turns. The merged dump
// is read and written once, so its bytes over the time are the speed.
//
//   merge_benchmark                  # prints the table of RESULTS.md
//   merge_benchmark --smoke          # some seconds, 20,000 tokens
//   merge_benchmark --keep FOLDER    # leaves the merged run of the first row there, for moetap export
//
// The runs are in TMPDIR, or /tmp.
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "benchmarks/process_usage.h"
#include "benchmarks/report.h"
#include "plugin/merge/merge_runs.h"
#include "plugin/process/notices.h"
#include "plugin/run/run_files.h"
#include "tests/plugin/support/synthetic_forward.h"

namespace moetap::benchmarks {
namespace {

constexpr int64_t kNumLayers = 48, kNumExperts = 64, kTopK = 8, kRanks = 4;

struct Case {
  const char* name;
  int64_t batch = 1, length = 2048;
  int64_t share = 1;  // of the tokens: one in so many
};
constexpr Case kCases[] = {{"prompts of 2,048 tokens", 1, 2048, 1}, {"steps of 8 samples", 8, 1, 20}};

plugin::ForwardRecord make_record(const std::shared_ptr<plugin::ModelDescription>& model, const Case& of) {
  plugin::ForwardRecord record = plugin::forward_of(model, {});
  for (int64_t layer = 0; layer < kNumLayers; ++layer) {
    plugin::SyntheticRouter router{.hook = layer, .top_k = kTopK};
    record.routers.push_back(
        plugin::observe_router(router, plugin::seeded_logits(layer, {of.batch, of.length, kNumExperts})));
    plugin::RouterRecord& made = record.routers.back();
    made.logits = made.scores = at::Tensor();
    // As in a forward, all layers hand over the same columns of tokens.
    made.row = record.routers.front().row;
    made.position = record.routers.front().position;
    made.token_id = record.routers.front().token_id;
  }
  record.tokens = of.batch * of.length;
  return record;
}

/// Records the forwards of one rank: every kRanks-th prompt, or group of samples that generate.
void record_rank(const std::string& run, int64_t rank, const Case& of, int64_t tokens) {
  ::setenv("RANK", std::to_string(rank).c_str(), 1);
  ::setenv("WORLD_SIZE", std::to_string(kRanks).c_str(), 1);
  std::vector<std::pair<std::string, std::string>> routers;
  for (int64_t layer = 0; layer < kNumLayers; ++layer) routers.emplace_back("language_model", std::to_string(layer));
  auto model = plugin::describe(routers);
  for (auto& hook : model->hooks) {
    hook.num_experts = kNumExperts;
    hook.top_k = kTopK;
  }
  plugin::ForwardRecord record = make_record(model, of);
  plugin::Config config;
  config.output_dir = run;
  config.dump = plugin::Dump::kTopk;
  config.dump_weights = plugin::DumpWeights::kF16;
  config.log_per_token = false;
  config.probe_tokens = 0;
  plugin::RunFiles files(config);
  files.add_model(model);
  plugin::Counters counters;
  counters.called_hooks = kNumLayers;
  const int64_t steps = of.length > 1 ? 1 : 32;  // of a group of samples
  for (int64_t i = 0; i * record.tokens < tokens / kRanks; ++i) {
    const int64_t group = (i / steps) * kRanks + rank;
    record.index = i;
    record.samples.clear();
    for (int64_t row = 0; row < of.batch; ++row) record.samples.push_back(group * of.batch + row);
    if (i % 64 == 0) files.begin_batch();
    files.write(record);
    if (i % 64 == 63) files.end_batch();
    ++counters.forwards;
    counters.tokens += record.tokens;
  }
  if (counters.forwards % 64 != 0) files.end_batch();
  files.close(counters, {});
  ::unsetenv("RANK");
  ::unsetenv("WORLD_SIZE");
}

void run(bool smoke, const std::string& keep) {
  std::printf("%s\n\n", describe_environment().c_str());
  at::NoGradGuard no_grad;
  plugin::set_notice_handler([](const std::string&) {});
  MarkdownTable table({"forwards", "tokens", "dump bytes a token", "merge s", "GB/s", "memory MiB"});
  for (const Case& of : kCases) {
    const int64_t tokens = (smoke ? 20'000 : 1'000'000) / of.share;
    const plugin::TemporaryFolder folder;
    const std::string run = folder.file("run"), merged = folder.file("merged");
    for (int64_t rank = 0; rank < kRanks; ++rank) record_rank(run, rank, of, tokens);
    reset_peak_resident();
    const int64_t before = resident_memory().bytes;
    const double began = wall_seconds();
    const plugin::MergedRun result = plugin::merge_runs({run}, merged);
    const double seconds = wall_seconds() - began;
    const int64_t peak = peak_resident_bytes() - before;
    const auto bytes = static_cast<double>(bytes_under(merged + "/moetap/dump"));
    const int64_t recorded = result.forwards * of.batch * of.length;
    table.add({of.name, std::to_string(recorded), fmt::format("{:.0f}", bytes / static_cast<double>(recorded)),
               fmt::format("{:.2f}", seconds), fmt::format("{:.2f}", bytes / seconds * 1e-9),
               fmt::format("{:.0f}", static_cast<double>(peak) / (1 << 20))});
    if (!keep.empty() && &of == &kCases[0]) std::filesystem::rename(merged, keep);
  }
  std::printf("%s\n", table.text().c_str());
}

}  // namespace
}  // namespace moetap::benchmarks

int main(int argc, char** argv) {
  const std::string keep = argc == 3 && std::string(argv[1]) == "--keep" ? argv[2] : "";
  const bool smoke = keep.empty() && moetap::benchmarks::smoke_requested(argc, argv);
  try {
    moetap::benchmarks::run(smoke, keep);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "merge_benchmark: %s\n", error.what());
    return 1;
  }
  return 0;
}
