#include "plugin/model_registry.h"

#include <fmt/format.h>

#include <cstdlib>
#include <stdexcept>
#include <vector>

#include "plugin/recording.h"

namespace moetap::plugin {

ModelRegistry& ModelRegistry::get() {
  return PerProcess<ModelRegistry>::get();
}

void ModelRegistry::bind(std::shared_ptr<ModelBinding> binding) {
  const std::lock_guard lock(mutex_);
  const auto [place, inserted] = bindings_.try_emplace(binding->model()->instance, binding);
  if (!inserted && &place->second->recording() != &binding->recording()) {
    throw std::invalid_argument(fmt::format(
        "the instrumented model already reports to the open session of \"{}\"; close it first, or attach the "
        "model as it was before `moetap instrument`",
        place->second->recording().config().output_dir));
  }
  size_ = bindings_.size();
}

void ModelRegistry::unbind(const Recording& recording) {
  const std::lock_guard lock(mutex_);
  std::erase_if(bindings_, [&](const auto& entry) { return &entry.second->recording() == &recording; });
  size_ = bindings_.size();
}

std::shared_ptr<ModelBinding> ModelRegistry::find(std::string_view description) const {
  if (size_.load(std::memory_order_acquire) == 0) {
    return nullptr;
  }
  const std::lock_guard lock(mutex_);
  const auto found = bindings_.find(instance_of(description));
  return found == bindings_.end() ? nullptr : found->second;
}

namespace {

std::atomic<bool> any_opened = false;

struct OpenRecordings {
  std::mutex mutex;
  std::vector<std::weak_ptr<Recording>> recordings;
};

OpenRecordings& open_recordings() {
  return PerProcess<OpenRecordings>::get();
}

void close_open_recordings() {
  std::vector<std::weak_ptr<Recording>> recordings;
  {
    const std::lock_guard lock(open_recordings().mutex);
    recordings.swap(open_recordings().recordings);
  }
  for (const auto& weak : recordings) {
    if (const auto recording = weak.lock(); recording && recording->in_own_process()) {
      ModelRegistry::get().unbind(*recording);
      recording->close();
    }
  }
}

}  // namespace

void close_at_exit(const std::shared_ptr<Recording>& recording) {
  // Registered after LibTorch's own statics were made, so that it runs before they go.
  static const int registered = std::atexit(close_open_recordings) + std::at_quick_exit(close_open_recordings);
  static_cast<void>(registered);
  any_opened = true;
  const std::lock_guard lock(open_recordings().mutex);
  auto& recordings = open_recordings().recordings;
  std::erase_if(recordings, [](const auto& weak) { return weak.expired(); });
  recordings.push_back(recording);
}

bool a_recording_was_opened() {
  return any_opened;
}

}  // namespace moetap::plugin
