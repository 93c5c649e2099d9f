#include "fake_device.h"

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <c10/core/Allocator.h>
#include <torch/library.h>

#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "analysis/device_kernels.h"
#include "analysis/observe_paths.h"
#include "fake_streams.h"

namespace moetap::fake_device {
namespace {

/// Memory of the host under a device's name.
class FakeAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    const auto device = c10::impl::getDeviceGuardImpl(kType)->getDevice();
    if (bytes > 0) count(&Counts::allocations);
    void* data = bytes == 0 ? nullptr : c10::GetAllocator(c10::kCPU)->raw_allocate(bytes);
    return {data, data, raw_deleter(), device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return c10::GetAllocator(c10::kCPU)->raw_deleter(); }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};

/// What is copied to it or from it need not be waited for.
class PinnedAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    count(&Counts::pinned_allocations);
    void* data = c10::GetAllocator(c10::kCPU)->raw_allocate(std::max<size_t>(bytes, 1));
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
  c10::DeviceIndex deviceCount() const override { return c10::impl::getDeviceGuardImpl(kType)->deviceCount(); }
  bool hasPrimaryContext(c10::DeviceIndex /*device*/) const override { return true; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex /*device*/) const override {
    return at::globalContext().defaultGenerator(at::kCPU);
  }
  bool isPinnedPtr(const void* data) const override { return PinnedAllocator::holds(data); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned_allocator; }
};

/// The same memory as a tensor of the CPU, which keeps it.
at::Tensor on_cpu(const at::Tensor& tensor) {
  if (!tensor.defined() || tensor.is_cpu()) return tensor;
  return at::from_blob(
      tensor.data_ptr(), tensor.sizes(), tensor.strides(), [tensor](void*) {}, tensor.options().device(at::kCPU));
}

at::Tensor empty(c10::IntArrayRef sizes, std::optional<at::ScalarType> dtype, std::optional<at::Layout> /*layout*/,
                 std::optional<at::Device> device, std::optional<bool> /*pinned*/,
                 std::optional<at::MemoryFormat> format) {
  const c10::DeviceGuard guard(device.value_or(at::Device(kType, 0)));
  return at::detail::empty_generic(sizes, &fake_allocator, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   dtype.value_or(at::kFloat), format);
}

at::Tensor empty_strided(c10::IntArrayRef sizes, c10::IntArrayRef strides, std::optional<at::ScalarType> dtype,
                         std::optional<at::Layout> /*layout*/, std::optional<at::Device> device,
                         std::optional<bool> /*pinned*/) {
  const c10::DeviceGuard guard(device.value_or(at::Device(kType, 0)));
  return at::detail::empty_strided_generic(
      sizes, strides, &fake_allocator, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), dtype.value_or(at::kFloat));
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool non_blocking) {
  const bool to_host = to.is_cpu(), from_host = from.is_cpu();
  count(to_host ? &Counts::copies_to_host : from_host ? &Counts::copies_to_device : &Counts::copies_on_device);
  // A copy from memory that is not pinned takes its bytes at once.
  const bool staged = from_host && !(non_blocking && PinnedAllocator::holds(from.data_ptr()));
  const at::Tensor source = staged ? from.clone() : on_cpu(from), target = on_cpu(to);
  enqueue(current_stream(to_host ? from.device() : to.device()), [source, target] {
    const at::NoGradGuard no_grad;
    target.copy_(source);
  });
  if (to_host && !(non_blocking && PinnedAllocator::holds(to.data_ptr()))) wait_for_everything();
  return to;
}

/// What an operation that ran on the CPU wrote to its arguments.
at::Tensor copy_back(const at::Tensor& from, const at::Tensor& to) {
  if (from.sizes() != to.sizes()) {
    const at::Tensor resized = at::empty(from.sizes(), to.options());
    to.unsafeGetTensorImpl()->set_storage_keep_dtype(resized.storage());
    to.unsafeGetTensorImpl()->set_sizes_contiguous(from.sizes());
  }
  return copy_from(from, to, /*non_blocking=*/false);
}

at::Tensor& fill(at::Tensor& tensor, const at::Scalar& value) {
  count(&Counts::fills);
  enqueue(current_stream(tensor.device()), [target = on_cpu(tensor), value]() mutable {
    const at::NoGradGuard no_grad;
    target.fill_(value);
  });
  return tensor;
}

at::Tensor& zero(at::Tensor& tensor) {
  return fill(tensor, 0);
}

at::Scalar local_scalar(const at::Tensor& tensor) {
  wait_for_everything();
  return on_cpu(tensor).item();
}

at::Tensor strided(const at::Tensor& tensor, c10::IntArrayRef sizes, c10::IntArrayRef strides,
                   std::optional<int64_t> offset) {
  auto view = at::detail::make_tensor<c10::TensorImpl>(c10::TensorImpl::VIEW, c10::Storage(tensor.storage()),
                                                       tensor.key_set(), tensor.dtype());
  view.unsafeGetTensorImpl()->set_storage_offset(offset.value_or(tensor.storage_offset()));
  view.unsafeGetTensorImpl()->set_sizes_and_strides(sizes, strides);
  return view;
}

at::Tensor view(const at::Tensor& tensor, c10::IntArrayRef sizes) {
  const at::Tensor seen = on_cpu(tensor).view(sizes);
  return strided(tensor, seen.sizes(), seen.strides(), tensor.storage_offset());
}

/// LibTorch's operations run on the CPU, at once.
void run_on_cpu(const c10::OperatorHandle& operation, torch::jit::Stack* stack) {
  count(&Counts::operations);
  const Uncounted uncounted;
  run_until_idle();
  at::native::cpu_fallback(operation, stack);
  run_until_idle();
}

class FakeKernels final : public analysis::DeviceKernels {
 public:
  void observe_router(const analysis::RouterSums& sums, const analysis::RouterCall& call,
                      const analysis::TokenRows& rows, const analysis::TokenOutputs& outputs,
                      const analysis::TransitionFrom& transition) const override {
    count(&Counts::kernels);
    const auto task = [sums = host(sums), call = host(call), rows = host(rows), outputs = host(outputs),
                       transition = host(transition)]() mutable {
      const at::NoGradGuard no_grad;
      analysis::observe_on_cpu(sums, call, rows);
      analysis::write_tokens(call, rows, outputs, transition);
    };
    run_or_capture(call.selected.device(), task);
  }
  void count_one(const at::Tensor& counter) const override {
    run_or_capture(counter.device(), [host = on_cpu(counter)] { ++*host.mutable_data_ptr<int64_t>(); });
  }
  std::shared_ptr<void> outside_captures() const override { return nullptr; }
  bool is_capturing(c10::Device /*device*/) const override { return captured_ != nullptr; }

  static inline thread_local std::shared_ptr<std::vector<std::function<void()>>> captured_;

 private:
  static void run_or_capture(c10::Device device, const std::function<void()>& task) {
    if (captured_) {
      captured_->push_back(task);
    } else {
      enqueue(current_stream(device), task);
    }
  }
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
    return {on_cpu(outputs.selected), on_cpu(outputs.weights), on_cpu(outputs.first_slot)};
  }
  static analysis::TransitionFrom host(const analysis::TransitionFrom& transition) {
    return {on_cpu(transition.first_slot), on_cpu(transition.counts)};
  }
};

}  // namespace

void begin_capture() {
  FakeKernels::captured_ = std::make_shared<std::vector<std::function<void()>>>();
}

std::function<void()> end_capture() {
  return [captured = std::exchange(FakeKernels::captured_, nullptr)] {
    for (const auto& task : *captured) task();
  };
}

void install() {
  static const bool installed = [] {
    install_streams();
    c10::SetAllocator(kType, &fake_allocator);
    c10::register_privateuse1_backend("fake");
    at::RegisterPrivateUse1HooksInterface(new Hooks);
    static torch::Library operations(torch::Library::IMPL, "aten", c10::DispatchKey::PrivateUse1, __FILE__, __LINE__);
    operations.impl("empty.memory_format", TORCH_FN(empty));
    operations.impl("empty_strided", TORCH_FN(empty_strided));
    operations.impl("_copy_from", TORCH_FN(copy_from));
    operations.impl("_copy_from_and_resize", TORCH_FN(copy_back));
    operations.impl("fill_.Scalar", TORCH_FN(fill));
    operations.impl("zero_", TORCH_FN(zero));
    operations.impl("_local_scalar_dense", TORCH_FN(local_scalar));
    operations.impl("as_strided", TORCH_FN(strided));
    operations.impl("view", TORCH_FN(view));
    static torch::Library rest(torch::Library::IMPL, "_", c10::DispatchKey::PrivateUse1, __FILE__, __LINE__);
    rest.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
    analysis::register_device_kernels(kType, std::make_unique<FakeKernels>());
    return true;
  }();
  static_cast<void>(installed);
}

}  // namespace moetap::fake_device
