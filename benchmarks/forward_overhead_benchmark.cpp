// What recording adds to a forward of a model with real proportions (see moe_model.h): of 4 x 256 tokens, and of 4 x 1
// as in a step of generation.
//
//   forward_overhead_benchmark           # under three minutes on two free cores, 3 GiB
//   forward_overhead_benchmark --step    # the step of generation alone, under a minute
//   forward_overhead_benchmark --smoke   # a second, tiny sizes
//
// The first prints the tables of RESULTS.md.
//
// It does not use google-benchmark, which runs one case after another: the differences are smaller than the drift of a
// shared machine. Here each recorded forward runs between two plain ones and is compared with their mean; the order of
// the cases rotates. This comparison is made for:
//
//   forward   wall time of the call, as the host sees it
//   written   wall time until the forward is in the journal and on the disk: the writer thread's work as if nothing
//             overlapped it
//   CPU       processor time of the whole process until then
//
// Two more figures measure the work itself, which other load disturbs less: the wall time inside moetap's operators and
// the processor time of the writer thread. For them LibTorch calls an observer at every operator of the model, in plain
// forwards too.
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "benchmarks/moe_model.h"
#include "benchmarks/operator_observer.h"
#include "benchmarks/process_usage.h"
#include "benchmarks/report.h"
#include "plugin/session.h"
#include "tests/plugin/support/temporary_folder.h"

namespace moetap::benchmarks {
namespace {

struct Sizes {
  MoeModelSize model;
  int64_t batch = 4;
  int64_t long_sequence = 256;
  double seconds_of_long = 95;  // rounds of 4 x 256 tokens run until these have passed
  double seconds_of_short = 20;
  size_t fewest_rounds = 3;
  int warm_up_forwards = 2;  // the executor profiles the first, and optimises in the second
};

Sizes sizes_for(bool smoke) {
  Sizes sizes;
  if (!smoke) return sizes;
  sizes.model = {.vocabulary = 100,
                 .hidden = 64,
                 .num_layers = 2,
                 .num_heads = 4,
                 .num_key_value_heads = 2,
                 .num_experts = 4,
                 .intermediate = 100};
  sizes.batch = 2;
  sizes.long_sequence = 16;
  sizes.seconds_of_long = sizes.seconds_of_short = 0;
  sizes.fewest_rounds = 2;
  return sizes;
}

struct Measured {
  double forward_s = 0;
  double written_s = 0;
  double cpu_s = 0;
  double operators_s = 0;
  double writer_s = 0;
};

/// A model that runs in turn with the others.
struct Contestant {
  std::string name;
  std::optional<double> goal;  // most that may be added to a plain forward
  torch::jit::Module model;
  std::unique_ptr<Session> session;  // null: nothing is recorded
  std::vector<Measured> forwards = {};
  std::vector<Measured> added = {};  // the first three times, relative to the plain forwards before and after

  Measured run(const std::vector<c10::IValue>& input, OperatorObserver& operators) {
    operators.take();
    const double writer_began_s = session ? thread_cpu_seconds("moetap-writer") : 0;
    const double cpu_began_s = process_cpu_seconds();
    const double began_s = wall_seconds();
    model.forward(input);
    Measured measured;
    measured.forward_s = wall_seconds() - began_s;
    if (session) session->flush();
    measured.written_s = wall_seconds() - began_s;
    measured.cpu_s = process_cpu_seconds() - cpu_began_s;
    measured.operators_s = operators.take().seconds();
    measured.writer_s = session ? thread_cpu_seconds("moetap-writer") - writer_began_s : 0;
    TORCH_CHECK((measured.operators_s > 0) == (session != nullptr),
                "operators of moetap must run where a session records");
    return measured;
  }
};

Quartiles quartiles_of(const std::vector<Measured>& series, double Measured::*time) {
  std::vector<double> values;
  for (const Measured& measured : series) values.push_back(measured.*time);
  return quartiles(std::move(values));
}

std::string percent(const std::vector<Measured>& added, double Measured::*time) {
  const Quartiles spread = quartiles_of(added, time);
  return fmt::format("{:+.2f} [{:+.2f}, {:+.2f}]", 1e2 * spread.median, 1e2 * spread.first, 1e2 * spread.third);
}

class Race {
 public:
  explicit Race(const Sizes& sizes) : sizes_(sizes) {
    const torch::jit::Module model = make_moe_model(sizes.model);
    plain_ = {"plain", {}, model, nullptr};
    // A twin like the recorded ones, but without operators: its difference is noise.
    contestants_.push_back({"plain, a second twin", {}, model.clone(/*inplace=*/true), nullptr});
    add(model, "log (default)", 0.02, [](Config&) {});
    add(model, "log, log_per_token off", 0.02, [](Config& config) { config.log_per_token = false; });
    add(model, "log and dump topk", 0.03, [](Config& config) { config.dump = plugin::Dump::kTopk; });
  }

  void run(int64_t sequence, double seconds) {
    const MoeModelInput made = make_moe_input(sizes_.model, sizes_.batch, sequence);
    const std::vector<c10::IValue> input = {made.input_ids, made.attention_mask};
    for (int i = 0; i < sizes_.warm_up_forwards; ++i) {
      plain_.run(input, operators_);
      for (Contestant& contestant : contestants_) contestant.run(input, operators_);
    }
    const double began_s = wall_seconds();
    size_t round = 0;
    for (; round < sizes_.fewest_rounds || wall_seconds() - began_s < seconds; ++round) {
      plain_.forwards.push_back(plain_.run(input, operators_));
      for (size_t turn = 0; turn < contestants_.size(); ++turn) {
        Contestant& contestant = contestants_[(round + turn) % contestants_.size()];
        const Measured before = plain_.forwards.back();
        const Measured own = contestant.run(input, operators_);
        const Measured after = plain_.run(input, operators_);
        Measured added;
        for (const auto time : {&Measured::forward_s, &Measured::written_s, &Measured::cpu_s}) {
          added.*time = own.*time / ((before.*time + after.*time) / 2) - 1;
        }
        contestant.forwards.push_back(own);
        contestant.added.push_back(added);
        plain_.forwards.push_back(after);
      }
    }
    print(fmt::format("{} x {} tokens, {} rounds", sizes_.batch, sequence, round));
  }

 private:
  template <typename Configure>
  void add(const torch::jit::Module& model, const std::string& name, double goal, const Configure& configure) {
    Config config;
    config.output_dir = folder_.file(std::to_string(contestants_.size()));
    configure(config);
    auto session = std::make_unique<Session>(config);
    auto twin = session->attach(model);
    contestants_.push_back({name, goal, std::move(twin), std::move(session)});
  }

  // Prints the table, and forgets what was measured.
  void print(const std::string& title) {
    const double plain_s = quartiles_of(plain_.forwards, &Measured::forward_s).median;
    MarkdownTable table({"forward", "ms", "forward %", "until written %", "CPU %", "operators ms", "writer ms",
                         "both, of a plain forward %", "goal %"});
    table.add({plain_.name, fmt::format("{:.1f}", 1e3 * plain_s), "", "", "", "", "", "", ""});
    for (Contestant& contestant : contestants_) {
      std::vector<std::string> cells = {
          contestant.name, fmt::format("{:.1f}", 1e3 * quartiles_of(contestant.forwards, &Measured::forward_s).median),
          percent(contestant.added, &Measured::forward_s), percent(contestant.added, &Measured::written_s),
          percent(contestant.added, &Measured::cpu_s)};
      if (contestant.session) {
        const double operators = quartiles_of(contestant.forwards, &Measured::operators_s).median;
        const double writer = quartiles_of(contestant.forwards, &Measured::writer_s).median;
        cells.insert(cells.end(), {fmt::format("{:.2f}", 1e3 * operators), fmt::format("{:.2f}", 1e3 * writer),
                                   fmt::format("{:.2f}", 1e2 * (operators + writer) / plain_s),
                                   fmt::format("{:.0f}", 1e2 * *contestant.goal)});
      } else {
        cells.insert(cells.end(), {"", "", "", ""});
      }
      table.add(std::move(cells));
    }
    std::printf("\n%s:\n\n%s", title.c_str(), table.text().c_str());
    std::fflush(stdout);
    plain_.forwards.clear();
    for (Contestant& contestant : contestants_) {
      contestant.forwards.clear();
      contestant.added.clear();
    }
  }

  const Sizes sizes_;
  OperatorObserver operators_;
  plugin::TemporaryFolder folder_;
  Contestant plain_;
  std::vector<Contestant> contestants_;
};

}  // namespace
}  // namespace moetap::benchmarks

int main(int argc, char** argv) {
  using namespace moetap::benchmarks;
  const bool step_alone = argc == 2 && std::string_view(argv[1]) == "--step";
  Sizes sizes = sizes_for(!step_alone && smoke_requested(argc, argv));
  // The logits of the first 64 tokens are kept, so that their calls take another path.
  if (step_alone) sizes.warm_up_forwards = 20;
  at::NoGradGuard no_grad;
  std::printf("%s\n", describe_environment().c_str());
  Race race(sizes);
  if (!step_alone) race.run(sizes.long_sequence, sizes.seconds_of_long);
  race.run(/*sequence=*/1, sizes.seconds_of_short);
  return 0;
}
