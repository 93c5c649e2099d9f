// What a recorded forward takes from the heap on the model's thread, once it has run a few times.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "plugin/run/run_files.h"
#include "plugin/session/forward_recorder.h"
#include "tests/plugin/support/recorded_run.h"
#include "tests/plugin/support/temporary_folder.h"
#include "tests/support/counting_allocator.h"

namespace moetap::plugin {
namespace {

constexpr int64_t kLayers = 12;

struct Step {
  std::string name;
  int64_t batch = 1, experts = 64, top_k = 8;
  at::ScalarType dtype = at::kFloat;
  bool weighted = true;
};

struct Blocks {
  int64_t begin = 0, first_router = 0, other_routers = 0, end = 0;
};

class ForwardAllocations : public ::testing::TestWithParam<Step> {
 protected:
  ForwardAllocations() {
    Config config;
    config.output_dir = folder_.file("run");
    config.probe_tokens = 0;
    recording_ = std::make_shared<Recording>(config, std::make_unique<RunFiles>(config));
    ModelDescription model = gates(kLayers);
    for (hooks::HookPoint& hook : model.hooks) hook.num_experts = GetParam().experts;
    binding_ = std::make_shared<ModelBinding>(recording_, std::make_shared<const ModelDescription>(model));
  }
  ~ForwardAllocations() override { recording_->close(); }

  Blocks run_step() {
    const Step& step = GetParam();
    std::vector<ReportedRouter> reports;
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      const at::Tensor logits = at::randn({step.batch, 1, step.experts}).to(step.dtype);
      const auto [weights, ids] = logits.to(at::kFloat).softmax(-1).topk(step.top_k, -1);
      reports.push_back({logits, {}, {ids}, {}, -1, "slots"});
      if (step.weighted) reports.back().weights.push_back(weights);
    }
    const c10::List<std::optional<at::Tensor>> arguments(
        {at::zeros({step.batch, 1}, at::kLong), std::optional<at::Tensor>()});
    Blocks blocks;
    std::unique_ptr<ForwardRecorder> recorder;
    {
      const CountAllocations count;
      recorder = std::make_unique<ForwardRecorder>(binding_, "forward", arguments);
      blocks.begin = count.number();
    }
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      const CountAllocations count;
      recorder->router(layer, reports[static_cast<size_t>(layer)]);
      (layer == 0 ? blocks.first_router : blocks.other_routers) += count.number();
    }
    {
      const CountAllocations count;
      recorder->end();
      blocks.end = count.number();
    }
    recorder.reset();
    recording_->flush();
    return blocks;
  }

  TemporaryFolder folder_;
  std::shared_ptr<Recording> recording_;
  std::shared_ptr<ModelBinding> binding_;
};

TEST_P(ForwardAllocations, ARouterCallNeedsNone) {
  for (int step = 0; step < 12; ++step) run_step();  // the checks of the first calls, then the memory grows
  for (int step = 0; step < 5; ++step) {
    const Blocks blocks = run_step();
    EXPECT_EQ(blocks.other_routers, 0);
    EXPECT_LE(blocks.first_router, 2) << "the group of the tokens";
    EXPECT_LE(blocks.begin, 9) << "the forward's objects";
    EXPECT_LE(blocks.end, 7) << "the record and its way to the writer";
  }
}

INSTANTIATE_TEST_SUITE_P(Steps, ForwardAllocations,
                         ::testing::Values(Step{.name = "one_token"}, Step{.name = "a_batch", .batch = 16},
                                           Step{.name = "bfloat16", .dtype = at::kBFloat16},
                                           Step{.name = "top_1", .top_k = 1},
                                           Step{.name = "without_weights", .weighted = false}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace moetap::plugin
