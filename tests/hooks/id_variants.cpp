// What is done to ids between the pick and the experts, and not to their weights, or the other way round.
#include <set>
#include <string>

#include "block_variants.h"
#include "moe_sources.h"

namespace moetap::hooks::testing {

namespace {

const std::string kScores = R"(
    scores = torch.softmax(torch.linear(h, self.gate.weight), -1)
)";
const std::string kPick = kScores + R"(
    weights, ids = torch.topk(scores, 2, -1)
)";
const std::string kApply = R"(
    return x + self.experts(h, ids, weights).view_as(x)
)";
// Each expert's share of each token, by comparing ids with its number.
const std::string kCompare = R"(
    out = torch.zeros_like(h)
    for e in range(6):
        share = (weights * (ids == e).to(h.dtype)).sum(-1, keepdim=True)
        out = out + share * torch.matmul(h, self.expert_weights[e])
    return x + out.view_as(x)
)";
const std::string kOneHot = R"(
    gates = (torch.one_hot(ids, 6).to(h.dtype) * weights.unsqueeze(-1)).sum(1)
    every = torch.einsum("td,edf->tef", [h, self.expert_weights])
    return x + torch.einsum("te,tef->tf", [gates, every]).view_as(x)
)";
const std::string kSorted = R"(
    order = torch.argsort(ids.reshape(-1))
    token = torch.div(order, 2, rounding_mode="floor")
    chosen = self.expert_weights[ids.reshape(-1)[order]]
    outs = torch.bmm(h[token].unsqueeze(1), chosen).squeeze(1) * weights.reshape(-1)[order].unsqueeze(-1)
    return x + torch.zeros_like(h).index_add(0, token, outs).view_as(x)
)";

struct Change {
  const char* name;
  std::string code;
  bool only_as_index = false;  // the ids are negative then
};

const std::vector<Change>& changes() {
  static const auto* all = new std::vector<Change>{
      // The slots of each token in another order, for one of the two alone.
      {"FlippedIds", "    ids = ids.flip(-1)\n"},
      {"FlippedIdsByPositiveDim", "    ids = torch.flip(ids, [1])\n"},
      {"FlippedWeights", "    weights = weights.flip(-1)\n"},
      {"FlippedLeftRight", "    ids = torch.fliplr(ids)\n"},
      {"RolledIds", "    ids = ids.roll(1, -1)\n"},
      {"RolledWeights", "    weights = torch.roll(weights, [1], [1])\n"},
      {"RolledIdsInPlace", "    ids.copy_(ids.roll(1, 1))\n"},
      {"FlippedIdsInPlace", "    ids.copy_(ids.flip(1))\n"},
      {"FlippedIdsWrittenToASlice", "    ids[:, 0:2] = ids.flip(1)\n"},
      {"WeightsFlippedInPlace", "    weights.copy_(weights.flip(1))\n"},
      {"IdsIndexedByAList", "    ids = ids[:, [1, 0]]\n"},
      {"IdsIndexedByATensor", "    ids = ids[:, torch.tensor([1, 0])]\n"},
      {"IdsIndexedByAFallingRange", "    ids = ids[:, torch.arange(1, -1, -1)]\n"},
      {"IdsSelectedByIndex", "    ids = torch.index_select(ids, 1, torch.tensor([1, 0]))\n"},
      {"IdsGatheredByAnOrder", "    ids = torch.gather(ids, 1, torch.tensor([1, 0]).expand_as(ids))\n"},
      {"WeightsGatheredByAnOrder", "    weights = weights.gather(-1, torch.tensor([[1, 0]]).expand_as(ids))\n"},
      {"IdsPutTogetherTheOtherWayRound", "    ids = torch.stack([ids[:, 1], ids[:, 0]], -1)\n"},
      {"IdsOfRangesTheOtherWayRound", "    ids = torch.cat([ids[:, 1:], ids[:, :1]], -1)\n"},
      {"WeightsOfRangesTheOtherWayRound", "    weights = torch.cat([weights[:, 1:2], weights[:, 0:1]], 1)\n"},
      {"IdsOfAListTheOtherWayRound", "    a, b = torch.unbind(ids, -1)\n    ids = torch.stack([b, a], -1)\n"},
      {"IdsOfChunksTheOtherWayRound", "    a, b = torch.chunk(ids, 2, -1)\n    ids = torch.cat([b, a], -1)\n"},
      {"SortedIds", "    ids = torch.sort(ids, -1)[0]\n"},
      {"FallingIds", "    ids = torch.sort(ids, -1, True)[0]\n"},
      {"IdsGatheredByTheirOrder", "    ids = torch.gather(ids, -1, torch.argsort(ids, -1))\n"},
      {"BothGatheredByTheOrderOfIds",
       "    order = torch.argsort(ids, -1)\n    ids = ids.gather(-1, order)\n    weights = weights.gather(-1, "
       "order)\n"},
      {"WeightsGatheredByTheOrderOfIds", "    weights = weights.gather(-1, torch.sort(ids, -1)[1])\n"},
      {"BothFlipped", "    ids, weights = ids.flip(-1), weights.flip(-1)\n"},
      {"FlippedTwice", "    ids = ids.flip(-1).roll(1, -1)\n"},
      {"FlippedBehindAView", "    ids = ids.view(-1, 2).flip(1)\n"},

      // Other numbers at the slots.
      {"NextId", "    ids = (ids + 1) % 6\n"},
      {"NextIdByRemainder", "    ids = torch.remainder(ids + 1, 6)\n"},
      {"NextIdOfAllLogits", "    ids = (ids + 1) % scores.size(-1)\n"},
      {"NextIdInPlace", "    ids += 1\n    ids %= 6\n"},
      {"NextIdByStatements", "    ids.add_(1)\n    ids.remainder_(6)\n"},
      {"PreviousId", "    ids = (ids - 1) % 6\n"},
      {"TimesFive", "    ids = (ids * 5 + 3) % 6\n"},
      {"CountedFromTheEnd", "    ids = 5 - ids\n"},
      {"CountedFromTheEndBySizes", "    ids = scores.size(1) - 1 - ids\n"},
      {"CountedFromTheEndByNegation", "    ids = -ids + 5\n"},
      {"Neighbours", "    ids = ids ^ 1\n"},
      {"NeighboursByName", "    ids = torch.bitwise_xor(ids, 1)\n"},
      {"NeighboursByArithmetic", "    ids = ids + 1 - 2 * (ids % 2)\n"},
      {"DistanceFromAnExpert", "    ids = torch.abs(ids - 2)\n"},
      {"NextIdBehindACast", "    ids = (ids.to(3) + 1).fmod(6).long()\n"},
      {"ShiftedByASlot", "    ids = (ids + torch.arange(2)) % 6\n"},
      {"ShiftedByAToken", "    ids = (ids + torch.arange(h.size(0)).unsqueeze(1)) % 6\n"},
      {"ShiftedByHiddenStates", "    ids = (ids + (h[:, :1] > 0).long() + (h[:, 1:2] > 0).long()) % 6\n"},
      {"WrappedByWhere", "    ids = torch.where(ids + 1 > 5, torch.zeros_like(ids), ids + 1)\n"},
      {"WrappedByAMask", "    ids = ids + 1\n    ids = ids.masked_fill(ids == 6, 0)\n"},
      {"WrappedBySubtraction", "    ids = ids + 1\n    ids = ids - 6 * (ids >= 6).long()\n"},
      {"CountedFromTheEndByNegativeIndex", "    ids = -1 - ids\n", true},
      {"CountedFromTheEndByInversion", "    ids = torch.bitwise_not(ids)\n", true},
      {"AtMostThree", "    ids = ids.clamp(max=3)\n"},
      {"AtLeastTwo", "    ids = torch.clamp_min(ids, 2)\n"},
      {"FlippedAndNext", "    ids = (ids.flip(-1) + 1) % 6\n"},
      {"NextOfFlatSlots", "    ids = ((ids.reshape(-1) + 1) % 6).view(-1, 2)\n"},
      {"TokensTheOtherWayRound", "    ids = ids.flip(0)\n"},
      {"TokensRolled", "    ids = torch.roll(ids, 1, 0)\n"},
      {"WeightsOfTheNextToken", "    weights = weights.roll(1, 0)\n"},
      {"BothDimensionsRolled", "    ids = ids.flip([0, 1])\n"},
      {"RolledFlat", "    ids = ids.roll(1)\n"},
  };
  return *all;
}

// What is not followed: tokens in another order, parts of ids put together again, ranges whose ends are not known,
// numbers that count from the end of a table; and numbers that only a look-up tells to be ids, once they are sorted.
bool is_refused(const std::string& change, const std::string& use) {
  static const std::set<std::string> kNotFollowed = {"TokensTheOtherWayRound",
                                                     "TokensRolled",
                                                     "WeightsOfTheNextToken",
                                                     "BothDimensionsRolled",
                                                     "RolledFlat",
                                                     "CountedFromTheEndByNegativeIndex",
                                                     "IdsOfRangesTheOtherWayRound",
                                                     "NeighboursByArithmetic",
                                                     "CountedFromTheEndByInversion"};
  return kNotFollowed.contains(change) || (use == "Sorted" && change == "WrappedBySubtraction");
}

}  // namespace

std::vector<BlockVariant> id_variants() {
  std::vector<BlockVariant> all;
  struct Use {
    const char* name;
    const std::string& code;
  };
  for (const Use& use :
       {Use{"Indexing", kApply}, Use{"Comparing", kCompare}, Use{"OneHot", kOneHot}, Use{"Sorted", kSorted}}) {
    for (const Change& change : changes()) {
      if (change.only_as_index && &use.code != &kApply) continue;
      auto& variant =
          all.emplace_back(BlockVariant{std::string(change.name) + use.name, kPick + change.code + use.code});
      variant.refused = is_refused(change.name, use.name);
    }
  }
  const auto add = [&](const char* name, const std::string& code) -> BlockVariant& {
    return all.emplace_back(BlockVariant{name, kPick + code});
  };
  add("DenseFlipped", R"(
    gates = torch.zeros_like(scores).scatter(-1, ids, weights).flip(-1)
    every = torch.einsum("td,edf->tef", [h, self.expert_weights])
    return x + torch.einsum("te,tef->tf", [gates, every]).view_as(x)
)")
      .refused = true;
  add("DenseRolled", R"(
    gates = torch.roll((torch.one_hot(ids, 6).to(h.dtype) * weights.unsqueeze(-1)).sum(1), 1, -1)
    every = torch.einsum("td,edf->tef", [h, self.expert_weights])
    return x + torch.einsum("te,tef->tf", [gates, every]).view_as(x)
)")
      .refused = true;
  add("DenseInAnotherOrder", R"(
    gates = torch.zeros_like(scores).scatter(-1, ids, weights)[:, [2, 1, 0, 5, 4, 3]]
    every = torch.einsum("td,edf->tef", [h, self.expert_weights])
    return x + torch.einsum("te,tef->tf", [gates, every]).view_as(x)
)")
      .refused = true;
  add("FlippedMasks", R"(
    hot = torch.one_hot(ids, 6).to(h.dtype).flip(-1)
    gates = (hot * weights.unsqueeze(-1)).sum(1)
    every = torch.einsum("td,edf->tef", [h, self.expert_weights])
    return x + torch.einsum("te,tef->tf", [gates, every]).view_as(x)
)")
      .refused = true;
  add("RolledMasksOfEachExpert", R"(
    hot = torch.roll(torch.one_hot(ids, 6), 1, -1).permute([2, 1, 0])
    out = torch.zeros_like(h)
    for e in range(6):
        slot, row = torch.where(hot[e])
        out.index_add_(0, row, torch.matmul(h[row], self.expert_weights[e]) * weights[row, slot].unsqueeze(-1))
    return x + out.view_as(x)
)")
      .refused = true;
  add("SortedByAnotherOrder", R"(
    order = torch.argsort(ids.reshape(-1))
    token = torch.div(order, 2, rounding_mode="floor")
    chosen = self.expert_weights[(ids.reshape(-1)[order] + 1) % 6]
    outs = torch.bmm(h[token].unsqueeze(1), chosen).squeeze(1) * weights.reshape(-1)[order].unsqueeze(-1)
    return x + torch.zeros_like(h).index_add(0, token, outs).view_as(x)
)")
      .refused = true;
  add("TwoBanksOfAnOffset", R"(
    bank = torch.cat([self.expert_weights, self.expert_weights * 2.0])
    chosen = bank[ids + 6]
    return x + (torch.einsum("td,tkdf->tkf", [h, chosen]) * weights.unsqueeze(-1)).sum(1).view_as(x) * 0.5
)");
  return all;
}

}  // namespace moetap::hooks::testing
