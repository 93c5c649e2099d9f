#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "plugin/capture/pending_forward.h"
#include "plugin/records/forward_record.h"
#include "plugin/session/forward_label.h"
#include "plugin/session/generation.h"

namespace moetap::plugin {

class ModelBinding;
class Recording;

using CustomValues = std::map<std::pair<std::string, std::string>, std::map<std::string, CustomValue>>;

/// What the host logs for one forward, while it runs or after it has ended: `Session::log` does not know which.
struct ForwardValues {
  explicit ForwardValues(std::weak_ptr<Recording> of) : recording(std::move(of)) {}

  enum class State { kRunning, kRecorded, kSkipped, kLost };

  const std::weak_ptr<Recording> recording;
  std::mutex mutex;  // guards what follows
  State state = State::kRunning;
  CustomValues values;  // while it runs
  // Once it is recorded: names the log entries that further values go to.
  std::shared_ptr<const ModelDescription> model;
  std::string method;
  SampleNumbers samples;
};

/// The labels and values that one thread of the host gave, and the forwards that it ran. Only that thread touches it.
struct HostThread {
  std::shared_ptr<const ForwardLabel> label;    // of the forwards that it begins; null: none
  std::shared_ptr<ForwardValues> last_forward;  // that it began; null: none so far
  CustomValues early_values;                    // logged before its first forward
  std::map<const ModelBinding*, std::shared_ptr<GenerationFollower>> followers;  // of the models that it ran
};

/// The labels and values that the host's threads give to one session, or to all recordings of a process's session.
/// Thread-safe.
class HostThreads {
 public:
  HostThread& this_thread() const;

  /// As the functions of `Session`; throw std::invalid_argument.
  void label(ForwardLabel label);
  void clear_label();
  void log(std::string_view layer, std::string_view name, CustomValue value);

 private:
  const std::shared_ptr<const int> identity_ = std::make_shared<const int>();  // key of its state on each thread
};

}  // namespace moetap::plugin
