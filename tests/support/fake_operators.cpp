#include "tests/support/fake_operators.h"

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/TensorUtils.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Resize.h>
#include <c10/core/Allocator.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <optional>
#include <utility>

#include "fake_streams.h"

namespace moetap::fake_device {
namespace {

at::Tensor empty(c10::IntArrayRef sizes, std::optional<at::ScalarType> dtype, std::optional<at::Layout> /*layout*/,
                 std::optional<at::Device> device, std::optional<bool> /*pinned*/,
                 std::optional<at::MemoryFormat> format) {
  const c10::DeviceGuard guard(device.value_or(at::Device(kType)));
  return at::detail::empty_generic(sizes, c10::GetAllocator(kType), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   dtype.value_or(at::kFloat), format);
}

at::Tensor empty_strided(c10::IntArrayRef sizes, c10::IntArrayRef strides, std::optional<at::ScalarType> dtype,
                         std::optional<at::Layout> /*layout*/, std::optional<at::Device> device,
                         std::optional<bool> /*pinned*/) {
  const c10::DeviceGuard guard(device.value_or(at::Device(kType)));
  return at::detail::empty_strided_generic(sizes, strides, c10::GetAllocator(kType),
                                           c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                           dtype.value_or(at::kFloat));
}

bool is_pinned(const at::Tensor& tensor) {
  return at::detail::getPrivateUse1Hooks().isPinnedPtr(tensor.data_ptr());
}

/// Copies as CUDA does. Between two devices, the current streams of both wait for each other. The host waits, unless
/// the caller asks it not to and the host's memory is pinned.
at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool non_blocking) {
  if (to.numel() == 0) return to;
  const bool to_host = to.is_cpu(), from_host = from.is_cpu();
  count(to_host ? &Counts::copies_to_host : from_host ? &Counts::copies_to_device : &Counts::copies_on_device);
  if (to_host) count(&Counts::bytes_to_host, static_cast<int64_t>(to.nbytes()));
  // Memory that is not pinned is read before the copy returns: the caller may change it right after.
  const at::Tensor source = from_host && !is_pinned(from) ? from.clone() : on_cpu(from);
  const c10::Stream stream = current_stream(from_host ? to.device() : from.device());
  const c10::Stream target_stream = to_host ? stream : current_stream(to.device());
  put_behind(stream, target_stream);
  push(stream, [source, target = on_cpu(to)] { target.copy_(source); });
  put_behind(target_stream, stream);
  const bool waits = to_host ? !non_blocking || !is_pinned(to) : from_host && !non_blocking;
  if (waits) wait_for(stream);
  return to;
}

const at::Tensor& resize_tensor(const at::Tensor& tensor, c10::IntArrayRef sizes,
                                std::optional<at::MemoryFormat> format) {
  if (tensor.sizes() == sizes && !format) return tensor;
  at::TensorImpl* impl = tensor.unsafeGetTensorImpl();
  impl->set_sizes_contiguous(sizes);
  if (format) impl->empty_tensor_restride(*format);
  const size_t bytes = at::detail::computeStorageNbytesContiguous(sizes, tensor.dtype().itemsize(),
                                                                  static_cast<size_t>(tensor.storage_offset()));
  c10::StorageImpl* storage = impl->unsafe_storage().unsafeGetStorageImpl();
  if (tensor.numel() > 0 && bytes > storage->nbytes()) grow(*storage, bytes);
  return tensor;
}

/// Copies to an argument what an operation that ran on the CPU wrote to it.
at::Tensor copy_back(const at::Tensor& from, const at::Tensor& to) {
  if (from.sizes() != to.sizes()) resize_tensor(to, from.sizes(), std::nullopt);
  return copy_from(from, to, /*non_blocking=*/false);
}

at::Tensor& fill(at::Tensor& tensor, const at::Scalar& value) {
  if (tensor.numel() == 0) return tensor;
  count(&Counts::fills);
  push(current_stream(tensor.device()), [target = on_cpu(tensor), value] { target.fill_(value); });
  return tensor;
}

at::Tensor& zero(at::Tensor& tensor) {
  return fill(tensor, 0);
}

at::Scalar local_scalar(const at::Tensor& tensor) {
  wait_for(current_stream(tensor.device()));
  return on_cpu(tensor).item();
}

at::Tensor strided(const at::Tensor& tensor, c10::IntArrayRef sizes, c10::IntArrayRef strides,
                   std::optional<int64_t> offset) {
  auto view = at::detail::make_tensor<c10::TensorImpl>(c10::TensorImpl::VIEW, c10::Storage(tensor.storage()),
                                                       tensor.key_set(), tensor.dtype());
  at::native::setStrided<int64_t>(view, sizes, strides, offset.value_or(tensor.storage_offset()));
  return view;
}

/// The view of the device's tensor with the sizes, strides and offset of `seen`, a view of `on_cpu(tensor)`.
at::Tensor as_seen(const at::Tensor& tensor, const at::Tensor& seen) {
  return strided(tensor, seen.sizes(), seen.strides(), tensor.storage_offset() + seen.storage_offset());
}

at::Tensor view(const at::Tensor& tensor, c10::IntArrayRef sizes) {
  return as_seen(tensor, on_cpu(tensor).view(sizes));
}

at::Tensor unfold(const at::Tensor& tensor, int64_t dimension, int64_t size, int64_t step) {
  return as_seen(tensor, on_cpu(tensor).unfold(dimension, size, step));
}

at::Tensor reshape_alias(const at::Tensor& tensor, c10::IntArrayRef sizes, c10::IntArrayRef strides) {
  return strided(tensor, sizes, strides, tensor.storage_offset());
}

at::Tensor& set_storage(at::Tensor& tensor, c10::Storage source, int64_t offset, c10::IntArrayRef sizes,
                        c10::IntArrayRef strides) {
  TORCH_CHECK(source.device() == tensor.device(), "set_: the storage must be on ", tensor.device(), ", got ",
              source.device());
  tensor.unsafeGetTensorImpl()->set_storage_keep_dtype(std::move(source));
  const bool contiguous = strides.empty() && !sizes.empty();
  at::native::setStrided<int64_t>(tensor, sizes,
                                  contiguous ? c10::IntArrayRef(at::detail::defaultStrides(sizes)) : strides, offset);
  return tensor;
}

at::Tensor& set_whole_storage(at::Tensor& tensor, c10::Storage source) {
  const auto elements = static_cast<int64_t>(source.nbytes() / tensor.dtype().itemsize());
  return set_storage(tensor, std::move(source), 0, {elements}, {});
}

at::Tensor& set_tensor(at::Tensor& tensor, const at::Tensor& source) {
  return set_storage(tensor, source.storage(), source.storage_offset(), source.sizes(), source.strides());
}

/// `Module::to` asks this before it replaces a parameter's data in place. LibTorch's default for PrivateUse1 is no.
bool may_be_exchanged(const at::Tensor& tensor, const at::Tensor& other) {
  return tensor.layout() == at::kStrided && other.layout() == at::kStrided;
}

/// TorchScript's lists of optional tensors carry a type object that `cpu_fallback` does not recognise: gives them the
/// one that it does.
void retype_optional_tensors(c10::IValue& argument) {
  if (!argument.isList() || argument.isTensorList() || argument.isOptionalTensorList()) return;
  const auto list = argument.toList();
  if (!list.elementType()->isSubtypeOf(*c10::OptionalType::ofTensor())) return;
  c10::List<std::optional<at::Tensor>> retyped;
  for (size_t i = 0; i < list.size(); ++i) retyped.push_back(list.get(i).toOptional<at::Tensor>());
  argument = std::move(retyped);
}

/// Runs an operation of LibTorch on the CPU, before it returns.
void run_on_cpu(const c10::OperatorHandle& operation, torch::jit::Stack* stack) {
  count(&Counts::operations);
  const Uncounted uncounted;
  for (c10::DeviceIndex device = 0; device < kNumDevices; ++device) wait_for(current_stream({kType, device}));
  const auto arguments = static_cast<std::ptrdiff_t>(operation.schema().arguments().size());
  std::for_each(stack->end() - arguments, stack->end(), retype_optional_tensors);
  // The fallback would silently return a copy in place of a view.
  at::native::cpu_fallback(operation, stack, /*error_on_views=*/true);
}

}  // namespace

at::Tensor on_cpu(const at::Tensor& tensor) {
  if (!tensor.defined() || tensor.is_cpu()) return tensor;
  return at::from_blob(
      tensor.data_ptr(), tensor.sizes(), tensor.strides(), [tensor](void*) {}, tensor.options().device(at::kCPU));
}

void grow(c10::StorageImpl& storage, size_t bytes) {
  run_until_idle();  // what is enqueued knows the old memory
  const c10::DeviceGuard guard(storage.device());
  c10::DataPtr grown = storage.allocator()->allocate(bytes);
  if (storage.nbytes() > 0) std::memcpy(grown.mutable_get(), storage.data(), std::min(bytes, storage.nbytes()));
  storage.set_data_ptr_noswap(std::move(grown));
  storage.set_nbytes(bytes);
}

void install_operators() {
  static torch::Library operations(torch::Library::IMPL, "aten", c10::DispatchKey::PrivateUse1, __FILE__, __LINE__);
  operations.impl("empty.memory_format", TORCH_FN(empty));
  operations.impl("empty_strided", TORCH_FN(empty_strided));
  operations.impl("resize_", TORCH_FN(resize_tensor));
  operations.impl("_copy_from", TORCH_FN(copy_from));
  operations.impl("_copy_from_and_resize", TORCH_FN(copy_back));
  operations.impl("fill_.Scalar", TORCH_FN(fill));
  operations.impl("zero_", TORCH_FN(zero));
  operations.impl("_local_scalar_dense", TORCH_FN(local_scalar));
  operations.impl("as_strided", TORCH_FN(strided));
  operations.impl("view", TORCH_FN(view));
  operations.impl("unfold", TORCH_FN(unfold));
  operations.impl("_reshape_alias", TORCH_FN(reshape_alias));
  operations.impl("set_.source_Storage", TORCH_FN(set_whole_storage));
  operations.impl("set_.source_Storage_storage_offset", TORCH_FN(set_storage));
  operations.impl("set_.source_Tensor", TORCH_FN(set_tensor));
  operations.impl("_has_compatible_shallow_copy_type", TORCH_FN(may_be_exchanged));
  // LibTorch 2.8 asks for it with gradients, too.
  static torch::Library with_gradients(torch::Library::IMPL, "aten", c10::DispatchKey::AutogradPrivateUse1, __FILE__,
                                       __LINE__);
  with_gradients.impl("_has_compatible_shallow_copy_type", TORCH_FN(may_be_exchanged));
  static torch::Library rest(torch::Library::IMPL, "_", c10::DispatchKey::PrivateUse1, __FILE__, __LINE__);
  rest.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
}

}  // namespace moetap::fake_device
