#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "plugin/forward_record.h"
#include "plugin/session.h"

namespace moetap::plugin {

using CustomValues = std::map<std::pair<std::string, std::string>, std::map<std::string, CustomValue>>;

/// What the host logs for one forward, while it runs and after it: `Session::log` does not know which.
struct ForwardValues {
  enum class State { kRunning, kRecorded, kLost };

  std::mutex mutex;  // guards what follows
  State state = State::kRunning;
  CustomValues values;  // while it runs
  // Once it is recorded: whose entries further values go to.
  std::shared_ptr<const ModelDescription> model;
  std::string method;
  std::vector<int64_t> samples;
};

/// What one thread of the host has said to one session. Only that thread touches it.
struct HostThread {
  std::optional<ForwardLabel> label;            // of the forwards that it begins
  std::shared_ptr<ForwardValues> last_forward;  // that it began; null: none so far
  CustomValues early_values;                    // logged before its first forward
};

}  // namespace moetap::plugin
