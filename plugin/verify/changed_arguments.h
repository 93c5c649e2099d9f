#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "plugin/capture/text_arguments.h"
#include "plugin/records/model_description.h"

namespace moetap::plugin {

/// What the layouts of a method's routers say of one of its arguments.
struct ArgumentDims {
  std::optional<int64_t> batch, sequence;  // its dimensions
  bool is_ids = false;                     // token ids: integers that may be exchanged for others that occur
  bool is_mask = false;                    // is changed only as a mask
};

/// The arguments of a forward (without self), and copies of them in which some tokens hold other values: other ids that
/// occur in the same tensor, other numbers of the same size.
class ChangedArguments {
 public:
  using Values = std::vector<c10::IValue>;
  /// Integers may be exchanged in several ways, since a model may take some ids for marks: counts of them, say.
  enum class Exchange { kAmongAll, kWithNeighbour };

  /// `schema`: of the method, which `model` knows by the name `method`.
  ChangedArguments(const ModelDescription& model, const std::string& method, const c10::FunctionSchema& schema,
                   const Values& arguments);

  const TextArguments& text() const { return text_; }
  /// The Tensor and Tensor? arguments, as `moetap::begin` gets them; undefined: absent.
  const std::vector<at::Tensor>& tensors() const { return tensors_; }

  /// What `of` gives the arguments of one of `count` samples; empty: no argument has such a dimension.
  std::optional<Values> of_sample(int64_t sample, int64_t count, Exchange exchange) const;
  /// The same for one of `count` positions of all samples.
  std::optional<Values> of_position(int64_t position, int64_t count, Exchange exchange) const;
  /// The same for tokens: `which` is bool [B, S].
  std::optional<Values> of_tokens(const at::Tensor& which, Exchange exchange) const;
  /// The mask at `place` of the tensors with its padding marked as tokens; empty: it has none, or no tokens.
  std::optional<at::Tensor> mask_without_padding(size_t place, hooks::MaskMeans means) const;
  /// `values` with another tensor at `place` of the tensors.
  Values with(Values values, size_t place, const at::Tensor& tensor) const;
  const Values& unchanged() const { return arguments_; }

 private:
  std::optional<Values> changed(const at::Tensor& which, const std::vector<std::optional<int64_t>>& first,
                                const std::vector<std::optional<int64_t>>& second, Exchange exchange) const;

  Values arguments_;
  std::vector<size_t> places_;       // of the tensors among the arguments
  std::vector<at::Tensor> tensors_;  // undefined: absent
  std::vector<ArgumentDims> dims_;   // of the tensors
  TextArguments text_;
};

}  // namespace moetap::plugin
