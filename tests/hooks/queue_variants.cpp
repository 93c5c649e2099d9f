// Experts' queues and what is done to slots on the way there, as public code writes it.
#include "block_variants.h"

namespace moetap::hooks::testing {

std::vector<BlockVariant> queue_variants() {
  std::vector<BlockVariant> all;
  auto add = [&](const char* name, const std::string& code) -> BlockVariant& {
    return all.emplace_back(BlockVariant{name, code});
  };
  const std::string kPick = R"(
    scores = torch.softmax(torch.linear(h, self.gate.weight), -1)
    weights, ids = torch.topk(scores, 2, -1)
)";
  const std::string kBest = R"(
    scores = torch.softmax(torch.linear(h, self.gate.weight), -1)
    share, best = torch.max(scores, -1)
    hot = torch.one_hot(best, 6).to(h.dtype)
)";
  const std::string kApply = R"(
    return x + self.experts(h, ids, weights).view_as(x)
)";
  const std::string kCombine = R"(
    inside = torch.einsum("tec,td->ecd", [(combine > 0).to(h.dtype), h])
    outside = torch.einsum("ecd,edf->ecf", [inside, self.expert_weights])
    return x + torch.einsum("tec,ecf->tf", [combine, outside]).view_as(x)
)";

  // Masks that another head makes of what it picked or compared.
  add("AnotherHeadSaysHowManySlotsCount", kPick + R"(
    number = torch.argmax(torch.linear(h, self.two_gates), -1) + 1
    inside = torch.arange(2).unsqueeze(0) < number.unsqueeze(1)
    weights = weights * inside.to(h.dtype)
)" + kApply);
  add("TimesAComparisonOfAnotherHead", kPick + R"(
    weights = weights * (torch.linear(h, self.one_gate) > 0).to(h.dtype)
)" + kApply);

  // Experts that take the best of the tokens that chose them.
  add("BestOfTheAssigned", kPick + R"(
    sparse = torch.zeros_like(scores).scatter(1, ids, weights)
    share, token = torch.topk(sparse.t(), 4, 1)
    made = torch.bmm(h[token], self.expert_weights) * share.unsqueeze(-1)
    return x + torch.zeros_like(h).index_add(0, token.reshape(-1), made.reshape(-1, 8)).view_as(x)
)")
      .top_k = std::nullopt;

  // Outputs that are written into a buffer, and weighed there.
  add("OutputsWrittenByRows", kBest + R"(
    rows = [torch.nonzero(best == 0).squeeze(1), torch.nonzero(best == 1).squeeze(1),
            torch.nonzero(best == 2).squeeze(1), torch.nonzero(best == 3).squeeze(1),
            torch.nonzero(best == 4).squeeze(1), torch.nonzero(best == 5).squeeze(1)]
    made: List[Tensor] = []
    for e in range(6):
        made.append(torch.matmul(h[rows[e]], self.expert_weights[e]))
    out = torch.zeros([h.size(0), h.size(1)])
    for e in range(6):
        out[rows[e]] = made[e]
    return x + (out * share.view(-1, 1)).view_as(x)
)")
      .top_k = 1;
  add("OutputsWrittenIntoSlices", kPick + R"(
    flat = ids.reshape(-1)
    order = torch.argsort(flat)
    tokens = torch.arange(h.size(0)).repeat_interleave(2)[order]
    rows = h[tokens]
    ends = torch.bincount(flat, minlength=6).cumsum(0)
    out = torch.empty_like(rows)
    begin = 0
    for e in range(6):
        end = int(ends[e])
        out[begin:end] = torch.matmul(rows[begin:end], self.expert_weights[e])
        begin = end
    out = out * weights.reshape(-1)[order].unsqueeze(-1)
    return x + torch.zeros_like(h).index_add(0, tokens, out).view_as(x)
)");
  add("OutputsStackedOnTheLastAxis", kPick + R"(
    gates = torch.zeros_like(scores).scatter(1, ids, weights)
    made: List[Tensor] = []
    for e in range(6):
        made.append(torch.matmul(h, self.expert_weights[e]))
    outputs = torch.stack([made[0], made[1], made[2], made[3], made[4], made[5]], -1)
    return x + (outputs * gates.unsqueeze(-2)).sum(-1).view_as(x)
)");

  // Masks of the experts that keep a token, laid out with the places of the queues or with the slots.
  add("KeptWithThePlaces", kBest + R"(
    rank = ((torch.cumsum(hot, 0) - 1) * hot).sum(-1)
    kept = (rank < 3).to(h.dtype)
    place = torch.one_hot(rank.long().clamp(max=2), 3).to(h.dtype) * kept[:, None]
    sent = (hot.unsqueeze(-1) * place.unsqueeze(1)).flatten(1)
    inside = torch.matmul(sent.t(), h).view(6, 3, 8)
    out = torch.matmul(sent, torch.bmm(inside, self.expert_weights).flatten(0, 1))
    return x + (out * share[:, None]).view_as(x)
)")
      .top_k = 1;
  add("KeptOfEachSlot", kPick + R"(
    hot = torch.one_hot(ids, 6).to(h.dtype)
    rank = torch.cumsum(hot, 0) - hot
    inside = (rank < 3).to(h.dtype) * hot
    place = torch.one_hot((rank * inside).sum(-1).long(), 3).to(h.dtype) * inside.sum(-1, keepdim=True)
    sent = torch.einsum("tke,tkc->tkec", [inside, place])
    rows = torch.einsum("tkec,td->ekcd", [sent, h])
    made = torch.einsum("ekcd,edf->ekcf", [rows, self.expert_weights])
    return x + torch.einsum("tkec,tk,ekcf->tf", [sent, weights, made]).view_as(x)
)");

  // Places that are counted from before the first token.
  add("PlacesByPadding", kBest + R"(
    rank = torch.constant_pad_nd(hot, [0, 0, 1, 0], 0.0).cumsum(0)[:-1] * hot
    kept = hot * (rank < 3).to(h.dtype)
    place = torch.one_hot((rank * kept).sum(-1).long(), 3).to(h.dtype)
    combine = (share * kept.sum(-1)).unsqueeze(-1).unsqueeze(-1) * kept.unsqueeze(-1) * place.unsqueeze(1)
)" + kCombine)
      .top_k = 1;
  add("SlotsSummedBehindAPermute", kPick + R"(
    shares, chosen = weights.permute(1, 0), ids.permute(1, 0)
    hot = torch.one_hot(chosen, 6)
    rank = (torch.cumsum(hot.reshape(-1, 6), 0) - 1).view(2, -1, 6)
    hot = hot * (rank < 4).long()
    place = torch.one_hot((rank * hot).sum(-1), 4).to(h.dtype)
    each = shares[:, :, None, None] * hot[:, :, :, None] * place[:, :, None, :]
    combine = each.permute(1, 2, 3, 0).sum(3)
)" + kCombine);
  add("TheSurestTokensFirst", kPick + R"(
    order = torch.argsort(-weights[:, 0])
    hot = torch.one_hot(ids, 6)
    queued = hot[order].transpose(0, 1).reshape(-1, 6)
    rank = (torch.cumsum(queued, 0) * queued - 1).view(2, -1, 6).transpose(0, 1)[torch.argsort(order)]
    place = torch.one_hot(rank.clamp(-1, 3) + 1, 5)[..., 1:4].to(h.dtype)
    combine = torch.einsum("tk,tkec->tec", [weights, place])
)" + kCombine);

  // Slots put before the tokens, and places numbered over all experts.
  add("StackedSlotsInFlatPlaces", R"(
    logits = torch.linear(h, self.gate.weight)
    scores = torch.softmax(logits, -1)
    first = torch.argmax(scores, -1)
    one = torch.one_hot(first, 6)
    second = torch.argmax(logits.masked_fill(one.to(11), -1e9), -1)
    two = torch.one_hot(second, 6)
    rank_one = ((torch.cumsum(one, 0) - 1) * one).sum(1)
    rank_two = ((torch.cumsum(two, 0) - 1 + one.sum(0, keepdim=True)) * two).sum(1)
    share_one = torch.einsum("te,te->t", [scores, one.to(h.dtype)])
    share_two = torch.einsum("te,te->t", [scores, two.to(h.dtype)])
    chosen = torch.stack([first, second], 0)
    shares = torch.stack([share_one, share_two], 0)
    size = h.size(0) * 2
    at = chosen * size + torch.stack([rank_one, rank_two], 0)
    at = torch.where(chosen >= 0, at, torch.full_like(at, 6 * size))
    tokens = torch.arange(h.size(0)).expand_as(at).reshape(-1)
    source = torch.full([6 * size + 1], h.size(0)).scatter(0, at.reshape(-1), tokens)
    padded = torch.cat([h, torch.zeros([1, 8])], 0)
    made = torch.bmm(padded.index_select(0, source[:-1]).view(6, size, 8), self.expert_weights).view(-1, 8)
    back = torch.cat([made, torch.zeros([1, 8])], 0).index_select(0, at.reshape(-1)).view(2, -1, 8)
    return x + (back * shares.unsqueeze(-1)).sum(0).view_as(x)
)")
      .num_experts = kExperts;

  // Each slot by itself, of three dimensions; the only slot before its tokens.
  add("SlotsOfThreeDimensionsOneByOne", R"(
    scores = torch.softmax(torch.linear(h, self.gate.weight).view(3, 5, 6), -1)
    weights, ids = torch.topk(scores, 2, -1)
    first, second = ids[:, :, 0].flatten(), ids[:, :, 1].flatten()
    one, two = weights[:, :, 0].flatten(), weights[:, :, 1].flatten()
    out = torch.zeros_like(h)
    for e in range(6):
        rows = first == e
        out[rows] = out[rows] + torch.matmul(h[rows], self.expert_weights[e]) * one[rows].unsqueeze(-1)
        rows = second == e
        out[rows] = out[rows] + torch.matmul(h[rows], self.expert_weights[e]) * two[rows].unsqueeze(-1)
    return x + out.view_as(x)
)");
  add("TheOnlySlotBeforeItsTokens", R"(
    scores = torch.softmax(torch.linear(h, self.gate.weight), -1)
    ids = torch.argmax(scores, -1).unsqueeze(0).int()
    shares = torch.max(scores, -1)[0].unsqueeze(0)
    out = torch.zeros_like(h)
    for e in range(6):
        out = out + ((ids == e).to(h.dtype) * shares).view(-1, 1) * torch.matmul(h, self.expert_weights[e])
    return x + out.view_as(x)
)")
      .top_k = 1;
  add("ProductOfTwoSoftmaxes", R"(
    group = torch.softmax(torch.linear(h, self.two_gates), -1)
    inner = torch.softmax(torch.linear(h, self.gate.weight).view(-1, 2, 3), -1)
    weights, ids = torch.topk((group.unsqueeze(-1) * inner).flatten(1), 2, -1)
)" + kApply);
  return all;
}

}  // namespace moetap::hooks::testing
