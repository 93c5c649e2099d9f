#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "plugin/session/model_binding.h"

namespace moetap::plugin {

/// Which recording the forwards of an instrumented model go to, by the instance in the model's description. There is
/// one in each process (a forked child starts with an empty one). Thread-safe.
class ModelRegistry {
 public:
  static ModelRegistry& get();

  /// Throws std::invalid_argument if the instance is bound to another recording.
  void bind(std::shared_ptr<ModelBinding> binding);

  /// Forgets all models of a recording.
  void unbind(const Recording& recording);

  /// The binding of the model whose `moetap::begin` carries `description`; null if no session attached it. The one
  /// place that decides where the forwards of a model go.
  std::shared_ptr<ModelBinding> find(std::string_view description) const;

 private:
  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<ModelBinding>, std::less<>> bindings_;
  std::atomic<size_t> size_ = 0;  // read without the lock, so that a process without sessions pays next to nothing
};

/// A recording that is closed when the process exits, if its owner did not close it: as done with exit status 0, else
/// as unfinished, with one line for the user. `quick_exit` does not tell its status: it counts as 0.
void close_at_exit(const std::shared_ptr<Recording>& recording);

/// True once `close_at_exit` was called in the process.
bool a_recording_was_opened();

/// True once recordings are being closed because the process exits: no more can be opened.
bool process_exits();

}  // namespace moetap::plugin
