// What a recorded forward takes from the heap on the model's thread, once it has run a few times.

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <gtest/gtest.h>

#include <numeric>

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
  bool labelled = false;
};

struct Blocks {
  int64_t begin = 0, routers = 0, end = 0, release = 0;
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
    text_ = to_text(model);
    ModelRegistry::get().bind(
        std::make_shared<ModelBinding>(recording_, std::make_shared<const ModelDescription>(model)));
    if (GetParam().labelled) {
      std::vector<int64_t> samples(static_cast<size_t>(GetParam().batch));
      std::iota(samples.begin(), samples.end(), 7);
      recording_->threads().label({samples, true});
    }
  }
  ~ForwardAllocations() override {
    ModelRegistry::get().unbind(*recording_);
    recording_->close();
  }

  /// Calls an operator as TorchScript does; returns the blocks that it takes.
  static int64_t call(const char* name, const char* overload, torch::jit::Stack& stack) {
    const c10::OperatorHandle handle = c10::Dispatcher::singleton().findSchemaOrThrow(name, overload);
    const CountAllocations count;
    handle.callBoxed(stack);
    return count.number();
  }

  Blocks run_step() {
    const Step& step = GetParam();
    const at::NoGradGuard no_gradients;
    Blocks blocks;
    torch::jit::Stack stack = {
        text_, "forward",
        c10::List<std::optional<at::Tensor>>({at::zeros({step.batch, 1}, at::kLong), std::optional<at::Tensor>()})};
    blocks.begin = call("moetap::begin", "", stack);
    c10::IValue handle = torch::jit::pop(stack);
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      const at::Tensor logits = at::randn({step.batch, 1, step.experts}).to(step.dtype);
      const auto [weights, ids] = logits.to(at::kFloat).softmax(-1).topk(step.top_k, -1);
      const c10::IValue weights_or_none = step.weighted ? c10::IValue(weights) : c10::IValue();
      stack = {handle, layer, logits, {}, ids, weights_or_none, -1, "slots", {}, {}, ""};
      blocks.routers += call("moetap::router", "one", stack);
    }
    stack = {handle};
    blocks.end = call("moetap::end", "", stack);
    stack.clear();
    {
      const CountAllocations count;
      handle = {};
      blocks.release = count.number();
    }
    recording_->flush();
    return blocks;
  }

  TemporaryFolder folder_;
  std::shared_ptr<Recording> recording_;
  std::string text_;  // that `moetap::begin` carries
};

TEST_P(ForwardAllocations, AForwardNeedsNone) {
  for (int step = 0; step < 12; ++step) run_step();  // the checks of the first calls, then the memory grows
  for (int step = 0; step < 5; ++step) {
    const Blocks blocks = run_step();
    EXPECT_EQ(blocks.begin, 0) << "the forward's objects, and its handle";
    EXPECT_EQ(blocks.routers, 0) << "the group of the tokens, and the calls";
    EXPECT_EQ(blocks.end, 0) << "the record and its way to the writer";
    EXPECT_EQ(blocks.release, 0);
  }
  EXPECT_EQ(recording_->counters().forwards, 17);
  EXPECT_EQ(recording_->counters().tokens, 17 * GetParam().batch);
  EXPECT_EQ(recording_->counters().failed_hooks, 0);
}

INSTANTIATE_TEST_SUITE_P(Steps, ForwardAllocations,
                         ::testing::Values(Step{.name = "one_token"}, Step{.name = "a_batch", .batch = 16},
                                           Step{.name = "bfloat16", .dtype = at::kBFloat16},
                                           Step{.name = "top_1", .top_k = 1},
                                           Step{.name = "without_weights", .weighted = false},
                                           Step{.name = "labelled", .batch = 3, .labelled = true}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace moetap::plugin
