#include "plugin/capture/attention_device_sums.h"

#include <algorithm>
#include <optional>

#include "analysis/attention/expert_rows.h"
#include "plugin/capture/device_stream.h"
#include "plugin/capture/host_copies.h"

namespace moetap::plugin {
namespace {

enum class SameTokens { kNo, kYes, kNotKnown };

SameTokens same_tokens(const TokenGroup& router, const TokenGroup& attention) {
  if (&router == &attention) return SameTokens::kYes;
  const auto leaves_out = [](const TokenGroup& group) {
    return group.valid.defined() || group.places.defined() || group.attribution.packed.has_value();
  };
  if (leaves_out(router) || leaves_out(attention)) return SameTokens::kNotKnown;
  return router.num_tokens == attention.num_tokens ? SameTokens::kNotKnown : SameTokens::kNo;
}

/// The samples of a call are known, and its lines lie sample by sample.
bool is_by_sample(const MeasuredAttention& call, int64_t num_samples) {
  const Attribution& attribution = call.tokens->attribution;
  return attribution.attributed && attribution.num_rows == num_samples;
}
bool lies_by_sample(const MeasuredAttention& call, int64_t num_samples) {
  const analysis::TokenRows& rows = call.tokens->rows;
  return !rows.row.defined() && rows.order == analysis::RowOrder::kRowByRow && call.rows.num_sequences == num_samples &&
         call.tokens->num_tokens == call.rows.num_lines();
}

int64_t bytes_of_rows(const analysis::AttentionRows& rows) {
  constexpr int64_t kBytesOfIntegers = 14;  // line, region, position, num_keys, length
  const auto floats = rows.num_columns() + analysis::kNumAttentionBins;
  return rows.num_lines() * (static_cast<int64_t>(sizeof(float)) * floats + kBytesOfIntegers);
}

class DeviceSums {
 public:
  DeviceSums(const DeviceSumsOfForward& forward, HostCopies& copies, std::vector<MeasuredAttention*> calls)
      : forward_(forward), copies_(copies), calls_(std::move(calls)), stays_(calls_.size()), routers_(calls_.size()) {}

  void add() {
    for (size_t i = 0; i < calls_.size(); ++i) stays_[i] = may_stay(*calls_[i]);
    for (const RouterOfForward& router : forward_.routers) assign(router);
    for (size_t i = 0; i < calls_.size(); ++i) {
      if (stays_[i]) add(*calls_[i], routers_[i]);
    }
  }

 private:
  bool may_stay(const MeasuredAttention& call) const {
    if (call.tokens->device.is_cpu()) return false;
    const bool by_sample = is_by_sample(call, forward_.num_samples);
    if (by_sample && forward_.num_samples > 1 && !lies_by_sample(call, forward_.num_samples)) return false;
    const int64_t words = sums_of(call, by_sample ? forward_.num_samples : 1, 0).layout().words();
    return words * static_cast<int64_t>(sizeof(int64_t)) < bytes_of_rows(call.rows);
  }

  /// Finds the call that the router goes with; where that cannot be told here, rows are copied for the host.
  void assign(const RouterOfForward& router) {
    const hooks::HookPoint& of_router = hook(router.hook);
    std::vector<size_t> not_known;
    for (const bool same_layer : {true, false}) {
      for (size_t place = calls_.size(); place > 0; --place) {
        const MeasuredAttention& call = *calls_[place - 1];
        const hooks::HookPoint& of_call = hook(call.hook);
        if (call.hook > router.hook || call.call > router.call || of_call.component != of_router.component) continue;
        if (same_layer && of_call.layer != of_router.layer) continue;
        const SameTokens same = same_tokens(*router.tokens, *call.tokens);
        if (same == SameTokens::kNo) continue;
        if (same == SameTokens::kYes && not_known.empty() && is_added_here(router, call)) {
          routers_[place - 1].push_back(&router);
          return;
        }
        not_known.push_back(place - 1);
        if (same == SameTokens::kYes) return copy(not_known);
      }
    }
    copy(not_known);
  }

  static bool is_added_here(const RouterOfForward& router, const MeasuredAttention& call) {
    if (!router.selected.defined() || router.checks || router.selected.size(0) != call.rows.num_lines()) return false;
    if (router.selected.device() != call.tokens->device) return false;
    return !analysis::are_shorter_than_sums(call.rows.num_lines(), router.selected.size(1), call.rows.num_regions,
                                            router.num_experts);
  }

  void copy(const std::vector<size_t>& places) {
    for (const size_t place : places) stays_[place] = false;
  }

  static analysis::AttentionSums sums_of(const MeasuredAttention& call, int64_t num_rows, int64_t num_experts) {
    const analysis::AttentionRows& rows = call.rows;
    return {rows.num_heads, rows.num_regions, num_experts, num_rows, rows.self, /*has_shared=*/true};
  }
  analysis::AttentionSums zeros_of(const MeasuredAttention& call, int64_t num_rows, int64_t num_experts) {
    analysis::AttentionSums sums = sums_of(call, num_rows, num_experts);
    sums.words = copies_.zeros(call.tokens->device, {sums.layout().words()}, at::kLong);
    return sums;
  }

  void add(MeasuredAttention& call, const std::vector<const RouterOfForward*>& routers) {
    const c10::Device device = call.tokens->device;
    const OutsideCaptures outside(device);
    copies_.wait_for_marked(device);  // forks may have measured on other streams
    analysis::AttentionSums sums =
        zeros_of(call, is_by_sample(call, forward_.num_samples) ? forward_.num_samples : 1, 0);
    analysis::add_rows(sums, call.rows, {});
    for (const RouterOfForward* router : routers) {
      SumsOfExperts by_expert{router->hook, router->call, router->weights.defined(),
                              zeros_of(call, 1, router->num_experts)};
      analysis::add_experts(by_expert.sums, call.rows, {}, router->selected, router->weights);
      call.by_expert.push_back(std::move(by_expert));
    }
    call.sums = std::move(sums);
    copies_.mark_stream(device);
    let_go(call);
  }

  /// Keeps rows that the host does not need until the device is done with them.
  void let_go(MeasuredAttention& call) {
    analysis::AttentionRows& rows = call.rows;
    std::vector<at::Tensor*> spent = {&rows.line,   &rows.bins,      &rows.region,   &rows.num_keys,      &rows.length,
                                      &rows.weight, &rows.head_high, &rows.head_low, &rows.head_max_score};
    if (!forward_.keep_values) spent.push_back(&rows.values);
    if (!forward_.keep_values && !rows.matrix.defined()) spent.push_back(&rows.position);
    for (at::Tensor* tensor : spent) {
      copies_.keep(*tensor);
      *tensor = at::Tensor();
    }
  }

  const hooks::HookPoint& hook(int64_t id) const { return forward_.model.hooks.at(static_cast<size_t>(id)); }

  const DeviceSumsOfForward& forward_;
  HostCopies& copies_;
  const std::vector<MeasuredAttention*> calls_;
  std::vector<bool> stays_;                                   // by call: its rows are not copied
  std::vector<std::vector<const RouterOfForward*>> routers_;  // by call: those that go with it
};

}  // namespace

void add_on_devices(const DeviceSumsOfForward& forward, HostCopies& copies, std::vector<MeasuredAttention*> calls) {
  DeviceSums(forward, copies, std::move(calls)).add();
}

}  // namespace moetap::plugin
