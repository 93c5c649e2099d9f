// Routers as people write them: one block each, all over the same parameters.
#include "block_variants.h"

#include <ATen/ATen.h>

#include <ostream>

namespace moetap::hooks::testing {

namespace {

const std::string kForward = R"(
def forward(self, x: Tensor) -> Tensor:
    h = torch.layer_norm(x, [8]).view(-1, x.size(-1))
)";

}  // namespace

void PrintTo(const BlockVariant& variant, std::ostream* stream) {
  *stream << variant.name;
}

ModuleSource variant_source(const BlockVariant& variant) {
  return {.type = "Block",
          .parameters = {{"expert_weights", expert_weights()},
                         {"noise", random_tensor({kHidden, kExperts}, 91)},
                         {"one_gate", random_tensor({1, kHidden}, 93)},
                         {"two_gates", random_tensor({2, kHidden}, 94)},
                         {"shared", random_tensor({kHidden, kHidden}, 92)},
                         {"temperature", at::full({1}, 0.7)}},
          .buffers = {{"k_buffer", at::scalar_tensor(kTopK, at::kLong)}},
          .integers = {{"k", kTopK}},
          .modules = {{"gate", holder("Gate", random_tensor({kExperts, kHidden}, 7))}},
          .code = kForward + variant.code + kIndexParameters.code};
}

std::vector<BlockVariant> block_variants() {
  std::vector<BlockVariant> all;
  auto add = [&](const char* name, const char* code) -> BlockVariant& {
    return all.emplace_back(BlockVariant{name, code});
  };

  // Ways to fix the number of experts a token.
  add("TopKOfAnAttribute", R"(
    weights, ids = torch.topk(torch.softmax(torch.linear(h, self.gate.weight), -1), self.k, -1)
    return x + self.experts(h, ids, weights).view_as(x)
)");
  add("TopKOfABuffer", R"(
    weights, ids = torch.topk(torch.softmax(torch.linear(h, self.gate.weight), -1), int(self.k_buffer), -1)
    return x + self.experts(h, ids, weights).view_as(x)
)")
      .top_k = std::nullopt;
  add("TopKOfAMinimum", R"(
    logits = torch.linear(h, self.gate.weight)
    weights, ids = torch.topk(torch.softmax(logits, -1), min(2, logits.size(-1)), -1)
    return x + self.experts(h, ids, weights).view_as(x)
)")
      .top_k = std::nullopt;

  // What becomes of the weights before they are applied.
  add("MaskedWeights", R"(
    logits = torch.linear(h, self.gate.weight)
    scores = torch.softmax(logits, -1)
    weights, ids = torch.topk(scores, 2, -1)
    weights = weights.masked_fill(weights < 0.3, 0.0)
    return x + self.experts(h, ids, weights).view_as(x)
)");
  add("WhereWeights", R"(
    logits = torch.linear(h, self.gate.weight)
    scores = torch.softmax(logits, -1)
    weights, ids = torch.topk(scores, 2, -1)
    weights = torch.where(weights < 0.3, torch.zeros_like(weights), weights)
    return x + self.experts(h, ids, weights).view_as(x)
)");
  add("SoftmaxOfPickedScores", R"(
    logits = torch.linear(h, self.gate.weight)
    scores = torch.softmax(logits, -1)
    weights, ids = torch.topk(scores, 2, -1)
    weights = torch.softmax(weights, -1)
    return x + self.experts(h, ids, weights).view_as(x)
)");
  add("SquaredWeights", R"(
    logits = torch.linear(h, self.gate.weight)
    scores = torch.softmax(logits, -1)
    weights, ids = torch.topk(scores, 2, -1)
    weights = torch.pow(weights, 2.0)
    weights = weights / weights.sum(-1, keepdim=True)
    return x + self.experts(h, ids, weights).view_as(x)
)");
  add("StraightThroughWeights", R"(
    logits = torch.linear(h, self.gate.weight)
    scores = torch.softmax(logits, -1)
    weights, ids = torch.topk(scores, 2, -1)
    weights = weights - weights.detach() + weights
    return x + self.experts(h, ids, weights).view_as(x)
)");
  add("SecondWeightFromFirst", R"(
    weights, ids = torch.topk(torch.softmax(torch.linear(h, self.gate.weight), -1), 2, -1)
    first = weights[:, :1]
    weights = torch.cat([first, 1.0 - first], -1)
    return x + self.experts(h, ids, weights).view_as(x)
)");
  add("GatherLogitsSoftmax", R"(
    logits = torch.linear(h, self.gate.weight)
    ids = torch.topk(torch.sigmoid(logits), 2, -1)[1]
    weights = torch.softmax(torch.gather(logits, 1, ids), -1)
    return x + self.experts(h, ids, weights).view_as(x)
)");
  add("ScoresNormalisedOverAll", R"(
    scores = torch.sigmoid(torch.linear(h, self.gate.weight))
    scores = scores / scores.sum(-1, keepdim=True)
    weights, ids = torch.topk(scores, 2, -1)
    return x + self.experts(h, ids, weights).view_as(x)
)");

  // What scores are made of.
  add("LearnedTemperature", R"(
    weights, ids = torch.topk(torch.softmax(torch.linear(h, self.gate.weight) / self.temperature, -1), 2, -1)
    return x + self.experts(h, ids, weights).view_as(x)
)");
  add("MaskedLogits", R"(
    logits = torch.linear(h, self.gate.weight)
    logits = logits.masked_fill(logits > 3.0, float("-inf"))
    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
    return x + self.experts(h, ids, weights).view_as(x)
)");
  add("LogitsScaledInPlace", R"(
    logits = torch.linear(h, self.gate.weight)
    logits.div_(2.0)
    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
    return x + self.experts(h, ids, weights).view_as(x)
)");
  add("LearnedNoise", R"(
    logits = torch.linear(h, self.gate.weight)
    noise = torch.softplus(torch.matmul(h, self.noise)) * 0.1
    noisy = logits + noise
    values, ids = torch.topk(noisy, 2, -1)
    weights = torch.softmax(values, -1)
    return x + self.experts(h, ids, weights).view_as(x)
)");
  add("LogitsByEinsumOfHeads", R"(
    q = h.view(-1, 2, 4)
    logits = torch.einsum("tnd,end->te", [q, self.gate.weight.view(6, 2, 4)])
    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
    return x + self.experts(h, ids, weights).view_as(x)
)")
      .num_experts = std::nullopt;

  // What stands beside the router.
  add("BalanceLoss", R"(
    logits = torch.linear(h, self.gate.weight)
    scores = torch.softmax(logits, -1)
    weights, ids = torch.topk(scores, 2, -1)
    hot = torch.one_hot(ids, 6).sum(1).to(h.dtype).mean(0)
    aux = (hot * scores.mean(0)).sum() * 6.0 + torch.logsumexp(logits, [-1]).square().mean()
    weights = weights / weights.sum(-1, keepdim=True)
    return x + self.experts(h, ids, weights).view_as(x) + 0.0 * aux
)");
  add("SharedExpertGate", R"(
    logits = torch.linear(h, self.gate.weight)
    scores = torch.softmax(logits, -1)
    weights, ids = torch.topk(scores, 2, -1)
    shared = torch.sigmoid(torch.matmul(h, self.shared[:, :1])) * torch.matmul(h, self.shared) * 0.0
    return x + (self.experts(h, ids, weights) + shared).view_as(x)
)");
  add("Assertion", R"(
    logits = torch.linear(h, self.gate.weight)
    scores = torch.softmax(logits, -1)
    weights, ids = torch.topk(scores, 2, -1)
    assert ids.size(1) == 2
    return x + self.experts(h, ids, weights).view_as(x)
)");

  // How experts are applied.
  add("GatherOutputs", R"(
    logits = torch.linear(h, self.gate.weight)
    scores = torch.softmax(logits, -1)
    weights, ids = torch.topk(scores, 2, -1)
    every = torch.einsum("td,edf->tef", [h, self.expert_weights])
    picked = torch.gather(every, 1, ids.unsqueeze(-1).expand([-1, -1, 8]))
    return x + (picked * weights.unsqueeze(-1)).sum(1).view_as(x)
)");
  add("DenseSoftmaxOfPicked", R"(
    logits = torch.linear(h, self.gate.weight)
    ids = torch.topk(logits, 2, -1)[1]
    mask = torch.zeros_like(logits).scatter(1, ids, 1.0)
    gates = torch.softmax(logits.masked_fill(mask == 0, float("-inf")), -1)
    every = torch.einsum("td,edf->tef", [h, self.expert_weights])
    return x + torch.einsum("te,tef->tf", [gates, every]).view_as(x)
)");
  add("DenseAboveTheLeastPicked", R"(
    scores = torch.softmax(torch.linear(h, self.gate.weight), -1)
    least = torch.topk(scores, 2, -1)[0][:, -1:]
    gates = torch.where(scores >= least, scores, torch.zeros_like(scores))
    every = torch.einsum("td,edf->tef", [h, self.expert_weights])
    return x + torch.einsum("te,tef->tf", [gates, every]).view_as(x)
)")
      .top_k = std::nullopt;
  add("DenseOneHot", R"(
    scores = torch.softmax(torch.linear(h, self.gate.weight), -1)
    hot = torch.one_hot(torch.argmax(scores, -1), 6).to(h.dtype)
    every = torch.einsum("td,edf->tef", [h, self.expert_weights])
    return x + torch.einsum("te,tef->tf", [scores * hot, every]).view_as(x)
)")
      .top_k = 1;
  add("WeighedInputs", R"(
    logits = torch.linear(h, self.gate.weight)
    scores = torch.softmax(logits, -1)
    weights, ids = torch.topk(scores, 2, -1)
    rows = (h.unsqueeze(1) * weights.unsqueeze(-1)).view(-1, 8).unsqueeze(1)
    out = torch.bmm(rows, self.expert_weights[ids.view(-1)]).view(-1, 2, 8).sum(1)
    return x + out.view_as(x)
)");
  add("WeightsByEinsum", R"(
    logits = torch.linear(h, self.gate.weight)
    scores = torch.softmax(logits, -1)
    weights, ids = torch.topk(scores, 2, -1)
    outs = torch.einsum("td,tkdf->tkf", [h, self.expert_weights[ids]])
    return x + torch.einsum("tk,tkf->tf", [weights, outs]).view_as(x)
)");
  add("WeightsByBatchedProduct", R"(
    logits = torch.linear(h, self.gate.weight)
    scores = torch.softmax(logits, -1)
    weights, ids = torch.topk(scores, 2, -1)
    outs = torch.einsum("td,tkdf->tkf", [h, self.expert_weights[ids]])
    return x + torch.bmm(weights.unsqueeze(1), outs).squeeze(1).view_as(x)
)");
  add("LoopOverSlots", R"(
    logits = torch.linear(h, self.gate.weight)
    scores = torch.softmax(logits, -1)
    weights, ids = torch.topk(scores, 2, -1)
    out = torch.zeros_like(h)
    for k in range(2):
        w = self.expert_weights[ids[:, k]]
        out = out + torch.bmm(h.unsqueeze(1), w).squeeze(1) * weights[:, k].unsqueeze(-1)
    return x + out.view_as(x)
)");
  add("UnrolledSlots", R"(
    logits = torch.linear(h, self.gate.weight)
    scores = torch.softmax(logits, -1)
    weights, ids = torch.topk(scores, 2, -1)
    out = torch.bmm(h.unsqueeze(1), self.expert_weights[ids[:, 0]]).squeeze(1) * weights[:, 0].unsqueeze(-1)
    out = out + torch.bmm(h.unsqueeze(1), self.expert_weights[ids[:, 1]]).squeeze(1) * weights[:, 1].unsqueeze(-1)
    return x + out.view_as(x)
)");
  add("UnboundSlots", R"(
    logits = torch.linear(h, self.gate.weight)
    scores = torch.softmax(logits, -1)
    weights, ids = torch.topk(scores, 2, -1)
    ws = torch.unbind(weights, -1)
    es = torch.unbind(ids, -1)
    out = torch.zeros_like(h)
    for k in range(2):
        out = out + torch.bmm(h.unsqueeze(1), self.expert_weights[es[k]]).squeeze(1) * ws[k].unsqueeze(-1)
    return x + out.view_as(x)
)");
  add("SlotsFirst", R"(
    logits = torch.linear(h, self.gate.weight)
    scores = torch.softmax(logits, -1)
    weights, ids = torch.topk(scores, 2, -1)
    t = ids.t().reshape(-1)
    w = weights.t().reshape(-1, 1)
    rows = h.repeat([2, 1]).unsqueeze(1)
    out = (torch.bmm(rows, self.expert_weights[t]).squeeze(1) * w).view(2, -1, 8).sum(0)
    return x + out.view_as(x)
)");
  add("LoopOverTokens", R"(
    logits = torch.linear(h, self.gate.weight)
    scores = torch.softmax(logits, -1)
    weights, ids = torch.topk(scores, 2, -1)
    out = torch.zeros_like(h)
    for t in range(h.size(0)):
        for k in range(2):
            e = int(ids[t, k])
            out[t] += weights[t, k] * torch.matmul(h[t], self.expert_weights[e])
    return x + out.view_as(x)
)");
  add("RowsOfEachHitExpert", R"(
    logits = torch.linear(h, self.gate.weight)
    scores = torch.softmax(logits, -1)
    weights, ids = torch.topk(scores, 2, -1)
    out = torch.zeros_like(h)
    for e in range(6):
        hit = (ids == e)
        token = hit.any(-1)
        if bool(token.any()):
            share = (weights * hit.to(h.dtype)).sum(-1)[token]
            out[token] += torch.matmul(h[token], self.expert_weights[e]) * share.unsqueeze(-1)
    return x + out.view_as(x)
)");
  add("OneHotRowsOfEachExpert", R"(
    logits = torch.linear(h, self.gate.weight)
    scores = torch.softmax(logits, -1)
    weights, ids = torch.topk(scores, 2, -1)
    out = torch.zeros_like(h)
    mask = torch.one_hot(ids, 6).permute([2, 1, 0])
    for e in range(6):
        slot, row = torch.where(mask[e])
        out.index_add_(0, row, torch.matmul(h[row], self.expert_weights[e]) * weights[row, slot].unsqueeze(-1))
    return x + out.view_as(x)
)");

  // Branches, loops, forks, containers.
  add("PickInArm", R"(
    logits = torch.linear(h, self.gate.weight)
    scores = torch.softmax(logits, -1)
    if bool(h.sum() > -1e9):
        weights, ids = torch.topk(scores, 2, -1)
        out = self.experts(h, ids, weights)
    else:
        out = h
    return x + out.view_as(x)
)");
  add("PickInBothArms", R"(
    scores = torch.softmax(torch.linear(h, self.gate.weight), -1)
    if bool(h.sum() > -1e9):
        weights, ids = torch.topk(scores, 2, -1)
    else:
        weights, ids = torch.topk(scores, 2, -1, True, False)
    return x + self.experts(h, ids, weights).view_as(x)
)");
  add("ArmChangesWeightsInPlace", R"(
    logits = torch.linear(h, self.gate.weight)
    scores = torch.softmax(logits, -1)
    weights, ids = torch.topk(scores, 2, -1)
    if bool(h.sum() > -1e9):
        weights.div_(weights.sum(-1, keepdim=True))
    return x + self.experts(h, ids, weights).view_as(x)
)");
  add("LoopChangesWeightsInPlace", R"(
    logits = torch.linear(h, self.gate.weight)
    scores = torch.softmax(logits, -1)
    weights, ids = torch.topk(scores, 2, -1)
    for i in range(2):
        weights.mul_(0.5)
    return x + self.experts(h, ids, weights).view_as(x)
)");
  add("EarlyReturn", R"(
    logits = torch.linear(h, self.gate.weight)
    scores = torch.softmax(logits, -1)
    weights, ids = torch.topk(scores, 2, -1)
    if bool(h.sum() < -1e9):
        return x
    return x + self.experts(h, ids, weights).view_as(x)
)");
  add("EarlyReturnTaken", R"(
    if bool(h.sum() > -1e9):
        weights, ids = torch.topk(torch.softmax(torch.linear(h, self.gate.weight), -1), 2, -1)
        return x + self.experts(h, ids, weights).view_as(x)
    return x
)");
  add("BreakLoop", R"(
    logits = torch.linear(h, self.gate.weight)
    scores = torch.softmax(logits, -1)
    weights, ids = torch.topk(scores, 2, -1)
    out = torch.zeros_like(h)
    for k in range(5):
        if k >= 2:
            break
        out = out + torch.bmm(h.unsqueeze(1), self.expert_weights[ids[:, k]]).squeeze(1) * weights[:, k].unsqueeze(-1)
    return x + out.view_as(x)
)");
  add("ExpertsInFork", R"(
    logits = torch.linear(h, self.gate.weight)
    scores = torch.softmax(logits, -1)
    weights, ids = torch.topk(scores, 2, -1)
    future = fork(self.experts, h, ids, weights)
    return x + torch.wait(future).view_as(x)
)");
  add("ExpertEachFork", R"(
    logits = torch.linear(h, self.gate.weight)
    scores = torch.softmax(logits, -1)
    weights, ids = torch.topk(scores, 2, -1)
    futures = [fork(self.one, h, ids, weights, 0)]
    for e in range(1, 6):
        futures.append(fork(self.one, h, ids, weights, e))
    out = torch.zeros_like(h)
    for f in futures:
        out = out + torch.wait(f)
    return x + out.view_as(x)

def one(self, h: Tensor, ids: Tensor, weights: Tensor, e: int) -> Tensor:
    share = (weights * (ids == e).to(weights.dtype)).sum(-1, keepdim=True)
    return share * torch.matmul(h, self.expert_weights[e])
)");
  add("DictOfTensors", R"(
    logits = torch.linear(h, self.gate.weight)
    scores = torch.softmax(logits, -1)
    weights, ids = torch.topk(scores, 2, -1)
    routing = {"ids": ids, "weights": weights}
    return x + self.experts(h, routing["ids"], routing["weights"]).view_as(x)
)");
  add("OptionalWeights", R"(
    logits = torch.linear(h, self.gate.weight)
    scores = torch.softmax(logits, -1)
    weights, ids = torch.topk(scores, 2, -1)
    w: Optional[Tensor] = None
    if ids.size(1) == 2:
        w = weights
    assert w is not None
    return x + self.experts(h, ids, w).view_as(x)
)");
  return all;
}

}  // namespace moetap::hooks::testing
