#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "plugin/capture/cached_regions.h"
#include "plugin/capture/device_blocks.h"
#include "plugin/capture/router_observer.h"
#include "plugin/capture/text_arguments.h"
#include "plugin/records/attention_regions.h"
#include "plugin/records/model_description.h"

namespace moetap::plugin {

class Recording;

/// An instrumented model and the recording that its forwards go to. Thread-safe.
class ModelBinding {
 public:
  ModelBinding(std::shared_ptr<Recording> recording, std::shared_ptr<const ModelDescription> model);

  Recording& recording() const { return *recording_; }
  const std::shared_ptr<Recording>& shared_recording() const { return recording_; }
  const std::shared_ptr<const ModelDescription>& model() const { return model_; }

  /// The memory of its forwards on devices.
  const std::shared_ptr<BlockPools>& block_pools() const { return block_pools_; }

  /// Which arguments of a method are its text; empty for a method that the description lacks. Lives as long as this.
  const TextArguments& text_arguments(const std::string& method) const;

  /// True for the first call of the hook.
  bool call(int64_t hook) {
    std::atomic<bool>& called = called_[checked(hook)];
    return !called.load(std::memory_order_relaxed) && !called.exchange(true);
  }

  /// True once the hook reports no more: it has failed, or its check found its ids wrong.
  bool stopped(int64_t hook) const { return routers_->checks->stopped(static_cast<int64_t>(checked(hook))); }
  /// True for the caller that stops it first.
  bool stop(int64_t hook) { return routers_->checks->stop(static_cast<int64_t>(checked(hook))); }

  const std::shared_ptr<RouterState>& routers() const { return routers_; }

  /// Whether the session records attention and the model reports it.
  bool records_attention() const { return records_attention_; }
  const AttentionRegions& attention_regions() const { return attention_regions_; }
  bool attention_needs_ids() const {
    return records_attention_ && attention_regions_.by == AttentionRegions::By::kTokens;
  }
  const std::shared_ptr<CachedRegions>& cached_regions() const { return cached_regions_; }
  /// The place of the argument that gives the regions; empty: no argument does, or the method lacks it.
  std::optional<size_t> region_argument(const std::string& method) const;

  HookChecks& checks() const { return *routers_->checks; }

 private:
  size_t checked(int64_t hook) const;  // throws c10::Error for an id that the model does not have

  std::shared_ptr<Recording> recording_;
  std::shared_ptr<const ModelDescription> model_;
  const std::shared_ptr<BlockPools> block_pools_ = std::make_shared<BlockPools>();
  std::map<std::string, TextArguments> text_arguments_;
  std::vector<std::atomic<bool>> called_;  // by hook
  const std::shared_ptr<RouterState> routers_;
  AttentionRegions attention_regions_;
  const std::shared_ptr<CachedRegions> cached_regions_ = std::make_shared<CachedRegions>();
  bool records_attention_ = false;
};

}  // namespace moetap::plugin
