#include "hooks/sites/spec_attention.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "hooks/attention/attention_tokens.h"
#include "hooks/attention/packed_projection.h"
#include "hooks/graph/known_shapes.h"
#include "hooks/graph/op_traits.h"
#include "hooks/graph/value_origins.h"
#include "hooks/tokens/token_layouts.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

constexpr const char* kLayoutOfFour = "bhqk";

// The arm that the entry changes; an empty one where all is named anew.
AttentionArm arm_to_change(const FoundAttention* found, const SpecEntry& entry, const SpecPlace& place) {
  const AttentionSpec& said = entry.said().attention;
  const bool names_whole = said.probabilities || (said.query && said.key);
  if (found == nullptr) {
    if (names_whole) return {};
    entry.fail(fmt::format("no attention was found in {}: to name one by hand, say query and key, or the probabilities",
                           place.printed()));
  }
  const AttentionArm& arm = found->arms[0];
  const bool in_one_place = found->arms.size() == 1 && arm.implementation != kPackedImplementation;
  if (names_whole) return in_one_place ? arm : AttentionArm();
  if (!in_one_place) {
    entry.fail(fmt::format("the attention in {} is computed {}: say query and key, or the probabilities",
                           place.printed(),
                           found->arms.size() > 1 ? fmt::format("in {} places", found->arms.size())
                                                  : "from packed weights by one operator"));
  }
  if (!arm.is_fused() && (said.query || said.key || said.mask || said.scale || said.causal)) {
    entry.fail(fmt::format(
        "the model writes out the attention in {}, whose probabilities were found: query and key go together; "
        "mask, scale and causal go with them",
        place.printed()));
  }
  if (arm.is_fused() && said.scores) {
    entry.fail(fmt::format("scores in {} go with probabilities, which an operator for all of it does not show",
                           place.printed()));
  }
  return arm;
}

void fill(AttentionArm& arm, const SpecEntry& entry, const SpecPlace& place) {
  const AttentionSpec& said = entry.said().attention;
  const auto value = [&](const std::optional<ValueReference>& reference, const char* role, jit::Value*& place_of_it) {
    if (reference) place_of_it = entry.value(*reference, place, role);
  };
  arm.named_by_hand = true;
  const bool names_whole = said.probabilities || (said.query && said.key);
  if (names_whole) {
    arm.behind_dropout.clear();
    arm.probabilities = arm.scores = nullptr;
    arm.product = arm.applied = nullptr;
    arm.implementation = said.probabilities ? "eager" : "sdpa";  // how tokens and heads are told
  }
  value(said.query, "query", arm.query);
  value(said.key, "key", arm.key);
  value(said.probabilities, "probabilities", arm.probabilities);
  value(said.scores, "scores", arm.scores);
  // What the operator gives belongs to the values that it got.
  if (said.query || said.key || said.mask || said.scale || said.causal) {
    arm.output = arm.log_sum_exp = nullptr;
  }
  if (said.mask) arm.mask = entry.value(*said.mask, place, "mask", ValueType::kOptionalTensor);
  if (said.scale) arm.said_scale = said.scale;
  if (said.causal) arm.said_causal = said.causal;
  if (said.layout || arm.layout.empty()) arm.layout = said.layout.value_or(kLayoutOfFour);
  const bool are_merged = arm.layout.find('m') != std::string::npos;
  if (!are_merged) arm.num_heads = 0;
  if (are_merged && said.num_heads) arm.num_heads = *said.num_heads;
  if (are_merged && arm.num_heads == 0) {
    entry.fail(fmt::format("layout \"{}\" has heads and batch in one dimension: say num_heads", arm.layout));
  }
}

// Where the graph shows how many dimensions a value has. What it does not show, the run tells.
void check_ranks(const AttentionArm& arm, const SpecEntry& entry, const SpecPlace& place) {
  KnownShapes shapes(place.graph());
  const auto check = [&](const jit::Value* value, const char* role) {
    const auto rank = shapes.of(value).rank;
    const auto expected = static_cast<int64_t>(arm.layout.size());
    if (!rank || *rank == expected) return;
    entry.fail(fmt::format("{} in {} must have the {} dimensions of the layout \"{}\", got {}: %{} of \"{}\"", role,
                           place.printed(), expected, arm.layout, *rank, value->debugName(), printed(value->node())));
  };
  if (!arm.is_fused()) return check(arm.probabilities, "probabilities");
  check(arm.query, "query");
  check(arm.key, "key");
}

// The nodes of a written attention, from its probabilities back to the product of query and key.
std::set<const jit::Node*> nodes_before(const jit::Value* probabilities) {
  std::set<const jit::Node*> nodes;
  std::vector<const jit::Value*> open = {probabilities};
  while (!open.empty()) {
    const jit::Node* node = open.back()->node();
    open.pop_back();
    if (!nodes.insert(node).second || op_kind(*node) == OpKind::kContract) continue;
    open.insert(open.end(), node->inputs().begin(), node->inputs().end());
  }
  return nodes;
}

// The nodes in a place that are made of query or key, on to the product with the values.
std::set<const jit::Node*> nodes_behind(const AttentionArm& arm, const SpecPlace& place) {
  std::set<const jit::Node*> nodes;
  std::vector<std::pair<const jit::Value*, bool>> open = {{arm.query, false}, {arm.key, false}};
  while (!open.empty()) {
    const auto [value, is_product] = open.back();
    open.pop_back();
    for (const jit::Use& use : value->uses()) {
      const int64_t order = place.graph().order(use.user);
      const bool is_inside = place.call->first <= order && order < place.call->last;
      if (!is_inside || !nodes.insert(use.user).second) continue;
      const OpKind kind = op_kind(*use.user);
      const bool is_last = (kind == OpKind::kContract && is_product) || kind == OpKind::kMixOther;
      if (is_last) continue;
      for (const jit::Value* output : use.user->outputs()) {
        open.emplace_back(output, is_product || kind == OpKind::kContract);
      }
    }
  }
  return nodes;
}

// Removes the skipped nodes that are part of an attention now. What a spec left out stays.
void drop_explained(const AttentionArm& arm, const SpecPlace& place) {
  const auto nodes = arm.is_fused() ? nodes_behind(arm, place) : nodes_before(arm.probabilities);
  std::erase_if(place.sites->skipped, [&](const SkippedNode& skipped) {
    return skipped.kind() == HookKind::kAttention && skipped.reason != SkipReason::kSkippedByHookSpec &&
           nodes.count(skipped.node) > 0;
  });
}

}  // namespace

void describe(FoundAttention& attention, const SpecEntry& entry, const SpecPlace& place) {
  const AttentionSpec& said = entry.said().attention;
  entry.describe(attention, place);
  if (said.implementation) attention.implementation = *said.implementation;
  if (said.num_heads) attention.num_heads = said.num_heads;
  if (said.num_key_heads) attention.num_key_heads = said.num_key_heads;
  if (said.self_attention) attention.self_attention = *said.self_attention;
}

void name_attention(const SpecEntry& entry, const SpecPlace& place) {
  entry.check_is_call(place);
  std::vector<FoundAttention>& attentions = place.sites->attentions;
  FoundAttention* found = entry.only_one(attentions, place, "attention hooks");
  FoundAttention attention;
  attention.owner = found != nullptr ? found->owner : place.path;
  if (found != nullptr) {
    attention.layer = found->layer;
    attention.component = found->component;
    attention.implementation = found->implementation;
  }
  AttentionArm arm = arm_to_change(found, entry, place);
  fill(arm, entry, place);
  std::vector<jit::Value*> values = arm.needed_values();
  arm.node = (*std::max_element(values.begin(), values.end(), [&](const jit::Value* a, const jit::Value* b) {
               return place.graph().order(a->node()) < place.graph().order(b->node());
             }))->node();
  if (arm.product == nullptr) arm.product = arm.applied = arm.node;
  if (entry.said().attention.scores) values.push_back(arm.scores);
  entry.check_visible(values, arm.node, place);
  if (attention.implementation.empty() && found != nullptr) {
    attention.implementation = found->arms[0].implementation;
  } else if (attention.implementation.empty()) {
    attention.implementation = "named";
  }

  check_ranks(arm, entry, place);
  const ValueOrigins origins(place.graph());
  const TokenLayouts layouts(place.graph(), origins);
  attention.arms = {std::move(arm)};
  describe_tokens(attention, place.graph(), origins, layouts);
  describe(attention, entry, place);
  if (attention.owner.empty()) entry.fail("module \"\" is the model itself, which has no path: say name");
  drop_explained(attention.arms[0], place);
  put(attentions, found, std::move(attention), place.graph());
}

}  // namespace moetap::hooks
