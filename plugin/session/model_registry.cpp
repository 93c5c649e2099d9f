#include "plugin/session/model_registry.h"

#include <fmt/format.h>

#include <cstdlib>
#include <stdexcept>
#include <vector>

#include "plugin/process/fork_local.h"
#include "plugin/process/notices.h"
#include "plugin/records/model_description_json.h"
#include "plugin/session/recording.h"

namespace moetap::plugin {
namespace {

struct RegistryOfTheProcess {
  ModelRegistry registry;
};

}  // namespace

ModelRegistry& ModelRegistry::get() {
  return fork_local<RegistryOfTheProcess>().registry;
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

struct OpenRecordings {
  std::mutex mutex;  // guards recordings
  std::vector<std::weak_ptr<Recording>> recordings;
  std::atomic<bool> any_opened = false;
  std::atomic<bool> exits = false;
};

void say_unfinished(const Recording& recording, int exit_status) {
  const std::string& run = recording.config().output_dir;
  notify(
      fmt::format("{}{}the process ended with exit status {}, so the run is unfinished; complete its files with "
                  "moetap recover, or go on with resume",
                  run, run.empty() ? "" : ": ", exit_status));
}

void close_open_recordings(int exit_status) {
  auto& open = fork_local<OpenRecordings>();
  open.exits = true;
  std::vector<std::weak_ptr<Recording>> recordings;
  {
    const std::lock_guard lock(open.mutex);
    recordings.swap(open.recordings);
  }
  for (const auto& weak : recordings) {
    if (const auto recording = weak.lock(); recording && recording->in_own_process()) {
      ModelRegistry::get().unbind(*recording);
      recording->close(exit_status == 0 ? RunEnd::kDone : RunEnd::kUnfinished);
      if (exit_status != 0) say_unfinished(*recording, exit_status);
    }
  }
}

int register_exit_handlers() {
  // Unlike those of atexit, its handlers know the exit status.
  const int registered = ::on_exit([](int status, void*) { close_open_recordings(status); }, nullptr);
  return registered + std::at_quick_exit([] { close_open_recordings(0); });
}

}  // namespace

void close_at_exit(const std::shared_ptr<Recording>& recording) {
  // Registered after LibTorch's own statics were made, so that the handlers run before these are destroyed.
  static const int registered = register_exit_handlers();
  static_cast<void>(registered);
  auto& open = fork_local<OpenRecordings>();
  open.any_opened = true;
  const std::lock_guard lock(open.mutex);
  std::erase_if(open.recordings, [](const auto& weak) { return weak.expired(); });
  open.recordings.push_back(recording);
}

bool a_recording_was_opened() {
  return fork_local<OpenRecordings>().any_opened;
}

bool process_exits() {
  return fork_local<OpenRecordings>().exits;
}

}  // namespace moetap::plugin
