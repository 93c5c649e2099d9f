// Transfer functions of RouterFlow for arithmetic on ids.
#include <ATen/ATen.h>

#include <algorithm>
#include <set>

#include "hooks/routers/router_flow.h"

namespace moetap::hooks {
namespace jit = torch::jit;

// Note [Ids that are computed with]
// `(ids + 1) % E` are other expert ids, `ids * capacity + place` is a place in a buffer, `ids // 2` is a group. What
// arithmetic makes of ids is told by what it makes of each number from 0 to E - 1, where the graph fixes the other
// operands: the operators themselves compute that. Numbers that are all below E are the ids that the experts get. Those
// that rise with the ids are an index of the same experts, in another table. A quotient or a remainder that is the same
// for several is a part of the ids. All others are followed no further: they may choose experts only where they are
// looked up among as many as there are experts, since such an index is an id whatever it was computed from. Where they
// choose otherwise, the router is refused.

namespace {

constexpr int64_t kMostNumbers = 65536;
constexpr int64_t kMostBeyond = 64;  // ids of experts that do nothing, or are shared

bool are_within(const at::Tensor& numbers, int64_t least, int64_t end) {
  return numbers.ge(least).logical_and(numbers.lt(end)).all().item<bool>();
}

bool all_differ(const at::Tensor& numbers) {
  return std::get<0>(at::_unique(numbers)).numel() == numbers.numel();
}

// Numbers that rise evenly, counted from the end of a table where they are negative.
bool rise(const at::Tensor& numbers) {
  const int64_t size = numbers.numel(), first = numbers[0].item<int64_t>();
  const int64_t step = size > 1 ? numbers[1].item<int64_t>() - first : 1;
  if (step < 1 || (first < 0 && (first != -size || step != 1))) return false;
  return numbers.equal(at::arange(size, numbers.options()) * step + first);
}

bool takes_a_part(const std::string& name) {
  static const std::set<std::string> kParts = {"floor_divide", "div",         "divide",  "remainder",
                                               "fmod",         "bitwise_and", "__and__", "__iand__"};
  return kParts.contains(name);
}

bool is_modulus(const std::string& name) {
  return name == "remainder" || name == "fmod";
}

// True if something is written into the numbers, and what becomes of them is not followed: a statement of its own.
bool are_written_beside(const jit::Value* numbers) {
  return std::any_of(numbers->uses().begin(), numbers->uses().end(), [](const jit::Use& use) {
    if (use.offset != 0) return false;
    if (may_be_view(*use.user)) return are_written_beside(use.user->output(0));
    return is_in_place(*use.user) && use.user->output(0)->uses().empty();
  });
}

// True if ids are compared somewhere: those beyond a number may be of experts that have no parameters.
bool are_compared(const jit::Value* ids) {
  return std::any_of(ids->uses().begin(), ids->uses().end(), [](const jit::Use& use) {
    if (op_kind(*use.user) == OpKind::kCompare) return true;
    const OpKind kind = op_kind(*use.user);
    const bool same = kind == OpKind::kCopy || kind == OpKind::kReshape;
    return same && !is_in_place(*use.user) && are_compared(use.user->output(0));
  });
}

}  // namespace

// The numbers, or truths, that a node's operator makes of `numbers`, where `value` holds them and all else is fixed.
at::Tensor RouterFlow::computed(const jit::Node& node, const jit::Value* value, const at::Tensor& numbers) {
  jit::Stack stack;
  for (const jit::Value* input : node.inputs()) {
    if (input == value) {
      stack.emplace_back(numbers.clone());
    } else if (const auto known = fixed_number(input)) {
      stack.push_back(*known);
    } else {
      return {};
    }
  }
  try {
    node.getOperation()(stack);
  } catch (const std::exception&) {
    return {};
  }
  if (stack.size() != 1 || !stack.back().isTensor()) return {};
  const at::Tensor result = stack.back().toTensor();
  const bool fits = result.defined() && result.sizes() == numbers.sizes() &&
                    at::isIntegralType(result.scalar_type(), /*includeBool=*/true);
  if (!fits) return {};
  return result.scalar_type() == at::kBool ? result : result.to(at::kLong);
}

at::Tensor RouterFlow::numbers_of(const Fact& ids) const {
  if (ids.numbers.defined() || ids.unknown_numbers) return ids.numbers;
  if (!ids.num_experts || *ids.num_experts < 1 || *ids.num_experts > kMostNumbers) return {};
  return at::arange(*ids.num_experts, at::kLong);
}

std::optional<c10::IValue> RouterFlow::fixed_number(const jit::Value* value) {
  if (const auto constant = graph_.constant(value)) {
    const bool several = constant->isTensor() && (!constant->toTensor().defined() || constant->toTensor().numel() != 1);
    if (several) return std::nullopt;
    return constant->isTensor() ? c10::IValue(constant->toTensor().reshape({})) : *constant;
  }
  const jit::Node& node = *value->node();
  const std::string name = base_name(node);
  if (name == "NumToTensor" || name == "Int" || name == "IntImplicit" || name == "ScalarImplicit") {
    return fixed_number(node.input(0));
  }
  if (node.kind() == jit::aten::size && node.inputs().size() == 2) {
    const auto dim = graph_.constant_int(node.input(1));
    const KnownShape shape = shapes_.of(node.input(0));
    const bool last = dim && (*dim == -1 || (shape.rank && *dim == *shape.rank - 1));
    if (last && shape.last) return c10::IValue(*shape.last);
    return std::nullopt;
  }
  if (node.kind() == jit::aten::neg && value->type()->kind() == c10::TypeKind::IntType) {
    const auto negated = fixed_number(node.input(0));
    return negated && negated->isInt() ? std::optional(c10::IValue(-negated->toInt())) : std::nullopt;
  }
  const bool integers = node.inputs().size() == 2 && value->type()->kind() == c10::TypeKind::IntType;
  if (!integers || (name != "add" && name != "sub" && name != "mul")) return std::nullopt;
  const auto left = fixed_number(node.input(0)), right = fixed_number(node.input(1));
  if (!left || !right || !left->isInt() || !right->isInt()) return std::nullopt;
  const int64_t a = left->toInt(), b = right->toInt();
  return c10::IValue(name == "add" ? a + b : name == "sub" ? a - b : a * b);
}

// True if what is computed of the value lies at the same slots: the other operands add no dimension.
bool RouterFlow::keeps_slots(const jit::Node& node, const jit::Value* value) {
  for (const jit::Value* input : node.inputs()) {
    if (input == value || !is_tensor(input) || fixed_number(input)) continue;
    const KnownShape own = shapes_.of(value), other = shapes_.of(input);
    if (!own.rank || !other.rank || *other.rank > *own.rank) return false;
    if (other.last != 1 && (!own.last || other.last != own.last)) return false;
  }
  return true;
}

// What the numbers at the slots of `own` mean behind `node`, which gave `result.numbers`.
void RouterFlow::name_numbers(Fact& result, const Fact& own, jit::Node* node) const {
  const bool at_slots = result.index;
  const std::string name = base_name(*node);
  const int64_t num_experts = result.num_experts.value_or(0);
  const at::Tensor all = result.numbers, of_experts = all.slice(0, 0, num_experts), beside = all.slice(0, num_experts);
  const bool same = of_experts.equal(at::arange(num_experts, all.options()));
  const bool in_range = are_within(of_experts, 0, num_experts) && are_within(beside, -1, num_experts + kMostBeyond);
  if (in_range && !same && takes_a_part(name) && !all_differ(of_experts)) {
    result.nested = true;
    result.index = false;
    return;
  }
  if (in_range) {
    result.index = result.strays = false;
    // In another order, `ids` tell what the numbers are as long as they are the same.
    result.rewritten = at_slots ? false : own.rewritten || !same || beside.numel() > 0;
    if (!at_slots) return;
    result.aligned = true;
    result.base = node->output(0);
    result.ids = {result.base};
    result.numbers = beside.numel() > 0 ? at::cat({at::arange(num_experts, all.options()), beside}) : at::Tensor();
    return;
  }
  result.strided = own.strided || (num_experts > 1 && (all[1] - all[0]).item<int64_t>() > 1);
  result.rewritten = own.rewritten || !rise(of_experts);
  result.strays = may_stray(result);
}

// Rows of experts that are all moved alike: what becomes of the others is known, too.
bool RouterFlow::keeps_rows(const jit::Node& node, const jit::Value* value, const Fact& own, Fact& result) {
  result.rows = computed(node, value, own.rows);
  if (!result.rows.defined()) return false;
  const auto of_experts = [&](const at::Tensor& rows) { return rows.slice(0, 0, *own.num_experts); };
  const at::Tensor moved = of_experts(result.rows) - of_experts(own.rows);
  if (!moved.eq(moved[0][0]).all().item<bool>()) {
    result.rows = at::Tensor();
    return false;
  }
  result.rewritten = own.rewritten;
  result.strays = may_stray(result);
  return true;
}

void RouterFlow::follow_numbers(jit::Node* node, const Fact& own, jit::Value* value) {
  const std::string name = base_name(*node);
  const jit::Value* partner = nullptr;
  for (const jit::Value* input : node->inputs().slice(0, std::min<size_t>(node->inputs().size(), 2))) {
    if (input != value) partner = input;
  }
  Fact result = own;
  lose_alignment(result);
  result.index = (own.aligned || own.index) && keeps_slots(*node, value);
  const bool clamps = name.starts_with("clamp") || name == "clip" || name == "maximum" || name == "minimum";
  if (own.looked_up && clamps) {  // of experts that have no place here
    set(node->output(0), own);
    return;
  }
  const at::Tensor before = numbers_of(own);
  if (before.defined()) {
    result.numbers = computed(*node, value, before);
    result.rows = at::Tensor();
  }
  if (before.defined() && result.numbers.defined()) {
    const int64_t experts = own.num_experts.value_or(0);
    const bool same = !own.index && result.numbers.slice(0, 0, experts).equal(before.slice(0, 0, experts));
    // A clamp keeps what was written over ids inside a table, or ids of experts without parameters, which are told from
    // others by comparing them.
    const bool compared = std::any_of(own.ids.begin(), own.ids.end(), are_compared);
    if ((same && (clamps || result.numbers.equal(before))) || (clamps && !own.index && compared)) {
      result.index = false;
      result.numbers = own.numbers;
    } else {
      name_numbers(result, own, node);
      if (result.index && !result.strided && are_written_beside(node->output(0))) result.rewritten = true;
    }
    set(node->output(0), result);
    return;
  }
  result.numbers = at::Tensor();
  result.unknown_numbers = true;
  const bool scales = name == "mul" || name == "multiply";
  if (scales && partner != nullptr && is_tensor(partner) && keeps_experts_only(kept_by(partner, true), own)) {
    replace_unused(result, own, 0);
    set(node->output(0), result);
    return;
  }
  if (own.rows.defined() && keeps_rows(*node, value, own, result)) {
    set(node->output(0), result);
    return;
  }
  const auto number = partner == nullptr ? std::nullopt : fixed_number(partner);
  const int64_t modulus = number && number->isInt() ? number->toInt() : -1;
  if (is_modulus(name) && own.num_experts && modulus == *own.num_experts && node->input(0) == value) {
    result.rewritten = !result.index;
    if (result.index) {
      result.index = result.unknown_numbers = result.strided = false;
      result.aligned = true;
      result.base = node->output(0);
      result.ids = {result.base};
    }
    set(node->output(0), result);
    return;
  }
  if (takes_a_part(name)) result.nested = true;
  const bool adds = name == "add" || (name == "sub" && node->input(0) == value);
  const bool is_number = partner != nullptr && !is_tensor(partner);
  const bool by_place = partner != nullptr && origins_.of(partner) <= Origin::kParameter;
  result.strided = own.strided || (scales && (is_number || by_place));
  // `expert * capacity + place`, or another table for each slot: an index of the same experts.
  const bool keeps_experts = (adds && (is_number || by_place || own.strided)) || (scales && (is_number || by_place));
  result.rewritten = own.rewritten || !(keeps_experts || result.nested);
  if (adds && !result.rewritten) add_places(result, own);
  set(node->output(0), result);
}

// An index among as many as there are experts is an expert's id, whatever it was computed from. True if `value` is now
// known to be one; whoever asked is visited again.
bool RouterFlow::take_as_ids(jit::Value* value, std::optional<int64_t> among) {
  const Fact* found = fact(value);
  if (found == nullptr || found->role != Role::kIds || found->aligned || !found->index) return false;
  if (found->placed || found->nested || !among || among != found->num_experts) return false;
  if (found->numbers.defined() && found->numbers.lt(0).any().item<bool>()) return false;  // counted from the end
  Fact ids = *found;
  ids.aligned = true;
  ids.index = ids.rewritten = ids.unknown_numbers = ids.strided = ids.strays = false;
  ids.rows = at::Tensor();
  ids.numbers = at::Tensor();
  ids.base = value;
  ids.ids = {value};
  set(value, ids);
  return true;
}

}  // namespace moetap::hooks
