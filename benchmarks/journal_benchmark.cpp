// A long run: 100,000 samples of 16 tokens, recorded by a session into a run directory. It measures samples a second
// while recording and while the session closes, bytes on disk, and memory after every 10,000 samples. Memory must not
// grow, since the journal is on the disk.
//
//   journal_benchmark           # under three minutes, prints the tables of RESULTS.md
//   journal_benchmark --smoke   # some seconds, 1,600 samples
//
// It does not use google-benchmark, since one pass is the measurement. The model does little besides routing, so that
// the cost of recording shows. Each case runs in a child process, so that its memory can be told apart.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <torch/csrc/jit/api/module.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "benchmarks/process_usage.h"
#include "benchmarks/report.h"
#include "benchmarks/router_model.h"
#include "plugin/session.h"
#include "tests/plugin/support/temporary_folder.h"

namespace moetap::benchmarks {
namespace {

namespace jit = torch::jit;

constexpr RouterModelSize kModel = {.num_layers = 4, .num_experts = 8, .top_k = 2};
constexpr int64_t kSequence = 16;
constexpr size_t kPoints = 10;  // at which memory is read
constexpr double kFlat = 0.05;

struct Case {
  int64_t batch = 1;
  bool log_per_token = true;
  bool dump = false;
};

constexpr Case kCases[] = {{1, true, false}, {1, false, false}, {8, true, false}, {8, false, false}, {8, true, true}};

/// What a child process reports about its case.
struct Outcome {
  double plain_s = 0;  // the same forwards without recording, scaled to the number of samples
  double record_s = 0, close_s = 0;
  int64_t journal_bytes = 0, run_bytes = 0;  // before and after closing
  std::vector<int64_t> resident, anonymous;  // at each point
  int64_t peak_in_close = 0;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Outcome, plain_s, record_s, close_s, journal_bytes, run_bytes, resident, anonymous,
                                   peak_in_close)

double run_forwards(jit::Module& model, const Case& run, int64_t first_sample, int64_t samples) {
  const double began = wall_seconds();
  for (int64_t sample = first_sample; sample < first_sample + samples; sample += run.batch) {
    model.forward({make_router_input(kModel, run.batch, kSequence)});
  }
  return wall_seconds() - began;
}

Outcome measure(const Case& run, int64_t samples) {
  at::NoGradGuard no_grad;
  at::set_num_threads(1);  // the model's operators are small: a second thread would only wait, and the writer has one
  at::manual_seed(0);
  const plugin::TemporaryFolder folder;
  jit::Module model = make_router_model(kModel);
  Outcome outcome;
  const int64_t warm_up = std::max<int64_t>(run.batch, samples / 100 / run.batch * run.batch);
  const int64_t plain = std::max<int64_t>(run.batch, samples / 20 / run.batch * run.batch);
  run_forwards(model, run, 0, warm_up);
  outcome.plain_s = run_forwards(model, run, 0, plain) * static_cast<double>(samples) / static_cast<double>(plain);

  Config config;
  config.output_dir = folder.file("run");
  config.log_per_token = run.log_per_token;
  config.dump = run.dump ? plugin::Dump::kTopk : plugin::Dump::kNone;
  Session session(config);
  jit::Module recorded = session.attach(model);
  const int64_t step = samples / static_cast<int64_t>(kPoints);
  for (size_t point = 0; point < kPoints; ++point) {
    const double began = wall_seconds();
    run_forwards(recorded, run, static_cast<int64_t>(point) * step, step);
    session.flush();
    outcome.record_s += wall_seconds() - began;
    const ResidentMemory memory = resident_memory();
    outcome.resident.push_back(memory.bytes);
    outcome.anonymous.push_back(memory.anonymous_bytes);
  }
  outcome.journal_bytes = bytes_under(config.output_dir);
  reset_peak_resident();
  const double began = wall_seconds();
  session.close();
  outcome.close_s = wall_seconds() - began;
  outcome.peak_in_close = peak_resident_bytes();
  outcome.run_bytes = bytes_under(config.output_dir);
  const auto counters = session.counters();
  TORCH_CHECK(!session.write_error(), *session.write_error());
  TORCH_CHECK(counters.forwards == samples / run.batch && counters.tokens == samples * kSequence, "expected ",
              samples * kSequence, " tokens, recorded ", counters.tokens);
  return outcome;
}

/// Runs `measure` in a child. The parent has started no thread, so a plain fork is safe.
Outcome measure_in_child(const Case& run, int64_t samples) {
  int ends[2];
  if (::pipe(ends) != 0) throw std::runtime_error("no pipe to the child process");
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child < 0) throw std::runtime_error("no child process");
  if (child == 0) {
    int status = 1;
    try {
      const std::string text = nlohmann::json(measure(run, samples)).dump();
      if (::write(ends[1], text.data(), text.size()) == static_cast<ssize_t>(text.size())) status = 0;
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s\n", error.what());
    }
    ::_exit(status);
  }
  ::close(ends[1]);
  std::string text;
  char bytes[4096];
  for (ssize_t number; (number = ::read(ends[0], bytes, sizeof(bytes))) > 0;) text.append(bytes, number);
  ::close(ends[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) throw std::runtime_error("a case failed");
  return nlohmann::json::parse(text).get<Outcome>();
}

std::string name_of(const Case& run) {
  return fmt::format("batch {}, log_per_token {}{}", run.batch, run.log_per_token ? "on" : "off",
                     run.dump ? ", dump topk" : "");
}

std::string mebibytes(int64_t bytes) {
  return fmt::format("{:.1f}", static_cast<double>(bytes) / (1 << 20));
}

void report(int64_t samples) {
  std::printf("%s\n\n", describe_environment().c_str());
  const auto number = static_cast<double>(samples);
  MarkdownTable speed({"case", "plain samples/s", "recorded samples/s", "µs added a sample", "closing samples/s",
                       "journal B a sample", "run directory B a sample"});
  std::vector<std::string> points = {"resident MiB after"};
  for (size_t i = 1; i <= kPoints; ++i) points.push_back(std::to_string(samples / static_cast<int64_t>(kPoints) * i));
  const int64_t few = samples / static_cast<int64_t>(kPoints);
  points.insert(points.end(), {"growth %", "B a sample", fmt::format("peak in close of {}", few),
                               fmt::format("of {}", samples), "growth %", "flat to 5 %"});
  MarkdownTable memory(points);
  for (const Case& run : kCases) {
    const int64_t peak_of_few = measure_in_child(run, few).peak_in_close;
    const Outcome outcome = measure_in_child(run, samples);
    speed.add({name_of(run), fmt::format("{:.0f}", number / outcome.plain_s),
               fmt::format("{:.0f}", number / outcome.record_s),
               fmt::format("{:.0f}", 1e6 * (outcome.record_s - outcome.plain_s) / number),
               fmt::format("{:.0f}", number / outcome.close_s),
               fmt::format("{:.0f}", static_cast<double>(outcome.journal_bytes) / number),
               fmt::format("{:.0f}", static_cast<double>(outcome.run_bytes) / number)});
    std::vector<std::string> cells = {name_of(run)};
    for (const int64_t bytes : outcome.resident) cells.push_back(mebibytes(bytes));
    const auto growth = [](int64_t from, int64_t to) {
      return static_cast<double>(to) / static_cast<double>(from) - 1;
    };
    const double recording = growth(outcome.resident.front(), *std::ranges::max_element(outcome.resident));
    const double closing = growth(peak_of_few, outcome.peak_in_close);
    const auto anonymous = static_cast<double>(outcome.anonymous.back() - outcome.anonymous.front());
    cells.insert(
        cells.end(),
        {fmt::format("{:+.1f}", 1e2 * recording), fmt::format("{:.0f}", anonymous / static_cast<double>(samples - few)),
         mebibytes(peak_of_few), mebibytes(outcome.peak_in_close), fmt::format("{:+.1f}", 1e2 * closing),
         std::max(recording, closing) <= kFlat ? "yes" : "no"});
    memory.add(std::move(cells));
  }
  std::printf("%s\n%s", speed.text().c_str(), memory.text().c_str());
  std::printf(
      "\nGrowth: the most that was resident over what was after %lld samples, and the peak while a run of %lld samples "
      "closes over that of %lld. B a sample: growth of memory that is no file.\n",
      static_cast<long long>(few), static_cast<long long>(samples), static_cast<long long>(few));
}

}  // namespace
}  // namespace moetap::benchmarks

int main(int argc, char** argv) {
  using namespace moetap::benchmarks;
  try {
    report(smoke_requested(argc, argv) ? 1600 : 100000);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "journal_benchmark: %s\n", error.what());
    return 1;
  }
  return 0;
}
