// A session on a scripted model, from attach to close.
#include "plugin/session.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/generated/variable_factories.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/import.h>

#include <filesystem>
#include <sstream>
#include <stdexcept>

#include "tests/plugin/support/recorded_run.h"
#include "tests/plugin/support/scripted_moe.h"
#include "tests/plugin/support/temporary_folder.h"

namespace moetap::plugin {
namespace {

struct Input {
  at::Tensor ids = at::tensor({1, 5, 3, 2, 8, 0}, at::kLong).reshape({2, 3});
  at::Tensor mask = at::tensor({1, 1, 1, 1, 1, 0}, at::kLong).reshape({2, 3});

  std::vector<c10::IValue> arguments() const { return {ids, mask}; }
};

at::Tensor expected_ids(const torch::jit::Module& model, const Input& input) {
  return experts_of_tokens(model).index_select(0, input.ids.reshape({-1}).narrow(0, 0, 5));
}

class SessionTest : public testing::Test {
 protected:
  std::shared_ptr<Collected> collected = std::make_shared<Collected>();
  std::unique_ptr<Session> session = std::make_unique<Session>(Config{}, std::make_unique<CollectingSink>(collected));
  const Input input;
};

TEST_F(SessionTest, RecordsATwinAndLeavesTheModelAlone) {
  const at::NoGradGuard no_gradients;
  auto model = scripted_moe();
  const auto cold = model.forward(input.arguments()).toTensor();  // warm before it is attached
  model.forward(input.arguments());
  auto twin = session->attach(model, {"m.pt", "00"});
  for (int i = 0; i < 4; ++i) {
    EXPECT_TRUE(at::equal(twin.forward(input.arguments()).toTensor(), cold)) << "run " << i;
    EXPECT_TRUE(at::equal(model.forward(input.arguments()).toTensor(), cold));
  }
  session->close();
  ASSERT_EQ(collected->records.size(), 4u);
  for (const auto& record : collected->records) {
    ASSERT_EQ(record.routers.size(), 1u);
    EXPECT_TRUE(at::equal(record.routers[0].selected, expected_ids(model, input)));
    EXPECT_EQ(record.model->model_file, "m.pt");
    EXPECT_EQ(record.model->hooks.at(0).num_experts, 4);
  }
  EXPECT_EQ(session->counters().tokens, 20);
  EXPECT_FALSE(session->write_error());
}

TEST_F(SessionTest, GradientsAreUntouched) {
  auto model = scripted_moe();
  auto twin = session->attach(model);
  const auto gradients = [&](torch::jit::Module& module) {
    module.train();
    for (auto parameter : model.parameters()) {  // shared with the twin
      parameter.requires_grad_().mutable_grad() = at::Tensor();
    }
    const auto loss = module.forward(input.arguments()).toTensor().square().sum();
    loss.backward();
    std::vector<at::Tensor> result{loss.detach()};
    for (const auto& parameter : model.parameters()) {
      result.push_back(parameter.grad().clone());
    }
    return result;
  };
  for (int i = 0; i < 4; ++i) {
    const auto plain = gradients(model);
    const auto recorded = gradients(twin);
    for (size_t k = 0; k < plain.size(); ++k) {
      EXPECT_TRUE(at::equal(plain[k], recorded[k])) << "run " << i << ", tensor " << k;
    }
  }
  session->close();
  EXPECT_EQ(collected->records.size(), 4u);
}

TEST_F(SessionTest, AnInstrumentedModelIsBoundByItsInstance) {
  const at::NoGradGuard no_gradients;
  std::stringstream file;
  {
    Session other(Config{}, std::make_unique<CollectingSink>(std::make_shared<Collected>()));
    auto twin = other.attach(scripted_moe());
    twin.save(file);
    EXPECT_THROW(session->attach(twin), std::invalid_argument);  // reports to the other session
  }
  auto loaded = torch::jit::load(file);
  loaded.forward(input.arguments());  // reports to no session
  auto bound = session->attach(loaded, {"saved.pt", ""});
  bound.forward(input.arguments());
  auto copy = bound.deepcopy();  // shares the code, so reports too
  copy.forward(input.arguments());
  session->close();
  bound.forward(input.arguments());
  ASSERT_EQ(collected->records.size(), 2u);
  EXPECT_EQ(collected->records[0].model->model_file, "saved.pt");
  EXPECT_EQ(collected->models.size(), 1u);
}

TEST_F(SessionTest, AModelWithoutRoutersIsAnError) {
  torch::jit::Module module("Plain");
  module.define(R"(
    def forward(self, x):
        return torch.softmax(x, -1)
  )");
  try {
    session->attach(module);
    FAIL();
  } catch (const std::invalid_argument& error) {
    EXPECT_TRUE(std::string(error.what()).starts_with("no router was found in the methods forward")) << error.what();
  }
}

TEST_F(SessionTest, RecordsASubmoduleThatTheHostCalls) {
  const at::NoGradGuard no_gradients;
  torch::jit::Module wrapper("Wrapper");
  wrapper.register_module("encoder", scripted_moe());
  wrapper.define(R"(
    def forward(self, input_ids, attention_mask):
        return self.encoder.forward(input_ids, attention_mask)
  )");
  AttachOptions options;
  options.methods = {"encoder.forward"};
  const auto twin = session->attach(wrapper, options);
  auto encoder = twin.attr("encoder").toModule();
  EXPECT_TRUE(at::equal(encoder.forward(input.arguments()).toTensor(),
                        wrapper.attr("encoder").toModule().forward(input.arguments()).toTensor()));
  EXPECT_THROW(session->attach(twin, options), std::invalid_argument);  // too late for methods
  options.methods = {"encodr.forward"};
  EXPECT_THROW(session->attach(wrapper, options), std::invalid_argument);
  session->close();
  ASSERT_EQ(collected->records.size(), 1u);
  ASSERT_EQ(collected->records[0].routers.size(), 1u);
  EXPECT_TRUE(at::equal(collected->records[0].routers[0].selected,
                        expected_ids(wrapper.attr("encoder").toModule(), input)));  // without the padding
  EXPECT_EQ(collected->records[0].model->hooks.at(1).name, "encoder.gate");
}

TEST_F(SessionTest, TakesAHookSpecFromItsConfiguration) {
  const at::NoGradGuard no_gradients;
  Config config;
  config.hooks = nlohmann::json::parse(R"([{"module": "gate", "layer": "5", "component": "vision_tower"}])");
  Session other(config, std::make_unique<CollectingSink>(collected));
  auto twin = other.attach(scripted_moe());
  twin.forward(input.arguments());
  std::stringstream file;
  twin.save(file);
  other.close();
  ASSERT_EQ(collected->records.size(), 1u);
  EXPECT_EQ(collected->records[0].model->hooks.at(0).layer, "5");
  EXPECT_EQ(collected->records[0].model->hooks.at(0).component, "vision_tower");
  Session late(config, std::make_unique<CollectingSink>(collected));
  EXPECT_THROW(late.attach(torch::jit::load(file)), std::invalid_argument);
  config.hooks[0]["module"] = "gates";
  Session wrong(config, std::make_unique<CollectingSink>(collected));
  EXPECT_THROW(wrong.attach(scripted_moe()), std::invalid_argument);
}

/// Changes the working directory while it lives.
class WorkingDirectory {
 public:
  explicit WorkingDirectory(const std::string& folder) { std::filesystem::current_path(folder); }
  ~WorkingDirectory() { std::filesystem::current_path(before_); }
  WorkingDirectory(const WorkingDirectory&) = delete;
  WorkingDirectory& operator=(const WorkingDirectory&) = delete;

 private:
  const std::filesystem::path before_ = std::filesystem::current_path();
};

TEST_F(SessionTest, RelativePathsStartWhereItWasOpened) {
  const at::NoGradGuard no_gradients;
  const TemporaryFolder opened, later;
  write_text_file(opened.file("spec.json"), R"([{"module": "gate", "layer": "5"}])");
  write_text_file(opened.file("samples.jsonl"), "{\"target\": \"first\"}\n");
  Config config;
  config.output_dir = "run";
  config.samples = "samples.jsonl";
  config.hooks = "spec.json";
  const WorkingDirectory before(opened.path());
  Session recording(config);
  const WorkingDirectory after(later.path());
  recording.attach(scripted_moe()).forward(input.arguments());
  recording.close();
  EXPECT_EQ(recording.write_error(), std::nullopt);
  EXPECT_EQ(recording.config().output_dir, opened.file("run"));
  EXPECT_TRUE(Session::is_done(opened.file("run")));
  const auto log = nlohmann::json::parse(read_text_file(opened.file("run/log_metrics.json"))).at("logs");
  ASSERT_EQ(log.size(), 2u);
  EXPECT_EQ(log[0].at("target"), "first");
  EXPECT_TRUE(log[0].at("/logs_metrics_vision/0/0"_json_pointer).contains("5"));
  EXPECT_TRUE(std::filesystem::is_empty(later.path()));
}

TEST_F(SessionTest, AnExceptionThroughTheHostLeavesTheRunUnfinished) {
  const at::NoGradGuard no_gradients;
  const TemporaryFolder folder;
  for (const bool fails : {true, false}) {
    Config config;
    config.output_dir = folder.file(fails ? "fails" : "ends");
    try {
      Session recording(config);
      recording.attach(scripted_moe()).forward(input.arguments());
      if (fails) throw std::runtime_error("the host fails");
    } catch (const std::runtime_error&) {
    }
    EXPECT_TRUE(std::filesystem::exists(config.output_dir + "/log_metrics.json"));
    EXPECT_EQ(Session::is_done(config.output_dir), !fails);
    EXPECT_EQ(std::filesystem::exists(config.output_dir + "/moetap/journal/rank0/forwards.frames"), fails);
  }
  EXPECT_FALSE(Session::is_done(folder.file("nowhere")));
}

TEST_F(SessionTest, LabelsAndValuesOfTheHost) {
  const at::NoGradGuard no_gradients;
  auto twin = session->attach(scripted_moe());
  session->label({{4, 6}, true});
  twin.forward(input.arguments());
  session->log("0", "loss", 0.5);
  session->clear_label();
  twin.forward(input.arguments());
  session->flush();
  session->close();
  ASSERT_EQ(collected->records.size(), 3u);
  EXPECT_EQ(collected->records[0].samples, (std::vector<int64_t>{4, 6}));
  EXPECT_TRUE(collected->records[0].generation);
  EXPECT_TRUE(collected->records[1].values_only);
  EXPECT_EQ(collected->records[1].samples, (std::vector<int64_t>{4, 6}));
  EXPECT_EQ(collected->records[2].samples, (std::vector<int64_t>{7, 8}));
}

}  // namespace
}  // namespace moetap::plugin
