#include "hooks/attention/find_attention.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/jit/passes/freeze_module.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "attention_spellings.h"
#include "hooks/instrument.h"

namespace moetap::hooks::testing {
namespace {

namespace jit = torch::jit;

constexpr auto kBoth = HookKinds::kRoutersAndAttention;

at::Tensor keep_of_a_batch() {
  at::Tensor keep = at::ones({kBatch, kSequence}, at::kLong);
  keep[1].slice(0, 3).fill_(0);
  keep[2].slice(0, 4).fill_(0);
  return keep;
}

// [batch, heads, queries, last], read as hooks/points/operator_schemas.h says.
at::Tensor laid_out(at::Tensor value, std::string layout, int64_t merged_heads) {
  EXPECT_EQ(static_cast<size_t>(value.dim()), layout.size());
  if (const size_t merged = layout.find('m'); merged != std::string::npos) {
    value = value.unflatten(static_cast<int64_t>(merged), {-1, merged_heads});
    layout.replace(merged, 1, "bh");
  }
  const bool groups = layout.find('g') != std::string::npos;
  std::vector<int64_t> order;
  std::vector<int64_t> missing;
  const std::string wanted = groups ? "bgrqk" : "bhqk";
  for (size_t i = 0; i < wanted.size(); ++i) {
    const size_t at = layout.find(wanted[i]);
    if (at == std::string::npos)
      missing.push_back(static_cast<int64_t>(i));
    else
      order.push_back(static_cast<int64_t>(at));
  }
  value = value.permute(order);
  for (const int64_t place : missing) value = value.unsqueeze(place);
  return groups ? value.flatten(1, 2) : value;
}

at::Tensor probabilities_of(const AttentionReport& report) {
  if (report.probabilities.defined()) return laid_out(report.probabilities, report.layout, report.num_heads);
  const at::Tensor query = laid_out(report.query, report.layout, report.num_heads);
  at::Tensor key = laid_out(report.key, report.layout, report.num_heads);
  key = key.repeat_interleave(query.size(1) / key.size(1), 1);
  const double scale = report.scale.value_or(1 / std::sqrt(static_cast<double>(query.size(-1))));
  at::Tensor scores = at::matmul(query, key.transpose(-2, -1)) * scale;
  if (report.causal) {
    scores = scores.masked_fill(at::ones({scores.size(-2), scores.size(-1)}, at::kBool).triu(1),
                                -std::numeric_limits<double>::infinity());
  }
  if (report.mask.defined()) {
    scores = report.mask.scalar_type() == at::kBool
                 ? scores.masked_fill(report.mask.logical_not(), -std::numeric_limits<double>::infinity())
                 : scores + report.mask;
  }
  return scores.softmax(-1);
}

std::vector<HookPoint> attention_of(const Discovery& discovery) {
  std::vector<HookPoint> hooks;
  std::copy_if(discovery.hooks.begin(), discovery.hooks.end(), std::back_inserter(hooks),
               [](const HookPoint& hook) { return hook.kind == HookKind::kAttention; });
  return hooks;
}

jit::Module twin_of(const jit::Module& model) {
  return instrument(
             model, [](const Discovery&) { return std::string(); }, {}, {}, kBoth)
      .module;
}

class AttentionSpellings : public ::testing::TestWithParam<AttentionSpelling> {
 protected:
  void expect_probabilities(const jit::Module& model, const at::Tensor& expected) {
    const std::vector<at::Tensor> inputs = {x_, keep_};
    at::manual_seed(3);
    const at::Tensor plain = call(model, inputs);
    const jit::Module twin = twin_of(model);
    for (int run = 1; run <= 3; ++run) {
      const Recording recording;
      at::manual_seed(3);
      EXPECT_TRUE(at::equal(call(twin, inputs), plain)) << "run " << run;
      const auto forwards = recording.forwards();
      ASSERT_EQ(forwards.size(), 1u);
      ASSERT_EQ(forwards[0].attentions.size(), 1u) << "run " << run;
      const AttentionReport& report = forwards[0].attentions[0];
      EXPECT_TRUE(at::allclose(probabilities_of(report), expected, 1e-5, 1e-6)) << "run " << run;
      if (report.scores.defined()) {
        EXPECT_EQ(report.scores.sizes(), report.probabilities.sizes());
      }
      const bool gives_log_sums =
          std::string_view(GetParam().code).find("_flash_attention_for_cpu") != std::string::npos;
      EXPECT_EQ(report.log_sum_exp.defined(), gives_log_sums);
      if (gives_log_sums) {
        EXPECT_EQ(report.log_sum_exp.sizes(), report.query.sizes().slice(0, 3));
      }
    }
  }

  const at::Tensor x_ = random_input();
  const at::Tensor keep_ = keep_of_a_batch();
};

TEST_P(AttentionSpellings, IsFoundOnceWithItsLayout) {
  const auto hooks = attention_of(discover(model_of(GetParam()), {}, {}, kBoth));
  ASSERT_EQ(hooks.size(), 1u);
  EXPECT_EQ(hooks[0].name, "attn");
  EXPECT_EQ(hooks[0].implementation, GetParam().implementation);
  EXPECT_TRUE(hooks[0].self_attention);
  ASSERT_TRUE(hooks[0].tokens.known);
  ASSERT_TRUE(hooks[0].key_tokens.known);
  for (const TokenLayout* layout : {&hooks[0].tokens, &hooks[0].key_tokens}) {
    ASSERT_EQ(layout->dims.size(), 2u);
    const TokenDim* batch = &layout->dims[0];
    const TokenDim* sequence = &layout->dims[1];
    if (batch->role != TokenDimRole::kBatch) std::swap(batch, sequence);
    EXPECT_EQ(batch->role, TokenDimRole::kBatch);
    EXPECT_EQ(batch->arguments.at(0), (ArgumentDim{0, 0, 3}));
    EXPECT_EQ(sequence->arguments.at(0), (ArgumentDim{0, 1, 3}));
  }
}

TEST_P(AttentionSpellings, ReportsTheProbabilitiesThatAreApplied) {
  const jit::Module model = model_of(GetParam());
  const at::Tensor expected = expected_probabilities(GetParam(), model, x_, keep_);
  expect_probabilities(model, expected);
  const jit::Module twin = twin_of(model);
  const Recording recording;
  call(twin, {x_, keep_});
  const AttentionReport report = recording.forwards().at(0).attentions.at(0);
  if (report.probabilities.defined()) {
    EXPECT_EQ(report.layout, GetParam().layout);
    EXPECT_EQ(report.scores.defined(), GetParam().facts.has_scores);
  }
}

TEST_P(AttentionSpellings, IsFoundInAFrozenModel) {
  const jit::Module model = model_of(GetParam());
  const at::Tensor expected = expected_probabilities(GetParam(), model, x_, keep_);
  jit::Module evaluated = model.deepcopy();
  evaluated.eval();
  const jit::Module frozen = jit::freeze_module(evaluated);
  const auto hooks = attention_of(discover(frozen, {}, {}, kBoth));
  ASSERT_EQ(hooks.size(), 1u);
  EXPECT_EQ(hooks[0].name, "order.0");
  expect_probabilities(frozen, expected);
}

TEST_P(AttentionSpellings, IsLeftAloneWhereOnlyRoutersAreLookedFor) {
  EXPECT_TRUE(discover(model_of(GetParam())).hooks.empty());
}

INSTANTIATE_TEST_SUITE_P(Attention, AttentionSpellings, ::testing::ValuesIn(attention_spellings()),
                         [](const auto& info) { return std::string(info.param.name); });

class AttentionLookAlikes : public ::testing::TestWithParam<AttentionLookAlike> {};

TEST_P(AttentionLookAlikes, AreNotHookedAndListedWithTheirReason) {
  const Discovery found = discover(model_of(GetParam()), {}, {}, kBoth);
  EXPECT_TRUE(attention_of(found).empty());
  std::vector<std::string> reasons;
  for (const SkippedSite& site : found.skipped) {
    if (site.kind == HookKind::kAttention) reasons.push_back(site.reason);
  }
  const std::string reason = GetParam().reason;
  EXPECT_EQ(reasons, reason.empty() ? std::vector<std::string>() : std::vector<std::string>{reason});
}

INSTANTIATE_TEST_SUITE_P(Attention, AttentionLookAlikes, ::testing::ValuesIn(attention_look_alikes()),
                         [](const auto& info) { return std::string(info.param.name); });

jit::Module model_with(const std::string& arguments, const std::string& passed, const std::string& code) {
  AttentionSpelling spelling{"", "", "", code.c_str()};
  const jit::Module attention = model_of(spelling).attr("attn").toModule();
  return compile(
      {.type = "Model",
       .modules = {{"attn", attention}},
       .code = "\ndef forward(self, " + arguments + ") -> Tensor:\n    return self.attn.forward(" + passed + ")\n"});
}

TEST(FindAttention, TellsCrossAttentionFromSelfAttention) {
  const jit::Module model =
      model_with("x: Tensor, other: Tensor", "torch.layer_norm(x, [8]), torch.layer_norm(other, [8])", R"(
def forward(self, x: Tensor, other: Tensor) -> Tensor:
    q, k = self.heads(torch.linear(x, self.wq)), self.heads(torch.linear(other, self.wk))
    v = self.heads(torch.linear(other, self.wv))
    return self.joined(torch.scaled_dot_product_attention(q, k, v))
)");
  const auto hooks = attention_of(discover(model, {}, {}, kBoth));
  ASSERT_EQ(hooks.size(), 1u);
  EXPECT_FALSE(hooks[0].self_attention);
  EXPECT_EQ(hooks[0].tokens.dims.at(1).arguments.at(0), (ArgumentDim{0, 1, 3}));
  EXPECT_EQ(hooks[0].key_tokens.dims.at(1).arguments.at(0), (ArgumentDim{1, 1, 3}));
}

TEST(FindAttention, SeesTheQueriesBesideACache) {
  const jit::Module model =
      model_with("x: Tensor, cache: Tensor", "torch.layer_norm(x, [8]), torch.layer_norm(cache, [8])", R"(
def forward(self, x: Tensor, cache: Tensor) -> Tensor:
    h = torch.cat([cache, x], 1)
    q, k = self.heads(torch.linear(x, self.wq)), self.heads(torch.linear(h, self.wk))
    v = self.heads(torch.linear(h, self.wv))
    return self.joined(torch.matmul(torch.softmax(torch.matmul(q, k.transpose(-2, -1)), -1), v))
)");
  const auto hooks = attention_of(discover(model, {}, {}, kBoth));
  ASSERT_EQ(hooks.size(), 1u);
  EXPECT_TRUE(hooks[0].self_attention);
  ASSERT_EQ(hooks[0].key_tokens.dims.size(), 2u);
  EXPECT_EQ(hooks[0].key_tokens.dims[1].parts.size(), 2u);
}

// A module that gets query, key and value, and only attends: fused or written out.
jit::Module attends_only(bool fused) {
  return compile({.type = "Core",
                  .code = fused ? R"(
def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.scaled_dot_product_attention(q, k, v)
)"
                                : R"(
def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.matmul(torch.softmax(torch.matmul(q, k.transpose(-2, -1)) * 0.5, -1), v)
)"});
}

HookPoint around_core(bool fused, const std::string& code) {
  const jit::Module model = compile({.type = "Model",
                                     .parameters = {{"wq", random_tensor({kHidden, kHidden}, 1)},
                                                    {"wk", random_tensor({kHidden, kHidden}, 2)},
                                                    {"wv", random_tensor({kHidden, kHidden}, 3)}},
                                     .modules = {{"core", attends_only(fused)}},
                                     .code = R"(
def heads(self, t: Tensor) -> Tensor:
    return t.view(t.size(0), t.size(1), 2, -1).transpose(1, 2)
)" + code});
  const auto hooks = attention_of(discover(model, {}, {}, kBoth));
  EXPECT_EQ(hooks.size(), 1u);
  return hooks.empty() ? HookPoint() : hooks[0];
}

TEST(FindAttention, SeesThroughAModuleThatOnlyAttends) {
  for (const bool fused : {false, true}) {
    const HookPoint cached = around_core(fused, R"(
def forward(self, x: Tensor, past_k: Tensor, past_v: Tensor) -> Tensor:
    h = torch.layer_norm(x, [8])
    k = torch.cat([past_k, self.heads(torch.linear(h, self.wk))], 2)
    v = torch.cat([past_v, self.heads(torch.linear(h, self.wv))], 2)
    return self.core.forward(self.heads(torch.linear(h, self.wq)), k, v)
)");
    EXPECT_EQ(cached.name, "core");
    EXPECT_TRUE(cached.self_attention) << fused;
    const HookPoint crossed = around_core(fused, R"(
def forward(self, x: Tensor, other: Tensor) -> Tensor:
    h, encoded = torch.layer_norm(x, [8]), torch.layer_norm(other, [8])
    k, v = self.heads(torch.linear(encoded, self.wk)), self.heads(torch.linear(encoded, self.wv))
    return self.core.forward(self.heads(torch.linear(h, self.wq)), k, v)
)");
    EXPECT_FALSE(crossed.self_attention) << fused;
    const HookPoint in_two_steps = around_core(fused, R"(
def forward(self, x: Tensor, past: Tensor) -> Tensor:
    h = torch.layer_norm(x, [8])
    latent = torch.linear(h, self.wv)
    q = self.heads(torch.linear(torch.layer_norm(torch.linear(h, self.wq), [8]), self.wq))
    k = torch.cat([past, self.heads(torch.linear(torch.layer_norm(latent, [8]), self.wk))], 2)
    return self.core.forward(q, k, k)
)");
    EXPECT_TRUE(in_two_steps.self_attention) << fused;
  }
}

TEST(FindAttention, AMaskOverTheKeysDoesNotTellWhatTheyAre) {
  const std::string begin = R"(
def heads(self, t: Tensor) -> Tensor:
    return t.view(t.size(0), t.size(1), 2, -1).transpose(1, 2)

def forward(self, x: Tensor, other: Tensor, mask: Tensor) -> Tensor:
    x, other = torch.layer_norm(x, [8]), torch.layer_norm(other, [8])
)";
  const std::string end = R"(
    q, k = self.heads(torch.linear(x, self.wq)), self.heads(torch.linear(h, self.wk))
    v = self.heads(torch.linear(h, self.wv))
    seen = torch.tril(torch.ones([x.size(1), h.size(1)]), h.size(1) - x.size(1))
    keep = torch.gt(mask.reshape(x.size(0), 1, 1, h.size(1)) * seen, 0)
    scores = torch.masked_fill(torch.matmul(q, k.transpose(-2, -1)), torch.logical_not(keep), -10000.0)
    return torch.matmul(torch.softmax(scores, -1), v)
)";
  for (const bool is_cache : {true, false}) {
    const jit::Module model =
        compile({.type = "Model",
                 .parameters = {{"wq", random_tensor({kHidden, kHidden}, 1)},
                                {"wk", random_tensor({kHidden, kHidden}, 2)},
                                {"wv", random_tensor({kHidden, kHidden}, 3)}},
                 .code = begin + (is_cache ? "    h = torch.cat([other, x], 1)" : "    h = other") + end});
    const auto hooks = attention_of(discover(model, {}, {}, kBoth));
    ASSERT_EQ(hooks.size(), 1u) << is_cache;
    EXPECT_EQ(hooks[0].self_attention, is_cache);
  }
}

TEST(FindAttention, ARotationThatQueryAndKeyShareTellsNothing) {
  const std::string arguments = "x: Tensor, other: Tensor, past: Tensor, positions: Tensor";
  for (const char* angles :
       {"torch.cos(positions.unsqueeze(-1) * self.frequencies).unsqueeze(1)", "self.table[positions].unsqueeze(1)"}) {
    for (const char* rotated : {"cos * t", "t * cos", "cos * t + cos * torch.flip(t, [-1])"}) {
      for (const bool is_self : {true, false}) {
        const std::string code = R"(
def heads(self, t: Tensor) -> Tensor:
    return t.view(t.size(0), t.size(1), 2, -1).transpose(1, 2)

def rotated(self, t: Tensor, cos: Tensor) -> Tensor:
    return )" + std::string(rotated) +
                                 R"(

def forward(self, )" + arguments +
                                 R"() -> Tensor:
    h = torch.layer_norm(x, [8])
    encoded = )" + (is_self ? "h" : "torch.layer_norm(other, [8])") +
                                 R"(
    cos = )" + angles + R"(
    q = self.rotated(self.heads(torch.linear(h, self.wq)), cos)
    k = self.rotated(self.heads(torch.linear(encoded, self.wk)), cos)
    k = torch.cat([past, k], 2)
    return torch.matmul(torch.softmax(torch.matmul(q, k.transpose(-2, -1)), -1), k)
)";
        const jit::Module model = compile(
            {.type = "Model",
             .parameters = {{"wq", random_tensor({kHidden, kHidden}, 1)}, {"wk", random_tensor({kHidden, kHidden}, 2)}},
             .buffers = {{"frequencies", random_tensor({4}, 3)}, {"table", random_tensor({9, 4}, 4)}},
             .code = code});
        const auto hooks = attention_of(discover(model, {}, {}, kBoth));
        ASSERT_EQ(hooks.size(), 1u) << code;
        EXPECT_EQ(hooks[0].self_attention, is_self) << angles << "; " << rotated;
      }
    }
  }
}

TEST(FindAttention, CountsTheCallsOfAModule) {
  AttentionSpelling spelling = attention_spellings()[0];
  const jit::Module attention = model_of(spelling).attr("attn").toModule();
  const jit::Module model = compile({.type = "Model", .modules = {{"attn", attention}}, .code = R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    return self.attn.forward(self.attn.forward(torch.layer_norm(x, [8]), keep), keep)
)"});
  const auto hooks = attention_of(discover(model, {}, {}, kBoth));
  ASSERT_EQ(hooks.size(), 2u);
  EXPECT_EQ(hooks[0].name, "attn");
  EXPECT_EQ(hooks[1].name, "attn#1");
}

TEST(FindAttention, TellsHeadsOfQueriesAndKeys) {
  for (const AttentionSpelling& spelling : attention_spellings()) {
    const auto hooks = attention_of(discover(model_of(spelling), {}, {}, kBoth));
    ASSERT_EQ(hooks.size(), 1u) << spelling.name;
    EXPECT_EQ(hooks[0].num_heads, spelling.facts.heads) << spelling.name;
    if (hooks[0].num_key_heads) {
      EXPECT_EQ(hooks[0].num_key_heads, spelling.facts.key_heads) << spelling.name;
    }
  }
}

}  // namespace
}  // namespace moetap::hooks::testing
