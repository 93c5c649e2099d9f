#include "hooks/routers/router_input.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "hooks/instrument.h"
#include "tests/hooks/moe_sources.h"
#include "tests/hooks/router_patterns.h"

namespace moetap::hooks::testing {
namespace {

namespace jit = torch::jit;

// A block whose forward reads the gate's weight and gives ids and weights to its experts.
jit::Module block_with(const std::string& code, const at::Tensor& gate) {
  return compile({.type = "Block",
                  .parameters = {{"expert_weights", expert_weights()}},
                  .modules = {{"gate", holder("Gate", gate)}},
                  .code = code + kDispatchTokens.code});
}

RouterReport run(const jit::Module& own, RouterInputs inputs = RouterInputs::kReported) {
  const jit::Module model = stacked({own});
  const Instrumented twin = instrument(
      model, [](const Discovery&) { return describe_nothing(); }, {}, {}, HookKinds::kRouters, inputs);
  EXPECT_EQ(twin.discovery.hooks.size(), 1u);
  const Recording recording;
  const at::Tensor input = random_input();
  EXPECT_TRUE(at::equal(call(twin.module, {input}), call(model, {input})));
  const std::vector<ForwardReport> forwards = recording.forwards();
  EXPECT_EQ(forwards.size(), 1u);
  if (forwards.size() != 1 || forwards[0].routers.size() != 1) return {};
  const InstrumentedInputs all = instrumented_inputs(twin.module);
  EXPECT_EQ(all.reported, forwards[0].routers[0].input.defined() ? 1 : 0);
  EXPECT_EQ(all.first_why, forwards[0].routers[0].no_input);
  return forwards[0].routers[0];
}

struct Spelling {
  const char* name;
  const char* route;  // from h [T, kHidden] to logits [T, kExperts]; may use x [B, S, kHidden]
  enum class Gate { kLinear, kTransposed, kConvolution } gate = Gate::kLinear;
};

void PrintTo(const Spelling& spelling, std::ostream* stream) {
  *stream << spelling.name;
}

class Spellings : public ::testing::TestWithParam<Spelling> {};

// What was reported, projected by the gate's weight, is each token's logits.
TEST_P(Spellings, ReportWhatEntersTheProjection) {
  const at::Tensor weight = random_tensor({kExperts, kHidden}, 7);
  const at::Tensor gate = GetParam().gate == Spelling::Gate::kTransposed    ? weight.t().contiguous()
                          : GetParam().gate == Spelling::Gate::kConvolution ? weight.unsqueeze(-1)
                                                                            : weight;
  const std::string code = std::string(R"(
def forward(self, x: Tensor) -> Tensor:
    x = torch.layer_norm(x, [8])
    h = x.view(-1, x.size(-1))
)") + GetParam().route + R"(
    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
    return x + self.experts(h, ids, weights).view_as(x)
)";
  const RouterReport found = run(block_with(code, gate));
  EXPECT_EQ(found.no_input, "");
  ASSERT_TRUE(found.input.defined());
  const at::Tensor rows = found.input.reshape({kTokens, kHidden});
  const at::Tensor logits = canonical(found, kTokens).logits;
  EXPECT_TRUE(at::allclose(at::linear(rows, weight), logits, 1e-5, 1e-5));
}

const Spelling kSpellings[] = {
    {"Linear", "    logits = torch.linear(h, self.gate.weight)"},
    {"LinearOfSequences", "    logits = torch.linear(x, self.gate.weight).view(-1, 6)"},
    {"LinearWithNoise",
     "    logits = torch.linear(h, self.gate.weight) * 0.5 + 0.25\n    logits = (logits - 0.25) * 2.0"},
    {"Matmul", "    logits = torch.matmul(h, self.gate.weight)", Spelling::Gate::kTransposed},
    {"Addmm", "    logits = torch.addmm(torch.zeros([6]), h, self.gate.weight.t())"},
    {"WeightFirst", "    logits = torch.matmul(self.gate.weight, h.t()).t()"},
    {"Einsum", "    logits = torch.einsum(\"bsh,eh->bse\", [x, self.gate.weight]).reshape(-1, 6)"},
    {"EinsumTurned", "    logits = torch.einsum(\"eh,ht->te\", [self.gate.weight, h.t()])"},
    {"EinsumWithDots", "    logits = torch.einsum(\"...h,eh->...e\", [h, self.gate.weight])"},
    {"Convolution", "    logits = torch.conv1d(h.unsqueeze(-1), self.gate.weight).squeeze(-1)",
     Spelling::Gate::kConvolution},
    {"SummedProduct", "    logits = (h.unsqueeze(1) * self.gate.weight).sum(-1)"},
    {"ExpertsMoved", "    logits = torch.linear(x, self.gate.weight).permute(2, 0, 1).reshape(6, -1).t()"},
};

INSTANTIATE_TEST_SUITE_P(RouterInput, Spellings, ::testing::ValuesIn(kSpellings),
                         [](const auto& info) { return std::string(info.param.name); });

constexpr const char* kPlain = R"(
def forward(self, x: Tensor) -> Tensor:
    h = x.view(-1, x.size(-1))
    weights, ids = torch.topk(torch.softmax(torch.linear(h, self.gate.weight), -1), 2, -1)
    return x + self.experts(h, ids, weights).view_as(x)
)";

TEST(RouterInput, IsLeftOutWhereItIsNotAskedFor) {
  const RouterReport found = run(block_with(kPlain, random_tensor({kExperts, kHidden}, 7)), RouterInputs::kLeftOut);
  EXPECT_EQ(found.no_input, "");
  EXPECT_FALSE(found.input.defined());
}

// The projection reads the hidden state as it is then.
TEST(RouterInput, IsAsTheProjectionReadIt) {
  const at::Tensor weight = random_tensor({kExperts, kHidden}, 7);
  const RouterReport found = run(block_with(R"(
def forward(self, x: Tensor) -> Tensor:
    h = x.view(-1, x.size(-1)) * 2.0
    h.add_(1.0)
    logits = torch.linear(h, self.gate.weight)
    h.mul_(-3.0)
    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
    return x + self.experts(h, ids, weights).view_as(x)
)",
                                            weight));
  ASSERT_TRUE(found.input.defined());
  EXPECT_TRUE(at::equal(found.input, random_input().view({-1, kHidden}) * 2 + 1));
}

// A router inside a branch or a loop: the operator stands there, too.
TEST(RouterInput, OfARouterInALoopIsThatOfEachCall) {
  const at::Tensor weight = random_tensor({kExperts, kHidden}, 7);
  const jit::Module model = stacked({block_with(R"(
def forward(self, x: Tensor) -> Tensor:
    for turn in range(3):
        h = x.view(-1, x.size(-1))
        logits = torch.linear(h, self.gate.weight)
        weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
        x = x + self.experts(h, ids, weights).view_as(x)
    return x
)",
                                                weight)});
  const Instrumented twin = instrument(
      model, [](const Discovery&) { return describe_nothing(); }, {}, {}, HookKinds::kRouters, RouterInputs::kReported);
  const Recording recording;
  call(twin.module, {random_input()});
  const std::vector<ForwardReport> forwards = recording.forwards();
  ASSERT_EQ(forwards.at(0).routers.size(), 3u);
  for (const RouterReport& report : forwards[0].routers) {
    ASSERT_TRUE(report.input.defined());
    EXPECT_TRUE(at::allclose(at::linear(report.input, weight), canonical(report, kTokens).logits, 1e-5, 1e-5));
  }
  EXPECT_TRUE(at::equal(forwards[0].routers[0].input, random_input().view({-1, kHidden})));
}

// What the graph does not tell is refused with a reason, not guessed.
TEST(RouterInput, IsRefusedWhereTokensMayChangeTheirOrder) {
  const RouterReport turned = run(block_with(R"(
def forward(self, x: Tensor) -> Tensor:
    x = torch.layer_norm(x, [8])
    h = x.transpose(0, 1).reshape(-1, x.size(-1))
    logits = torch.linear(x, self.gate.weight).transpose(0, 1).reshape(-1, 6)
    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
    return x + self.experts(h, ids, weights).view(x.size(1), x.size(0), -1).transpose(0, 1)
)",
                                             random_tensor({kExperts, kHidden}, 7)));
  EXPECT_NE(turned.no_input.find("change their order"), std::string::npos) << turned.no_input;
  EXPECT_FALSE(turned.input.defined());
}

TEST(RouterInput, IsRefusedWhereItsFeaturesAreNotKnown) {
  const RouterReport found = run(block_with(R"(
def forward(self, x: Tensor) -> Tensor:
    h = x.view(-1, x.size(-1))
    logits = torch.tensordot(h, self.gate.weight, [1], [1])
    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
    return x + self.experts(h, ids, weights).view_as(x)
)",
                                            random_tensor({kExperts, kHidden}, 7)));
  EXPECT_NE(found.no_input.find("tensordot"), std::string::npos) << found.no_input;
  EXPECT_FALSE(found.input.defined());
}

}  // namespace
}  // namespace moetap::hooks::testing
