#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "plugin/capture/attention_pending.h"
#include "plugin/capture/attention_report.h"
#include "plugin/capture/attention_tokens.h"
#include "plugin/capture/cached_regions.h"
#include "plugin/capture/forward_context.h"
#include "plugin/process/recycled_memory.h"
#include "plugin/records/attention_regions.h"

namespace moetap::plugin {

/// What a forward keeps of its attention calls.
struct AttentionValues {
  bool matrix = false;       // the probabilities, averaged over the heads
  bool values = false;       // those of each query, for a dump
  bool tells_tokens = true;  // records may tell what single tokens did
  int64_t limit_bytes = 0;   // the most that the matrices of one sample may take
  int64_t sample = 0;        // queries a sample and layer that are measured; 0: all
  uint64_t seed = 0;         // that chooses them
  AttentionRegions regions;
  at::Tensor region_argument;  // int64 [B, S]; undefined: no argument gives regions
  /// The numbers that the forward's samples will get, as far as it is known while it runs. Thread-safe.
  std::function<std::vector<int64_t>(int64_t batch)> samples;
};

/// Measures the attention calls of one forward, on the devices and current streams of their tensors. Thread-safe: forks
/// report on threads of their own. Does not wait for a device. The caller switches gradients off.
class AttentionObserver : public Recycled {
 public:
  /// `cached`, `checks`: of the model's forwards.
  AttentionObserver(ForwardContext forward, AttentionValues values, std::shared_ptr<CachedRegions> cached,
                    std::shared_ptr<HookChecks> checks);

  /// Throws c10::Error whose message says what does not fit. After `end` it does nothing.
  void observe(int64_t hook, const ReportedAttention& reported);

  /// The calls that were measured; null: none. `routers`: the forward's, for sums by expert on a device, null: none;
  /// `num_samples`: of the forward.
  std::unique_ptr<PendingReport> end(const PendingRouters* routers = nullptr, int64_t num_samples = 1);
  /// The calls that a graph has captured, which its replays add to `replays`; null: none. Called once, after `end`.
  std::unique_ptr<PendingReport> end_replayed(const std::vector<RouterOfForward>& routers, GraphReplays& replays);

 private:
  /// Where the tokens of calls are that see the same ones, as those of all layers do.
  struct KnownPlaces {
    const hooks::HookPoint* hook = nullptr;  // of the first of these calls
    AttentionSizes sizes;
    AttentionPlaces places;
    std::shared_ptr<const c10::Event> captured = {};  // behind them in a graph
  };

  void check_bytes(const analysis::AttentionCall& call) const;
  bool needs_samples() const;
  void observe_captured(const hooks::HookPoint& hook, const analysis::AttentionCall& call, MeasuredAttention measured);
  AttentionPlaces captured_places_of(const hooks::HookPoint& hook, const AttentionSizes& sizes);
  bool sees_the_same(const KnownPlaces& known, const hooks::HookPoint& hook, const AttentionSizes& sizes) const;
  /// Those of an earlier call that saw the same tokens, or of this one.
  AttentionPlaces places_of(const hooks::HookPoint& hook, const AttentionSizes& sizes,
                            const std::vector<int64_t>& samples);

  const ForwardContext forward_;
  const AttentionValues values_;
  const std::shared_ptr<CachedRegions> cached_;
  const std::shared_ptr<HookChecks> checks_;

  std::mutex mutex_;  // guards what follows
  bool ended_ = false;
  std::vector<int64_t, RecyclingAllocator<int64_t>> calls_;  // by hook
  std::vector<KnownPlaces, RecyclingAllocator<KnownPlaces>> places_;
  PendingAttention measured_;
  std::vector<KnownPlaces> captured_places_;  // of the graph that is being captured
  PendingAttention replayed_;                 // of that graph
};

}  // namespace moetap::plugin
