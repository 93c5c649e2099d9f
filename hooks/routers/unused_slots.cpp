// Slots that hold no expert, and transfer functions of RouterFlow for what is done to an index of theirs.
#include "hooks/routers/unused_slots.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "hooks/graph/known_numbers.h"
#include "hooks/routers/router_flow.h"

namespace moetap::hooks {
namespace jit = torch::jit;

// Note [Slots without an expert]
// A slot that a capacity or a mask has left out holds a number that is no expert's: -1, or E. What is computed with
// such ids may be taken for a place of an expert: `-1 * capacity + place` counts from the end of the buffer. These are
// stray numbers. Models take them out again, by what says which slots they are: a comparison of the ids, or the mask by
// which the ids were left out. `where` puts a place of its own there, a product makes a 0 of them, an index leaves them
// out. Or they let them stray and give them the weight 0. What a comparison of ids says of each number, its operator
// tells. Where neither is seen, the experts of these slots cannot be told, and the router is refused.

namespace {

constexpr int64_t kMostStripped = 32;

bool is_negation(const jit::Node& node) {
  const std::string name = base_name(node);
  return name == "logical_not" || name == "bitwise_not";
}

at::Tensor first_rows(const Fact& index) {
  return index.rows.defined() ? index.rows.select(1, 0) : index.numbers;
}

at::Tensor last_rows(const Fact& index) {
  return index.rows.defined() ? index.rows.select(1, 1) : index.numbers;
}

}  // namespace

KeptBy kept_by(const jit::Value* condition, bool where_true) {
  KeptBy kept{condition, where_true};
  for (int64_t i = 0; i < kMostStripped && !kept.mask->node()->inputs().empty(); ++i) {
    const jit::Node& node = *kept.mask->node();
    const OpKind kind = op_kind(node);
    const bool same = kind == OpKind::kCopy || kind == OpKind::kReshape || kind == OpKind::kRepeat ||
                      kind == OpKind::kNonzero || node.kind() == jit::prim::ListUnpack || base_name(node) == "bool" ||
                      (kind == OpKind::kMoveAxis && !turns_elements(node));
    if (is_negation(node)) {
      kept.where_true = !kept.where_true;
    } else if (!same) {
      break;
    }
    kept.mask = node.input(0);
  }
  return kept;
}

// What a mask that is computed of ids alone says of each of their numbers; undefined where it is not told, or where
// they hold no other numbers than experts.
at::Tensor RouterFlow::says_of_numbers(const jit::Node& comparison, const jit::Value* ids, const Fact& own) {
  const at::Tensor numbers = own.rows.defined() ? own.rows : numbers_of(own);
  if (!numbers.defined() || numbers.size(0) <= own.num_experts.value_or(0)) return {};
  const at::Tensor says = computed(comparison, ids, numbers);
  if (!says.defined() || says.scalar_type() != at::kBool || says.dim() == 1) return says;
  return says.select(1, 0).equal(says.select(1, 1)) ? says.select(1, 0) : at::Tensor();
}

bool RouterFlow::keeps_experts_only(const KeptBy& by, const Fact& ids) const {
  if (by.mask == nullptr) return false;
  if (by == ids.unused) return true;
  const Fact* mask = fact(by.mask);
  if (mask == nullptr || !mask->says.defined() || mask->picks != ids.picks || !ids.num_experts) return false;
  const at::Tensor keeps = by.where_true ? mask->says : mask->says.logical_not();
  const at::Tensor beside = keeps.slice(0, *ids.num_experts);
  return keeps.slice(0, 0, *ids.num_experts).all().item<bool>() && !beside.any().item<bool>();
}

// True if a number beside those of the experts may be taken for one of theirs.
bool RouterFlow::may_stray(const Fact& index) const {
  const at::Tensor first = first_rows(index), last = last_rows(index);
  if (!first.defined() || !index.num_experts) return index.strays;
  const int64_t experts = *index.num_experts;
  if (first.size(0) <= experts) return false;
  const int64_t begin = first.slice(0, 0, experts).min().item<int64_t>();
  const int64_t end = last.slice(0, 0, experts).max().item<int64_t>();
  const at::Tensor from = first.slice(0, experts), to = last.slice(0, experts);
  const at::Tensor meets = to.ge(begin).logical_and(from.le(end));
  const at::Tensor counts_from_end = from.lt(0).logical_and(at::full({}, begin >= 0, at::kBool));
  return meets.logical_or(counts_from_end).any().item<bool>();
}

// A place that is not known was added to each number: of as many as lie between the numbers of two experts.
void RouterFlow::add_places(Fact& result, const Fact& own) const {
  if (!own.strided || !own.numbers.defined() || own.num_experts.value_or(0) < 2) return;
  const at::Tensor places = own.numbers[1] - own.numbers[0];
  result.rows = at::stack({own.numbers, own.numbers + places - 1}, 1);
  result.strays = may_stray(result);
}

// Another number, where it is known, stands at the slots without an expert now; or none.
void RouterFlow::replace_unused(Fact& result, const Fact& own, std::optional<int64_t> number) const {
  const int64_t experts = own.num_experts.value_or(0);
  result.index = own.index;
  result.rewritten = own.rewritten;
  for (at::Tensor* of : {&result.rows, &result.numbers}) {
    if (!of->defined()) continue;
    std::vector<at::Tensor> parts = {of->slice(0, 0, experts)};
    if (number) parts.push_back(at::full_like(of->slice(0, 0, 1), *number));
    *of = at::cat(parts);
  }
  // Of an index of which nothing is known, experts begin at 0.
  const bool known = first_rows(result).defined();
  result.strays = number && (known ? may_stray(result) : *number <= 0);
}

// What a mask keeps of the experts' numbers, where it compares these ids, and they hold no others; else undefined.
at::Tensor RouterFlow::kept_of_numbers(const KeptBy& kept, const Fact& own, const at::Tensor& numbers) {
  if (kept.mask == nullptr || own.rows.defined() || !numbers.defined() || numbers.size(0) != own.num_experts) return {};
  const jit::Node& comparison = *kept.mask->node();
  for (const jit::Value* compared : comparison.inputs()) {
    const Fact* ids = fact(compared);
    if (ids == nullptr || ids->role != Role::kIds || ids->picks != own.picks || ids->rows.defined()) continue;
    const at::Tensor of_ids = numbers_of(*ids);
    if (!of_ids.defined() || of_ids.sizes() != numbers.sizes()) continue;
    const at::Tensor says = computed(comparison, compared, of_ids);
    if (!says.defined() || says.scalar_type() != at::kBool) continue;
    return kept.where_true ? says : says.logical_not();
  }
  return {};
}

// Ids over which a number was written, but where `kept`. True if more is known of them than that they are ids.
void RouterFlow::write_over_numbers(Fact& result, const Fact& own, const jit::Value* written, jit::Node* node,
                                    const KeptBy& kept) {
  const auto range = written == nullptr ? std::nullopt : known_numbers(graph_, written);
  const at::Tensor before = numbers_of(own);
  const auto number = range && range->least == range->largest ? std::optional(range->least) : std::nullopt;
  const bool known = number && before.defined();
  const auto with_written = [&] { return at::cat({before, at::full({1}, *number, before.options())}); };
  if (own.aligned) {
    if (!known) return;
    result.numbers = with_written();
    const bool first = before.numel() == own.num_experts;
    const bool no_expert = *number < 0 || *number >= own.num_experts.value_or(0);
    result.unused = first && no_expert ? kept : KeptBy{};
    return;
  }
  if (keeps_experts_only(kept, own)) return replace_unused(result, own, number);
  if (!own.index || own.placed || own.nested) return;
  if (const at::Tensor keeps = kept_of_numbers(kept, own, before); known && keeps.defined()) {
    result.numbers = at::where(keeps, before, at::full_like(before, *number));
    result.rows = at::Tensor();
    result.unknown_numbers = false;
    result.index = true;
    return name_numbers(result, own, node);
  }
  result.numbers = known ? with_written() : at::Tensor();
  result.rows = at::Tensor();
  result.unknown_numbers = !known;
  result.index = true;
  if (known) {
    name_numbers(result, own, node);
  } else {
    result.rewritten = true;
  }
}

// Ids that are put beside others may hold what these do.
void RouterFlow::join_numbers(Fact& into, const Fact& from) const {
  if (!(into.unused == from.unused)) into.unused = {};
  if (into.rows.defined() != from.rows.defined() || (into.rows.defined() && !into.rows.equal(from.rows))) {
    into.rows = at::Tensor();
  }
  if (!into.numbers.defined() && !from.numbers.defined() && into.unknown_numbers == from.unknown_numbers) return;
  const at::Tensor own = numbers_of(into), other = numbers_of(from);
  const int64_t experts = into.num_experts.value_or(0);
  const bool alike = own.defined() && other.defined() && into.num_experts == from.num_experts &&
                     own.slice(0, 0, experts).equal(other.slice(0, 0, experts));
  into.unknown_numbers = !alike;
  into.numbers = alike ? at::cat({own, other.slice(0, experts)}) : at::Tensor();
}

// True if every weight that stands at a slot without an expert is 0, or what it weighs.
bool RouterFlow::weighs_experts_only(const std::vector<jit::Value*>& selected) const {
  const auto keeps = [&](const KeptBy& by) {
    return std::any_of(selected.begin(), selected.end(), [&](const jit::Value* ids) {
      const Fact* found = fact(ids);
      return found != nullptr && keeps_experts_only(by, *found);
    });
  };
  const auto keeps_any = [&](const std::vector<KeptBy>& all) { return std::any_of(all.begin(), all.end(), keeps); };
  bool weighs = false, all = true;
  for (const Event& event : events_) {
    if (event.kind == EventKind::kAppliesWeights) {
      weighs = true;
      all = all && keeps_any(event.what.zero_unless);
    } else if (event.kind == EventKind::kDispatches && event.what.role == Role::kMask && !event.on_input) {
      for (const jit::Value* input : event.node->inputs()) {
        if (is_tensor(input) && fact(input) != nullptr && keeps(kept_by(input, true))) return true;
      }
    }
  }
  return weighs && all;
}

}  // namespace moetap::hooks
