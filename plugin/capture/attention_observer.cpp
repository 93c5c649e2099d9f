#include "plugin/capture/attention_observer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "analysis/attention/attention_device.h"
#include "analysis/attention/attention_kernel_arguments.h"
#include "analysis/attention/attention_keys.h"
#include "analysis/attention/sampled_rows.h"
#include "plugin/capture/device_stream.h"
#include "plugin/records/attention_bytes.h"

namespace moetap::plugin {
namespace {

const at::Tensor& scored(const analysis::AttentionCall& call) {
  return call.probabilities.defined() ? call.probabilities : call.query;
}

AttentionSizes sizes_of(const analysis::AttentionCall& call) {
  const at::Tensor& tensor = scored(call);
  const int64_t keys = call.probabilities.defined() ? tensor.size(3) : call.key.size(2);
  return {tensor.size(0), tensor.size(2), keys, tensor.device()};
}

void check_are_probabilities(const MeasuredAttention& measured) {
  const std::string misfit = misfit_of(measured);
  TORCH_CHECK(misfit.empty(), "its probabilities are none: ", misfit);
}

}  // namespace

AttentionObserver::AttentionObserver(ForwardContext forward, AttentionValues values,
                                     std::shared_ptr<CachedRegions> cached, std::shared_ptr<HookChecks> checks)
    : forward_(std::move(forward)),
      values_(std::move(values)),
      cached_(std::move(cached)),
      checks_(std::move(checks)),
      calls_(forward_.model->hooks.size(), 0),
      measured_(forward_.model, checks_, values_.values,
                values_.tells_tokens ? PendingAttention::ByExpert::kRowsIfShorter : PendingAttention::ByExpert::kSums),
      replayed_(forward_.model, checks_, /*keep_values=*/false) {}

void AttentionObserver::check_bytes(const analysis::AttentionCall& call) const {
  const AttentionSizes sizes = sizes_of(call);
  const auto& hooks = forward_.model->hooks;
  const int64_t layers = std::count_if(hooks.begin(), hooks.end(), [](const hooks::HookPoint& hook) {
    return hook.kind == hooks::HookKind::kAttention;
  });
  AttentionBytes needed;
  needed.add_layers(layers, sizes.queries, sizes.keys);
  const std::string refusal = needed.refusal(values_.limit_bytes);
  TORCH_CHECK(refusal.empty(), refusal);
}

bool AttentionObserver::needs_samples() const {
  return values_.sample > 0 || values_.regions.by != AttentionRegions::By::kParts;
}

bool AttentionObserver::sees_the_same(const KnownPlaces& known, const hooks::HookPoint& hook,
                                      const AttentionSizes& sizes) const {
  const hooks::HookPoint& other = *known.hook;
  return known.sizes == sizes && other.component == hook.component && other.self_attention == hook.self_attention &&
         other.tokens == hook.tokens && other.key_tokens == hook.key_tokens &&
         forward_.tokens->text_of_hook(other.id, other.component) ==
             forward_.tokens->text_of_hook(hook.id, hook.component);
}

AttentionPlaces AttentionObserver::captured_places_of(const hooks::HookPoint& hook, const AttentionSizes& sizes) {
  const c10::Stream stream = current_stream(sizes.device);
  const auto is_known = [&](const KnownPlaces& known) { return sees_the_same(known, hook, sizes); };
  {
    const std::lock_guard lock(mutex_);
    const auto found = std::find_if(captured_places_.begin(), captured_places_.end(), is_known);
    if (found != captured_places_.end()) {
      found->captured->block(stream);  // of a stream that the host joins within the graph
      return found->places;
    }
  }
  AttentionPlaces made = place_attention(*forward_.tokens, AttentionHook(hook), sizes,
                                         {values_.regions, values_.region_argument, *cached_, {}}, nullptr);
  auto captured = std::make_shared<c10::Event>(sizes.device.type());
  captured->record(stream);
  const std::lock_guard lock(mutex_);
  captured_places_.push_back({&hook, sizes, made, std::move(captured)});
  return made;
}

void AttentionObserver::observe_captured(const hooks::HookPoint& hook, const analysis::AttentionCall& call,
                                         MeasuredAttention measured) {
  // The hook goes on: forwards outside the graph are recorded.
  const auto leave_out = [&](const std::string& reason) {
    if (forward_.notice) forward_.notice("attention is not recorded in graphs that are captured: " + reason, hook.name);
  };
  if (needs_samples()) return leave_out("some of its rows are sampled, or its regions are no parts of the text");
  if (!forward_.replays()) return;
  const AttentionSizes sizes = sizes_of(call);
  const OutsideCaptures outside(sizes.device);
  const AttentionPlaces places = captured_places_of(hook, sizes);
  const std::string refusal = analysis::why_not_by_kernels(call, places.tokens);
  if (!refusal.empty()) return leave_out("moetap's kernels do not take it: " + refusal);
  measured.rows = analysis::measure_attention(call, places.tokens, {});
  measured.tokens = places.queries;
  measured.terms_of_row = analysis::attention_terms_of_row(analysis::check_attention(call, places.tokens));
  measured.num_key_heads = hook.num_key_heads.value_or(call.key.defined() ? call.key.size(1) : scored(call).size(1));
  auto captured = std::make_shared<c10::Event>(sizes.device.type());
  captured->record(current_stream(sizes.device));
  measured.captured = std::move(captured);
  const std::lock_guard lock(mutex_);
  if (!ended_) replayed_.add(std::move(measured));
}

AttentionPlaces AttentionObserver::places_of(const hooks::HookPoint& hook, const AttentionSizes& sizes,
                                             const std::vector<int64_t>& samples) {
  HostCopies& copies = *forward_.copies;
  const auto is_known = [&](const KnownPlaces& known) { return sees_the_same(known, hook, sizes); };
  {
    const std::lock_guard lock(mutex_);
    const auto found = std::find_if(places_.begin(), places_.end(), is_known);
    if (found != places_.end()) {
      copies.wait_for_marked(sizes.device);  // a fork may have made them on another stream
      return found->places;
    }
  }
  AttentionPlaces made = place_attention(*forward_.tokens, AttentionHook(hook), sizes,
                                         {values_.regions, values_.region_argument, *cached_, samples}, &copies);
  if (sizes.device.is_cpu()) made.tokens.sequences = analysis::sequence_keys(made.tokens);
  copies.mark_stream(sizes.device);
  const std::lock_guard lock(mutex_);
  places_.push_back({&hook, sizes, made});
  return made;
}

void AttentionObserver::observe(int64_t hook_id, const ReportedAttention& reported) {
  const hooks::HookPoint& hook = forward_.model->hooks.at(static_cast<size_t>(hook_id));
  MeasuredAttention measured;
  measured.hook = hook_id;
  {
    const std::lock_guard lock(mutex_);
    if (ended_) return;
    measured.call = calls_.at(static_cast<size_t>(hook_id))++;
  }
  const at::Tensor& any = reported.probabilities.defined() ? reported.probabilities : reported.query;
  // The operators of hooks/attention/packed_projection.h give none of a nested tensor.
  TORCH_CHECK(any.defined(),
              "its queries are a nested tensor, whose sequences have lengths of their own: these are not read; "
              "nn.TransformerEncoder makes none with enable_nested_tensor=False");
  const c10::Device device = any.device();
  HostCopies& copies = *forward_.copies;
  const analysis::AttentionCall call = to_canonical(reported);
  if (copies.is_capturing(device)) {
    observe_captured(hook, call, std::move(measured));
    return;
  }
  if (values_.matrix) check_bytes(call);
  copies.wait_for_marked(device);
  const AttentionSizes sizes = sizes_of(call);
  const std::vector<int64_t> samples = needs_samples() ? values_.samples(sizes.batch) : std::vector<int64_t>();
  const AttentionPlaces places = places_of(hook, sizes, samples);
  analysis::AttentionTokens tokens = places.tokens;
  if (values_.sample > 0) {
    const at::Tensor numbers = at::tensor(samples, at::kLong).to(device, /*non_blocking=*/true);
    tokens.sampled = analysis::sampled_rows(values_.seed, numbers, hook.layer, tokens.query_position, values_.sample);
  }
  measured.rows = analysis::measure_attention(call, tokens, {values_.matrix});
  if (call.probabilities.defined() && checks_->begin_call(hook_id)) {
    measured.improbable_rows = analysis::count_improbable_rows(call, tokens);
    // The forward need not wait for the CPU, so the hook fails at once.
    if (device.is_cpu()) check_are_probabilities(measured);
  }
  measured.tokens = places.queries;
  // The model may have repeated the keys for the queries' heads: the graph shows how many there are.
  measured.num_key_heads = hook.num_key_heads.value_or(call.key.defined() ? call.key.size(1) : scored(call).size(1));
  if (values_.matrix) measured.key_position = tokens.key_position;
  copies.mark_stream(device);
  const std::lock_guard lock(mutex_);
  if (!ended_) measured_.add(std::move(measured));
}

std::unique_ptr<PendingReport> AttentionObserver::end(const PendingRouters* routers, int64_t num_samples) {
  const std::lock_guard lock(mutex_);
  ended_ = true;
  measured_.add_on_devices(routers, num_samples, *forward_.copies);
  return measured_.empty() ? nullptr : std::make_unique<PendingAttention>(std::move(measured_));
}

std::unique_ptr<PendingReport> AttentionObserver::end_replayed(const std::vector<RouterOfForward>& routers,
                                                               GraphReplays& replays) {
  const std::lock_guard lock(mutex_);
  if (replayed_.empty()) return nullptr;
  if (!replayed_.add_in_graph(routers, replays) && forward_.notice) {
    forward_.notice("in a graph, routers whose tokens are not surely those of an attention layer have no attention",
                    "");
  }
  return std::make_unique<PendingAttention>(std::move(replayed_));
}

}  // namespace moetap::plugin
