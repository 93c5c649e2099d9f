// A process that records is killed at random moments, and so is the recovery of what it left.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/generated/variable_factories.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <functional>
#include <map>
#include <random>
#include <thread>

#include "plugin/run/run_files.h"
#include "plugin/run/run_recovery.h"
#include "plugin/session.h"
#include "tests/plugin/run/killed_process.h"
#include "tests/plugin/run/killed_run.h"
#include "tests/plugin/support/run_contents.h"

namespace moetap::plugin {
namespace {

namespace fs = std::filesystem;

/// What is recorded.
struct Kind {
  Dump dump = Dump::kTopk;
  int64_t length = 16;  // tokens of a sample
  int64_t forwards_between_flushes = 5;
  int64_t probe_tokens = Config().probe_tokens;
};
const Kind kWithDump;
/// Frames are written in batches, and once the probe has its tokens, router calls are held.
const Kind kInBatches{Dump::kNone, 1, 40, 20};

/// Two MoE layers of 4 linear experts: softmax, top-2, renormalised.
torch::jit::Module moe_model() {
  at::manual_seed(7);
  torch::jit::Module model("Model");
  model.register_parameter("embedding", at::randn({16, 8}), /*is_buffer=*/false);
  for (const char* name : {"first", "second"}) {
    torch::jit::Module gate("Gate");
    gate.register_parameter("weight", at::randn({4, 8}), /*is_buffer=*/false);
    gate.register_parameter("experts", at::randn({4, 8, 8}), /*is_buffer=*/false);
    gate.define(R"(
      def forward(self, x):
          logits = torch.linear(x, self.weight)
          weights, selected = torch.topk(torch.softmax(logits, -1), 2, -1)
          weights = weights / torch.sum(weights, -1, True)
          experts = torch.index_select(self.experts, 0, selected.reshape(-1))
          each = torch.repeat_interleave(x.reshape(-1, 8), 2, 0)
          outputs = torch.bmm(experts, each.unsqueeze(-1)).reshape(2, -1, 2, 8)
          return x + torch.sum(outputs * weights.unsqueeze(-1), -2)
    )");
    model.register_module(name, gate);
  }
  model.define(R"(
    def forward(self, input_ids):
        return self.second.forward(self.first.forward(torch.embedding(self.embedding, input_ids)))
  )");
  return model;
}

Config config_for(const std::string& run_dir, const Kind& kind) {
  Config config;
  config.output_dir = run_dir;
  config.dump = kind.dump;
  config.probe_tokens = kind.probe_tokens;
  return config;
}

/// Runs the forwards of [0, end) in a session. `flushed` is called with the number of forwards flushed so far.
void record(const Config& config, const Kind& kind, int64_t end, const std::function<void(int64_t)>& flushed) {
  const at::NoGradGuard no_gradients;
  Session session(config);
  auto model = session.attach(moe_model());
  for (int64_t i = session.resumed().next_forward; i < end; ++i) {
    at::manual_seed(static_cast<uint64_t>(1000 + i));
    model.forward({at::randint(16, {2, kind.length}, at::kLong)});
    if ((i + 1) % kind.forwards_between_flushes == 0) {
      session.flush();
      flushed(i + 1);
    }
  }
  session.close();
}

class RunKill : public ::testing::Test {
 protected:
  RunKill() { at::set_num_threads(1); }

  static int64_t record_until_killed(const Config& config, const Kind& kind, std::chrono::microseconds life) {
    const auto record_kind = [&](const Config& of, int64_t end, const auto& flushed) {
      record(of, kind, end, flushed);
    };
    return plugin::record_until_killed(record_kind, config, life);
  }

  const RunContents& undisturbed(int64_t forwards, const Kind& kind = kWithDump) {
    const std::pair name(kind.dump, forwards);
    const auto known = undisturbed_.find(name);
    if (known != undisturbed_.end()) return known->second;
    const std::string run = folder_.file("undisturbed");
    fs::remove_all(run);
    EXPECT_EQ(wait_for(start([&] { record(config_for(run, kind), kind, forwards, [](int64_t) {}); })), 0);
    return undisturbed_[name] = read_run(run);
  }

  void expect_recovery_at_any_moment(const Kind& kind, int kills);

  TemporaryFolder folder_;
  std::map<std::pair<Dump, int64_t>, RunContents> undisturbed_;
  std::mt19937_64 random_{20240607};
};

void RunKill::expect_recovery_at_any_moment(const Kind& kind, int kills) {
  int64_t recoveries_killed = 0, more_than_flushed = 0;
  for (int kill = 0; kill < kills; ++kill) {
    const std::string run = folder_.file("run");
    const auto life = std::chrono::microseconds(random_() % 60000);
    const int64_t flushed = record_until_killed(config_for(run, kind), kind, life);
    // For half of the runs a first recovery is killed, within the time that a recovery may take.
    if (kill % 2 == 0) {
      const pid_t child = start([&] { recover_run(run); });
      std::this_thread::sleep_for(std::chrono::microseconds(random_() % 12000));
      ::kill(child, SIGKILL);
      recoveries_killed += wait_for(child) == -1 ? 1 : 0;
    }
    const auto recovery = recover_run(run);
    ASSERT_EQ(recovery.errors, std::vector<std::string>{}) << "kill " << kill;
    const auto contents = read_run(run);
    const auto forwards = static_cast<int64_t>(contents.log.size()) / 2;
    ASSERT_GE(forwards, flushed) << "kill " << kill;
    more_than_flushed += forwards > flushed ? 1 : 0;
    ASSERT_EQ(difference(contents, undisturbed(forwards, kind)), "")
        << "kill " << kill << ", " << forwards << " forwards";
    ASSERT_TRUE(fs::exists(run + "/rank0_metric_eval_done.txt"));
    ASSERT_FALSE(fs::exists(run + "/moetap/journal"));
    fs::remove_all(run);
  }
  EXPECT_GT(recoveries_killed, 0);
  EXPECT_GT(more_than_flushed, 0);
}

TEST_F(RunKill, RecoversWhatWasFlushedAtAnyMoment) {
  expect_recovery_at_any_moment(kWithDump, 50);
}

TEST_F(RunKill, RecoversWhatWasFlushedWhereFramesAreWrittenInBatches) {
  expect_recovery_at_any_moment(kInBatches, 15);
}

TEST_F(RunKill, TheBatchesBeforeTheOneThatIsKilledAreRecovered) {
  const std::string run = folder_.file("run");
  for (const int64_t before : {1, 3}) {
    const auto write_batches = [&](RunFiles& files) {
      const auto model = three_layers();
      files.add_model(model);
      for (int64_t batch = 0, forward = 0; batch < before; ++batch) {
        files.begin_batch();
        for (const int64_t end = forward + 2; forward < end; ++forward) files.write(forward_number(model, forward));
        files.end_batch();
      }
      return model;
    };
    const pid_t child = start([&] {
      RunFiles files(config_for(run, kInBatches));
      const auto model = write_batches(files);
      files.begin_batch();
      for (int64_t forward = 2 * before; forward < 2 * before + 5; ++forward) {
        files.write(forward_number(model, forward));
      }
      ::kill(::getpid(), SIGKILL);
    });
    EXPECT_EQ(wait_for(child), -1);
    EXPECT_EQ(recover_run(run).errors, std::vector<std::string>{});
    const std::string undisturbed_run = folder_.file("of_batches");
    const pid_t undisturbed_child = start([&] {
      RunFiles files(config_for(undisturbed_run, kInBatches));
      write_batches(files);
      Counters counters;
      counters.forwards = 2 * before;
      files.close(counters, {});
    });
    EXPECT_EQ(wait_for(undisturbed_child), 0);
    const RunContents recovered = read_run(run);
    EXPECT_EQ(recovered.log.size(), static_cast<size_t>(4 * before));
    EXPECT_EQ(difference(recovered, read_run(undisturbed_run)), "") << before << " batches";
    fs::remove_all(run);
    fs::remove_all(undisturbed_run);
  }
}

TEST_F(RunKill, ARunThatIsKilledAgainAndAgainIsResumedToItsEnd) {
  const std::string run = folder_.file("run");
  Config config = config_for(run, kWithDump);
  config.resume = true;
  int64_t flushed = 0;
  for (int kill = 0; kill < 5; ++kill) {
    const int64_t now = record_until_killed(config, kWithDump, std::chrono::microseconds(random_() % 20000));
    ASSERT_GT(now, flushed);
    flushed = now;
  }
  const int64_t end = flushed + 20;
  ASSERT_EQ(wait_for(start([&] { record(config, kWithDump, end, [](int64_t) {}); })), 0);
  EXPECT_EQ(difference(read_run(run), undisturbed(end)), "");
  EXPECT_TRUE(fs::exists(run + "/rank0_metric_eval_done.txt"));
}

TEST_F(RunKill, AChildDoesNotKeepItsParentsLock) {
  const std::string run = folder_.file("run");
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t server = start([&] {
    record(config_for(run, kWithDump), kWithDump, 10, [&](int64_t flushed) {
      if (flushed != 10) return;
      if (::fork() == 0) {  // outlives its parent
        ::alarm(60);
        // It has closed its copy of the lock by now.
        const pid_t worker = ::getpid();
        if (::write(ready[1], &worker, sizeof(worker)) < 0) ::_exit(4);
      }
      while (true) ::pause();
    });
  });
  pid_t worker = 0;
  ASSERT_EQ(::read(ready[0], &worker, sizeof(worker)), static_cast<ssize_t>(sizeof(worker)));
  EXPECT_EQ(recover_run(run).errors.size(), 1u) << "the parent lives";
  ::kill(server, SIGKILL);
  EXPECT_EQ(wait_for(server), -1);
  EXPECT_EQ(::kill(worker, 0), 0);
  EXPECT_EQ(recover_run(run).errors, std::vector<std::string>{});
  ::kill(worker, SIGKILL);
  ::close(ready[0]);
  ::close(ready[1]);
  EXPECT_EQ(difference(read_run(run), undisturbed(10)), "");
}

}  // namespace
}  // namespace moetap::plugin
