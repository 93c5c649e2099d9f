// An attention hook that is given the right values is proven; one that a hook spec gives wrong ones is refuted.
#include "plugin/verify/attention_proof.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "hooks/instrument.h"
#include "plugin/records/hook_spec_json.h"
#include "plugin/records/model_description_json.h"
#include "plugin/verify/token_proof.h"

namespace moetap::plugin {
namespace {

using Proof = std::map<std::string, Check>;

constexpr int64_t kBatch = 2, kLength = 6, kHeads = 2;

// From q, k, v [B, H, S, 4] and keep, bool [B, 1, S, S], to out [B, H, S, 4].
constexpr const char* kEager = R"(
        scores = torch.matmul(q, k.transpose(2, 3)) * 0.7
        closed = torch.masked_fill(scores, torch.logical_not(keep), -10000.0)
        out = torch.matmul(torch.softmax(closed, -1), v)
)";
constexpr const char* kEinsum = R"(
        scores = torch.einsum("bhqd,bhkd->bhqk", [q, k]) * 0.7
        closed = torch.masked_fill(scores, torch.logical_not(keep), -10000.0)
        out = torch.einsum("bhqk,bhkd->bhqd", [torch.softmax(closed, -1), v])
)";
constexpr const char* kFused = R"(
        out = torch.scaled_dot_product_attention(q, k, v, keep, 0.0, False, scale=0.7)
)";
constexpr const char* kTurnedQuery = R"(
        turned = torch.flip(q, [-1])
        out = torch.scaled_dot_product_attention(turned, k, v, keep)
)";
constexpr const char* kMaskedLater = R"(
        everywhere = torch.softmax(torch.matmul(q, k.transpose(2, 3)), -1)
        seen = everywhere * keep.to(q.dtype)
        out = torch.matmul(seen, v)
)";
constexpr const char* kNormalisedLater = R"(
        scores = torch.masked_fill(torch.matmul(q, k.transpose(2, 3)), torch.logical_not(keep), -10000.0)
        raw = torch.exp(scores) * 0.01
        out = torch.matmul(raw / torch.sum(raw, -1, True), v)
)";

// Half precision before the float32 softmax, behind it, or both. 15 is bfloat16, 6 float32.
constexpr const char* kCastBehind = R"(
        closed = torch.masked_fill(torch.matmul(q, k.transpose(2, 3)), torch.logical_not(keep), -10000.0)
        shares = torch.softmax(closed, -1).to(15)
        out = torch.matmul(shares, v.to(15)).to(q.dtype)
)";
constexpr const char* kCastAround = R"(
        half_q, half_k, half_v = q.to(15), k.to(15), v.to(15)
        closed = torch.masked_fill(torch.matmul(half_q, half_k.transpose(2, 3)), torch.logical_not(keep), -10000.0)
        shares = torch.softmax(closed, -1, dtype=6).to(15)
        out = torch.matmul(shares, half_v).to(q.dtype)
)";
constexpr const char* kCastOperator = R"(
        half_q, half_k, half_v = q.to(15), k.to(15), v.to(15)
        out = torch.scaled_dot_product_attention(half_q, half_k, half_v, keep).to(q.dtype)
)";

/// forward(input_ids [B, S], attention_mask [B, S]) -> [B, S, 8], with an attention in the module `attn`.
torch::jit::Module model_with(const std::string& body) {
  at::manual_seed(11);
  torch::jit::Module attention("Attention");
  for (const char* name : {"query", "key", "value"}) {
    attention.register_parameter(name, at::randn({8, 8}) * 0.7, /*is_buffer=*/false);
  }
  attention.define(R"(
    def forward(self, x, attention_mask):
        batch, length = x.size(0), x.size(1)
        q = torch.linear(x, self.query).reshape(batch, length, 2, 4).transpose(1, 2)
        k = torch.linear(x, self.key).reshape(batch, length, 2, 4).transpose(1, 2)
        v = torch.linear(x, self.value).reshape(batch, length, 2, 4).transpose(1, 2)
        seen = torch.tril(torch.ones([length, length]))
        keep = torch.gt(attention_mask.reshape(batch, 1, 1, length) * seen, 0)
)" + body + R"(
        return out.transpose(1, 2).reshape(batch, length, 8)
  )");
  torch::jit::Module model("Model");
  model.register_parameter("embedding", at::randn({16, 8}), /*is_buffer=*/false);
  model.register_module("attn", attention);
  model.define(R"(
    def forward(self, input_ids, attention_mask):
        x = torch.embedding(self.embedding, input_ids)
        return x + self.attn.forward(x, attention_mask)
  )");
  return model;
}

/// What is proven of the model's only hook, that of discovery or of an entry of a hook spec.
Proof prove(const std::string& body, const std::string& said = "") {
  register_probe_operator();
  const torch::jit::Module model = model_with(body);
  hooks::HookSpec spec;
  if (!said.empty()) {
    const std::string entry = R"([{"module": "attn", "kind": "attention", )" + said + "}]";
    spec = hook_spec_from_json(nlohmann::json::parse(entry), "the test");
  }
  ModelDescription description;
  const auto describe = [&](const hooks::Discovery& discovery) {
    description = describe_model(model, discovery, "model.pt", "");
    return to_text(description);
  };
  const hooks::Instrumented instrumented =
      hooks::instrument(model, describe, {}, spec, hooks::HookKinds::kRoutersAndAttention);
  const hooks::ProbedModel probed = hooks::insert_probes(instrumented);
  EXPECT_EQ(probed.attentions.size(), 1U);
  const auto method = probed.module.get_method("forward");
  at::Tensor mask = at::ones({kBatch, kLength}, at::kLong);
  mask[1][kLength - 1] = 0;
  const std::vector<c10::IValue> arguments = {at::arange(kBatch * kLength).reshape({kBatch, kLength}), mask};
  const TwinRun base = run_twin(method, arguments, 0);
  EXPECT_TRUE(base.ran()) << base.error;
  Proof proof;
  for (const Check& check : prove_attention(probed.attentions.at(0), method, arguments, 0, base)) {
    proof[check.what] = check;
  }
  TokenProver tokens(description, "forward", method, arguments, 0, base);
  for (const Check& check : tokens.prove(probed.attentions.at(0))) proof[check.what] = check;
  return proof;
}

void expect(const Proof& proof, Verdict verdict, const std::vector<const char*>& checks) {
  for (const char* what : checks) {
    EXPECT_EQ(proof.at(what).verdict, verdict) << what << ": " << proof.at(what).why;
  }
}

TEST(AttentionProof, WhatIsFoundIsProven) {
  const std::vector<const char*> all = {"rows", "share", "context", "samples", "padding"};
  for (const char* body : {kEager, kFused, kTurnedQuery, kMaskedLater}) {
    SCOPED_TRACE(body);
    const Proof proof = prove(body);
    for (const auto& [what, check] : proof) {
      EXPECT_NE(check.verdict, Verdict::kRefuted) << what << ": " << check.why;
    }
    expect(proof, Verdict::kProven, {"context", "samples"});
    // Where the mask comes behind the softmax, padding has its share of each row's sum.
    expect(proof, body == kMaskedLater ? Verdict::kNotShown : Verdict::kProven, {"padding"});
  }
  expect(prove(kEager), Verdict::kProven, all);
  // What is made of the probabilities is the same; the factor is an element of a list.
  expect(prove(kEinsum), Verdict::kProven, {"rows", "share", "samples", "padding"});
  expect(prove(kFused), Verdict::kProven, all);
}

TEST(AttentionProof, RoundingToHalfPrecisionIsNoDifference) {
  for (const char* body : {kCastBehind, kCastAround, kCastOperator}) {
    SCOPED_TRACE(body);
    expect(prove(body), Verdict::kProven, {"rows", "share", "context", "samples", "padding"});
  }
}

TEST(AttentionProof, TheSameValuesSaidByHandAreProven) {
  const std::string by_values =
      R"("query": {"op": "aten::transpose", "occurrence": 0}, "key": {"op": "aten::transpose", "occurrence": 1})";
  expect(prove(kEager, R"("probabilities": {"op": "aten::softmax"})"), Verdict::kProven, {"rows", "share", "context"});
  expect(prove(kEager, by_values + R"(, "scale": 0.7, "mask": {"op": "aten::gt"})"), Verdict::kProven,
         {"rows", "share", "context"});
}

TEST(AttentionProof, AnotherScaleMaskOrQueryIsRefuted) {
  expect(prove(kFused, R"("scale": 0.5)"), Verdict::kRefuted, {"share", "context"});
  expect(prove(kFused, R"("causal": true, "mask": {"op": "aten::gt"}, "scale": 1.4)"), Verdict::kRefuted,
         {"share", "context"});
  const std::string by_values =
      R"("query": {"op": "aten::transpose", "occurrence": 0}, "key": {"op": "aten::transpose", "occurrence": 1})";
  expect(prove(kEager, by_values + R"(, "scale": 0.7)"), Verdict::kRefuted, {"share", "context"});
  // The query before it is turned, with all else as it is.
  expect(prove(kTurnedQuery, by_values + R"(, "mask": {"op": "aten::gt"})"), Verdict::kRefuted, {"share"});
}

TEST(AttentionProof, ProbabilitiesThatAreNotAppliedAreRefuted) {
  const Proof before_mask = prove(kMaskedLater, R"("probabilities": {"op": "aten::softmax"})");
  expect(before_mask, Verdict::kRefuted, {"context"});
  const Proof before_norm = prove(kNormalisedLater, R"("probabilities": {"op": "aten::mul", "occurrence": 1})");
  expect(before_norm, Verdict::kRefuted, {"context"});
}

TEST(AttentionProof, DimensionsInAnotherOrderAreRefuted) {
  expect(prove(kEager, R"("probabilities": {"op": "aten::softmax"}, "layout": "bhkq")"), Verdict::kRefuted, {"rows"});
  // As many heads as samples: a sample's tokens change one head of each row, which shows nothing.
  static_assert(kHeads == kBatch);
  expect(prove(kEager, R"("probabilities": {"op": "aten::softmax"}, "layout": "hbqk")"), Verdict::kNotShown,
         {"samples"});
}

}  // namespace
}  // namespace moetap::plugin
