#include "plugin/session/host_values.h"

#include <fmt/format.h>

#include <stdexcept>

#include "plugin/records/layer_table.h"
#include "plugin/session/recording.h"

namespace moetap::plugin {

HostThread& HostThreads::this_thread() const {
  // The calling thread's state for each HostThreads. States of those that are gone are erased when a new one comes.
  thread_local std::map<std::weak_ptr<const int>, HostThread, std::owner_less<>> threads;
  const auto known = threads.find(identity_);
  if (known != threads.end()) return known->second;
  std::erase_if(threads, [](const auto& entry) { return entry.first.expired(); });
  return threads[identity_];
}

void HostThreads::label(ForwardLabel label) {
  for (const int64_t sample : label.samples) {
    if (sample < 0) {
      throw std::invalid_argument(fmt::format("label.samples must be sample numbers >= 0, got {}", sample));
    }
  }
  if (label.samples.empty()) {
    throw std::invalid_argument(
        "label.samples must name the sample of each sequence, got none; to end a label, clear_label");
  }
  this_thread().label = std::make_shared<const ForwardLabel>(std::move(label));
}

void HostThreads::clear_label() {
  this_thread().label.reset();
}

void HostThreads::log(std::string_view layer, std::string_view name, CustomValue value) {
  const std::string layer_id(layer);
  if (!is_layer_id(layer_id)) {
    throw std::invalid_argument(fmt::format("layer must be decimal digits or mm_projector, got \"{}\"", layer_id));
  }
  if (name.empty()) {
    throw std::invalid_argument("name must not be empty");
  }
  HostThread& thread = this_thread();
  if (!thread.last_forward) {
    thread.early_values[{"", layer_id}].insert_or_assign(std::string(name), value);
  } else if (const auto recording = thread.last_forward->recording.lock()) {
    recording->log_value(*thread.last_forward, layer_id, std::string(name), value);
  }
}

}  // namespace moetap::plugin
