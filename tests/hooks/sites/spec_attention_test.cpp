// What hook specs say of attention: what they add, change and leave out, and their errors when they do not fit.
#include "hooks/sites/spec_attention.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/jit/passes/freeze_module.h>

#include <algorithm>
#include <cmath>

#include "hooks/instrument.h"
#include "tests/hooks/attention/attention_spellings.h"

namespace moetap::hooks::testing {
namespace {

namespace jit = torch::jit;

constexpr auto kBoth = HookKinds::kRoutersAndAttention;

HookSpecEntry entry(const std::string& module) {
  HookSpecEntry entry;
  entry.module = module;
  entry.kind = HookKind::kAttention;
  return entry;
}

HookSpec spec_of(std::vector<HookSpecEntry> entries) {
  return {"spec.json", std::move(entries)};
}

ValueReference named(ValueReference::Kind kind, const std::string& target) {
  ValueReference reference;
  reference.kind = kind;
  reference.target = target;
  return reference;
}

ValueReference variable(const std::string& name) {
  return named(ValueReference::Kind::kVariable, name);
}

ValueReference op(const std::string& name, std::optional<int64_t> occurrence = std::nullopt) {
  ValueReference reference = named(ValueReference::Kind::kOperator, name);
  reference.occurrence = occurrence;
  return reference;
}

/// A model that computes attention as `code` says, which may call `self.projected(x)` and `self.joined(y)`.
jit::Module model_of(const std::string& code) {
  AttentionSpelling spelling{"", "", "", code.c_str()};
  return testing::model_of(spelling);
}

/// Attention that discovery does not see: no product of matrices makes the scores.
const char* const kSummed = R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    q, k, v = self.projected(x)
    scores = (q.unsqueeze(3) * k.unsqueeze(2)).sum(-1) * 0.5
    p = torch.softmax(scores, -1)
    return self.joined(torch.matmul(p, v))
)";

const char* const kFused = R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    q, k, v = self.projected(x)
    return self.joined(torch.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.5))
)";

std::vector<HookPoint> attention_of(const Discovery& discovery) {
  std::vector<HookPoint> hooks;
  std::copy_if(discovery.hooks.begin(), discovery.hooks.end(), std::back_inserter(hooks),
               [](const HookPoint& hook) { return hook.kind == HookKind::kAttention; });
  return hooks;
}

HookPoint only_hook(const jit::Module& model, const HookSpec& spec) {
  const auto hooks = attention_of(discover(model, {}, spec, kBoth));
  EXPECT_EQ(hooks.size(), 1u);
  return hooks.empty() ? HookPoint() : hooks[0];
}

/// What the attention of the twin reports, after its outputs were compared with the plain model's four times.
AttentionReport only_report(const jit::Module& model, const HookSpec& spec) {
  const std::vector<at::Tensor> inputs = {random_input(), at::ones({kBatch, kSequence}, at::kLong)};
  const jit::Module twin = instrument(
                               model, [](const Discovery&) { return describe_nothing(); }, {}, spec, kBoth)
                               .module;
  AttentionReport report;
  for (int run = 1; run <= 4; ++run) {
    const Recording recording;
    EXPECT_TRUE(at::equal(call(twin, inputs), call(model, inputs))) << "run " << run;
    const auto forwards = recording.forwards();
    if (forwards.size() != 1 || forwards[0].attentions.size() != 1) {
      ADD_FAILURE() << "the hook did not report once";
      return report;
    }
    report = forwards[0].attentions[0];
  }
  return report;
}

at::Tensor heads(const jit::Module& model, const char* weight) {
  const at::Tensor x = at::layer_norm(random_input(), {kHidden});
  return at::linear(x, model.attr("attn").toModule().attr(weight).toTensor())
      .view({kBatch, kSequence, 2, -1})
      .transpose(1, 2);
}

at::Tensor probabilities(const jit::Module& model) {
  return (at::matmul(heads(model, "wq"), heads(model, "wk").transpose(-2, -1)) * 0.5).softmax(-1);
}

HookSpecEntry query_and_key() {
  HookSpecEntry said = entry("attn");
  said.attention.query = op("transpose", 0);
  said.attention.key = op("transpose", 1);
  return said;
}

TEST(SpecAttention, NamesProbabilities) {
  const jit::Module model = model_of(kSummed);
  EXPECT_TRUE(discover(model, {}, {}, kBoth).hooks.empty());
  HookSpecEntry said = entry("attn");
  said.layer = "7";
  said.attention.probabilities = op("softmax");
  said.attention.scores = variable("scores");
  const HookPoint hook = only_hook(model, spec_of({said}));
  EXPECT_EQ(hook.name, "attn");
  EXPECT_EQ(hook.layer, "7");
  EXPECT_EQ(hook.implementation, "named");
  EXPECT_EQ(hook.num_heads, 2);
  ASSERT_TRUE(hook.tokens.known);
  EXPECT_EQ(hook.tokens.dims.at(1).arguments.at(0), (ArgumentDim{0, 1, 3}));
  EXPECT_TRUE(hook.self_attention);
  const AttentionReport report = only_report(model, spec_of({said}));
  EXPECT_TRUE(at::allclose(report.probabilities, probabilities(model), 1e-5, 1e-6));
  EXPECT_TRUE(at::allclose(report.scores.softmax(-1), report.probabilities, 1e-5, 1e-6));
  EXPECT_EQ(report.layout, "bhqk");
  EXPECT_FALSE(report.query.defined());
}

TEST(SpecAttention, NamesQueryAndKey) {
  const jit::Module model = model_of(kSummed);
  HookSpecEntry said = query_and_key();
  said.attention.scale = 0.5;
  said.attention.implementation = "summed";
  said.attention.num_key_heads = 1;
  said.attention.self_attention = false;
  const HookPoint hook = only_hook(model, spec_of({said}));
  EXPECT_EQ(hook.implementation, "summed");
  EXPECT_EQ(hook.num_heads, 2);
  EXPECT_EQ(hook.num_key_heads, 1);
  EXPECT_FALSE(hook.self_attention);
  EXPECT_TRUE(only_hook(model, spec_of({query_and_key()})).self_attention);
  const AttentionReport report = only_report(model, spec_of({said}));
  EXPECT_TRUE(at::equal(report.query, heads(model, "wq")));
  EXPECT_TRUE(at::equal(report.key, heads(model, "wk")));
  EXPECT_EQ(report.scale, 0.5);
  EXPECT_FALSE(report.causal);
  EXPECT_FALSE(report.mask.defined());
  EXPECT_FALSE(report.probabilities.defined());
}

TEST(SpecAttention, NamesAMaskThatMayBeNone) {
  const jit::Module attention = testing::model_of(AttentionSpelling{"", "", "", R"(
def forward(self, x: Tensor, keep: Optional[Tensor]) -> Tensor:
    q, k, v = self.projected(x)
    return self.joined(torch.matmul(torch.softmax((q.unsqueeze(3) * k.unsqueeze(2)).sum(-1), -1), v))
)"})
                                    .attr("attn")
                                    .toModule();
  const jit::Module model = compile({.type = "Model", .modules = {{"attn", attention}}, .code = R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    return self.attn.forward(torch.layer_norm(x, [8]), keep)
)"});
  HookSpecEntry said = query_and_key();
  said.attention.causal = true;
  said.attention.mask = named(ValueReference::Kind::kInputOf, "");
  said.attention.mask->argument = 1;
  const AttentionReport report = only_report(model, spec_of({said}));
  EXPECT_TRUE(report.causal);
  EXPECT_EQ(report.mask.sizes(), (at::IntArrayRef{kBatch, kSequence}));
}

TEST(SpecAttention, NamesHeadsBesideTheBatch) {
  const jit::Module model = model_of(R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    q, k, v = self.projected(x)
    q, k = q.flatten(0, 1), k.flatten(0, 1)
    p = torch.softmax((q.unsqueeze(2) * k.unsqueeze(1)).sum(-1) * 0.5, -1)
    return self.joined(torch.matmul(p.view(x.size(0), 2, x.size(1), x.size(1)), v))
)");
  HookSpecEntry said = entry("attn");
  said.attention.probabilities = op("softmax");
  said.attention.layout = "mqk";
  said.attention.num_heads = 2;
  EXPECT_EQ(only_hook(model, spec_of({said})).num_heads, 2);
  const AttentionReport report = only_report(model, spec_of({said}));
  EXPECT_EQ(report.layout, "mqk");
  EXPECT_EQ(report.num_heads, 2);
  EXPECT_TRUE(
      at::allclose(report.probabilities.view({kBatch, 2, kSequence, kSequence}), probabilities(model), 1e-5, 1e-6));
}

TEST(SpecAttention, ChangesWhatWasFound) {
  const jit::Module model = model_of(kFused);
  HookSpecEntry said = entry("attn");
  said.name = "other";
  said.component = "vision_tower";
  said.attention.scale = 2;
  said.attention.causal = false;
  const HookPoint hook = only_hook(model, spec_of({said}));
  EXPECT_EQ(hook.name, "other");
  EXPECT_EQ(hook.component, "vision_tower");
  EXPECT_EQ(hook.implementation, "sdpa");
  const AttentionReport report = only_report(model, spec_of({said}));
  EXPECT_EQ(report.scale, 2);
  EXPECT_FALSE(report.causal);
  EXPECT_TRUE(at::equal(report.query, heads(model, "wq")));
  EXPECT_FALSE(report.output.defined());  // it belongs to another scale
}

TEST(SpecAttention, ReadsArgumentsOfTheModel) {
  const jit::Module model = compile({.type = "Model", .code = R"(
def forward(self, q: Tensor, k: Tensor) -> Tensor:
    return torch.softmax((q.unsqueeze(2) * k.unsqueeze(1)).sum(-1), -1)
)"});
  HookSpecEntry said = entry("");
  said.name = "all";
  said.attention.layout = "bqk";
  said.attention.query = named(ValueReference::Kind::kInputOf, "");
  said.attention.query->argument_name = "q";
  said.attention.key = named(ValueReference::Kind::kInputOf, "");
  said.attention.key->argument_name = "k";
  const HookSpec spec = spec_of({said});
  EXPECT_FALSE(only_hook(model, spec).self_attention);
  const jit::Module twin = instrument(
                               model, [](const Discovery&) { return describe_nothing(); }, {}, spec, kBoth)
                               .module;
  const at::Tensor q = random_tensor({2, 3, 4}, 1), k = random_tensor({2, 5, 4}, 2);
  const Recording recording;
  EXPECT_TRUE(at::equal(call(twin, {q, k}), call(model, {q, k})));
  const AttentionReport report = recording.forwards().at(0).attentions.at(0);
  EXPECT_TRUE(at::equal(report.query, q));
  EXPECT_TRUE(at::equal(report.key, k));
}

TEST(SpecAttention, LeavesOutAttentionAndNothingElse) {
  const jit::Module model = model_of(kFused);
  HookSpecEntry said = entry("attn");
  said.skip = true;
  const Discovery found = discover(model, {}, spec_of({said}), kBoth);
  EXPECT_TRUE(found.hooks.empty());
  ASSERT_EQ(found.skipped.size(), 1u);
  EXPECT_EQ(found.skipped[0].reason, "skipped by the hook spec");
  EXPECT_EQ(found.skipped[0].kind, HookKind::kAttention);
}

TEST(SpecAttention, WhatIsNamedIsNotListedAsSkipped) {
  for (const AttentionLookAlike& look_alike : attention_look_alikes()) {
    if (std::string(look_alike.name) != "heads_before_the_batch_in_one_dimension") continue;
    const jit::Module model = testing::model_of(look_alike);
    EXPECT_EQ(discover(model, {}, {}, kBoth).skipped.size(), 1u);
    HookSpecEntry whole = entry("attn");
    whole.attention.probabilities = op("softmax");
    whole.attention.layout = "bqk";  // wrong, but the graph does not tell
    HookSpecEntry parts = entry("attn");
    parts.attention.query = op("cat", 0);
    parts.attention.key = op("cat", 1);
    parts.attention.layout = "bqk";
    whole.method = parts.method = "forward";
    for (const HookSpecEntry& said : {whole, parts}) {
      const Discovery found = discover(model, {}, spec_of({said}), kBoth);
      EXPECT_EQ(found.hooks.size(), 1u);
      EXPECT_TRUE(found.skipped.empty());
    }
  }
}

TEST(SpecAttention, IsCheckedWhereOnlyRoutersAreRecorded) {
  const jit::Module model = model_of(kSummed);
  EXPECT_TRUE(discover(model, {}, spec_of({query_and_key()})).hooks.empty());
  HookSpecEntry wrong = query_and_key();
  wrong.attention.key = op("transpose", 9);
  EXPECT_THROW(discover(model, {}, spec_of({wrong})), HookSpecError);
}

TEST(SpecAttention, NamesValuesOfAFrozenModel) {
  jit::Module evaluated = model_of(kSummed).deepcopy();
  evaluated.eval();
  const jit::Module frozen = jit::freeze_module(evaluated);
  HookSpecEntry said = entry("");
  said.name = "attn";
  said.attention.probabilities = op("softmax");
  EXPECT_EQ(only_hook(frozen, spec_of({said})).name, "attn");
  const AttentionReport report = only_report(frozen, spec_of({said}));
  EXPECT_TRUE(at::allclose(report.probabilities, probabilities(model_of(kSummed)), 1e-5, 1e-6));
}

struct Misfit {
  const char* name;
  HookSpecEntry said;
  const char* code;
  std::vector<const char*> parts;
};

void PrintTo(const Misfit& misfit, std::ostream* stream) {
  *stream << misfit.name;
}

std::vector<Misfit> misfits() {
  std::vector<Misfit> all;
  HookSpecEntry said = entry("attn");
  said.layer = "1";
  all.push_back({"nothing_found", said, kSummed, {"where no attention was found", "query and key"}});
  said = entry("attn");
  said.attention.query = variable("q");
  all.push_back({"key_missing", said, kSummed, {"no attention was found in attn", "query and key"}});
  said = query_and_key();
  said.attention.key = variable("keys");
  all.push_back({"no_such_variable", said, kSummed, {"key in attn", "no variable \"keys\"", "nearest"}});
  said = query_and_key();
  said.attention.layout = "bqk";
  all.push_back({"layout", said, kSummed, {"query in attn", "3 dimensions of the layout \"bqk\"", "got 4"}});
  said = query_and_key();
  said.attention.layout = "mhqk";
  all.push_back({"merged_heads", said, kSummed, {"layout \"mhqk\"", "say num_heads"}});
  said = entry("attn");
  said.attention.scores = variable("q");
  all.push_back({"scores_of_fused", said, kFused, {"scores in attn go with probabilities"}});
  said = entry("attn");
  said.attention.mask = variable("keep");
  all.push_back({"mask_of_written",
                 said,
                 R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    q, k, v = self.projected(x)
    return self.joined(torch.matmul(torch.softmax(torch.matmul(q, k.mT), -1), v))
)",
                 {"writes out the attention in attn", "mask, scale and causal"}});
  said = entry("attn");
  said.attention.probabilities = op("softmax", 0);
  all.push_back({"in_a_branch",
                 [] {
                   HookSpecEntry branch = query_and_key();
                   branch.attention.query = op("add", 1);
                   branch.attention.key = op("relu");
                   return branch;
                 }(),
                 R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    q, k, v = self.projected(x)
    if bool(keep.sum() > 0):
        v = v + torch.relu(k)
    q = q + v.mean()
    return self.joined(q)
)",
                 {"computed in a branch, loop or fork"}});
  return all;
}

class SpecAttentionMisfits : public ::testing::TestWithParam<Misfit> {};

TEST_P(SpecAttentionMisfits, AreNamedInOneLine) {
  try {
    discover(model_of(GetParam().code), {}, spec_of({GetParam().said}), kBoth);
    FAIL() << "the spec fits";
  } catch (const HookSpecError& error) {
    const std::string what = error.what();
    EXPECT_EQ(what.find('\n'), std::string::npos) << what;
    EXPECT_TRUE(what.starts_with("spec.json: entry 0: ")) << what;
    for (const char* part : GetParam().parts) {
      EXPECT_NE(what.find(part), std::string::npos) << part << "\nin: " << what;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(SpecAttention, SpecAttentionMisfits, ::testing::ValuesIn(misfits()),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace moetap::hooks::testing
