#include "fake_device.h"

#include <ATen/ATen.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "analysis/attention/attention_device_kernels.h"
#include "analysis/attention/attention_paths.h"
#include "analysis/attention/attention_sums_paths.h"
#include "analysis/devices/device_kernels.h"
#include "analysis/routers/observe_paths.h"
#include "analysis/routers/router_kernels.h"
#include "fake_operators.h"
#include "fake_streams.h"

namespace moetap::fake_device {
namespace {

/// CPU memory with a pattern that nobody takes for written values.
void* fresh_memory(size_t bytes) {
  void* data = c10::GetAllocator(c10::kCPU)->raw_allocate(bytes);
  std::memset(data, 0xA5, bytes);
  return data;
}

/// The graph that this thread captures; null: none.
thread_local std::shared_ptr<std::vector<std::function<void()>>> captured_graph;

/// Allocates host memory that LibTorch takes for the device's.
class FakeAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    // The thread that captures gets memory of the graph.
    if (!captured_graph) check_allowed_now("allocation of device memory");
    const auto device = c10::impl::getDeviceGuardImpl(kType)->getDevice();
    if (bytes > 0) count(&Counts::allocations);
    void* data = bytes == 0 ? nullptr : fresh_memory(bytes);
    return {data, data, raw_deleter(), device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return c10::GetAllocator(c10::kCPU)->raw_deleter(); }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};

/// Allocates pinned memory: copies to it or from it need not be waited for.
class PinnedAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    check_allowed_now("allocation of pinned memory");
    count(&Counts::pinned_allocations);
    void* data = fresh_memory(std::max<size_t>(bytes, 1));
    const std::lock_guard lock(mutex());
    blocks()[data] = bytes;
    return {data, data, &release, c10::kCPU};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }

  static bool holds(const void* data) {
    const std::lock_guard lock(mutex());
    auto after = blocks().upper_bound(const_cast<void*>(data));
    if (after == blocks().begin()) return false;
    const auto& [begin, bytes] = *std::prev(after);
    return static_cast<const char*>(data) < static_cast<const char*>(begin) + std::max<size_t>(bytes, 1);
  }

 private:
  static std::mutex& mutex() {
    static auto* mutex = new std::mutex;
    return *mutex;
  }
  static std::map<void*, size_t>& blocks() {
    static auto* blocks = new std::map<void*, size_t>;
    return *blocks;
  }
  static void release(void* data) {
    const std::lock_guard lock(mutex());
    blocks().erase(data);
    c10::GetAllocator(c10::kCPU)->raw_deallocate(data);
  }
};

FakeAllocator fake_allocator;
PinnedAllocator pinned_allocator;

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  c10::DeviceIndex deviceCount() const override { return kNumDevices; }
  bool hasPrimaryContext(c10::DeviceIndex /*device*/) const override { return true; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex /*device*/) const override {
    return at::globalContext().defaultGenerator(at::kCPU);
  }
  bool isPinnedPtr(const void* data) const override { return PinnedAllocator::holds(data); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned_allocator; }
  c10::DeviceIndex getCurrentDevice() const override { return guard().getDevice().index(); }
  void setCurrentDevice(c10::DeviceIndex device) const override { guard().setDevice({kType, device}); }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex device) const override {
    return guard().exchangeDevice({kType, device}).index();
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex device) const override {
    return device < 0 ? getCurrentDevice() : exchangeDevice(device);
  }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    grow(*storage.unsafeGetStorageImpl(), bytes);
  }

 private:
  static const c10::impl::DeviceGuardImplInterface& guard() { return *c10::impl::getDeviceGuardImpl(kType); }
};

void run_or_capture(c10::Device device, const std::function<void()>& task) {
  if (captured_graph) {
    captured_graph->push_back(task);
  } else {
    enqueue(current_stream(device), task);
  }
}

std::atomic<bool> next_router_kernel_fails = false;

class FakeRouterKernels final : public analysis::RouterKernels {
 public:
  bool runs_on(c10::Device /*device*/) const override { return true; }
  void observe(const analysis::RouterSums& sums, const analysis::RouterCall& call, const analysis::TokenRows& rows,
               const analysis::TokenOutputs& outputs, const analysis::TransitionFrom& transition) const override {
    const auto task = [sums = host(sums), call = host(call), rows = host(rows), outputs = host(outputs),
                       transition = host(transition)]() mutable {
      analysis::observe_on_cpu(sums, call, rows, outputs, transition);
    };
    run_or_capture(call.selected.device(), task);
    TORCH_CHECK(!next_router_kernel_fails.exchange(false), "the fake device's kernel fails");
  }

 private:
  static analysis::RouterSums host(analysis::RouterSums sums) {
    sums.words = on_cpu(sums.words);
    return sums;
  }
  static analysis::RouterCall host(const analysis::RouterCall& call) {
    return {on_cpu(call.logits),  on_cpu(call.probabilities), on_cpu(call.scores), on_cpu(call.selected),
            on_cpu(call.weights), call.num_experts,           call.sigmoid_scores};
  }
  static analysis::TokenRows host(const analysis::TokenRows& rows) {
    return {on_cpu(rows.row), rows.num_rows, rows.order, on_cpu(rows.valid)};
  }
  static analysis::TokenOutputs host(const analysis::TokenOutputs& outputs) {
    return {on_cpu(outputs.selected), on_cpu(outputs.weights), on_cpu(outputs.first_slot), on_cpu(outputs.margins)};
  }
  static analysis::TransitionFrom host(const analysis::TransitionFrom& transition) {
    return {on_cpu(transition.first_slot), on_cpu(transition.counts)};
  }
};

class FakeAttentionKernels final : public analysis::AttentionDeviceKernels {
 public:
  bool runs_on(c10::Device /*device*/) const override { return true; }
  void measure(const analysis::AttentionCall& call, const analysis::AttentionTokens& tokens,
               const analysis::AttentionRows& rows, const at::Tensor& /*scratch*/) const override {
    const auto task = [call = host(call), tokens = host(tokens), rows = rows] {
      const analysis::AttentionRows measured = analysis::measure_on_cpu(call, tokens, {rows.matrix.defined()});
      for (const auto tensor : kTensors) on_cpu(rows.*tensor).copy_(measured.*tensor);
      if (rows.matrix.defined()) on_cpu(rows.matrix).copy_(measured.matrix);
    };
    run_or_capture(tokens.query_position.device(), task);
  }
  void add_rows(const analysis::AttentionSums& sums, const analysis::AttentionRows& rows,
                const at::Tensor& row) const override {
    run_or_capture(sums.words.device(), [sums = host(sums), rows = host(rows), row = on_cpu(row)]() mutable {
      analysis::add_rows_on_cpu(sums, rows, analysis::row_of_sequences(sums, rows, row));
    });
  }
  void add_experts(const analysis::AttentionSums& sums, const analysis::AttentionRows& rows, const at::Tensor& row,
                   const at::Tensor& selected, const at::Tensor& weights) const override {
    const auto task = [sums = host(sums), rows = host(rows), row = on_cpu(row), selected = on_cpu(selected),
                       weights = on_cpu(weights)]() mutable {
      const at::Tensor of_sequences = analysis::row_of_sequences(sums, rows, row);
      analysis::add_experts_on_cpu(sums, rows, of_sequences, selected.to(at::kLong), weights);
    };
    run_or_capture(sums.words.device(), task);
  }

 private:
  using Rows = analysis::AttentionRows;
  static constexpr at::Tensor Rows::*kTensors[] = {
      &Rows::line,   &Rows::values, &Rows::bins,      &Rows::region,   &Rows::num_keys,
      &Rows::length, &Rows::weight, &Rows::head_high, &Rows::head_low, &Rows::head_max_score};

  static analysis::AttentionSums host(analysis::AttentionSums sums) {
    sums.words = on_cpu(sums.words);
    return sums;
  }
  static analysis::AttentionRows host(analysis::AttentionRows rows) {
    for (const auto tensor : kTensors) rows.*tensor = on_cpu(rows.*tensor);
    rows.position = on_cpu(rows.position);
    return rows;
  }
  static analysis::AttentionCall host(analysis::AttentionCall call) {
    for (at::Tensor* tensor :
         {&call.probabilities, &call.scores, &call.query, &call.key, &call.mask, &call.log_sum_exp}) {
      *tensor = on_cpu(*tensor);
    }
    return call;
  }
  static analysis::AttentionTokens host(analysis::AttentionTokens tokens) {
    for (at::Tensor* tensor :
         {&tokens.query_position, &tokens.key_position, &tokens.query_region, &tokens.key_region, &tokens.sampled}) {
      *tensor = on_cpu(*tensor);
    }
    return tokens;
  }
};

class FakeKernels final : public analysis::DeviceKernels {
 public:
  const analysis::RouterKernels& routers() const override { return routers_; }
  const analysis::AttentionDeviceKernels* attention() const override { return &attention_; }
  void count_one(const at::Tensor& counter) const override {
    run_or_capture(counter.device(), [host = on_cpu(counter)] { ++*host.mutable_data_ptr<int64_t>(); });
  }
  int leave_captures() const override {
    fake_device::leave_captures();
    return 0;
  }
  void return_to_captures(int /*before*/) const noexcept override { fake_device::return_to_captures(); }
  bool is_capturing(c10::Device /*device*/) const override {
    count(&Counts::capture_queries);
    return captured_graph != nullptr;
  }

 private:
  FakeRouterKernels routers_;
  FakeAttentionKernels attention_;
};

}  // namespace

void fail_next_router_kernel() {
  next_router_kernel_fails = true;
}

void begin_capture() {
  captures(true);
  captured_graph = std::make_shared<std::vector<std::function<void()>>>();
}

std::function<void()> end_capture() {
  captures(false);
  return [captured = std::exchange(captured_graph, nullptr)] {
    for (const auto& task : *captured) task();
  };
}

void install() {
  static const bool installed = [] {
    install_streams();
    c10::SetAllocator(kType, &fake_allocator);
    c10::register_privateuse1_backend("fake");
    at::RegisterPrivateUse1HooksInterface(new Hooks);
    install_operators();
    analysis::register_device_kernels(kType, std::make_unique<FakeKernels>());
    return true;
  }();
  static_cast<void>(installed);
}

}  // namespace moetap::fake_device
