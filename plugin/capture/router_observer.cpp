#include "plugin/capture/router_observer.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "analysis/routers/router_kernel_arguments.h"
#include "analysis/routers/router_sums.h"
#include "analysis/routers/token_outputs.h"
#include "plugin/capture/device_stream.h"

namespace moetap::plugin {
namespace {

/// Zeros for the sums of one call.
analysis::RouterSums sums_for(const analysis::RouterCall& call, const TokenGroup& tokens,
                              const PendingRouters::Zeros& zeros) {
  analysis::RouterSums sums{call.num_experts, call.selected.size(1), tokens.rows.num_rows};
  sums.has_pairs = sums.layout().pair_words() > 0;
  sums.words = zeros({sums.layout().words()}, at::kLong);
  return sums;
}

}  // namespace

RouterObserver::RouterObserver(ForwardContext forward, const RouterValues& values, std::shared_ptr<RouterState> state)
    : forward_(std::move(forward)),
      values_(values),
      state_(std::move(state)),
      checks_(*state_->checks),
      calls_(forward_.model->hooks.size(), 0),
      measured_(forward_.model, state_->probed, state_->checks),
      replayed_(forward_.model, state_->probed, state_->checks) {}

void RouterObserver::observe(int64_t hook, const ReportedRouter& reported) {
  if (checks_.withheld(hook) & analysis::kIdsColumn) return;
  const c10::Device device = reported.selected.empty() ? at::kCPU : reported.selected.front().device();
  const bool captured = forward_.copies->is_capturing(device);
  const bool checked = !captured && checks_.begin_call(hook);
  if (!checked && device.is_cpu() && hold(hook, reported)) return;
  measure_call(hook, detached(reported), {checked, captured});
}

bool RouterObserver::hold(int64_t hook, const ReportedRouter& reported) {
  if (values_.full || values_.input || checks_.withheld(hook) != 0 || state_->probed->of(hook) < values_.probe_tokens)
    return false;
  analysis::HostRouterCall call;
  if (!state_->forms.view(hook, reported, call)) return false;
  const hooks::HookPoint& point = forward_.model->hooks[static_cast<size_t>(hook)];
  const HeldCalls::TokenKey key{forward_.tokens->text_of_hook(hook, point.component), state_->forms.layout_number(hook),
                                reported.logits.sizes().slice(0, static_cast<size_t>(reported.logits.dim() - 1))};
  const std::lock_guard lock(mutex_);
  if (ended_) return true;
  if (!held_) held_ = state_->held.take();
  std::optional<size_t> tokens = held_->find_tokens(key);
  if (!tokens) {
    if (!forward_.tokens->texts_are_on_cpu()) return false;
    const CallTokens call_tokens{key.text, key.sizes, at::kCPU, nullptr, &point.tokens};
    tokens = held_->add_tokens(key, forward_.tokens->group_of(call_tokens, forward_.copies.get()));
  }
  int32_t& calls = calls_.at(static_cast<size_t>(hook));
  if (!held_->add(hook, calls, *tokens, call)) return false;
  ++calls;
  return true;
}

void RouterObserver::measure_call(int64_t hook_id, const ReportedRouter& reported, MeasuredAs measured_as) {
  const hooks::HookPoint& hook = forward_.model->hooks.at(static_cast<size_t>(hook_id));
  MeasuredRouter router;
  router.record.hook = hook_id;
  {
    const std::lock_guard lock(mutex_);
    if (ended_) return;
    router.record.call = calls_.at(static_cast<size_t>(hook_id))++;
  }
  // For every operation below: each may allocate on the device.
  const OutsideCaptures outside(reported.selected.empty() ? at::kCPU : reported.selected.front().device());
  CanonicalRouter canonical = to_canonical(reported, hook);
  const analysis::RouterCall& call = canonical.call;
  const c10::Device device = call.selected.device();
  if (device.is_cpu()) state_->forms.learn(hook_id, reported, canonical);
  if (measured_as.checked) {
    try {
      check(reported, canonical, router);
    } catch (const std::exception&) {                         // such as one that tells that the device is full
      checks_.came_back(hook_id, call.selected.size(0), {});  // else each later call would be tried, too
      if (forward_.notice) forward_.notice("the numbers of a hook could not be checked", hook.name);
    }
  }
  const analysis::RouterColumns withheld = checks_.withheld(hook_id);
  if (withheld & analysis::kIdsColumn) return;
  analysis::leave_out(canonical.call, withheld);
  router.columns = analysis::columns_of(call);
  HostCopies& copies = *forward_.copies;
  CallTokens call_tokens{forward_.tokens->text_of_hook(hook_id, hook.component), canonical.token_sizes, device, nullptr,
                         &hook.tokens};
  if (measured_as.captured) {
    router.tokens = forward_.tokens->group_of(call_tokens, nullptr);
    measure_replays(call, router);
    return;
  }
  try {
    measure_and_keep(canonical, input_of(canonical, reported, hook.name), std::move(call_tokens), router);
  } catch (...) {
    abandon(device);  // while `router` still holds its pieces of the forward's memory
    throw;
  }
  const std::lock_guard lock(mutex_);
  if (ended_) {
    copies.wrote_too_late(device);
  } else {
    measured_.add(std::move(router));
  }
}

at::Tensor RouterObserver::input_of(const CanonicalRouter& canonical, const ReportedRouter& reported,
                                    const std::string& name) {
  if (!values_.input) return {};
  CanonicalInput input = to_input(canonical, reported);
  if (!input.missing.empty() && forward_.notice) {
    forward_.notice(fmt::format("the dump lacks the input of router \"{}\": {}", name, input.missing), "");
  }
  return std::move(input.rows);
}

void RouterObserver::measure_and_keep(const CanonicalRouter& canonical, const at::Tensor& input, CallTokens call_tokens,
                                      MeasuredRouter& router) {
  const analysis::RouterCall& call = canonical.call;
  const c10::Device device = call.selected.device();
  HostCopies& copies = *forward_.copies;
  const bool tells_of_tokens = values_.per_token || values_.full || values_.input ||
                               !counts_transitions_on_device(device, call.selected.size(0), call.num_experts);
  copies.wait_for_marked(device);  // for the texts, which the forward's begin has read
  if (tells_of_tokens) call_tokens.columns = &copies;
  router.tokens = forward_.tokens->group_of(call_tokens, &copies);
  if (!router.tokens->attribution.attributed && forward_.notice) {
    forward_.notice("the tokens of a router belong to no sample that is known: their sample is -1",
                    forward_.model->hooks.at(static_cast<size_t>(router.record.hook)).name);
  }
  router.out_of_range = canonical.out_of_range;
  router.misfits = copies.snapshot(router.misfits);
  measure(call, router);
  at::Tensor& selected = router.record.selected;
  if (canonical.null_ids.defined() && selected.defined()) selected.copy_(at::maximum(selected, canonical.null_ids));
  keep_values(call, router);
  router.record.input = copies.snapshot(input);
  copies.mark_stream(device);
}

void RouterObserver::check(const ReportedRouter& reported, CanonicalRouter& canonical, MeasuredRouter& router) {
  const int64_t hook = router.record.hook;
  const at::Tensor misfits =
      analysis::count_misfits(to_checked(canonical, reported, forward_.model->hooks.at(static_cast<size_t>(hook))));
  if (misfits.is_cpu()) {
    checks_.came_back(hook, canonical.call.selected.size(0), analysis::judge(misfits));
    return;
  }
  at::Tensor& weights = canonical.call.weights;
  if (weights.defined()) {
    weights = at::where(analysis::weights_fit(misfits), weights, analysis::placeholder_weights(canonical.call));
  }
  router.misfits = misfits;  // last: with a verdict on it, the weights are taken for replaced
}

void RouterObserver::abandon(c10::Device device) noexcept {
  HostCopies& copies = *forward_.copies;
  try {
    copies.mark_stream(device);
    const std::lock_guard lock(mutex_);
    if (!ended_) return;  // the forward's end sees the mark
  } catch (const std::exception&) {
    // The stream cannot be marked.
  }
  copies.wrote_too_late(device);
}

analysis::TransitionFrom RouterObserver::count_transitions(const PendingRouters& routers, MeasuredRouter& router,
                                                           const PendingRouters::Zeros& zeros) {
  const std::lock_guard lock(mutex_);
  return ended_ ? analysis::TransitionFrom{} : routers.count_transitions(router, zeros);
}

void RouterObserver::measure(const analysis::RouterCall& call, MeasuredRouter& router) {
  HostCopies& copies = *forward_.copies;
  const c10::Device device = call.selected.device();
  const int64_t num_tokens = call.selected.size(0), top_k = call.selected.size(1);
  const auto zeros = [&](at::IntArrayRef sizes, at::ScalarType dtype) { return copies.zeros(device, sizes, dtype); };
  RouterRecord& record = router.record;
  record.sums = sums_for(call, *router.tokens, zeros);
  if (values_.per_token) {
    record.selected = copies.empty(device, {num_tokens, top_k}, at::kInt);
    if (call.weights.defined()) record.weights = copies.empty(device, {num_tokens, top_k}, at::kFloat);
    if (call.has_margins()) record.margins = copies.empty(device, {num_tokens}, at::kFloat);
  }
  router.first_slot_stays = counts_transitions_on_device(device, num_tokens, call.num_experts);
  if (router.first_slot_stays) {
    router.first_slot = at::empty({num_tokens}, call.selected.options().dtype(at::kInt));
    copies.keep(router.first_slot);
  } else {
    router.first_slot = copies.empty(device, {num_tokens}, at::kInt);
  }
  const analysis::TransitionFrom transition = count_transitions(measured_, router, zeros);
  // For the tokens' columns and the first slots of the router before: a fork may have computed them on another stream.
  copies.wait_for_marked(device);
  analysis::observe_into(record.sums, call, router.tokens->rows,
                         {record.selected, record.weights, router.first_slot, record.margins}, transition);
}

void RouterObserver::measure_replays(const analysis::RouterCall& call, MeasuredRouter& router) {
  const c10::Device device = call.selected.device();
  if (!analysis::kernel_takes(call)) {
    forward_.notice("routers of more experts or slots than moetap's kernel takes are not recorded in graphs", "");
    return;
  }
  const std::shared_ptr<GraphReplays> replays = forward_.replays();
  if (!replays) return;
  const auto zeros = [&](at::IntArrayRef sizes, at::ScalarType dtype) { return replays->zeros(device, sizes, dtype); };
  router.record.sums = sums_for(call, *router.tokens, zeros);
  const at::TensorOptions options = call.selected.options();
  router.first_slot = at::empty({call.selected.size(0)}, options.dtype(at::kInt));
  router.first_slot_stays = true;
  RouterRecord& record = router.record;
  if (values_.by_expert) {
    record.selected = at::empty(call.selected.sizes(), options.dtype(at::kInt));
    if (call.weights.defined()) record.weights = at::empty(call.selected.sizes(), options.dtype(at::kFloat));
  }
  const analysis::TransitionFrom transition = count_transitions(replayed_, router, zeros);
  analysis::observe_into(record.sums, call, router.tokens->rows,
                         {record.selected, record.weights, router.first_slot, {}}, transition);
  record.sums.pending_terms = 0;
  // Streams that the host joins within the graph have no other order.
  auto captured = std::make_shared<c10::Event>(device.type());
  captured->record(current_stream(device));
  router.captured = std::move(captured);
  const std::lock_guard lock(mutex_);
  if (!ended_) replayed_.add(std::move(router));
}

void RouterObserver::keep_values(const analysis::RouterCall& call, MeasuredRouter& router) {
  RouterRecord& record = router.record;
  HostCopies& copies = *forward_.copies;
  if (values_.full) {
    record.logits = copies.snapshot(call.logits);
    record.scores = copies.snapshot(call.scores);
  } else if (call.logits.defined() && state_->probed->of(record.hook) < values_.probe_tokens) {
    const int64_t count = std::min(values_.probe_tokens, router.tokens->num_tokens);
    const at::Tensor first = forward_.tokens->first_valid(router.tokens, count, copies);
    copies.wait_for_marked(call.logits.device());
    record.logits = call.logits.index_select(0, first);
    router.logits_of_first_tokens = true;
  }
}

std::unique_ptr<PendingRouters> RouterObserver::end() {
  const std::lock_guard lock(mutex_);
  ended_ = true;
  if (held_) measured_.add_held(std::move(held_), values_.per_token, values_.record_held);
  const bool empty = measured_.empty() && checks_.untold().empty();
  return empty ? nullptr : std::make_unique<PendingRouters>(std::move(measured_));
}

std::unique_ptr<PendingRouters> RouterObserver::end_replayed() {
  const std::lock_guard lock(mutex_);
  return replayed_.empty() ? nullptr : std::make_unique<PendingRouters>(std::move(replayed_));
}

}  // namespace moetap::plugin
