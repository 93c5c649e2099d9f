#include "plugin/capture/attention_device_sums.h"

#include <algorithm>
#include <array>
#include <functional>
#include <utility>

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

analysis::AttentionSums sums_of(const MeasuredAttention& call, int64_t num_rows, int64_t num_experts) {
  const analysis::AttentionRows& rows = call.rows;
  return {rows.num_heads, rows.num_regions, num_experts, num_rows, rows.self, /*has_shared=*/true};
}

/// Memory for sums.
using Zeros = std::function<at::Tensor(c10::Device device, const analysis::AttentionSumsLayout& layout)>;
/// Enqueues the sums of a call of `num_rows` samples.
void add_call(MeasuredAttention& call, int64_t num_rows, const std::vector<const RouterOfForward*>& routers,
              const Zeros& zeros) {
  const c10::Device device = call.tokens->device;
  const auto zeros_of = [&](int64_t rows, int64_t num_experts) {
    analysis::AttentionSums sums = sums_of(call, rows, num_experts);
    sums.words = zeros(device, sums.layout());
    return sums;
  };
  analysis::AttentionSums sums = zeros_of(num_rows, 0);
  analysis::add_rows(sums, call.rows, {});
  std::vector<SumsOfExperts> by_expert;
  for (const RouterOfForward* router : routers) {
    by_expert.push_back({router->hook, router->call, router->weights.defined(), zeros_of(1, router->num_experts)});
    analysis::add_experts(by_expert.back().sums, call.rows, {}, router->selected, router->weights);
  }
  call.by_expert = std::move(by_expert);
  call.sums = std::move(sums);
}

class DeviceSums {
 public:
  DeviceSums(const DeviceSumsOfForward& forward, bool in_graph, std::vector<MeasuredAttention*> calls)
      : forward_(forward),
        in_graph_(in_graph),
        calls_(std::move(calls)),
        stays_(calls_.size()),
        routers_(calls_.size()) {
    for (size_t i = 0; i < calls_.size(); ++i) stays_[i] = may_stay(*calls_[i]);
    for (const RouterOfForward& router : forward_.routers) assign(router);
  }

  void add(HostCopies& copies) {
    for (size_t i = 0; i < calls_.size(); ++i) {
      if (!stays_[i]) continue;
      try {
        add(*calls_[i], routers_[i], copies);
      } catch (const std::exception&) {
        // More terms than sums of a device hold, say: its rows are copied, and the host adds them up.
      }
    }
  }
  void add(GraphReplays& replays) {
    for (size_t i = 0; i < calls_.size(); ++i) {
      MeasuredAttention& call = *calls_[i];
      const c10::Stream stream = current_stream(call.tokens->device);
      if (call.captured) call.captured->block(stream);
      for (const RouterOfForward* router : routers_[i]) {
        if (router->captured) router->captured->block(stream);
        call.terms_of_row = std::max(call.terms_of_row, router->selected.size(1));
      }
      add_call(call, /*num_rows=*/1, routers_[i], [&](c10::Device device, const analysis::AttentionSumsLayout& layout) {
        return replays.zeros(device, {layout.words()}, at::kLong, layout.max_score(0));
      });
      for (at::Tensor* tensor : tensors_of(call.rows)) *tensor = at::Tensor();
      call.captured.reset();
    }
  }
  bool some_not_known() const { return some_not_known_; }

 private:
  bool may_stay(const MeasuredAttention& call) const {
    if (in_graph_) return true;
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

  bool is_added_here(const RouterOfForward& router, const MeasuredAttention& call) const {
    if (!router.selected.defined() || router.checks || router.selected.size(0) != call.rows.num_lines()) return false;
    if (router.selected.device() != call.tokens->device) return false;
    return in_graph_ || !analysis::are_shorter_than_sums(call.rows.num_lines(), router.selected.size(1),
                                                         call.rows.num_regions, router.num_experts);
  }

  void copy(const std::vector<size_t>& places) {
    some_not_known_ |= !places.empty();
    if (in_graph_) return;
    for (const size_t place : places) stays_[place] = false;
  }

  void add(MeasuredAttention& call, const std::vector<const RouterOfForward*>& routers, HostCopies& copies) {
    const c10::Device device = call.tokens->device;
    const OutsideCaptures outside(device);
    copies.wait_for_marked(device);  // forks may have measured on other streams
    const int64_t num_rows = is_by_sample(call, forward_.num_samples) ? forward_.num_samples : 1;
    add_call(call, num_rows, routers, [&](c10::Device on, const analysis::AttentionSumsLayout& layout) {
      return copies.zeros(on, {layout.words()}, at::kLong);
    });
    copies.mark_stream(device);
    let_go(call, copies);
  }

  static std::array<at::Tensor*, 12> tensors_of(analysis::AttentionRows& rows) {
    return {&rows.line,   &rows.bins,   &rows.region,    &rows.num_keys, &rows.length,         &rows.weight,
            &rows.values, &rows.matrix, &rows.head_high, &rows.head_low, &rows.head_max_score, &rows.position};
  }

  /// Keeps rows that the host does not need until the device is done with them.
  void let_go(MeasuredAttention& call, HostCopies& copies) const {
    analysis::AttentionRows& rows = call.rows;
    for (at::Tensor* tensor : tensors_of(rows)) {
      const bool is_needed = tensor == &rows.matrix || (tensor == &rows.values && forward_.keep_values) ||
                             (tensor == &rows.position && (forward_.keep_values || rows.matrix.defined()));
      if (is_needed) continue;
      copies.keep(*tensor);
      *tensor = at::Tensor();
    }
  }

  const hooks::HookPoint& hook(int64_t id) const { return forward_.model.hooks.at(static_cast<size_t>(id)); }

  const DeviceSumsOfForward& forward_;
  const bool in_graph_;
  const std::vector<MeasuredAttention*> calls_;
  bool some_not_known_ = false;
  std::vector<bool> stays_;                                   // by call: its rows are not copied
  std::vector<std::vector<const RouterOfForward*>> routers_;  // by call: those that go with it
};

}  // namespace

void add_on_devices(const DeviceSumsOfForward& forward, HostCopies& copies, std::vector<MeasuredAttention*> calls) {
  DeviceSums(forward, /*in_graph=*/false, std::move(calls)).add(copies);
}

bool add_in_graph(const DeviceSumsOfForward& forward, GraphReplays& replays, std::vector<MeasuredAttention*> calls) {
  DeviceSums sums(forward, /*in_graph=*/true, std::move(calls));
  sums.add(replays);
  return !sums.some_not_known();
}

}  // namespace moetap::plugin
