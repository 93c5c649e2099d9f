// What recording adds to a step of generation where it hurts most: many layers, few tokens, nothing but routers (see
// router_model.h), one LibTorch thread.
//
//   decode_overhead_benchmark                            # all tables, some minutes on two free cores
//   decode_overhead_benchmark --routers 48 --experts 64  # some rows; --tokens too, each with one number or several
//   decode_overhead_benchmark --smoke                    # seconds, tiny
//
// A forward is T sequences of one token. Hooks are warm: the calls that check themselves are over. The writer thread is
// idle when a forward begins, as in a model whose forward takes longer than writing one. Three passes, since each would
// disturb the others:
//
//   forwards    a recorded forward between two plain ones, compared with the mean of the two: wall time,
//               processor time and heap allocations of the thread
//   operators   time and heap allocations inside moetap's operators (operator_observer.h)
//   writer      forwards without a pause; the writer thread's processor time and the journal's bytes
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "benchmarks/operator_observer.h"
#include "benchmarks/process_usage.h"
#include "benchmarks/report.h"
#include "benchmarks/router_model.h"
#include "plugin/session.h"
#include "tests/plugin/support/temporary_folder.h"
#include "tests/support/counting_allocator.h"

namespace moetap::benchmarks {
namespace {

struct Options {
  bool smoke = false;
  std::vector<int64_t> routers = {8, 48, 96};
  std::vector<int64_t> experts = {8, 64, 128, 256};
  std::vector<int64_t> tokens = {1, 4, 16};
};

[[noreturn]] void fail_with_usage(const char* program) {
  std::fprintf(stderr, "usage: %s [--smoke] [--routers N...] [--experts N...] [--tokens N...]\n", program);
  std::exit(2);
}

Options read_options(int argc, char** argv) {
  Options options;
  std::vector<int64_t>* numbers = nullptr;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    int64_t number = 0;
    const auto read = std::from_chars(argument.data(), argument.data() + argument.size(), number);
    if (read.ptr == argument.data() + argument.size() && number > 0 && numbers != nullptr) {
      numbers->push_back(number);
      continue;
    }
    if (numbers != nullptr && numbers->empty()) fail_with_usage(argv[0]);
    numbers = nullptr;
    if (argument == "--smoke") {
      options.smoke = true;
      options.routers = {2};
      options.experts = {8};
      options.tokens = {1, 2};
      continue;
    }
    if (argument == "--routers") numbers = &options.routers;
    if (argument == "--experts") numbers = &options.experts;
    if (argument == "--tokens") numbers = &options.tokens;
    if (numbers == nullptr) fail_with_usage(argv[0]);
    numbers->clear();
  }
  if (numbers != nullptr && numbers->empty()) fail_with_usage(argv[0]);
  return options;
}

/// How much is measured.
struct Effort {
  size_t warm_up_forwards = 12;  // of each number of tokens; the first 8 calls of a hook may check themselves
  size_t fewest_rounds = 20, most_rounds = 400;
  double seconds = 0.6;         // of the first pass and of the second, once `fewest_rounds` are over
  int64_t writer_calls = 4000;  // router calls of the third pass
};

/// What an operator takes: time and blocks of the heap.
struct Inside {
  double seconds = 0;  // router: wall time. begin and end: processor time, since a busy machine gives the core to the
                       // writer that `end` wakes
  double blocks = 0;
};

/// Of forwards, medians. A call is a router call.
struct Figures {
  double plain_s = 0;
  Quartiles added;           // by which share a recorded forward takes longer
  double added_cpu_s = 0;    // processor time of the forward's thread, a call
  double added_blocks = 0;   // of the heap, that a recorded forward takes more, a call
  Inside begin, end;         // of a forward
  Inside router;             // of a call
  double writer_s = 0;       // a call
  double journal_bytes = 0;  // a call
};

double median(std::vector<double> values) {
  return quartiles(std::move(values)).median;
}

/// What the calls of one operator in a forward take together. Each call counts with its median over the forwards: on a
/// machine with other work some call of most forwards is interrupted.
Inside median_of(const std::vector<OperatorCalls>& forwards, std::vector<OperatorCall> OperatorCalls::*calls,
                 double OperatorCall::*time) {
  Inside inside;
  const size_t number = (forwards.front().*calls).size();
  for (size_t i = 0; i < number; ++i) {
    std::vector<double> seconds, blocks;
    for (const OperatorCalls& forward : forwards) {
      TORCH_CHECK((forward.*calls).size() == number, "forwards must make the same calls");
      seconds.push_back((forward.*calls)[i].*time);
      blocks.push_back(static_cast<double>((forward.*calls)[i].allocations));
    }
    inside.seconds += median(seconds);
    inside.blocks += median(blocks);
  }
  return inside;
}

/// A model, plain and recorded.
class Contest {
 public:
  Contest(int64_t routers, int64_t experts, bool log_per_token, const Effort& effort)
      : effort_(effort),
        routers_(static_cast<double>(routers)),
        size_({.num_layers = routers, .num_experts = experts, .top_k = experts > 8 ? 8 : 2, .hidden = 64}),
        plain_(make_router_model(size_)),
        session_(config(log_per_token)),
        recorded_(session_.attach(plain_)) {}
  // The journal is enough: files for readers are not wanted.
  ~Contest() { session_.close(RunEnd::kUnfinished); }

  Figures measure(int64_t tokens) {
    input_ = {make_router_input(size_, tokens, 1)};
    for (size_t i = 0; i < effort_.warm_up_forwards; ++i) {
      plain_.forward(input_);
      record();
      wait_for_writer();
    }
    Figures figures;
    measure_forwards(figures);
    measure_operators(figures);
    measure_writer(figures);
    check();
    return figures;
  }

 private:
  Config config(bool log_per_token) const {
    Config config;
    config.output_dir = folder_.file("run");
    config.log_per_token = log_per_token;
    config.probe_tokens = 0;  // calls of the first 64 tokens would not be held
    return config;
  }

  /// Runs a forward of the recorded model.
  void record() {
    recorded_.forward(input_);
    expected_tokens_ += input_[0].toTensor().numel();
  }

  /// Waits until all forwards are in the journal. `flush` would also wait for the disk.
  void wait_for_writer() const {
    while (session_.counters().tokens < expected_tokens_) {
      TORCH_CHECK(!session_.write_error(), *session_.write_error());
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
  }

  /// Calls `round` until the time is over.
  template <typename Round>
  void repeat(const Round& round) const {
    const double began_s = wall_seconds();
    for (size_t done = 0;
         done < effort_.fewest_rounds || (done < effort_.most_rounds && wall_seconds() - began_s < effort_.seconds);
         ++done) {
      round();
    }
  }

  void measure_forwards(Figures& figures) {
    struct Measured {
      double seconds, cpu_s, blocks;
    };
    const auto measured = [](const auto& forward) {
      const CountAllocations blocks;
      const double cpu_began_s = thread_cpu_seconds();
      const double began_s = wall_seconds();
      forward();
      const double seconds = wall_seconds() - began_s;
      return Measured{seconds, thread_cpu_seconds() - cpu_began_s, static_cast<double>(blocks.number())};
    };
    const auto plain_forward = [&] { plain_.forward(input_); };
    std::vector<double> plain_s, added, added_cpu_s, added_blocks;
    repeat([&] {
      const Measured before = measured(plain_forward);
      const Measured own = measured([&] { record(); });
      wait_for_writer();
      const Measured after = measured(plain_forward);
      const double neighbours_s = (before.seconds + after.seconds) / 2;
      plain_s.push_back(neighbours_s);
      added.push_back(own.seconds / neighbours_s - 1);
      added_cpu_s.push_back((own.cpu_s - (before.cpu_s + after.cpu_s) / 2) / routers_);
      added_blocks.push_back((own.blocks - after.blocks) / routers_);
    });
    figures.plain_s = median(plain_s);
    figures.added = quartiles(added);
    figures.added_cpu_s = median(added_cpu_s);
    figures.added_blocks = median(added_blocks);
  }

  void measure_operators(Figures& figures) {
    OperatorObserver observer;
    std::vector<OperatorCalls> forwards;
    repeat([&] {
      record();
      forwards.push_back(observer.take());
      wait_for_writer();
    });
    figures.begin = median_of(forwards, &OperatorCalls::begin, &OperatorCall::cpu_s);
    figures.router = median_of(forwards, &OperatorCalls::router, &OperatorCall::seconds);
    figures.router.seconds /= routers_;
    figures.router.blocks /= routers_;
    figures.end = median_of(forwards, &OperatorCalls::end, &OperatorCall::cpu_s);
  }

  void measure_writer(Figures& figures) {
    const auto forwards = std::max<int64_t>(4, effort_.writer_calls / size_.num_layers);
    const int64_t bytes_before = bytes_under(folder_.path());
    const double writer_before_s = thread_cpu_seconds("moetap-writer");
    for (int64_t i = 0; i < forwards; ++i) record();
    wait_for_writer();
    const double calls = static_cast<double>(forwards) * routers_;
    figures.writer_s = (thread_cpu_seconds("moetap-writer") - writer_before_s) / calls;
    session_.flush();  // what the session keeps for a batch must count
    figures.journal_bytes = static_cast<double>(bytes_under(folder_.path()) - bytes_before) / calls;
  }

  void check() const {
    const Counters counters = session_.counters();
    TORCH_CHECK(counters.failed_hooks == 0 && counters.tokens == expected_tokens_ && !session_.write_error(),
                "expected ", expected_tokens_, " tokens and no failed hook, got ", counters.tokens, " and ",
                counters.failed_hooks);
  }

  const Effort effort_;
  const double routers_;
  const RouterModelSize size_;
  plugin::TemporaryFolder folder_;
  torch::jit::Module plain_;
  Session session_;
  torch::jit::Module recorded_;
  std::vector<c10::IValue> input_;
  int64_t expected_tokens_ = 0;
};

/// Two tables of some cases, one row a case.
class Report {
 public:
  void add(int64_t routers, int64_t experts, int64_t tokens, const Figures& figures) {
    const std::string name = fmt::format("{} x {}, {}", routers, experts, tokens);
    const auto microseconds = [](double seconds) { return fmt::format("{:.1f}", 1e6 * seconds); };
    const auto blocks = [](double number) { return fmt::format("{:.1f}", number); };
    const auto of_forward = static_cast<double>(routers);
    times_.add({name, fmt::format("{:.2f}", 1e3 * figures.plain_s),
                fmt::format("{:+.0f} [{:+.0f}, {:+.0f}]", 1e2 * figures.added.median, 1e2 * figures.added.first,
                            1e2 * figures.added.third),
                microseconds(figures.added_cpu_s),
                microseconds(figures.router.seconds + (figures.begin.seconds + figures.end.seconds) / of_forward),
                microseconds(figures.router.seconds), microseconds(figures.begin.seconds),
                microseconds(figures.end.seconds), microseconds(figures.writer_s)});
    const double inside = figures.router.blocks + (figures.begin.blocks + figures.end.blocks) / of_forward;
    memory_.add({name, blocks(figures.router.blocks), blocks(figures.begin.blocks), blocks(figures.end.blocks),
                 blocks(inside * of_forward), blocks(figures.added_blocks - inside),
                 fmt::format("{:.0f}", figures.journal_bytes)});
  }

  void print(const std::string& title) const {
    std::printf("\n%s:\n\n%s\n%s", title.c_str(), times_.text().c_str(), memory_.text().c_str());
    std::fflush(stdout);
  }

 private:
  MarkdownTable times_ =
      MarkdownTable({"routers x experts, tokens", "plain ms", "recorded: added %", "added CPU µs a call",
                     "operators µs a call", "router µs", "begin µs", "end µs", "writer µs a call"});
  MarkdownTable memory_ = MarkdownTable({"routers x experts, tokens", "allocations in a router", "in begin", "in end",
                                         "in all, a forward", "outside, a call", "journal B a call"});
};

void measure(Report& report, int64_t routers, int64_t experts, bool log_per_token, const Options& options) {
  Effort effort;
  if (options.smoke) effort = {.fewest_rounds = 2, .most_rounds = 2, .seconds = 0, .writer_calls = 8};
  Contest contest(routers, experts, log_per_token, effort);
  for (const int64_t tokens : options.tokens) report.add(routers, experts, tokens, contest.measure(tokens));
}

void run(const Options& options) {
  at::set_num_threads(1);
  at::manual_seed(0);
  std::printf("%s\n", describe_environment().c_str());
  for (const int64_t routers : options.routers) {
    Report report;
    for (const int64_t experts : options.experts) measure(report, routers, experts, /*log_per_token=*/true, options);
    report.print(fmt::format("{} routers, log_per_token on", routers));
  }
  constexpr int64_t kRouters = 48, kExperts = 64;
  const auto wanted = [](const std::vector<int64_t>& numbers, int64_t number) {
    return std::ranges::find(numbers, number) != numbers.end();
  };
  if (wanted(options.routers, kRouters) && wanted(options.experts, kExperts)) {
    Report without;
    measure(without, kRouters, kExperts, /*log_per_token=*/false, options);
    without.print(fmt::format("{} routers, log_per_token off", kRouters));
  }
}

}  // namespace
}  // namespace moetap::benchmarks

int main(int argc, char** argv) {
  using namespace moetap::benchmarks;
  at::NoGradGuard no_grad;
  try {
    run(read_options(argc, argv));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "decode_overhead_benchmark: %s\n", error.what());
    return 1;
  }
  return 0;
}
