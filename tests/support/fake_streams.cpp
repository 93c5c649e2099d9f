#include "fake_streams.h"

#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <array>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace moetap::fake_device {
namespace {

constexpr c10::DeviceIndex kNumDevices = 2;
constexpr c10::StreamId kPoolStreams = 4;

/// False: it waits for an event, and is to be asked again.
using Task = std::function<bool()>;

struct Event {
  int64_t recorded = 0;  // versions
  int64_t done = 0;
};

struct State {
  std::recursive_mutex mutex;  // guards the rest; recursive, since tasks run under it
  std::map<std::pair<c10::DeviceIndex, c10::StreamId>, std::deque<Task>> streams;
  Counts counts;
  bool eager = false;
  bool runs = false;
  c10::StreamId next_of_pool = 0;
};

State& state() {
  static auto* state = new State;
  return *state;
}

thread_local int uncounted = 0;
thread_local c10::DeviceIndex current_device = 0;
thread_local std::array<c10::StreamId, kNumDevices> current_streams{};

void push(const c10::Stream& stream, Task task) {
  State& all = state();
  const std::lock_guard lock(all.mutex);
  all.streams[{stream.device_index(), stream.id()}].push_back(std::move(task));
  if (all.eager && !all.runs) run_until_idle();
}

Event& event_of(void* event) {
  return **static_cast<std::shared_ptr<Event>*>(event);
}

struct GuardImpl final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kType; }
  c10::Device exchangeDevice(c10::Device device) const override {
    return {kType, std::exchange(current_device, device.index())};
  }
  c10::Device getDevice() const override { return {kType, current_device}; }
  void setDevice(c10::Device device) const override { current_device = device.index(); }
  void uncheckedSetDevice(c10::Device device) const noexcept override { current_device = device.index(); }
  c10::DeviceIndex deviceCount() const noexcept override { return kNumDevices; }

  c10::Stream getStream(c10::Device device) const override { return current_stream(device); }
  c10::Stream getDefaultStream(c10::Device device) const override {
    return c10::Stream(c10::Stream::DEFAULT, with_index(device));
  }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool /*high_priority*/) const override {
    const std::lock_guard lock(state().mutex);
    return c10::Stream(c10::Stream::UNSAFE, with_index(device), 1 + state().next_of_pool++ % kPoolStreams);
  }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    c10::StreamId& current = current_streams.at(static_cast<size_t>(stream.device_index()));
    return c10::Stream(c10::Stream::UNSAFE, stream.device(), std::exchange(current, stream.id()));
  }

  void record(void** event, const c10::Stream& stream, c10::DeviceIndex /*device*/,
              c10::EventFlag /*flag*/) const override {
    const std::lock_guard lock(state().mutex);
    if (*event == nullptr) *event = new std::shared_ptr<Event>(std::make_shared<Event>());
    const auto recorded = *static_cast<std::shared_ptr<Event>*>(*event);
    const int64_t version = ++recorded->recorded;
    push(stream, [recorded, version] {
      recorded->done = std::max(recorded->done, version);
      return true;
    });
  }
  void block(void* event, const c10::Stream& stream) const override {
    if (event == nullptr) return;
    const std::lock_guard lock(state().mutex);
    const auto awaited = *static_cast<std::shared_ptr<Event>*>(event);
    const int64_t version = awaited->recorded;
    push(stream, [awaited, version] { return awaited->done >= version; });
  }
  bool queryEvent(void* event) const override {
    if (event == nullptr) return true;
    const std::lock_guard lock(state().mutex);
    return event_of(event).done >= event_of(event).recorded;
  }
  void destroyEvent(void* event, const c10::DeviceIndex /*device*/) const noexcept override {
    delete static_cast<std::shared_ptr<Event>*>(event);
  }
  void synchronizeEvent(void* event) const override {
    if (event != nullptr) wait_for_everything();
  }
  bool queryStream(const c10::Stream& stream) const override {
    const std::lock_guard lock(state().mutex);
    return state().streams[{stream.device_index(), stream.id()}].empty();
  }
  void synchronizeStream(const c10::Stream& /*stream*/) const override { wait_for_everything(); }
  void synchronizeDevice(const c10::DeviceIndex /*device*/) const override { wait_for_everything(); }

 private:
  static c10::Device with_index(c10::Device device) {
    return {kType, device.has_index() ? device.index() : current_device};
  }
};

}  // namespace

void count(int64_t Counts::*which) {
  if (uncounted > 0) return;
  const std::lock_guard lock(state().mutex);
  ++(state().counts.*which);
}

Uncounted::Uncounted() {
  ++uncounted;
}
Uncounted::~Uncounted() {
  --uncounted;
}

c10::Stream current_stream(c10::Device device) {
  const c10::DeviceIndex index = device.has_index() ? device.index() : current_device;
  return c10::Stream(c10::Stream::UNSAFE, {kType, index}, current_streams.at(static_cast<size_t>(index)));
}

void wait_for_everything() {
  count(&Counts::synchronizations);
  run_until_idle();
}

Counts counts() {
  const std::lock_guard lock(state().mutex);
  return state().counts;
}

void reset_counts() {
  const std::lock_guard lock(state().mutex);
  state().counts = {};
}

void set_eager(bool eager) {
  const std::lock_guard lock(state().mutex);
  state().eager = eager;
}

void run_until_idle() {
  State& all = state();
  const std::lock_guard lock(all.mutex);
  if (all.runs) return;
  all.runs = true;
  for (bool went_on = true; went_on;) {
    went_on = false;
    for (auto& [id, tasks] : all.streams) {
      while (!tasks.empty() && tasks.front()()) {
        tasks.pop_front();
        went_on = true;
      }
    }
  }
  all.runs = false;
}

void enqueue(const c10::Stream& stream, std::function<void()> task) {
  push(stream, [task = std::move(task)] {
    task();
    return true;
  });
}

void install_streams() {
  static const GuardImpl guard;
  c10::impl::registerDeviceGuard(kType, &guard);
}

}  // namespace moetap::fake_device
