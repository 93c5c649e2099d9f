#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <set>

#include "block_variants.h"
#include "hooks/instrument.h"
#include "look_alikes.h"
#include "moe_sources.h"
#include "router_patterns.h"

namespace moetap::hooks::testing {
namespace {

namespace jit = torch::jit;

std::string printed(const Discovery& discovery) {
  std::string text;
  for (const auto& hook : discovery.hooks) text += "hook " + hook.name + " " + hook.scoring + "\n";
  for (const auto& site : discovery.skipped) text += "skipped " + site.node + ": " + site.reason + "\n";
  return text.empty() ? "nothing found" : text;
}

// Slots of a token in the order of their ids.
std::pair<at::Tensor, at::Tensor> by_id(const at::Tensor& ids, const at::Tensor& weights) {
  const auto [sorted, order] = ids.sort(-1);
  return {sorted, weights.gather(1, order)};
}

class RouterPatterns : public ::testing::TestWithParam<RouterPattern> {};

TEST_P(RouterPatterns, AreFoundOnceWithTheirNumbers) {
  const RouterPattern& pattern = GetParam();
  const Discovery discovery = discover(stacked({compile(pattern.source())}));
  ASSERT_EQ(discovery.hooks.size(), 1u) << printed(discovery);
  EXPECT_TRUE(discovery.skipped.empty()) << printed(discovery);
  const HookPoint& hook = discovery.hooks[0];
  EXPECT_EQ(hook.id, 0);
  EXPECT_EQ(hook.kind, HookKind::kRouter);
  EXPECT_EQ(hook.name, "layers.0.mlp.gate");
  EXPECT_EQ(hook.layer, "0");
  EXPECT_EQ(hook.method, "forward");
  EXPECT_EQ(hook.component, "language_model");
  EXPECT_EQ(hook.num_experts, pattern.num_experts);
  EXPECT_EQ(hook.top_k, pattern.top_k);
  EXPECT_EQ(hook.scoring, pattern.scoring);
}

TEST_P(RouterPatterns, ReportWhatTheExpertsGot) {
  const RouterPattern& pattern = GetParam();
  jit::Module block = compile(pattern.source());
  jit::Module model = stacked({block});
  model.eval();
  const at::Tensor input = random_tensor(pattern.input_sizes, 2);
  const at::Tensor hidden = pattern.hidden(input);
  const Instrumented twin = instrument(model, [](const Discovery&) { return describe_nothing(); });
  const at::Tensor plain = call(model, {input});

  const Recording recording;
  const at::Tensor output = call(twin.module, {input});
  EXPECT_TRUE(at::equal(output, plain));
  const auto forwards = recording.forwards();
  ASSERT_EQ(forwards.size(), 1u);
  ASSERT_EQ(forwards[0].routers.size(), 1u);
  const CanonicalReport report = canonical(forwards[0].routers[0], hidden.size(0));
  const ExpectedRouting expected = pattern.expected(block, hidden);

  ASSERT_TRUE(report.logits.defined());
  ASSERT_EQ(report.logits.sizes(), expected.logits.sizes());
  EXPECT_TRUE(at::allclose(report.logits, expected.logits, 2e-6, 1e-6))
      << (report.logits - expected.logits).abs().max();
  ASSERT_EQ(report.ids.sizes(), expected.ids.sizes());
  const auto [ids, weights] = by_id(report.ids, report.weights);
  const auto [expected_ids, expected_weights] = by_id(expected.ids, expected.weights);
  ASSERT_TRUE(at::equal(ids, expected_ids)) << ids << expected_ids;
  const at::Tensor used = ids >= 0;
  EXPECT_TRUE(at::allclose(weights * used, expected_weights * used, 2e-6, 1e-6))
      << at::cat({weights, expected_weights}, 1);
  if (!pattern.recombines) return;
  const at::Tensor sum = recombined(hidden, tensor_at(block, "expert_weights"), report.ids, report.weights);
  at::Tensor added = output - input;
  if (added.dim() == 4) added = added.permute({0, 2, 3, 1});
  EXPECT_TRUE(at::allclose(added.reshape({-1, kHidden}), sum, 1e-4, 1e-5));
}

INSTANTIATE_TEST_SUITE_P(Discover, RouterPatterns, ::testing::ValuesIn(all_patterns()),
                         [](const auto& info) { return info.param.name; });

// What makes a pattern special must happen for its input; otherwise its test shows nothing.
TEST(RouterPatternInputs, DropAndSkipTokens) {
  for (const RouterPattern& pattern : block_patterns()) {
    if (pattern.name != "H1" && pattern.name != "H2" && pattern.name != "G2" && pattern.name != "S2") continue;
    const at::Tensor hidden = pattern.hidden(random_tensor(pattern.input_sizes, 2));
    const ExpectedRouting expected = pattern.expected(compile(pattern.source()), hidden);
    const at::Tensor unused = expected.weights == 0;
    EXPECT_TRUE(unused.any().item<bool>()) << pattern.name;
    EXPECT_FALSE(unused.all().item<bool>()) << pattern.name;
  }
}

class BlockVariants : public ::testing::TestWithParam<BlockVariant> {};

TEST_P(BlockVariants, ReportWhatTheExpertsGot) {
  jit::Module block = compile(variant_source(GetParam()));
  jit::Module model = stacked({block});
  model.eval();
  const Instrumented twin = instrument(model, [](const Discovery&) { return describe_nothing(); });
  ASSERT_EQ(twin.discovery.hooks.size(), 1u) << printed(twin.discovery);
  EXPECT_EQ(twin.discovery.hooks[0].name, "layers.0.mlp.gate");
  EXPECT_EQ(twin.discovery.hooks[0].top_k, GetParam().top_k);
  EXPECT_EQ(twin.discovery.hooks[0].num_experts, GetParam().num_experts);
  const at::Tensor input = random_input(2);
  const at::Tensor plain = call(model, {input});
  const Recording recording;
  EXPECT_TRUE(at::equal(call(twin.module, {input}), plain));
  const auto forwards = recording.forwards();
  ASSERT_EQ(forwards.at(0).routers.size(), 1u);
  const CanonicalReport report = canonical(forwards[0].routers[0], kTokens);
  const at::Tensor hidden = at::layer_norm(input, {kHidden}).view({-1, kHidden});
  ASSERT_TRUE(report.weights.defined());
  const at::Tensor sum = recombined(hidden, tensor_at(block, "expert_weights"), report.ids, report.weights);
  EXPECT_TRUE(at::allclose((plain - input).view({-1, kHidden}), sum, 1e-4, 1e-5));
  ASSERT_TRUE(report.logits.defined());
  EXPECT_EQ(report.logits.sizes(), (std::vector<int64_t>{kTokens, kExperts}));
}

INSTANTIATE_TEST_SUITE_P(Discover, BlockVariants, ::testing::ValuesIn(block_variants()),
                         [](const auto& info) { return info.param.name; });
INSTANTIATE_TEST_SUITE_P(Weights, BlockVariants, ::testing::ValuesIn(weight_variants()),
                         [](const auto& info) { return info.param.name; });
INSTANTIATE_TEST_SUITE_P(Queues, BlockVariants, ::testing::ValuesIn(queue_variants()),
                         [](const auto& info) { return info.param.name; });

// Ids and weights that are not what the pick gave: what is reported explains the output, or nothing is, with a reason.
class IdVariants : public ::testing::TestWithParam<BlockVariant> {};

TEST_P(IdVariants, ReportWhatTheExpertsGotOrNothing) {
  jit::Module block = compile(variant_source(GetParam()));
  jit::Module model = stacked({block});
  model.eval();
  const Discovery found = discover(model);
  ASSERT_EQ(found.hooks.empty(), GetParam().refused) << printed(found);
  if (GetParam().refused) {
    EXPECT_FALSE(found.skipped.empty());
    return;
  }
  const Instrumented twin = instrument(model, [](const Discovery&) { return describe_nothing(); });
  const at::Tensor input = random_input(2);
  const at::Tensor plain = call(model, {input});
  const Recording recording;
  EXPECT_TRUE(at::equal(call(twin.module, {input}), plain));
  const auto forwards = recording.forwards();
  ASSERT_EQ(forwards.at(0).routers.size(), 1u);
  const CanonicalReport report = canonical(forwards[0].routers[0], kTokens);
  const at::Tensor hidden = at::layer_norm(input, {kHidden}).view({-1, kHidden});
  ASSERT_TRUE(report.weights.defined());
  const at::Tensor sum = recombined(hidden, tensor_at(block, "expert_weights"), report.ids, report.weights);
  EXPECT_TRUE(at::allclose((plain - input).view({-1, kHidden}), sum, 1e-4, 1e-5));
}

INSTANTIATE_TEST_SUITE_P(Ids, IdVariants, ::testing::ValuesIn(id_variants()),
                         [](const auto& info) { return info.param.name; });

TEST(ExpertChoice, ReportsTheTokensOfEachExpert) {
  const jit::Module block = compile({.type = "Block",
                                     .parameters = {{"expert_weights", expert_weights()}},
                                     .modules = {{"gate", holder("Gate", random_tensor({kExperts, kHidden}, 7))}},
                                     .code = R"(
def forward(self, x: Tensor) -> Tensor:
    h = x.view(-1, x.size(-1))
    scores = torch.softmax(torch.linear(h, self.gate.weight), -1).t()
    values, tokens = torch.topk(scores, 4, -1)
    out = torch.zeros_like(h)
    for e in range(6):
        rows = tokens[e]
        out.index_add_(0, rows, torch.matmul(h[rows], self.expert_weights[e]) * values[e].unsqueeze(-1))
    return x + out.view_as(x)
)"});
  const Instrumented twin = instrument(stacked({block}), [](const Discovery&) { return describe_nothing(); });
  ASSERT_EQ(twin.discovery.hooks.size(), 1u) << printed(twin.discovery);
  EXPECT_EQ(twin.discovery.hooks[0].num_experts, kExperts);
  EXPECT_EQ(twin.discovery.hooks[0].top_k, std::nullopt);
  const Recording recording;
  call(twin.module, {random_input()});
  const RouterReport report = recording.forwards().at(0).routers.at(0);
  EXPECT_EQ(report.form, "expert_choice");
  const at::Tensor logits = at::linear(random_input().view({kTokens, kHidden}), tensor_at(block, "gate.weight"));
  const auto [weights, tokens] = logits.softmax(-1).t().topk(4, -1);
  ASSERT_EQ(report.selected.size(), 1u);
  EXPECT_TRUE(at::equal(report.selected[0], tokens)) << report.selected[0];
  ASSERT_EQ(report.weights.size(), 1u);
  EXPECT_TRUE(at::allclose(report.weights[0], weights, 2e-6, 1e-6));
  EXPECT_TRUE(at::allclose(report.logits, logits, 2e-6, 1e-6));
}

// The reported ids are those that the table or the rule gives.
class HashRouting : public ::testing::TestWithParam<const char*> {};

TEST_P(HashRouting, ReportsTheIdsOfTheRule) {
  const at::Tensor table = at::arange(11, at::kLong).mul(5).remainder(kExperts);
  const std::string rule = GetParam();
  const jit::Module model = compile({.type = "Model",
                                     .parameters = {{"expert_weights", expert_weights()},
                                                    {"embedding", random_tensor({11, kHidden}, 3)},
                                                    {"gate", random_tensor({kExperts, kHidden}, 7)}},
                                     .buffers = {{"table", table}},
                                     .code = R"(
def forward(self, input_ids: Tensor) -> Tensor:
    h = torch.embedding(self.embedding, input_ids).view(-1, 8)
    ids = )" + rule + R"(
    scores = torch.softmax(torch.linear(h, self.gate), -1)
    weights = torch.gather(scores, 1, ids)
    outputs = torch.bmm(h.unsqueeze(1), self.expert_weights[ids.view(-1)]).squeeze(1)
    return (h + outputs * weights).view(input_ids.size(0), input_ids.size(1), 8)
)"});
  const at::Tensor input_ids = at::arange(kTokens, at::kLong).mul(3).remainder(11).view({kBatch, kSequence});
  const Instrumented twin = instrument(model, [](const Discovery&) { return describe_nothing(); });
  const at::Tensor plain = call(model, {input_ids});
  const Recording recording;
  EXPECT_TRUE(at::equal(call(twin.module, {input_ids}), plain));
  ASSERT_EQ(twin.discovery.hooks.size(), 1u) << printed(twin.discovery);
  EXPECT_EQ(twin.discovery.hooks[0].scoring, "hash");
  const CanonicalReport report = canonical(recording.forwards().at(0).routers.at(0), kTokens);
  const at::Tensor flat = input_ids.view({-1, 1});
  const at::Tensor expected = rule.find("table") == std::string::npos
                                  ? flat.remainder(kExperts)
                                  : table.index_select(0, flat.view(-1)).view({-1, 1});
  EXPECT_TRUE(at::equal(report.ids, expected)) << report.ids;
  const at::Tensor hidden = tensor_at(model, "embedding").index_select(0, flat.view(-1));
  const at::Tensor scores = at::linear(hidden, tensor_at(model, "gate")).softmax(-1);
  EXPECT_TRUE(at::allclose(report.weights, scores.gather(1, expected), 2e-6, 1e-6));
}

INSTANTIATE_TEST_SUITE_P(Discover, HashRouting,
                         ::testing::Values("self.table[input_ids.view(-1, 1)]",
                                           "torch.remainder(input_ids.view(-1, 1), 6)"));

// A router among what looks like routers is the only hook.
TEST(LookAlikeBesideRouter, LeavesTheRouterFound) {
  const jit::Module router = compile(block_source(softmax_patterns()[1].route, kMaskEachExpert));
  size_t listed = 0;
  for (const LookAlike& look_alike : look_alikes()) {
    if (look_alike.inputs[0].dim() != 3) continue;
    const jit::Module model =
        compile({.type = "Model", .modules = {{"other", compile(look_alike.source)}, {"block", router}}, .code = R"(
def forward(self, x: Tensor):
    x = self.block.forward(x)
    return x, self.other.forward(x)
)"});
    const Discovery discovery = discover(model);
    ASSERT_EQ(discovery.hooks.size(), 1u) << look_alike.name << ": " << printed(discovery);
    EXPECT_EQ(discovery.hooks[0].name, "block.gate") << look_alike.name;
    listed += discovery.skipped.size();
  }
  EXPECT_GT(listed, 5u);
}

class LookAlikes : public ::testing::TestWithParam<LookAlike> {};

TEST_P(LookAlikes, AreNotHooked) {
  const LookAlike& look_alike = GetParam();
  const jit::Module module = compile(look_alike.source);
  const Discovery discovery = discover(module);
  EXPECT_TRUE(discovery.hooks.empty()) << printed(discovery);
  EXPECT_TRUE(!look_alike.must_be_listed || !discovery.skipped.empty()) << printed(discovery);
  for (const SkippedSite& site : discovery.skipped) {
    EXPECT_FALSE(site.reason.empty());
    EXPECT_NE(site.node.find("aten::"), std::string::npos) << site.node;
    EXPECT_EQ(site.node.find('\n'), std::string::npos) << site.node;
  }
}

TEST_P(LookAlikes, Run) {
  const LookAlike& look_alike = GetParam();
  std::vector<c10::IValue> stack(look_alike.inputs.begin(), look_alike.inputs.end());
  EXPECT_NO_THROW(compile(look_alike.source).get_method("forward")(std::move(stack)));
}

INSTANTIATE_TEST_SUITE_P(Discover, LookAlikes, ::testing::ValuesIn(look_alikes()),
                         [](const auto& info) { return info.param.name; });
INSTANTIATE_TEST_SUITE_P(Unsupported, LookAlikes, ::testing::ValuesIn(unsupported_routers()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace moetap::hooks::testing
