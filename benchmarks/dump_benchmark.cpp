// The routing dump at speed: what the writer thread does with 1,000,000 tokens of 48 routers, top-8 of 64 experts, in
// forwards of 2,048 tokens. The records are made beforehand, so that the time is that of recording alone. Beside it,
// plain writes of the same number of bytes into the same folder, which is the most that the disk takes.
//
//   dump_benchmark            # under three minutes, prints the tables of RESULTS.md
//   dump_benchmark --case N   # one of the rows, from 0
//   dump_benchmark --smoke    # some seconds, 20,000 tokens
//
// The folder is TMPDIR, or /tmp: give a tmpfs and a disk.
#include <ATen/ATen.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "benchmarks/process_usage.h"
#include "benchmarks/report.h"
#include "plugin/run/run_files.h"
#include "tests/plugin/support/synthetic_forward.h"

namespace moetap::benchmarks {
namespace {

constexpr int64_t kNumLayers = 48, kNumExperts = 64, kTopK = 8, kLength = 2048;

struct Case {
  const char* name;
  plugin::Dump dump;
  plugin::DumpWeights weights = plugin::DumpWeights::kF32;
  bool is_batched = true;    // the forwards wait, and are written together
  int64_t features = 0;      // of the routers' inputs, bfloat16; 0: they are not in the dump
  int64_t length = kLength;  // tokens a forward
  int64_t share = 1;         // of the tokens: one in so many
};
constexpr Case kCases[] = {{"no dump", plugin::Dump::kNone},
                           {"ids", plugin::Dump::kIds},
                           {"topk, weights f16", plugin::Dump::kTopk, plugin::DumpWeights::kF16},
                           {"topk", plugin::Dump::kTopk},
                           {"topk, each forward by itself", plugin::Dump::kTopk, plugin::DumpWeights::kF32, false},
                           {"ids and inputs of 1,024 bf16", plugin::Dump::kIds, {}, true, 1024, kLength, 64},
                           {"no dump", plugin::Dump::kNone, {}, true, 0, 1, 50},
                           {"ids", plugin::Dump::kIds, {}, true, 0, 1, 50},
                           {"topk, weights f16", plugin::Dump::kTopk, plugin::DumpWeights::kF16, true, 0, 1, 50},
                           {"topk", plugin::Dump::kTopk, {}, true, 0, 1, 50}};

std::shared_ptr<plugin::ModelDescription> model_of_layers() {
  std::vector<std::pair<std::string, std::string>> routers;
  for (int64_t layer = 0; layer < kNumLayers; ++layer) routers.emplace_back("language_model", std::to_string(layer));
  auto model = plugin::describe(routers);
  for (auto& hook : model->hooks) {
    hook.num_experts = kNumExperts;
    hook.top_k = kTopK;
  }
  return model;
}

plugin::ForwardRecord make_record(const std::shared_ptr<plugin::ModelDescription>& model, int64_t length,
                                  int64_t features) {
  plugin::ForwardRecord record = plugin::forward_of(model, {0});
  for (int64_t layer = 0; layer < kNumLayers; ++layer) {
    plugin::SyntheticRouter router{.hook = layer, .top_k = kTopK};
    record.routers.push_back(plugin::observe_router(router, plugin::seeded_logits(layer, {1, length, kNumExperts})));
    plugin::RouterRecord& made = record.routers.back();
    made.logits = made.scores = at::Tensor();
    if (features > 0) made.input = plugin::seeded_logits(layer, {length, features}).to(at::kBFloat16);
    // As in a forward, all layers hand over the same columns of tokens.
    made.row = record.routers.front().row;
    made.position = record.routers.front().position;
    made.token_id = record.routers.front().token_id;
  }
  record.tokens = length;
  return record;
}

struct Outcome {
  double record_s = 0, close_s = 0;
  int64_t dump_bytes = 0, peak_bytes = 0;
};

Outcome measure(const Case& of, int64_t tokens) {
  const int64_t length = of.length;
  const plugin::TemporaryFolder folder;
  const auto model = model_of_layers();
  plugin::ForwardRecord record = make_record(model, length, of.features);
  plugin::Config config;
  config.output_dir = folder.file("run");
  config.dump = of.dump;
  config.dump_weights = of.weights;
  config.dump_router_input = of.features > 0;
  config.log_per_token = false;
  config.probe_tokens = 0;
  plugin::RunFiles files(config);
  files.add_model(model);
  plugin::Counters counters;
  counters.called_hooks = kNumLayers;
  Outcome outcome;
  reset_peak_resident();
  const int64_t before = resident_memory().bytes;
  double began = wall_seconds();
  // As the writer thread: batches of some megabytes.
  const int64_t batch = of.is_batched ? std::max<int64_t>(1, 4096 / length) : 1;
  for (int64_t i = 0; i * length < tokens; ++i) {
    if (of.is_batched && i % batch == 0) files.begin_batch();
    record.index = i;
    record.samples = {i};
    files.write(record);
    if (of.is_batched && i % batch == batch - 1) files.end_batch();
    ++counters.forwards;
    counters.tokens += length;
  }
  if (of.is_batched) files.end_batch();
  outcome.record_s = wall_seconds() - began;
  began = wall_seconds();
  files.close(counters, {});
  outcome.close_s = wall_seconds() - began;
  outcome.peak_bytes = peak_resident_bytes() - before;
  outcome.dump_bytes = of.dump == plugin::Dump::kNone ? 0 : bytes_under(config.output_dir + "/moetap/dump");
  return outcome;
}

/// Seconds to write `bytes` bytes of a buffer into a new file, block by block, as `dd` does.
double plain_writes(int64_t bytes) {
  const plugin::TemporaryFolder folder;
  const std::string path = folder.file("plain");
  const std::vector<char> block(size_t{4} << 20, 'x');
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0600);
  if (descriptor < 0) throw std::runtime_error("cannot write " + path);
  const double began = wall_seconds();
  for (int64_t left = bytes; left > 0;) {
    const auto size = static_cast<size_t>(std::min<int64_t>(left, static_cast<int64_t>(block.size())));
    const ssize_t written = ::write(descriptor, block.data(), size);
    if (written <= 0) throw std::runtime_error("cannot write " + path);
    left -= written;
  }
  const double seconds = wall_seconds() - began;
  ::close(descriptor);
  return seconds;
}

/// `only`: one case; -1: all.
void run(bool smoke, int64_t only) {
  std::printf("%s\n\n", describe_environment().c_str());
  at::NoGradGuard no_grad;
  const int64_t tokens = smoke ? 20'000 : 1'000'000;
  MarkdownTable table({"dump", "tokens a forward", "tokens", "bytes a token", "writer s", "GB/s", "plain writes GB/s",
                       "close s", "memory MiB"});
  for (int64_t place = 0; place < static_cast<int64_t>(std::size(kCases)); ++place) {
    if (only >= 0 && only != place) continue;
    const Case& of = kCases[place];
    const int64_t number = std::max(of.length, tokens / of.share);
    const Outcome outcome = measure(of, number);
    const auto bytes = static_cast<double>(outcome.dump_bytes);
    const double plain = outcome.dump_bytes > 0 ? plain_writes(outcome.dump_bytes) : 0;
    const int64_t written = (number + of.length - 1) / of.length * of.length;
    table.add({of.name, std::to_string(of.length), std::to_string(written),
               fmt::format("{:.0f}", bytes / static_cast<double>(written)), fmt::format("{:.2f}", outcome.record_s),
               fmt::format("{:.2f}", bytes / outcome.record_s * 1e-9),
               plain > 0 ? fmt::format("{:.2f}", bytes / plain * 1e-9) : "-", fmt::format("{:.2f}", outcome.close_s),
               fmt::format("{:.0f}", static_cast<double>(outcome.peak_bytes) / (1 << 20))});
  }
  std::printf("%s\n", table.text().c_str());
}

}  // namespace
}  // namespace moetap::benchmarks

int main(int argc, char** argv) {
  const bool one = argc == 3 && std::string_view(argv[1]) == "--case";
  const bool smoke = !one && moetap::benchmarks::smoke_requested(argc, argv);
  try {
    moetap::benchmarks::run(smoke, one ? std::stoll(argv[2]) : -1);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "dump_benchmark: %s\n", error.what());
    return 1;
  }
  return 0;
}
