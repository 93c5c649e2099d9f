#include "plugin/host_values.h"

#include <fmt/format.h>

#include <atomic>
#include <stdexcept>
#include <unordered_map>

#include "plugin/layer_table.h"
#include "plugin/recording.h"

namespace moetap::plugin {
namespace {

uint64_t next_id() {
  static std::atomic<uint64_t> id = 0;
  return ++id;
}

}  // namespace

HostThreads::HostThreads() : id_(next_id()) {}

HostThread& HostThreads::this_thread() const {
  thread_local std::unordered_map<uint64_t, HostThread> threads;
  return threads[id_];
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
  this_thread().label = std::move(label);
}

void HostThreads::clear_label() {
  this_thread().label.reset();
}

void HostThreads::log(std::string_view layer, std::string_view name, CustomValue value) {
  const std::string layer_id(layer);
  if (layer_id != "mm_projector" && !is_number(layer_id)) {
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
