// Instrumented routers in branches, loops and forks, and beside operators that change in place what was captured.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "hooks/instrument.h"
#include "moe_sources.h"
#include "router_patterns.h"

namespace moetap::hooks::testing {
namespace {

namespace jit = torch::jit;

jit::Module block(uint64_t seed = 7) {
  return compile(block_source(softmax_patterns()[1].route, kDispatchTokens, seed));
}

// A block whose forward is `code`.
jit::Module block_with(const std::string& code, const Combine& combine = kIndexParameters) {
  return compile({.type = "Block",
                  .parameters = {{"expert_weights", expert_weights()}},
                  .modules = {{"gate", holder("Gate", random_tensor({kExperts, kHidden}, 7))}},
                  .code = code + combine.code});
}

at::Tensor normalised(const at::Tensor& input) {
  return at::layer_norm(input, {kHidden}).view({-1, kHidden});
}

// The reported logits are the gate's. Experts called by the reported ids and weights give what the block added to its
// input.
void expect_explains(const RouterReport& report, const jit::Module& own, const at::Tensor& hidden,
                     const at::Tensor& added) {
  const CanonicalReport found = canonical(report, hidden.size(0));
  const at::Tensor logits = at::linear(hidden, tensor_at(own, "gate.weight"));
  ASSERT_TRUE(found.logits.defined());
  EXPECT_TRUE(at::allclose(found.logits, logits, 2e-6, 1e-6));
  EXPECT_TRUE(at::equal(std::get<0>(found.ids.sort(-1)), std::get<0>(std::get<1>(logits.topk(kTopK, -1)).sort(-1))));
  const at::Tensor sum = recombined(hidden, tensor_at(own, "expert_weights"), found.ids, found.weights);
  EXPECT_TRUE(at::allclose(added.reshape({-1, kHidden}), sum, 1e-4, 1e-5));
}

// Runs model and twin several times and returns what the last run reported.
ForwardReport run_both(const jit::Module& model, const jit::Module& twin, const std::vector<at::Tensor>& inputs) {
  ForwardReport last;
  for (int run = 1; run <= 4; ++run) {
    const Recording recording;
    EXPECT_TRUE(at::equal(call(twin, inputs), call(model, inputs))) << "run " << run;
    const auto forwards = recording.forwards();
    EXPECT_EQ(forwards.size(), 1u) << "run " << run;
    if (!forwards.empty()) last = forwards[0];
    EXPECT_TRUE(last.ended);
  }
  return last;
}

Instrumented instrumented(const jit::Module& model) {
  return instrument(model, [](const Discovery&) { return describe_nothing(); });
}

// ---- operators that change in place what was captured

struct InPlaceCase {
  const char* name;
  const char* code;
};

void PrintTo(const InPlaceCase& in_place, std::ostream* stream) {
  *stream << in_place.name;
}

class InPlace : public ::testing::TestWithParam<InPlaceCase> {};

TEST_P(InPlace, DoesNotChangeWhatWasCaptured) {
  const jit::Module own = block_with(GetParam().code);
  const jit::Module model = stacked({own});
  const Instrumented twin = instrumented(model);
  ASSERT_EQ(twin.discovery.hooks.size(), 1u);
  const at::Tensor input = random_input();
  const ForwardReport forward = run_both(model, twin.module, {input});
  ASSERT_EQ(forward.routers.size(), 1u);
  const at::Tensor hidden = input.view({-1, kHidden});
  expect_explains(forward.routers[0], own, hidden, call(own, {input}) - input);
  const CanonicalReport found = canonical(forward.routers[0], kTokens);
  const at::Tensor scores = at::linear(hidden, tensor_at(own, "gate.weight")).softmax(-1);
  ASSERT_TRUE(found.scores.defined());
  EXPECT_TRUE(at::allclose(found.scores, scores, 2e-6, 1e-6));
}

const InPlaceCase kInPlaceCases[] = {
    {"RenormaliseValues", R"(
def forward(self, x: Tensor) -> Tensor:
    h = x.view(-1, x.size(-1))
    weights, ids = torch.topk(torch.softmax(torch.linear(h, self.gate.weight), -1), 2, -1)
    weights.div_(weights.sum(-1, keepdim=True))
    return x + self.experts(h, ids, weights).view_as(x)
)"},
    {"ScaleTwice", R"(
def forward(self, x: Tensor) -> Tensor:
    h = x.view(-1, x.size(-1))
    weights, ids = torch.topk(torch.softmax(torch.linear(h, self.gate.weight), -1), 2, -1)
    weights.div_(weights.sum(-1, keepdim=True)).mul_(2.5)
    return x + self.experts(h, ids, weights).view_as(x)
)"},
    {"MaskScoresAfterThePick", R"(
def forward(self, x: Tensor) -> Tensor:
    h = x.view(-1, x.size(-1))
    scores = torch.softmax(torch.linear(h, self.gate.weight), -1)
    weights, ids = torch.topk(scores, 2, -1)
    scores.masked_fill_(scores < 0.5, 0.0)
    return x + self.experts(h, ids, weights).view_as(x) + 0.0 * scores.sum()
)"},
    {"MaskScoresBeforeTheWeights", R"(
def forward(self, x: Tensor) -> Tensor:
    h = x.view(-1, x.size(-1))
    scores = torch.softmax(torch.linear(h, self.gate.weight), -1)
    ids = torch.topk(scores, 2, -1)[1]
    weights = torch.gather(scores, 1, ids)
    scores.zero_()
    weights /= weights.sum(-1, keepdim=True)
    return x + self.experts(h, ids, weights).view_as(x) + scores.sum()
)"},
    {"OverwriteLogits", R"(
def forward(self, x: Tensor) -> Tensor:
    h = x.view(-1, x.size(-1))
    logits = torch.linear(h, self.gate.weight)
    scores = torch.softmax(logits, -1)
    logits.mul_(0.0)
    weights, ids = torch.topk(scores, 2, -1)
    return x + self.experts(h, ids, weights).view_as(x) + logits.sum()
)"},
    {"ChangeIdsAfterUse", R"(
def forward(self, x: Tensor) -> Tensor:
    h = x.view(-1, x.size(-1))
    weights, ids = torch.topk(torch.softmax(torch.linear(h, self.gate.weight), -1), 2, -1)
    out = self.experts(h, ids, weights).view_as(x)
    ids.zero_()
    weights.zero_()
    return x + out + ids.sum() + weights.sum()
)"},
};

INSTANTIATE_TEST_SUITE_P(Instrument, InPlace, ::testing::ValuesIn(kInPlaceCases),
                         [](const auto& info) { return std::string(info.param.name); });

// ---- branches, loops, forks

TEST(ControlFlow, AnArmThatIsNotTakenReportsNothing) {
  const jit::Module model =
      compile({.type = "Model", .modules = {{"first", block(7)}, {"second", block(8)}}, .code = R"(
def forward(self, x: Tensor, flag: Tensor) -> Tensor:
    if bool(flag):
        y = self.first.forward(x)
    else:
        y = self.second.forward(x * 0.5)
    return y
)"});
  const Instrumented twin = instrumented(model);
  ASSERT_EQ(twin.discovery.hooks.size(), 2u);
  EXPECT_EQ(twin.discovery.hooks[0].name, "first.gate");
  EXPECT_EQ(twin.discovery.hooks[1].name, "second.gate");
  const at::Tensor input = random_input();
  ForwardReport forward = run_both(model, twin.module, {input, at::ones({})});
  ASSERT_EQ(forward.routers.size(), 1u);
  EXPECT_EQ(forward.routers[0].hook, 0);
  expect_explains(forward.routers[0], block(7), normalised(input), call(block(7), {input}) - input);
  forward = run_both(model, twin.module, {input, at::zeros({})});
  ASSERT_EQ(forward.routers.size(), 1u);
  EXPECT_EQ(forward.routers[0].hook, 1);
  const at::Tensor half = input * 0.5;
  expect_explains(forward.routers[0], block(8), normalised(half), call(block(8), {half}) - half);
}

// Ids and weights leave the arms of a branch; the experts are outside.
TEST(ControlFlow, ARouterMayEndOutsideOfABranch) {
  const jit::Module own = block_with(R"(
def forward(self, x: Tensor, flag: Tensor) -> Tensor:
    h = x.view(-1, x.size(-1))
    logits = torch.linear(h, self.gate.weight)
    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
    if bool(flag):
        weights = weights / weights.sum(-1, keepdim=True)
    return x + self.experts(h, ids, weights).view_as(x)
)");
  const Instrumented twin = instrumented(own);
  ASSERT_EQ(twin.discovery.hooks.size(), 1u);
  const at::Tensor input = random_input();
  for (const at::Tensor& flag : {at::ones({}), at::zeros({})}) {
    const ForwardReport forward = run_both(own, twin.module, {input, flag});
    ASSERT_EQ(forward.routers.size(), 1u);
    expect_explains(forward.routers[0], own, input.view({-1, kHidden}), call(own, {input, flag}) - input);
  }
}

TEST(ControlFlow, ALoopCallsItsHookEachTime) {
  const jit::Module model = compile({.type = "Model", .modules = {{"block", block(7)}}, .code = R"(
def forward(self, x: Tensor, rounds: Tensor) -> Tensor:
    for i in range(int(rounds)):
        x = self.block.forward(x)
    return x
)"});
  const Instrumented twin = instrumented(model);
  ASSERT_EQ(twin.discovery.hooks.size(), 1u);
  const at::Tensor input = random_input();
  for (int64_t rounds : {3, 0, 1}) {
    const ForwardReport forward = run_both(model, twin.module, {input, at::scalar_tensor(rounds, at::kLong)});
    ASSERT_EQ(forward.routers.size(), static_cast<size_t>(rounds));
    at::Tensor state = input;
    for (const RouterReport& report : forward.routers) {
      EXPECT_EQ(report.hook, 0);
      const at::Tensor next = call(block(7), {state});
      expect_explains(report, block(7), normalised(state), next - state);
      state = next;
    }
  }
}

TEST(ControlFlow, LoopsAndBranchesMayBeNested) {
  const jit::Module model =
      compile({.type = "Model", .modules = {{"first", block(7)}, {"second", block(8)}}, .code = R"(
def forward(self, x: Tensor) -> Tensor:
    i = 0
    while i < 4:
        if i % 2 == 0:
            for j in range(2):
                x = self.first.forward(x)
        else:
            x = self.second.forward(x)
        i += 1
    return x
)"});
  const Instrumented twin = instrumented(model);
  ASSERT_EQ(twin.discovery.hooks.size(), 2u);
  const ForwardReport forward = run_both(model, twin.module, {random_input()});
  std::vector<int64_t> hooks;
  for (const RouterReport& report : forward.routers) hooks.push_back(report.hook);
  EXPECT_EQ(hooks, (std::vector<int64_t>{0, 0, 1, 0, 0, 1}));
  const at::Tensor input = random_input();
  expect_explains(forward.routers.at(0), block(7), normalised(input), call(block(7), {input}) - input);
}

TEST(ControlFlow, ForksReportToTheirForward) {
  const jit::Module model =
      compile({.type = "Model", .modules = {{"first", block(7)}, {"second", block(8)}}, .code = R"(
def forward(self, x: Tensor) -> Tensor:
    one = fork(self.first.forward, x)
    two = fork(self.second.forward, x)
    return torch.wait(one) + torch.wait(two)
)"});
  const Instrumented twin = instrumented(model);
  ASSERT_EQ(twin.discovery.hooks.size(), 2u);
  EXPECT_EQ(twin.discovery.hooks[0].name, "first.gate");
  EXPECT_EQ(twin.discovery.hooks[1].name, "second.gate");
  const at::Tensor input = random_input();
  const ForwardReport forward = run_both(model, twin.module, {input});
  ASSERT_EQ(forward.routers.size(), 2u);
  // Forks run in any order: the hook tells which one reported.
  for (const RouterReport& report : forward.routers) {
    const jit::Module own = block(report.hook == 0 ? 7 : 8);
    expect_explains(report, own, normalised(input), call(own, {input}) - input);
  }
  EXPECT_NE(forward.routers[0].hook, forward.routers[1].hook);
}

// The fork picks; what it returns is renormalised and used outside.
TEST(ControlFlow, ARouterMayEndOutsideOfAFork) {
  const jit::Module own = block_with(R"(
def forward(self, x: Tensor) -> Tensor:
    h = torch.layer_norm(x, [8]).view(-1, x.size(-1))
    future = fork(self.pick, h)
    doubled = h + h
    ids, weights = torch.wait(future)
    weights = weights / weights.sum(-1, keepdim=True)
    return x + self.experts(h, ids, weights).view_as(x) + 0.0 * doubled.sum()

def pick(self, h: Tensor) -> Tuple[Tensor, Tensor]:
    weights, ids = torch.topk(torch.softmax(torch.linear(h, self.gate.weight), -1), 2, -1)
    return ids, weights
)");
  const Instrumented twin = instrumented(own);
  ASSERT_EQ(twin.discovery.hooks.size(), 1u);
  const at::Tensor input = random_input();
  const ForwardReport forward = run_both(own, twin.module, {input});
  ASSERT_EQ(forward.routers.size(), 1u);
  const at::Tensor hidden = normalised(input);
  const CanonicalReport found = canonical(forward.routers[0], kTokens);
  const auto [values, ids] = at::linear(hidden, tensor_at(own, "gate.weight")).softmax(-1).topk(kTopK, -1);
  EXPECT_TRUE(at::equal(found.ids, ids));
  EXPECT_TRUE(at::allclose(found.weights, values / values.sum(-1, true), 2e-6, 1e-6));
  // Logits inside the fork cannot be seen where the weights are; what is reported is right.
  if (found.logits.defined()) {
    EXPECT_TRUE(at::allclose(found.logits, at::linear(hidden, tensor_at(own, "gate.weight")), 2e-6, 1e-6));
  }
}

TEST(ControlFlow, ARouterMayReturnATuple) {
  const jit::Module router =
      compile({.type = "Router", .parameters = {{"weight", random_tensor({kExperts, kHidden}, 7)}}, .code = R"(
def forward(self, h: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    logits = torch.linear(h, self.weight)
    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
    return logits, weights / weights.sum(-1, keepdim=True), ids
)"});
  const jit::Module own = compile({.type = "Block",
                                   .parameters = {{"expert_weights", expert_weights()}},
                                   .modules = {{"gate", router}},
                                   .code = std::string(R"(
def forward(self, x: Tensor) -> Tensor:
    h = x.view(-1, x.size(-1))
    routing = self.gate.forward(h)
    return x + self.experts(h, routing[2], routing[1]).view_as(x)
)") + kMaskEachExpert.code});
  const jit::Module model = stacked({own});
  const Instrumented twin = instrumented(model);
  ASSERT_EQ(twin.discovery.hooks.size(), 1u);
  EXPECT_EQ(twin.discovery.hooks[0].name, "layers.0.mlp.gate");
  const at::Tensor input = random_input();
  const ForwardReport forward = run_both(model, twin.module, {input});
  ASSERT_EQ(forward.routers.size(), 1u);
  expect_explains(forward.routers[0], own, input.view({-1, kHidden}), call(own, {input}) - input);
}

// ---- what a model logs itself

TEST(ModelLogs, ReachTheirForwardWithTheRoutersLayer) {
  const jit::Module model =
      compile({.type = "Model",
               .modules = {{"layers", folder("Layers", {{"3", folder("Layer", {{"mlp", block(7)}})}})}},
               .code = R"(
def forward(self, x: Tensor) -> Tensor:
    x = getattr(self.layers, "3").mlp.forward(x)
    moetap.log("mean", x.mean())
    moetap.log("size", x.size(0))
    moetap.log("ratio", 0.25)
    moetap.log("flag", True)
    return x
)"});
  const jit::Module twin = instrumented(model).module;
  const at::Tensor input = random_input();
  {
    const Recording recording;
    call(model, {input});
    EXPECT_EQ(recording.logs_outside(), 4);
    EXPECT_TRUE(recording.forwards().empty());
  }
  const Recording recording;
  const at::Tensor output = call(twin, {input});
  EXPECT_EQ(recording.logs_outside(), 0);
  const auto logs = recording.forwards().at(0).logs;
  ASSERT_EQ(logs.size(), 4u);
  for (const LogReport& log : logs) {
    EXPECT_EQ(log.component, "language_model");
    EXPECT_EQ(log.layer, "3");
  }
  EXPECT_EQ(logs[0].name, "mean");
  EXPECT_TRUE(at::equal(logs[0].value.toTensor(), output.mean()));
  EXPECT_EQ(logs[1].name, "size");
  EXPECT_EQ(logs[1].value.toInt(), kBatch);
  EXPECT_EQ(logs[2].value.toDouble(), 0.25);
  EXPECT_TRUE(logs[3].value.toBool());
}

TEST(ModelLogs, InAForkReachTheirForward) {
  const jit::Module model = compile({.type = "Model", .modules = {{"block", block(7)}}, .code = R"(
def forward(self, x: Tensor) -> Tensor:
    return torch.wait(fork(self.run, x))

def run(self, x: Tensor) -> Tensor:
    y = self.block.forward(x)
    moetap.log("rows", y.size(1))
    return y
)"});
  const jit::Module twin = instrumented(model).module;
  const Recording recording;
  call(twin, {random_input()});
  const auto forwards = recording.forwards();
  ASSERT_EQ(forwards.size(), 1u);
  ASSERT_EQ(forwards[0].logs.size(), 1u);
  EXPECT_EQ(forwards[0].logs[0].value.toInt(), kSequence);
  EXPECT_EQ(forwards[0].routers.size(), 1u);
}

}  // namespace
}  // namespace moetap::hooks::testing
