#include "plugin/capture/router_report.h"

#include <ATen/ATen.h>

#include <limits>
#include <numeric>
#include <optional>

#include "plugin/capture/tensor_alias.h"

namespace moetap::plugin {
namespace {

/// How the model lays out its tokens, read from the first tensor that has a dimension of experts (or slots).
struct TokenLayout {
  std::vector<int64_t> sizes;
  int64_t num_tokens = 0;
};

TokenLayout layout_of(const at::Tensor& experts_last) {
  const auto sizes = experts_last.sizes();
  TokenLayout layout{std::vector<int64_t>(sizes.begin(), sizes.end() - 1), 1};
  for (const int64_t size : layout.sizes) {
    layout.num_tokens *= size;
  }
  return layout;
}

at::Tensor move_experts_last(const at::Tensor& tensor, int64_t expert_dim, const char* name) {
  TORCH_CHECK(tensor.dim() >= 1 && expert_dim >= -tensor.dim() && expert_dim < tensor.dim(), name,
              " must have a dimension ", expert_dim, " of experts, got ", tensor.sizes());
  return expert_dim == -1 || expert_dim == tensor.dim() - 1 ? tensor : tensor.movedim(expert_dim, -1);
}

/// -> [num_tokens, size of the last dimension]
at::Tensor flatten_tokens(const at::Tensor& experts_last) {
  return in_shape(experts_last, {layout_of(experts_last).num_tokens, experts_last.size(-1)});
}

/// True if what is left without the last dimension, of size 1, may fit.
bool broadcasts_behind(const at::Tensor& tensor, int64_t num_tokens) {
  return tensor.dim() > 2 && tensor.size(-1) == 1 && num_tokens > 0 && tensor.numel() % num_tokens == 0;
}

/// A tensor over the experts whose shape may differ from the logits' (flattened before or after, or with dimensions of
/// size 1 behind the experts, over which a model broadcasts): [num_tokens, num_experts].
at::Tensor over_experts(const at::Tensor& tensor, const TokenLayout& layout, int64_t num_experts, int64_t expert_dim,
                        const char* name) {
  const bool same_rank = tensor.dim() == static_cast<int64_t>(layout.sizes.size()) + 1;
  const auto flat = flatten_tokens(move_experts_last(tensor, same_rank ? expert_dim : -1, name));
  if (flat.size(0) != layout.num_tokens && broadcasts_behind(tensor, layout.num_tokens)) {
    return over_experts(tensor.squeeze(-1), layout, num_experts, expert_dim, name);
  }
  TORCH_CHECK(flat.size(0) == layout.num_tokens && flat.size(1) == num_experts, name, " must be [", layout.num_tokens,
              " tokens, ", num_experts, " experts], got ", tensor.sizes());
  return flat;
}

/// A tensor of slots, or of one slot without a dimension for it: [num_tokens, number of slots].
at::Tensor over_slots(const at::Tensor& tensor, const TokenLayout& layout, int64_t expert_dim, const char* name) {
  if (tensor.sizes() == at::IntArrayRef(layout.sizes) || (tensor.dim() == 1 && tensor.numel() == layout.num_tokens)) {
    return in_shape(tensor, {layout.num_tokens, 1});
  }
  if (tensor.dim() == static_cast<int64_t>(layout.sizes.size()) + 1) {
    const auto slots_last = move_experts_last(tensor, expert_dim, name);
    if (layout_of(slots_last).sizes == layout.sizes) {
      return flatten_tokens(slots_last);
    }
  }
  if (layout_of(tensor).num_tokens != layout.num_tokens && broadcasts_behind(tensor, layout.num_tokens)) {
    return over_slots(tensor.squeeze(-1), layout, expert_dim, name);
  }
  // The model flattened its tokens between the projection and the selection, or after it.
  TORCH_CHECK(tensor.dim() >= 2 && layout_of(tensor).num_tokens == layout.num_tokens, name, " must be [",
              layout.num_tokens, " tokens, slots], got ", tensor.sizes());
  return flatten_tokens(tensor);
}

at::Tensor over_slots(at::TensorList tensors, const TokenLayout& layout, int64_t expert_dim, const char* name) {
  std::vector<at::Tensor> slots;
  for (const auto& tensor : tensors) {
    slots.push_back(over_slots(tensor, layout, expert_dim, name));
  }
  return slots.size() == 1 ? slots.front() : at::cat(slots, 1);
}

/// Whether ids on the CPU are in [-1, limit), for sure. A loop without comparisons: the sign bit of a difference tells.
bool are_within(const at::Tensor& ids, int64_t limit) {
  if (!ids.is_contiguous()) return false;
  const auto* id = ids.const_data_ptr<int64_t>();
  const auto highest = static_cast<uint64_t>(limit - 1);
  uint64_t misfits = 0;
  for (const auto* end = id + ids.numel(); id != end; ++id) {
    misfits |= (static_cast<uint64_t>(*id) + 1) | (highest - static_cast<uint64_t>(*id));
  }
  return static_cast<int64_t>(misfits) >= 0;
}

/// int64 ids; on the CPU in [0, limit) or -1, on a device unchecked.
at::Tensor checked_ids(const at::Tensor& reported, int64_t limit, const char* name, const char* of_what) {
  TORCH_CHECK(at::isIntegralType(reported.scalar_type(), /*includeBool=*/false), name, " must hold integers, got ",
              reported.scalar_type());
  const auto ids = reported.scalar_type() == at::kLong ? reported : reported.to(at::kLong);
  if (!ids.device().is_cpu() || ids.numel() == 0 || are_within(ids, limit)) return ids;
  const auto [lowest, highest] = at::aminmax(ids);
  TORCH_CHECK(lowest.item<int64_t>() >= -1 && highest.item<int64_t>() < limit, name, " must hold ", of_what, " in [0, ",
              limit, ") or -1, got ", lowest.item<int64_t>() < -1 ? lowest.item<int64_t>() : highest.item<int64_t>());
  return ids;
}

/// Ids that can index a tensor: on a device those out of range become -1 and are counted; on the CPU `checked_ids`
/// refused them.
at::Tensor usable_ids(const at::Tensor& ids, int64_t limit, CanonicalRouter& canonical) {
  if (ids.device().is_cpu()) return ids;
  const auto outside = ids.lt(-1).logical_or_(ids.ge(limit));
  canonical.out_of_range = outside.sum();
  return ids.masked_fill(outside, -1);
}

/// Sets the ids of null experts aside: they count in no sum. What lies beyond those, too, is no expert at all.
void set_null_ids_aside(CanonicalRouter& canonical, int64_t null_experts) {
  at::Tensor& ids = canonical.call.selected;
  const int64_t num_experts = canonical.call.num_experts;
  const auto beyond = ids.ge(num_experts);
  canonical.null_ids = ids.masked_fill(beyond.logical_not().logical_or_(ids.ge(num_experts + null_experts)), -1);
  ids = ids.masked_fill(beyond, -1);
}

/// Expert choice: selected [E, C] or [B, E, C] names the tokens that each expert takes. Turns this round: each token
/// gets E slots, which hold the experts that took it in ascending order, then -1. (How many slots are needed would have
/// to be read from the device.)
void transpose_expert_choice(const ReportedRouter& reported, const TokenLayout& layout, int64_t num_experts,
                             CanonicalRouter& canonical) {
  TORCH_CHECK(reported.selected.size() == 1 && reported.weights.size() <= 1,
              "expert choice must report one tensor of tokens and at most one of weights, got ",
              reported.selected.size(), " and ", reported.weights.size());
  auto tokens = reported.selected[0];
  const bool batched = tokens.dim() == 3;
  const int64_t groups = batched ? tokens.size(0) : 1;
  TORCH_CHECK(
      (tokens.dim() == 2 || batched) && tokens.size(-2) == num_experts && groups > 0 && layout.num_tokens % groups == 0,
      "selected of expert choice must be [", num_experts, " experts, capacity], got ", tokens.sizes());
  const int64_t group_tokens = layout.num_tokens / groups;
  const auto ids =
      usable_ids(checked_ids(tokens.reshape({groups, num_experts, -1}), group_tokens, "selected", "tokens"),
                 group_tokens, canonical);

  // An extra place behind the last token takes the unused choices.
  const auto place = at::where(ids.lt(0), group_tokens, ids);
  const auto per_token = [&](const at::Tensor& filled) {  // [groups, E, group_tokens + 1] -> [num_tokens, E]
    return filled.narrow(2, 0, group_tokens).transpose(1, 2).reshape({layout.num_tokens, num_experts});
  };
  const std::vector<int64_t> sizes = {groups, num_experts, group_tokens + 1};
  const auto chosen = per_token(at::zeros(sizes, ids.options().dtype(at::kBool)).scatter_(2, place, true));
  const auto experts = at::arange(num_experts, ids.options());
  const auto ordered = std::get<0>(at::where(chosen, experts, num_experts).sort(-1));
  const auto unused = ordered.eq(num_experts);
  canonical.call.selected = ordered.masked_fill(unused, -1);
  if (!reported.weights.empty()) {
    const auto& weights = reported.weights[0];
    TORCH_CHECK(weights.numel() == ids.numel(), "weights of expert choice must be laid out as selected ",
                tokens.sizes(), ", got ", weights.sizes());
    const auto dense = per_token(at::zeros(sizes, weights.options()).scatter_(2, place, weights.reshape(ids.sizes())));
    canonical.call.weights = dense.gather(1, ordered.masked_fill(unused, 0)).masked_fill(unused, 0);
  }
}

/// Weights over all experts: one tensor for all slots, or one for each tensor of slots (routers with several picks).
void gather_dense_weights(const ReportedRouter& reported, const TokenLayout& layout, int64_t num_experts,
                          analysis::RouterCall& call) {
  const size_t parts = reported.weights.size();
  TORCH_CHECK(parts == 1 || parts == reported.selected.size(), "weights of form ", std::string(reported.form),
              " must be one tensor or one for each of the ", reported.selected.size(), " of selected, got ", parts);
  const auto ids = call.selected.clamp_min(0);
  std::vector<at::Tensor> gathered;
  int64_t first_slot = 0;
  for (size_t i = 0; i < parts; ++i) {
    const auto dense = over_experts(reported.weights[i], layout, num_experts, reported.expert_dim, "weights");
    const int64_t slots =
        parts == 1 ? ids.size(1) : over_slots(reported.selected[i], layout, reported.expert_dim, "selected").size(1);
    gathered.push_back(dense.gather(1, ids.narrow(1, first_slot, slots)));
    first_slot += slots;
  }
  // Several picks, or ids that are computed with, may name one expert twice: it has one weight. One pick does not.
  const bool may_repeat = reported.selected.size() > 1 || !reported.choice.defined();
  if (parts == 1 && may_repeat && call.selected.size(1) > 1) {
    const int64_t slots = call.selected.size(1);
    const auto same = call.selected.unsqueeze(2).eq(call.selected.unsqueeze(1));
    const auto earlier = at::ones({slots, slots}, same.options()).tril(-1);
    call.selected = call.selected.masked_fill(same.logical_and(earlier).any(2), -1);
  }
  call.weights = at::cat(gathered, 1).masked_fill(call.selected.lt(0), 0);
  if (call.weights.scalar_type() == at::kBool) call.weights = call.weights.to(at::kFloat);  // a mask weighs all alike
  if (reported.form == "variable") {
    call.selected = call.selected.masked_fill(call.weights.eq(0), -1);
  }
}

}  // namespace

ReportedRouter detached(const ReportedRouter& reported) {
  ReportedRouter result = reported;
  for (at::Tensor* tensor : {&result.logits, &result.scores, &result.choice}) {
    if (tensor->requires_grad()) *tensor = tensor->detach();
  }
  for (SlotTensors* tensors : {&result.selected, &result.weights}) {
    for (at::Tensor& tensor : *tensors) {
      if (tensor.requires_grad()) tensor = tensor.detach();
    }
  }
  return result;
}

CanonicalRouter to_canonical(const ReportedRouter& reported, const hooks::HookPoint& hook) {
  TORCH_CHECK(reported.form == "slots" || reported.form == "dense" || reported.form == "variable" ||
                  reported.form == "kept" || reported.form == "expert_choice",
              "form must be slots, dense, variable, kept or expert_choice, got \"", std::string(reported.form), "\"");
  TORCH_CHECK(!reported.selected.empty(), "selected must hold at least one tensor, got none");
  const bool expert_choice = reported.form == "expert_choice";
  const bool dense = reported.form == "dense" || reported.form == "variable";

  CanonicalRouter canonical;
  auto& call = canonical.call;
  call.sigmoid_scores = hook.scoring.starts_with("sigmoid");

  // The tensor that shows the model's tokens and experts.
  at::Tensor reference = reported.logits.defined() ? reported.logits : reported.scores;
  if (!reference.defined() && dense && !reported.weights.empty()) {
    reference = reported.weights[0];
  }
  TokenLayout layout;
  if (reference.defined()) {
    const auto experts_last = move_experts_last(reference, reported.expert_dim, "logits");
    layout = layout_of(experts_last);
    call.num_experts = experts_last.size(-1);
  } else {
    TORCH_CHECK(!expert_choice && hook.num_experts,
                "the number of experts is unknown: neither logits nor scores nor the graph show it");
    const auto& first = reported.selected[0];
    const bool has_slots = reported.selected.size() == 1 && first.dim() >= 2;
    layout = has_slots ? layout_of(move_experts_last(first, reported.expert_dim, "selected"))
                       : TokenLayout{{first.numel()}, first.numel()};
    call.num_experts = *hook.num_experts;
  }
  canonical.token_sizes = layout.sizes;

  if (reported.logits.defined()) {
    TORCH_CHECK(at::isFloatingType(reported.logits.scalar_type()), "logits must be floating point, got ",
                reported.logits.scalar_type());
    call.logits = over_experts(reported.logits, layout, call.num_experts, reported.expert_dim, "logits");
  }
  if (reported.scores.defined()) {
    call.scores = over_experts(reported.scores, layout, call.num_experts, reported.expert_dim, "scores");
  }
  if (expert_choice) {
    transpose_expert_choice(reported, layout, call.num_experts, canonical);
    return canonical;
  }
  const int64_t limit = hook.null_experts > 0 ? std::numeric_limits<int64_t>::max() : call.num_experts;
  call.selected =
      checked_ids(over_slots(reported.selected, layout, reported.expert_dim, "selected"), limit, "selected", "experts");
  if (hook.null_experts > 0) set_null_ids_aside(canonical, hook.null_experts);
  if (dense) {
    call.selected = usable_ids(call.selected, call.num_experts, canonical);
    gather_dense_weights(reported, layout, call.num_experts, call);
  } else if (!reported.weights.empty()) {
    SlotTensors weights = reported.weights;
    const bool kept = reported.form == "kept";
    TORCH_CHECK(!kept || weights.size() > 1, "weights of form kept must end with a mask, got ", weights.size());
    const at::Tensor mask = kept ? weights.back() : at::Tensor();
    if (kept) weights.pop_back();
    if (weights.size() == 1 && weights[0].dim() == 1 && weights[0].numel() == call.selected.numel()) {
      weights[0] = weights[0].reshape(call.selected.sizes());  // tokens and slots share one dimension
    }
    call.weights = over_slots(weights, layout, reported.expert_dim, "weights");
    TORCH_CHECK(call.weights.sizes() == call.selected.sizes(), "weights must be laid out as selected ",
                call.selected.sizes(), ", got ", call.weights.sizes());
    if (kept) {
      call.selected = usable_ids(call.selected, call.num_experts, canonical);
      const int64_t num_slots = call.selected.size(1);
      const bool of_slots = num_slots > 1 && mask.dim() > 2 && mask.size(-2) == num_slots &&
                            mask.numel() == call.selected.numel() * call.num_experts;
      const at::Tensor any_slot = of_slots ? mask.sum(-2) : mask;
      const at::Tensor keeps = over_experts(any_slot, layout, call.num_experts, -1, "the mask of kept tokens").ne(0);
      call.weights = call.weights.masked_fill(keeps.gather(1, call.selected.clamp_min(0)).logical_not(), 0);
    }
  }
  return canonical;
}

analysis::CheckedRouter to_checked(const CanonicalRouter& canonical, const ReportedRouter& reported,
                                   const hooks::HookPoint& hook) {
  const analysis::RouterCall& call = canonical.call;
  analysis::CheckedRouter checked;
  checked.call = call;
  checked.scoring = hook.scoring;
  checked.scores_are_plain = hook.scores_are_plain;
  // Experts that choose tokens may normalise over these: no factor of a token then.
  checked.weights_are_scaled_scores = hook.weights_are_scaled_scores && reported.form != "expert_choice";
  checked.weights_have_factors_of_experts = hook.weights_have_factors_of_experts;
  const TokenLayout layout{canonical.token_sizes, call.selected.size(0)};
  const auto flat = [&](const at::Tensor& tensor) {
    const bool same_rank = tensor.dim() == static_cast<int64_t>(layout.sizes.size()) + 1;
    const int64_t dim = same_rank ? reported.expert_dim : -1;
    const bool fits = tensor.device() == call.selected.device() && tensor.dim() > 0 && dim < tensor.dim() &&
                      tensor.size(dim) == call.num_experts && tensor.numel() == layout.num_tokens * call.num_experts;
    return fits ? over_experts(tensor, layout, call.num_experts, reported.expert_dim, "choice") : at::Tensor();
  };
  const bool dense = reported.form == "dense";
  if (!dense && reported.form != "slots") return checked;
  checked.top_k = hook.top_k;
  checked.has_slots = !dense;
  if (reported.choice.defined() && at::isFloatingType(reported.choice.scalar_type())) {
    checked.choice = flat(reported.choice);
  }
  if (dense && reported.weights.size() == 1) checked.dense_weights = flat(reported.weights[0]);
  return checked;
}

}  // namespace moetap::plugin
