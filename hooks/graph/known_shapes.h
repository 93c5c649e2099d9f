#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <cstdint>
#include <optional>
#include <unordered_map>

#include "hooks/graph/method_graph.h"

namespace moetap::hooks {

/// What the graph fixes of a tensor's shape before it runs: parameters have sizes, and operators keep or change them.
struct KnownShape {
  std::optional<int64_t> rank;  // number of dimensions
  std::optional<int64_t> last;  // size of the last dimension; 1 for a scalar
};

/// Shapes of the values of a method graph, found where they are asked for.
class KnownShapes {
 public:
  /// `graph` must outlive it.
  explicit KnownShapes(const MethodGraph& graph) : graph_(graph) {}

  KnownShape of(const torch::jit::Value* value);

 private:
  KnownShape find(const torch::jit::Value* value);
  void complete_by_uses(const torch::jit::Value* value, KnownShape& shape) const;
  KnownShape of_list_element(const torch::jit::Node& list_user, size_t place);
  std::optional<int64_t> last_of_size(const torch::jit::Value* size);
  KnownShape of_view(const torch::jit::Node& node);
  KnownShape of_part(const torch::jit::Node& node);
  KnownShape of_reduction(const torch::jit::Node& node);
  KnownShape of_contraction(const torch::jit::Node& node);
  KnownShape of_concatenation(const torch::jit::Node& node);
  KnownShape of_sizes(const torch::jit::Value* list, const torch::jit::Value* expanded = nullptr);
  KnownShape broadcast(const torch::jit::Node& node);
  bool is_last(std::optional<int64_t> dim, const KnownShape& shape) const;

  const MethodGraph& graph_;
  std::unordered_map<const torch::jit::Value*, KnownShape> known_;
};

}  // namespace moetap::hooks
