#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/InferenceMode.h>

#include <cstdint>

namespace moetap::plugin {

/// A contiguous tensor in the memory of `memory`, from byte `begin` of its storage on. Made without an operator of
/// LibTorch, each of which takes a host a microsecond: a forward on a device needs several for each router call. It
/// takes no part in gradients and is no inference tensor.
inline at::Tensor alias_in(const at::Tensor& memory, int64_t begin, at::IntArrayRef sizes, at::ScalarType dtype) {
  const c10::InferenceMode no_inference_tensor(false);
  at::Tensor alias = at::detail::make_tensor<c10::TensorImpl>(c10::Storage(memory.storage()), memory.key_set(),
                                                              c10::scalarTypeToTypeMeta(dtype));
  c10::TensorImpl* impl = alias.unsafeGetTensorImpl();
  impl->set_storage_offset(begin / static_cast<int64_t>(c10::elementSize(dtype)));
  impl->set_sizes_contiguous(sizes);
  return alias;
}

/// `tensor.reshape(sizes)`; without an operator where the tensor has these sizes or is contiguous.
inline at::Tensor in_shape(const at::Tensor& tensor, at::IntArrayRef sizes) {
  if (tensor.sizes() == sizes) return tensor;
  const bool is_plain = tensor.layout() == at::kStrided && !tensor.is_neg() && !tensor.is_conj() &&
                        !tensor.requires_grad() && tensor.has_storage() && tensor.is_contiguous() &&
                        tensor.numel() == c10::multiply_integers(sizes);
  if (!is_plain) return tensor.reshape(sizes);
  const auto begin = tensor.storage_offset() * static_cast<int64_t>(tensor.element_size());
  return alias_in(tensor, begin, sizes, tensor.scalar_type());
}

}  // namespace moetap::plugin
