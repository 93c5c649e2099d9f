#pragma once

#include <functional>
#include <memory>
#include <string>

#include "plugin/capture/forward_tokens.h"
#include "plugin/capture/graph_replays.h"
#include "plugin/capture/host_copies.h"
#include "plugin/records/model_description.h"

namespace moetap::plugin {

/// What a forward gives to the observers of all kinds of hooks.
struct ForwardContext {
  std::shared_ptr<const ModelDescription> model;
  std::shared_ptr<ForwardTokens> tokens;
  std::shared_ptr<HostCopies> copies;  // memory of its results
  /// What replays of the captured graph add to; null: the forward has ended. Thread-safe; may throw std::exception.
  std::function<std::shared_ptr<GraphReplays>()> replays;
  /// Tells the user something: see `Recording::notice`. Thread-safe.
  std::function<void(const std::string& what, const std::string& detail)> notice;
};

}  // namespace moetap::plugin
