// What hosts do with models and threads while a session records: every row must belong to the forward that it names.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <torch/csrc/jit/serialization/import.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <sstream>
#include <thread>

#include "plugin/formats/safetensors.h"
#include "plugin/session.h"
#include "tests/plugin/support/recorded_run.h"
#include "tests/plugin/support/scripted_moe.h"
#include "tests/plugin/support/synthetic_forward.h"

namespace moetap::plugin {
namespace {

// Inputs that identify themselves: every token id tells the sample and the position that it belongs to.
constexpr int64_t kLength = 3;

at::Tensor ids_of_sample(int64_t sample) {
  return at::arange(sample * kLength, (sample + 1) * kLength, at::kLong).unsqueeze(0);
}

struct DumpCheck {
  int64_t rows = 0;
  int64_t misattributed = 0;  // rows whose token is not of their sample and position, or has other experts
};

/// Compares the rows of a run's dump with what their own token ids say. experts: int64 [vocabulary, 2].
DumpCheck check_dump(const std::string& run, const at::Tensor& experts) {
  DumpCheck check;
  for (const auto& entry : std::filesystem::directory_iterator(run + "/moetap/dump/rank0")) {
    const SafetensorsFile shard = read_safetensors(entry.path().string());
    const at::Tensor token = shard.tensors.at("token_id").to(at::kLong);
    const at::Tensor own_place = shard.tensors.at("sample") * kLength + shard.tensors.at("position").to(at::kLong);
    const at::Tensor selected = shard.tensors.at("0.selected").to(at::kLong);
    const at::Tensor wrong = own_place.ne(token).logical_or(selected.ne(experts.index_select(0, token)).any(/*dim=*/1));
    check.rows += token.numel();
    check.misattributed += wrong.sum().item<int64_t>();
  }
  return check;
}

/// Samples of every log entry whose counts are not those of the sample's own tokens.
int64_t count_wrong_entries(const std::string& run, const at::Tensor& experts, int64_t num_samples) {
  const auto logs = parse_file(run + "/log_metrics.json").at("logs");
  int64_t wrong = std::abs(static_cast<int64_t>(logs.size()) - num_samples);
  for (const auto& entry : logs) {
    const auto ids = ids_of_sample(entry.at("doc_id").get<int64_t>()).squeeze(0);
    const auto expected = experts.index_select(0, ids).reshape({-1});
    const auto& logged = entry.at("/logs_metrics_vision/0/0/0/selected_experts"_json_pointer);
    wrong += !at::equal(at::tensor(logged.get<std::vector<int64_t>>(), at::kLong), expected);
  }
  return wrong;
}

struct Work {
  int64_t threads = 8;
  int64_t forwards = 1000;  // a thread
  bool label_bug = false;   // one thread labels one of its forwards with its neighbour's number
};

void run_threads(Session& session, torch::jit::Module& model, const Work& work) {
  std::vector<std::thread> threads;
  for (int64_t thread = 0; thread < work.threads; ++thread) {
    threads.emplace_back([&, thread] {
      const at::NoGradGuard no_gradients;
      for (int64_t i = 0; i < work.forwards; ++i) {
        const int64_t sample = thread * work.forwards + i;
        const bool bug = work.label_bug && thread == 1 && i == 5;
        session.label({{bug ? sample + 1 : sample}, false});
        const auto ids = ids_of_sample(sample);
        model.forward({ids, at::ones_like(ids)});
      }
    });
  }
  for (auto& thread : threads) thread.join();
}

Config with_dump(const std::string& run) {
  Config config;
  config.output_dir = run;
  config.dump = Dump::kTopk;
  return config;
}

TEST(SessionHosts, EightThreadsThroughOneModelKeepTheirRows) {
  const TemporaryFolder folder;
  const Work work;
  const int64_t samples = work.threads * work.forwards;
  const auto model = scripted_moe(samples * kLength);
  const auto experts = experts_of_tokens(model);
  Session session(with_dump(folder.file("run")));
  auto recorded = session.attach(model);
  run_threads(session, recorded, work);
  session.close();
  const DumpCheck check = check_dump(folder.file("run"), experts);
  EXPECT_EQ(check.rows, samples * kLength);
  EXPECT_EQ(check.misattributed, 0);
  EXPECT_EQ(count_wrong_entries(folder.file("run"), experts, samples), 0);
  EXPECT_EQ(session.counters().forwards, samples);
}

TEST(SessionHosts, ALabelBugIsCaughtByTheSameCheck) {
  const TemporaryFolder folder;
  const Work work{2, 20, /*label_bug=*/true};
  const auto model = scripted_moe(work.threads * work.forwards * kLength);
  Session session(with_dump(folder.file("run")));
  auto recorded = session.attach(model);
  run_threads(session, recorded, work);
  session.close();
  const auto experts = experts_of_tokens(model);
  EXPECT_EQ(check_dump(folder.file("run"), experts).misattributed, kLength);
  EXPECT_GT(count_wrong_entries(folder.file("run"), experts, work.threads * work.forwards), 0);
}

TEST(SessionHosts, SeveralSessionsAndModelsAtOnce) {
  const TemporaryFolder folder;
  const Work work{3, 100};
  const int64_t samples = work.threads * work.forwards;
  std::vector<std::thread> hosts;
  std::vector<int64_t> wrong(4, -1);
  for (size_t i = 0; i < wrong.size(); ++i) {
    hosts.emplace_back([&, i] {
      const std::string run = folder.file("run" + std::to_string(i));
      const auto model = scripted_moe(samples * kLength, /*seed=*/i);
      Session session(with_dump(run));
      auto recorded = session.attach(model);
      run_threads(session, recorded, work);
      session.close();
      const DumpCheck check = check_dump(run, experts_of_tokens(model));
      wrong[i] = check.misattributed + std::abs(check.rows - samples * kLength);
    });
  }
  for (auto& host : hosts) host.join();
  EXPECT_EQ(wrong, std::vector<int64_t>(4, 0));
}

TEST(SessionHosts, ModelsOfOneSessionStayApart) {
  const TemporaryFolder folder;
  const auto first = scripted_moe(16, 1), second = scripted_moe(16, 2);
  Session session(with_dump(folder.file("run")));
  auto recorded = session.attach(first), twin = session.attach(first), other = session.attach(second);
  const at::NoGradGuard no_gradients;
  const auto ids = ids_of_sample(0);
  for (auto* model : {&recorded, &twin, &other}) model->forward({ids, at::ones_like(ids)});
  session.close();
  const auto layers = parse_file(folder.file("run/moetap/summary.json")).at("/components/language_model"_json_pointer);
  ASSERT_EQ(layers.size(), 2u);
  EXPECT_EQ(layers.at("0").at("tokens"), 2 * kLength);
  EXPECT_EQ(layers.at("1").at("tokens"), kLength);
  const auto count = [&](const torch::jit::Module& model, int64_t times) {
    const auto chosen = experts_of_tokens(model).index_select(0, ids.squeeze(0)).reshape({-1});
    const auto counts = at::bincount(chosen, {}, kMoeExperts) * times;
    return std::vector<int64_t>(counts.data_ptr<int64_t>(), counts.data_ptr<int64_t>() + kMoeExperts);
  };
  EXPECT_EQ(layers.at("0").at("selected_count"), count(first, 2));
  EXPECT_EQ(layers.at("1").at("selected_count"), count(second, 1));
}

/// What a host does to the model after it is attached.
struct Change {
  const char* name;
  void (*apply)(torch::jit::Module&);
};

class SessionChanges : public testing::TestWithParam<Change> {};

TEST_P(SessionChanges, TheForwardsAreRecordedAllTheSame) {
  const at::NoGradGuard no_gradients;
  const auto collected = std::make_shared<Collected>();
  Session session(Config{}, std::make_unique<CollectingSink>(collected));
  auto recorded = session.attach(scripted_moe(64));
  const auto ids = ids_of_sample(3);
  recorded.forward({ids, at::ones_like(ids)});
  GetParam().apply(recorded);
  const auto experts = experts_of_tokens(recorded).index_select(0, ids.squeeze(0));
  recorded.forward({ids, at::ones_like(ids)});
  session.close();
  ASSERT_EQ(collected->records.size(), 2u);
  ASSERT_EQ(collected->records[1].routers.size(), 1u);
  EXPECT_TRUE(at::equal(collected->records[1].routers[0].selected, experts));
  EXPECT_EQ(session.counters().failed_hooks, 0);
}

INSTANTIATE_TEST_SUITE_P(
    Hosts, SessionChanges,
    testing::Values(Change{"Deepcopy", [](torch::jit::Module& model) { model = model.deepcopy(); }},
                    Change{"Copy", [](torch::jit::Module& model) { model = model.copy(); }},
                    Change{"Clone", [](torch::jit::Module& model) { model = model.clone(); }},
                    Change{"Device", [](torch::jit::Module& model) { model.to(at::Device(at::kCPU)); }},
                    Change{"Bfloat16", [](torch::jit::Module& model) { model.to(at::kBFloat16); }},
                    Change{"Double", [](torch::jit::Module& model) { model.to(at::kDouble); }},
                    Change{"Train", [](torch::jit::Module& model) { model.train(); }},
                    Change{"Eval", [](torch::jit::Module& model) { model.eval(); }},
                    Change{"NewWeights",
                           [](torch::jit::Module& model) {
                             model.attr("embedding").toTensor().copy_(at::randn({64, kMoeWidth}));
                           }},
                    Change{"SavedAndLoaded",
                           [](torch::jit::Module& model) {
                             std::stringstream file;
                             model.save(file);
                             model = torch::jit::load(file);
                           }}),
    [](const auto& change) { return std::string(change.param.name); });

TEST(SessionHosts, AFileLoadedTwiceIsOneModel) {
  const at::NoGradGuard no_gradients;
  const auto collected = std::make_shared<Collected>();
  std::stringstream file;
  {
    Session other(Config{}, std::make_unique<CollectingSink>(std::make_shared<Collected>()));
    other.attach(scripted_moe(64)).save(file);
  }
  Session session(Config{}, std::make_unique<CollectingSink>(collected));
  auto first = session.attach(torch::jit::load(file));
  file.seekg(0);
  auto second = torch::jit::load(file);  // attached with the first
  const auto ids = ids_of_sample(0);
  first.forward({ids, at::ones_like(ids)});
  second.forward({ids, at::ones_like(ids)});
  session.close();
  EXPECT_EQ(collected->models.size(), 1u);
  ASSERT_EQ(collected->records.size(), 2u);
  EXPECT_EQ(collected->records[1].samples, std::vector<int64_t>{1});
}

TEST(SessionHosts, AForwardThatThrowsLeavesTheOthersAlone) {
  const at::NoGradGuard no_gradients;
  const TemporaryFolder folder;
  const auto model = scripted_moe(64);
  Session session(with_dump(folder.file("run")));
  auto recorded = session.attach(model);
  const auto run = [&](const at::Tensor& ids) { recorded.forward({ids, at::ones_like(ids)}); };
  run(ids_of_sample(0));
  EXPECT_ANY_THROW(run(ids_of_sample(100)));  // beyond the vocabulary
  run(ids_of_sample(2));
  session.close();
  EXPECT_EQ(session.counters().aborted, 1);
  EXPECT_EQ(session.counters().forwards, 2);
  const DumpCheck check = check_dump(folder.file("run"), experts_of_tokens(model));
  EXPECT_EQ(check.rows, 2 * kLength);
  EXPECT_EQ(check.misattributed, 0);  // the sample of the forward that threw is used up
}

TEST(SessionHosts, AForkedChildThatDestroysASessionLeavesItToItsParent) {
  const at::NoGradGuard no_gradients;
  const TemporaryFolder folder;
  const auto model = scripted_moe(64);
  std::optional<Session> session(std::in_place, with_dump(folder.file("run")));
  auto recorded = session->attach(model);
  const auto ids = ids_of_sample(0);
  recorded.forward({ids, at::ones_like(ids)});
  session->flush();
  // The child has no writer thread, so that what only the writer's stack holds would count as its leak: wait until the
  // writer is idle.
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  const pid_t child = ::fork();
  if (child == 0) {
    ::alarm(60);
    session.reset();
    std::exit(0);  // with the exit handlers
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  recorded.forward({ids, at::ones_like(ids)});
  session->close();
  EXPECT_EQ(session->counters().forwards, 2);
  EXPECT_EQ(check_dump(folder.file("run"), experts_of_tokens(model)).rows, 2 * kLength);
}

}  // namespace
}  // namespace moetap::plugin
