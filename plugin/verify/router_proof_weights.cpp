// The checks "weights" and "factor".
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "plugin/verify/router_prover.h"

namespace moetap::plugin {
namespace {

/// True if every number of `tensor` but 0 is one of `numbers`.
bool holds_only(const at::Tensor& tensor, const at::Tensor& numbers) {
  const at::Tensor found = tensor.to(at::kDouble).reshape({-1});
  const at::Tensor held = std::get<0>(at::cat({numbers, numbers.new_zeros({1})}).sort());
  const at::Tensor place = at::searchsorted(held, found).clamp_max(held.numel() - 1);
  const at::Tensor above = held.index_select(0, place), below = held.index_select(0, (place - 1).clamp_min(0));
  const at::Tensor distance = at::minimum((found - above).abs(), (found - below).abs());
  const double tolerance = tensor.element_size() < 4 ? 1e-2 : 1e-5;
  return distance.le(found.abs() * tolerance + 1e-12).all().item<bool>();
}

}  // namespace

const RouterProver::ScaledRuns& RouterProver::scaled() const {
  if (!scaled_) {
    const auto times = [this](double factor) {
      return run(both(twin_.with_weights_times(factor), twin_.with_ids_kept()));
    };
    scaled_ = ScaledRuns{times(0), times(2)};
  }
  return *scaled_;
}

const hooks::WeightedValue* RouterProver::applied() const {
  const auto has_width = [&](const at::Tensor& value, int64_t width) {
    return value.defined() && value.is_floating_point() && value.dim() > 0 && value.size(-1) == width;
  };
  if (router_.from_weights.empty()) return nullptr;
  const at::Tensor added = base_.first(router_.from_weights.back().probe);
  if (!added.defined() || added.dim() == 0) return nullptr;
  const hooks::WeightedValue* first = nullptr;
  for (const hooks::WeightedValue& value : router_.from_weights) {
    const at::Tensor once = base_.first(value.probe), none = scaled().zero.first(value.probe),
                     two = scaled().twice.first(value.probe);
    if (!has_width(once, added.size(-1)) || !none.defined() || same_bits(none, once)) continue;
    // What only depends on which weights are zero is where they say which tokens an expert gets.
    if (!two.defined() || !same_bits(two, once)) return &value;
    if (first == nullptr) first = &value;
  }
  return first;
}

Finding RouterProver::weights() const {
  if (!call().weights.defined()) return not_shown("none are captured");
  if (!call().weights.is_floating_point()) return not_shown("they are no floating point numbers");
  const auto& [zero, twice] = scaled();
  for (const TwinRun* each : {&zero, &twice}) {
    if (!each->ran()) return not_shown(fmt::format("the model failed: {}", each->error));
  }
  const auto* value = applied();
  if (value == nullptr) {
    const bool changes_nothing = zero.output->is_floating_point() && same_bits(*zero.output, *base_.output);
    return changes_nothing ? refuted("zeroing them changes nothing")
                           : not_shown("what the block gives is not added to anything");
  }
  const at::Tensor once = base_.first(value->probe), none = zero.first(value->probe), two = twice.first(value->probe);
  if (!two.defined() || none.sizes() != once.sizes() || two.sizes() != once.sizes()) {
    return not_shown("with other weights the model goes another way");
  }
  // A branch beside the experts that is weighed by what the weights leave of one stays where they are zero.
  const bool beside_others = !almost_equal(two, once * 2) && !almost_equal(two, once) &&
                             almost_equal(two.to(at::kDouble) + none.to(at::kDouble), once.to(at::kDouble) * 2);
  if (!beside_others && !almost_equal(two, once * 2)) {
    return refuted(almost_equal(two, once) ? "doubling them changes nothing: they are normalised afterwards"
                                           : "doubling them does not double what they are applied to");
  }
  if (beside_others && (router_.form != "slots" || !twin_.has_own_ids())) {
    return not_shown("what is left where they are zero may be another branch, or of the experts");
  }
  if (!beside_others && none.count_nonzero().item<int64_t>() > 0)
    return refuted("something is left although all are zero");
  if (router_.form == "slots" && twin_.has_own_ids()) {
    const at::Tensor used = call().selected.ge(0);
    const at::Tensor ids = at::where(used, call().num_experts - 1 - call().selected, call().selected);
    const TwinRun others = run(both(twin_.with_selected(ids), twin_.with_weights_times(0)));
    if (!others.ran()) return not_shown(fmt::format("the model failed: {}", others.error));
    if (!almost_equal(*others.output, *zero.output)) {
      if (beside_others)
        return refuted("with zero weights the experts are not zero: something is added to the weights");
      // The block may weigh shared experts by what the ids leave over, so this refutes nothing.
      return not_shown("with zero weights other ids still change the output: something else is computed from them");
    }
    if (call().logits.defined()) {
      if (const Finding found = pairs(); found.verdict == Verdict::kRefuted) return found;
    }
  }
  return proven();
}

bool RouterProver::is_weights(int64_t probe) const {
  return std::any_of(router_.weights.begin(), router_.weights.end(),
                     [&](const hooks::ProbedValue& weights) { return weights.source == probe; });
}

const hooks::WeightedValue* RouterProver::weighted_value(int64_t probe) const {
  const auto found = std::find_if(router_.from_weights.begin(), router_.from_weights.end(),
                                  [&](const hooks::WeightedValue& value) { return value.probe == probe; });
  return found == router_.from_weights.end() ? nullptr : &*found;
}

Finding RouterProver::factor() const {
  if (!call().weights.defined() || !call().weights.is_floating_point()) return not_shown("none are captured");
  const auto& [zero, twice] = scaled();
  const auto* last = zero.ran() && twice.ran() ? applied() : nullptr;
  if (last == nullptr) return not_shown("what the weights are applied to is not known");
  const at::Tensor captured = twin_.weights_as_numbers();
  const auto is_proportional = [&](int64_t probe) {
    const at::Tensor once = base_.first(probe), two = scaled().twice.first(probe);
    return once.defined() && two.defined() && once.is_floating_point() && almost_equal(two, once * 2) &&
           !same_bits(two, once);
  };
  // Back from what they are applied to, up to values that hold their numbers.
  std::vector<const hooks::WeightedValue*> open = {last};
  std::set<int64_t> seen;
  bool is_applied = false;
  while (!open.empty()) {
    const hooks::WeightedValue& value = *open.back();
    open.pop_back();
    for (const int64_t probe : value.from) {
      if (!seen.insert(probe).second || (!is_weights(probe) && !is_proportional(probe))) continue;
      const at::Tensor operand = base_.first(probe), result = base_.first(value.probe);
      if (!is_weights(probe) && !holds_only(operand, captured)) {
        if (const auto* before = weighted_value(probe)) open.push_back(before);
        continue;
      }
      // Hidden states make more numbers of the weights; a factor makes as many others.
      const bool is_factor = result.sizes() == operand.sizes() && operand.numel() <= captured.numel();
      if (is_factor && !holds_only(result, captured)) {
        return refuted("what the experts' outputs are multiplied by holds other numbers than the weights");
      }
      is_applied = true;
    }
  }
  return is_applied ? proven() : not_shown("what the weights are applied to is not known");
}

}  // namespace moetap::plugin
