#include "fake_streams.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <array>
#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

namespace moetap::fake_device {
namespace {

// Note [What a wait runs]
// A wait for an event or a stream runs what it needs and no more: the tasks before it on its stream and, where one of
// them waits for an event, the tasks before that one on the other stream. So a test fails that waits for the wrong
// event. This comes to an end, because a task waits only for what was enqueued before it.

constexpr c10::StreamId kPoolStreams = 4;

using StreamKey = std::pair<c10::DeviceIndex, c10::StreamId>;

/// One record of an event. A task waits for the record that was the last when it was enqueued.
struct Record {
  StreamKey stream;
  bool done = false;
};

struct Event {
  std::shared_ptr<Record> last;
};

struct Task {
  std::function<void()> run;
  std::shared_ptr<const Record> awaited;  // null: nothing
};

struct State {
  std::recursive_mutex mutex;  // guards the rest; recursive, since a task may enqueue
  std::map<StreamKey, std::deque<Task>> streams;
  Counts counts;
  bool eager = false;
  bool runs = false;
  c10::StreamId next_of_pool = 0;
  c10::StreamId next_new = 1 + kPoolStreams;
};

State& state() {
  static auto* state = new State;
  return *state;
}

std::atomic<int> graphs_in_capture = 0;
thread_local int outside = 0;
thread_local int uncounted = 0;
thread_local c10::DeviceIndex current_device = 0;
thread_local std::array<c10::StreamId, kNumDevices> current_streams{};

/// Lives while tasks run. The lock is held.
class Running {
 public:
  Running() {
    TORCH_CHECK(!state().runs, "a task of the fake device must not wait for the device");
    state().runs = true;
  }
  ~Running() { state().runs = false; }

 private:
  // A device knows nothing of version counters and of the inference mode of the thread that enqueued.
  const at::AutoDispatchBelowADInplaceOrView no_autograd_;
};

StreamKey key_of(const c10::Stream& stream) {
  return {stream.device_index(), stream.id()};
}

c10::Device with_index(c10::Device device) {
  const c10::DeviceIndex index = device.has_index() ? device.index() : current_device;
  TORCH_CHECK(index < kNumDevices, "device must be 0 .. ", kNumDevices - 1, ", got ", index);
  return {kType, index};
}

void run_until(const Record& record);

void run_front(StreamKey key) {
  std::deque<Task>& tasks = state().streams[key];
  // A copy of the pointer: the record's own task releases it.
  if (const auto awaited = tasks.front().awaited) run_until(*awaited);
  const Task task = std::move(tasks.front());
  tasks.pop_front();  // also if it throws
  if (task.run) task.run();
}

void run_until(const Record& record) {
  while (!record.done) {
    TORCH_INTERNAL_ASSERT(!state().streams[record.stream].empty(), "an event was recorded, and its task is lost");
    run_front(record.stream);
  }
}

void push(const c10::Stream& stream, Task task) {
  State& all = state();
  const std::lock_guard lock(all.mutex);
  all.streams[key_of(stream)].push_back(std::move(task));
  if (all.eager && !all.runs) run_until_idle();
}

std::shared_ptr<Record> push_record(const c10::Stream& stream) {
  const auto record = std::make_shared<Record>(Record{key_of(stream)});
  push(stream, Task{[record] { record->done = true; }, nullptr});
  return record;
}

struct GuardImpl final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kType; }
  c10::Device exchangeDevice(c10::Device device) const override {
    return {kType, std::exchange(current_device, with_index(device).index())};
  }
  c10::Device getDevice() const override { return {kType, current_device}; }
  void setDevice(c10::Device device) const override { current_device = with_index(device).index(); }
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
  c10::Stream getNewStream(c10::Device device, int /*priority*/) const override {
    const std::lock_guard lock(state().mutex);
    return c10::Stream(c10::Stream::UNSAFE, with_index(device), state().next_new++);
  }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    c10::StreamId& current = current_streams.at(static_cast<size_t>(stream.device_index()));
    return c10::Stream(c10::Stream::UNSAFE, stream.device(), std::exchange(current, stream.id()));
  }

  void record(void** event, const c10::Stream& stream, c10::DeviceIndex /*device*/,
              c10::EventFlag /*flag*/) const override {
    const std::lock_guard lock(state().mutex);
    if (*event == nullptr) {
      *event = new Event;
      ++state().counts.new_events;
    }
    ++state().counts.events;
    static_cast<Event*>(*event)->last = push_record(stream);
  }
  void block(void* event, const c10::Stream& stream) const override {
    const std::lock_guard lock(state().mutex);
    if (event != nullptr) push(stream, Task{nullptr, static_cast<Event*>(event)->last});
  }
  bool queryEvent(void* event) const override {
    check_allowed_now("query of an event");
    const std::lock_guard lock(state().mutex);
    return event == nullptr || static_cast<Event*>(event)->last->done;
  }
  void destroyEvent(void* event, const c10::DeviceIndex /*device*/) const noexcept override {
    const std::lock_guard lock(state().mutex);
    delete static_cast<Event*>(event);
  }
  void synchronizeEvent(void* event) const override {
    check_allowed_now("wait for an event");
    count(&Counts::synchronizations);
    const std::lock_guard lock(state().mutex);
    const Running running;
    if (event == nullptr) return;
    const auto awaited = static_cast<Event*>(event)->last;
    run_until(*awaited);
  }
  bool queryStream(const c10::Stream& stream) const override {
    check_allowed_now("query of a stream");
    const std::lock_guard lock(state().mutex);
    return state().streams[key_of(stream)].empty();
  }
  void synchronizeStream(const c10::Stream& stream) const override {
    check_allowed_now("wait for a stream");
    wait_for(stream);
  }
  void synchronizeDevice(const c10::DeviceIndex device) const override {
    check_allowed_now("wait for a device");
    count(&Counts::synchronizations);
    const std::lock_guard lock(state().mutex);
    const Running running;
    for (const auto& [key, tasks] : state().streams) {
      while (key.first == device && !tasks.empty()) run_front(key);
    }
  }
};

}  // namespace

void count(int64_t Counts::*which, int64_t number) {
  if (uncounted > 0) return;
  const std::lock_guard lock(state().mutex);
  state().counts.*which += number;
}

void leave_captures() {
  ++outside;
}
void return_to_captures() {
  --outside;
}

void captures(bool on) {
  graphs_in_capture += on ? 1 : -1;
}

void check_allowed_now(const char* call) {
  TORCH_CHECK(graphs_in_capture == 0 || outside > 0, call, ": operation not permitted when stream is capturing");
}

Uncounted::Uncounted() {
  ++uncounted;
}
Uncounted::~Uncounted() {
  --uncounted;
}

c10::Stream current_stream(c10::Device device) {
  const c10::Device indexed = with_index(device);
  return c10::Stream(c10::Stream::UNSAFE, indexed, current_streams.at(static_cast<size_t>(indexed.index())));
}

void push(const c10::Stream& stream, std::function<void()> task) {
  push(stream, Task{std::move(task), nullptr});
}

void enqueue(const c10::Stream& stream, std::function<void()> task) {
  count(&Counts::kernels);
  push(stream, std::move(task));
}

void put_behind(const c10::Stream& later, const c10::Stream& earlier) {
  if (later == earlier) return;
  const std::lock_guard lock(state().mutex);
  push(later, Task{nullptr, push_record(earlier)});
}

void wait_for(const c10::Stream& stream) {
  count(&Counts::synchronizations);
  const std::lock_guard lock(state().mutex);
  const Running running;
  const auto& tasks = state().streams[key_of(stream)];
  while (!tasks.empty()) run_front(key_of(stream));
}

bool run_next(const c10::Stream& stream) {
  const std::lock_guard lock(state().mutex);
  const Running running;
  if (state().streams[key_of(stream)].empty()) return false;
  run_front(key_of(stream));
  return true;
}

void run_until_idle() {
  const std::lock_guard lock(state().mutex);
  const Running running;
  for (bool went_on = true; went_on;) {  // again, since a task may enqueue on a stream that is already done
    went_on = false;
    for (const auto& [key, tasks] : state().streams) {
      for (; !tasks.empty(); went_on = true) run_front(key);
    }
  }
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
  if (eager) run_until_idle();
}

void install_streams() {
  static const GuardImpl guard;
  static const c10::impl::DeviceGuardImplRegistrar registrar(kType, &guard);
}

}  // namespace moetap::fake_device
