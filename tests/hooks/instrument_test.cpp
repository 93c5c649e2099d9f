#include "hooks/instrument.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/jit/passes/freeze_module.h>
#include <torch/csrc/jit/serialization/import.h>

#include <set>
#include <sstream>
#include <stdexcept>

#include "moe_sources.h"
#include "router_patterns.h"

namespace moetap::hooks::testing {
namespace {

namespace jit = torch::jit;

// Pattern A2, which renormalises the weights in place.
jit::Module block(uint64_t seed = 7, const Combine& combine = kMaskEachExpert) {
  return compile(block_source(softmax_patterns()[1].route, combine, seed));
}

jit::Module twin_of(const jit::Module& module) {
  return instrument(module, [](const Discovery&) { return std::string("{\"who\": \"twin\"}"); }).module;
}

std::string all_graphs(const jit::Module& module) {
  std::string text;
  for (const jit::Module& submodule : module.modules()) {
    for (const auto& method : submodule.get_methods()) text += method.name() + "\n" + method.graph()->toString(false);
  }
  return text;
}

/// Ids and weights of one router call against those of A2 on the input of its block.
void expect_routing_of(const RouterReport& report, const jit::Module& own, const at::Tensor& input) {
  const at::Tensor hidden = at::layer_norm(input, {kHidden}).view({-1, kHidden});
  const at::Tensor logits = at::linear(hidden, tensor_at(own, "gate.weight"));
  const auto [values, ids] = logits.softmax(-1).topk(kTopK, -1);
  const CanonicalReport found = canonical(report, hidden.size(0));
  EXPECT_TRUE(at::allclose(found.logits, logits, 2e-6, 1e-6));
  EXPECT_TRUE(at::allclose(found.scores, logits.softmax(-1), 2e-6, 1e-6));
  EXPECT_TRUE(at::equal(found.ids, ids));
  EXPECT_TRUE(at::allclose(found.weights, values / values.sum(-1, true), 2e-6, 1e-6));
}

class Instrument : public ::testing::Test {
 protected:
  const jit::Module model_ = stacked({block(7), block(8)});
  const at::Tensor input_ = random_input();
};

// Run 1 profiles, run 2 optimises, later runs use the optimised graph.
TEST_F(Instrument, GivesTheSameBitsInRuns1To4) {
  const jit::Module twin = twin_of(model_);
  for (int run = 1; run <= 4; ++run) {
    const Recording recording;
    EXPECT_TRUE(at::equal(call(twin, {input_}), call(model_, {input_}))) << "run " << run;
    const auto forwards = recording.forwards();
    ASSERT_EQ(forwards.size(), 1u) << "run " << run;
    EXPECT_EQ(forwards[0].routers.size(), 2u) << "run " << run;
    EXPECT_TRUE(forwards[0].ended);
    EXPECT_EQ(forwards[0].method, "forward");
    ASSERT_EQ(forwards[0].arguments.size(), 1u);
    EXPECT_TRUE(at::equal(forwards[0].arguments[0], input_));
  }
}

TEST_F(Instrument, LeavesAColdOriginalAlone) {
  const std::string before = all_graphs(model_);
  const jit::Module twin = twin_of(model_);
  EXPECT_EQ(all_graphs(model_), before);
  const Recording recording;
  call(model_, {input_});
  EXPECT_TRUE(recording.forwards().empty());
  call(twin, {input_});
  EXPECT_EQ(recording.forwards().size(), 1u);
  EXPECT_EQ(all_graphs(model_), before);
}

TEST_F(Instrument, LeavesAWarmOriginalAlone) {
  for (int run = 0; run < 3; ++run) call(model_, {input_});
  const std::string before = all_graphs(model_);
  const jit::Module twin = twin_of(model_);
  const Recording recording;
  call(model_, {input_});
  EXPECT_TRUE(recording.forwards().empty());
  call(twin, {input_});
  EXPECT_EQ(recording.forwards().size(), 1u);
  EXPECT_EQ(all_graphs(model_), before);
}

TEST_F(Instrument, SharesTheWeights) {
  const jit::Module twin = twin_of(model_);
  std::vector<void*> original, shared;
  for (const at::Tensor& parameter : model_.parameters()) original.push_back(parameter.data_ptr());
  for (const at::Tensor& parameter : twin.parameters()) shared.push_back(parameter.data_ptr());
  EXPECT_EQ(original.size(), 4u);
  EXPECT_EQ(shared, original);
}

TEST_F(Instrument, RefusesAnInstrumentedModule) {
  const jit::Module twin = twin_of(model_);
  EXPECT_THROW(twin_of(twin), std::invalid_argument);
  EXPECT_EQ(all_graphs(twin_of(model_)).find("moetap::end") == std::string::npos, false);
}

TEST_F(Instrument, TellsWhatIsInstrumented) {
  const jit::Module twin = twin_of(model_);
  EXPECT_FALSE(is_instrumented(model_));
  EXPECT_TRUE(is_instrumented(twin));
  EXPECT_EQ(model_description(twin), "{\"who\": \"twin\"}");
  EXPECT_THROW(model_description(model_), std::invalid_argument);
  const Recording recording;
  call(twin, {input_});
  EXPECT_EQ(recording.forwards().at(0).description, "{\"who\": \"twin\"}");
}

TEST_F(Instrument, DescribesTheHooksThatReport) {
  Discovery described;
  const Instrumented twin = instrument(model_, [&](const Discovery& discovery) {
    described = discovery;
    return describe_nothing();
  });
  ASSERT_EQ(described.hooks.size(), 2u);
  EXPECT_EQ(twin.discovery.hooks.size(), 2u);
  const Recording recording;
  call(twin.module, {input_});
  const auto routers = recording.forwards().at(0).routers;
  ASSERT_EQ(routers.size(), 2u);
  for (int64_t place = 0; place < 2; ++place) {
    EXPECT_EQ(described.hooks[place].name, "layers." + std::to_string(place) + ".mlp.gate");
    EXPECT_EQ(routers[place].hook, described.hooks[place].id);
  }
  expect_routing_of(routers[0], block(7), input_);
  expect_routing_of(routers[1], block(8), call(block(7), {input_}));
}

// Something that users do to an instrumented model. It must lose no report and change no bit.
struct Treatment {
  const char* name;
  std::function<jit::Module(jit::Module)> apply;
  bool keeps_description = true;
};

void PrintTo(const Treatment& treatment, std::ostream* stream) {
  *stream << treatment.name;
}

class TreatedTwin : public ::testing::TestWithParam<Treatment> {};

TEST_P(TreatedTwin, GoesOnReporting) {
  jit::Module model = stacked({block(7, kDispatchTokens), block(8, kIndexParameters)});
  model.eval();
  const at::NoGradGuard no_grad;
  const at::Tensor input = random_input();
  const jit::Module twin = GetParam().apply(twin_of(model));
  EXPECT_TRUE(is_instrumented(twin));
  EXPECT_EQ(model_description(twin), "{\"who\": \"twin\"}");
  // `optimize_for_inference` changes the order of computation: compare with the original after the same treatment.
  const jit::Module plain = GetParam().apply(model.deepcopy());
  for (int run = 1; run <= 4; ++run) {
    const at::Tensor expected = call(plain, {input});
    const Recording recording;
    EXPECT_TRUE(at::equal(call(twin, {input}), expected)) << "run " << run;
    const auto forwards = recording.forwards();
    ASSERT_EQ(forwards.size(), 1u) << "run " << run;
    EXPECT_TRUE(forwards[0].ended);
    ASSERT_EQ(forwards[0].routers.size(), 2u) << "run " << run;
    expect_routing_of(forwards[0].routers[0], block(7), input);
    expect_routing_of(forwards[0].routers[1], block(8), call(block(7), {input}));
  }
}

jit::Module saved_and_loaded(const jit::Module& module) {
  std::stringstream file;
  module.save(file);
  return jit::load(file);
}

INSTANTIATE_TEST_SUITE_P(
    Instrument, TreatedTwin,
    ::testing::Values(Treatment{"SaveAndLoad", saved_and_loaded},
                      Treatment{"SaveAndLoadTwice",
                                [](jit::Module m) { return saved_and_loaded(saved_and_loaded(m)); }},
                      Treatment{"Freeze", [](jit::Module m) { return jit::freeze(m); }},
                      Treatment{"FreezeModulePass", [](jit::Module m) { return jit::freeze_module(m); }},
                      Treatment{"OptimizeForInference", [](jit::Module m) { return jit::optimize_for_inference(m); }},
                      Treatment{"FreezeSaveAndLoad", [](jit::Module m) { return saved_and_loaded(jit::freeze(m)); }},
                      Treatment{"Clone", [](jit::Module m) { return m.clone(); }},
                      Treatment{"CloneSharing", [](jit::Module m) { return m.clone(/*inplace=*/true); }},
                      Treatment{"DeepCopy", [](jit::Module m) { return m.deepcopy(); }}),
    [](const auto& info) { return std::string(info.param.name); });

// A model that lost its paths before it was instrumented.
TEST_F(Instrument, NamesRoutersOfAFrozenModelByOrder) {
  jit::Module model = stacked({block(7), block(8)});
  model.eval();
  const at::NoGradGuard no_grad;
  const jit::Module frozen = jit::freeze(model);
  const Instrumented twin = instrument(frozen, [](const Discovery&) { return describe_nothing(); });
  ASSERT_EQ(twin.discovery.hooks.size(), 2u);
  EXPECT_EQ(twin.discovery.hooks[0].name, "order.0");
  EXPECT_EQ(twin.discovery.hooks[0].layer, "0");
  EXPECT_EQ(twin.discovery.hooks[1].name, "order.1");
  EXPECT_EQ(twin.discovery.hooks[1].layer, "1");
  EXPECT_EQ(twin.discovery.hooks[1].num_experts, kExperts);
  const Recording recording;
  EXPECT_TRUE(at::equal(call(twin.module, {input_}), call(frozen, {input_})));
  const auto routers = recording.forwards().at(0).routers;
  ASSERT_EQ(routers.size(), 2u);
  expect_routing_of(routers[0], block(7), input_);
  expect_routing_of(routers[1], block(8), call(block(7), {input_}));
}

// Gradients are those of the original, to the last bit.
TEST_F(Instrument, KeepsGradientsInTraining) {
  auto gradients = [&](const jit::Module& module) {
    std::vector<at::Tensor> parameters, result;
    for (at::Tensor parameter : module.parameters()) {
      parameter.mutable_grad() = at::Tensor();
      parameters.push_back(parameter);
    }
    for (int run = 0; run < 3; ++run) call(module, {input_}).square().sum().backward();
    for (const at::Tensor& parameter : parameters) result.push_back(parameter.grad().clone());
    return result;
  };
  jit::Module model = stacked({block(7), block(8)});
  for (at::Tensor parameter : model.parameters()) parameter.requires_grad_(true);
  model.train();
  const jit::Module twin = twin_of(model);
  const auto expected = gradients(model);
  const Recording recording;
  const auto found = gradients(twin);
  EXPECT_EQ(recording.forwards().size(), 3u);
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    EXPECT_TRUE(at::equal(found[i], expected[i])) << "parameter " << i;
    EXPECT_GT(found[i].abs().sum().item<float>(), 0.f) << "parameter " << i;
  }
}

// Layers of one class type: each call site reports under an id and a name of its own.
TEST_F(Instrument, TellsLayersOfOneTypeApart) {
  const jit::Module first = block(7), second = another_of(first, 30), third = another_of(first, 40);
  ASSERT_EQ(first.type(), second.type());
  const jit::Module model = stacked({first, second, third});
  const Instrumented twin = instrument(model, [](const Discovery&) { return describe_nothing(); });
  ASSERT_EQ(twin.discovery.hooks.size(), 3u);
  const Recording recording;
  EXPECT_TRUE(at::equal(call(twin.module, {input_}), call(model, {input_})));
  const auto routers = recording.forwards().at(0).routers;
  ASSERT_EQ(routers.size(), 3u);
  at::Tensor state = input_;
  size_t place = 0;
  for (const jit::Module& own : {first, second, third}) {
    EXPECT_EQ(twin.discovery.hooks[place].name, "layers." + std::to_string(place) + ".mlp.gate");
    EXPECT_EQ(routers[place].hook, static_cast<int64_t>(place));
    expect_routing_of(routers[place], own, state);
    state = call(own, {state});
    ++place;
  }
}

TEST_F(Instrument, NumbersTheCallsOfASharedModule) {
  const jit::Module model = compile({.type = "Model", .modules = {{"block", block(7)}}, .code = R"(
def forward(self, x: Tensor) -> Tensor:
    return self.block.forward(self.block.forward(self.block.forward(x)))
)"});
  const Instrumented twin = instrument(model, [](const Discovery&) { return describe_nothing(); });
  ASSERT_EQ(twin.discovery.hooks.size(), 3u);
  EXPECT_EQ(twin.discovery.hooks[0].name, "block.gate");
  EXPECT_EQ(twin.discovery.hooks[1].name, "block.gate#1");
  EXPECT_EQ(twin.discovery.hooks[2].name, "block.gate#2");
  const Recording recording;
  EXPECT_TRUE(at::equal(call(twin.module, {input_}), call(model, {input_})));
  const auto routers = recording.forwards().at(0).routers;
  ASSERT_EQ(routers.size(), 3u);
  at::Tensor state = input_;
  for (int64_t place = 0; place < 3; ++place) {
    EXPECT_EQ(routers[place].hook, place);
    expect_routing_of(routers[place], block(7), state);
    state = call(block(7), {state});
  }
}

// A method that another method calls has no hooks of its own: its router is reported once.
TEST_F(Instrument, ReportsTheMethodsThatAHostCalls) {
  const jit::Module model =
      compile({.type = "Model", .modules = {{"first", block(7)}, {"second", block(8)}}, .code = R"(
def forward(self, x: Tensor) -> Tensor:
    return self.second.forward(self.helper(x))

def helper(self, x: Tensor) -> Tensor:
    return self.first.forward(x)

def encode(self, x: Tensor) -> Tensor:
    return self.second.forward(x)
)"});
  const Instrumented twin = instrument(model, [](const Discovery&) { return describe_nothing(); });
  ASSERT_EQ(twin.discovery.hooks.size(), 3u);
  const std::vector<std::pair<std::string, std::string>> expected = {
      {"forward", "first.gate"}, {"forward", "second.gate"}, {"encode", "second.gate"}};
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(twin.discovery.hooks[i].method, expected[i].first);
    EXPECT_EQ(twin.discovery.hooks[i].name, expected[i].second);
  }
  const Recording recording;
  EXPECT_TRUE(at::equal(call(twin.module, {input_}), call(model, {input_})));
  EXPECT_TRUE(at::equal(call(twin.module, {input_}, "encode"), call(model, {input_}, "encode")));
  const auto forwards = recording.forwards();
  ASSERT_EQ(forwards.size(), 2u);
  EXPECT_EQ(forwards[0].routers.size(), 2u);
  EXPECT_EQ(forwards[1].method, "encode");
  ASSERT_EQ(forwards[1].routers.size(), 1u);
  EXPECT_EQ(forwards[1].routers[0].hook, 2);
  expect_routing_of(forwards[1].routers[0], block(8), input_);
}

// The arguments are the same in each call, and still each call is a forward of its own.
TEST_F(Instrument, TellsForwardsWithoutTensorArgumentsApart) {
  jit::Module model = compile({.type = "Model", .modules = {{"block", block(7)}}, .code = R"(
def forward(self, inputs: List[Tensor]) -> Tensor:
    return self.block.forward(inputs[0])
)"});
  model.eval();
  const at::NoGradGuard no_grad;
  for (const jit::Module& twin : {twin_of(model), jit::freeze(twin_of(model))}) {
    const Recording recording;
    for (int run = 0; run < 4; ++run) twin.get_method("forward")({c10::List<at::Tensor>({input_})});
    const auto forwards = recording.forwards();
    ASSERT_EQ(forwards.size(), 4u);
    for (const ForwardReport& forward : forwards) {
      EXPECT_TRUE(forward.arguments.empty());
      EXPECT_EQ(forward.routers.size(), 1u);
      EXPECT_TRUE(forward.ended);
    }
  }
}

// A model without routers still begins and ends its forwards: they are recorded as empty.
TEST_F(Instrument, KeepsAModelWithoutRouters) {
  const jit::Module model =
      compile({.type = "Model", .parameters = {{"weight", random_tensor({kHidden, kHidden}, 3)}}, .code = R"(
def forward(self, x: Tensor, mask: Optional[Tensor]) -> Tensor:
    y = torch.matmul(x, self.weight)
    if mask is not None:
        y = y * mask.unsqueeze(-1)
    return y
)"});
  const jit::Module twin = twin_of(model);
  const Recording recording;
  const auto result = twin.get_method("forward")({input_, c10::IValue()}).toTensor();
  EXPECT_TRUE(at::equal(result, at::matmul(input_, tensor_at(model, "weight"))));
  const auto forwards = recording.forwards();
  ASSERT_EQ(forwards.size(), 1u);
  EXPECT_TRUE(forwards[0].routers.empty());
  EXPECT_TRUE(forwards[0].ended);
  ASSERT_EQ(forwards[0].arguments.size(), 2u);
  EXPECT_FALSE(forwards[0].arguments[1].defined());
}

}  // namespace
}  // namespace moetap::hooks::testing
