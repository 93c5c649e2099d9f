// What recording adds to a forward of a model with real proportions (see moe_model.h) on 4 x 256 tokens.
//
//   forward_overhead_benchmark           # two and a half minutes, 3 GiB; prints the table of RESULTS.md
//   forward_overhead_benchmark --smoke   # a second, tiny sizes
//
// A main of its own rather than google-benchmark, which runs one case after the other: what is looked for is smaller
// than the drift of a shared machine. Here every recorded forward stands between two plain ones, and is compared with
// their mean; the kinds take turns in an order that rotates. What is paired so:
//
//   forward   wall time of the call, as the host sees it
//   written   wall time until the forward is in the journal and on the disk: the writer thread's work as if nothing
//             overlapped it
//   CPU       processor time of the whole process until then
//
// Beside it the work is measured directly, which no other load disturbs much: the time inside moetap's operators, and
// the processor time of the writer thread.
#include <ATen/ATen.h>
#include <ATen/record_function.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "benchmarks/moe_model.h"
#include "benchmarks/process_usage.h"
#include "benchmarks/report.h"
#include "plugin/session.h"
#include "tests/plugin/temporary_folder.h"

namespace moetap::benchmarks {
namespace {

struct Sizes {
  MoeModelSize model;
  int64_t batch = 4;
  int64_t sequence = 256;
  int warm_up_forwards = 3;  // the executor profiles the first, and optimises the second
  double seconds_of_rounds = 110;
  size_t fewest_rounds = 4;
  int attributed_forwards = 4;
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
  sizes.sequence = 16;
  sizes.seconds_of_rounds = 0;
  sizes.fewest_rounds = 2;
  return sizes;
}

/// A model that runs in turn with the others.
struct Contestant {
  std::string name;
  std::optional<double> goal;  // most that may be added to a plain forward
  torch::jit::Module model;
  std::unique_ptr<Session> session;  // null: nothing is recorded
  std::vector<double> forward_s, added_forward, added_written, added_cpu;
};

struct Measured {
  double forward_s = 0;
  double written_s = 0;
  double cpu_s = 0;
};

class Race {
 public:
  explicit Race(const Sizes& sizes) : sizes_(sizes) {
    const MoeModelInput input = make_moe_input(sizes.model, sizes.batch, sizes.sequence);
    input_ = {input.input_ids, input.attention_mask};
    const torch::jit::Module model = make_moe_model(sizes.model);
    plain_.name = "plain";
    plain_.model = model;
    // A twin as the recorded ones are, without operators: it shows what differs without any reason.
    contestants_.push_back({"plain, a second twin", {}, model.clone(/*inplace=*/true), nullptr, {}, {}, {}, {}});
    add(model, "log (default)", 0.02, [](Config&) {});
    add(model, "log, log_per_token off", 0.02, [](Config& config) { config.log_per_token = false; });
    add(model, "log and dump topk", 0.03, [](Config& config) { config.dump = plugin::Dump::kTopk; });
  }

  void run() {
    for (int i = 0; i < sizes_.warm_up_forwards; ++i) {
      measure(plain_);
      for (Contestant& contestant : contestants_) measure(contestant);
    }
    const double began = wall_seconds();
    for (size_t round = 0; round < sizes_.fewest_rounds || wall_seconds() - began < sizes_.seconds_of_rounds; ++round) {
      Measured before = measure_plain();
      for (size_t turn = 0; turn < contestants_.size(); ++turn) {
        Contestant& contestant = contestants_[(round + turn) % contestants_.size()];
        const Measured own = measure(contestant);
        const Measured after = measure_plain();
        const auto added = [&](double Measured::*time) { return own.*time / ((before.*time + after.*time) / 2) - 1; };
        contestant.forward_s.push_back(own.forward_s);
        contestant.added_forward.push_back(added(&Measured::forward_s));
        contestant.added_written.push_back(added(&Measured::written_s));
        contestant.added_cpu.push_back(added(&Measured::cpu_s));
        before = after;
      }
    }
  }

  void print() {
    const double plain_s = quartiles(plain_.forward_s).median;
    MarkdownTable table({"forward", "median ms", "added to the forward %", "until written %", "CPU %", "operators ms",
                         "writer ms", "both, of a plain forward %", "goal %"});
    table.add({"plain", fmt::format("{:.0f}", 1e3 * plain_s), "", "", "", "", "", "", ""});
    for (Contestant& contestant : contestants_) {
      std::vector<std::string> cells = {
          contestant.name, fmt::format("{:.0f}", 1e3 * quartiles(contestant.forward_s).median),
          percent(contestant.added_forward), percent(contestant.added_written), percent(contestant.added_cpu)};
      if (contestant.session) {
        const Attributed own = attribute(contestant);
        cells.insert(cells.end(),
                     {fmt::format("{:.2f}", 1e3 * own.operators_s), fmt::format("{:.2f}", 1e3 * own.writer_s),
                      fmt::format("{:.2f}", 1e2 * (own.operators_s + own.writer_s) / plain_s),
                      fmt::format("{:.0f}", 1e2 * *contestant.goal)});
      } else {
        cells.insert(cells.end(), {"", "", "", ""});
      }
      table.add(std::move(cells));
    }
    std::printf("%s\n\n", describe_environment().c_str());
    std::printf("%s", table.text().c_str());
    std::printf("\n%zu rounds; median, in brackets the quartiles of the pairs.\n",
                contestants_.front().forward_s.size());
  }

 private:
  struct Attributed {
    double operators_s = 0;
    double writer_s = 0;
  };

  template <typename Configure>
  void add(const torch::jit::Module& model, const std::string& name, double goal, const Configure& configure) {
    Config config;
    config.output_dir = folder_.file(std::to_string(contestants_.size()));
    configure(config);
    auto session = std::make_unique<Session>(config);
    auto twin = session->attach(model);
    contestants_.push_back({name, goal, std::move(twin), std::move(session), {}, {}, {}, {}});
  }

  Measured measure(Contestant& contestant) {
    const double began_s = wall_seconds();
    const double cpu_began_s = process_cpu_seconds();
    contestant.model.forward(input_);
    Measured measured;
    measured.forward_s = wall_seconds() - began_s;
    if (contestant.session) contestant.session->flush();
    measured.written_s = wall_seconds() - began_s;
    measured.cpu_s = process_cpu_seconds() - cpu_began_s;
    return measured;
  }

  Measured measure_plain() {
    const Measured measured = measure(plain_);
    plain_.forward_s.push_back(measured.forward_s);
    return measured;
  }

  Attributed attribute(Contestant& contestant);

  static std::string percent(const std::vector<double>& added) {
    const Quartiles spread = quartiles(added);
    return fmt::format("{:+.2f} [{:+.2f}, {:+.2f}]", 1e2 * spread.median, 1e2 * spread.first, 1e2 * spread.third);
  }

  const Sizes sizes_;
  plugin::TemporaryFolder folder_;
  std::vector<c10::IValue> input_;
  Contestant plain_;
  std::vector<Contestant> contestants_;
};

/// Seconds inside moetap's operators, which run on the calling thread.
double operators_s = 0;

struct OperatorCall : at::ObserverContext {
  double began_s = wall_seconds();
};

std::unique_ptr<at::ObserverContext> operator_begins(const at::RecordFunction& function) {
  return std::string_view(function.name()).starts_with("moetap::") ? std::make_unique<OperatorCall>() : nullptr;
}

void operator_ends(const at::RecordFunction&, at::ObserverContext* call) {
  if (call != nullptr) operators_s += wall_seconds() - static_cast<OperatorCall*>(call)->began_s;
}

Race::Attributed Race::attribute(Contestant& contestant) {
  std::vector<double> operators, writer;
  const auto observer = at::addThreadLocalCallback(
      at::RecordFunctionCallback(&operator_begins, &operator_ends).scopes({at::RecordScope::FUNCTION}));
  for (int i = 0; i < sizes_.attributed_forwards; ++i) {
    operators_s = 0;
    const double writer_before_s = thread_cpu_seconds("moetap-writer");
    measure(contestant);
    operators.push_back(operators_s);
    writer.push_back(thread_cpu_seconds("moetap-writer") - writer_before_s);
  }
  at::removeCallback(observer);
  TORCH_CHECK(*std::min_element(operators.begin(), operators.end()) > 0, "no operator of moetap ran in a forward of \"",
              contestant.name, "\"");
  return {quartiles(operators).median, quartiles(writer).median};
}

}  // namespace
}  // namespace moetap::benchmarks

int main(int argc, char** argv) {
  using namespace moetap::benchmarks;
  at::NoGradGuard no_grad;
  Race race(sizes_for(smoke_requested(argc, argv)));
  race.run();
  race.print();
  return 0;
}
