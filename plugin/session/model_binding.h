#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "plugin/capture/device_blocks.h"
#include "plugin/records/model_description.h"
#include "plugin/capture/token_rows.h"

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

  /// Where the text stands among the arguments of a method; nothing for a method that the description lacks.
  TextArguments text_arguments(const std::string& method) const;

  /// True once the hook has failed: it reports no more.
  bool stopped(int64_t hook) const { return hooks_[checked(hook)].stopped.load(std::memory_order_relaxed); }
  /// Returns true for the first to stop it.
  bool stop(int64_t hook) { return !hooks_[checked(hook)].stopped.exchange(true); }

  /// Tokens of the hook that were handed to the writer with their probabilities.
  int64_t probed_tokens(int64_t hook) const { return hooks_[checked(hook)].probed_tokens.load(); }
  void add_probed_tokens(int64_t hook, int64_t tokens) { hooks_[checked(hook)].probed_tokens += tokens; }

 private:
  struct HookState {
    std::atomic<bool> stopped = false;
    std::atomic<int64_t> probed_tokens = 0;
  };

  size_t checked(int64_t hook) const;  // throws c10::Error for an id that the model does not have

  std::shared_ptr<Recording> recording_;
  std::shared_ptr<const ModelDescription> model_;
  const std::shared_ptr<BlockPools> block_pools_ = std::make_shared<BlockPools>();
  std::map<std::string, TextArguments> text_arguments_;
  std::vector<HookState> hooks_;
};

}  // namespace moetap::plugin
