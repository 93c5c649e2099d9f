#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "hooks/graph/in_place_writes.h"
#include "hooks/probe.h"

namespace moetap::hooks {

/// What an operator reports, followed back to the model's value. See ProbedValue.
struct Reported {
  torch::jit::Value* value = nullptr;
  torch::jit::Value* source = nullptr;  // null: it is computed for the report
  std::vector<ReportStep> steps = {};
  torch::jit::Node* after = nullptr;  // the node behind which the source holds what the model uses
};

Reported follow_back(torch::jit::Value* value, const InPlaceWrites& writes);

/// True for what tells of a tensor without its elements.
bool reads_no_elements(const torch::jit::Node* node);

/// The inputs of a node, with the elements of lists.
std::vector<torch::jit::Value*> flat_inputs(torch::jit::Node* node);

/// Where the results of a node go on: what a branch or a loop returns is what it gives.
at::ArrayRef<torch::jit::Value*> results_of(torch::jit::Node* node);

/// The probes of a model.
class Probes {
 public:
  /// The probe on a value of the model: one for each value, whatever reports it. `after`: the node behind which the
  /// value is read.
  int64_t on(torch::jit::Value* value, torch::jit::Node* after);
  int64_t on(torch::jit::Value* value) { return on(value, value->node()); }

  /// The probe on what input `index` of `reader` gets, placed before `place`.
  int64_t on_input(torch::jit::Node* reader, size_t index, torch::jit::Node* place);

 private:
  torch::jit::Node* probe(torch::jit::Value* value) const;
  void insert(torch::jit::Value* value, torch::jit::Node* after);

  std::unordered_map<torch::jit::Value*, int64_t> ids_;
  int64_t next_ = 0;
};

}  // namespace moetap::hooks
