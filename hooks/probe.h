#pragma once

#include <torch/csrc/jit/api/module.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "hooks/instrument.h"
#include "hooks/points/hook_point.h"

namespace moetap::hooks {

/// The operator of a probed model: gives its input, or what the caller of the model puts in its place. `probe` tells
/// the probes of a model apart.
inline constexpr const char* kProbeSchema = "moetap::probe(Tensor(a) value, int probe) -> Tensor(a)";

/// What the pass that instruments did to a value of the model before it reported it.
struct ReportStep {
  enum class Kind { kCopy, kMoveDim, kAddDim, kSumDim } kind = Kind::kCopy;
  int64_t from = 0;  // the dimension that is moved, added or summed over
  int64_t to = 0;    // where it is moved to
};

/// A tensor that an operator of a hook gets.
struct ProbedValue {
  int64_t reported = 0;                // the probe on what the operator gets
  std::optional<int64_t> source;       // the probe on the model's value behind it; empty: it is computed for the report
  std::vector<ReportStep> steps = {};  // from the source to what is reported
};

/// A tensor that is computed from a router's weights.
struct WeightedValue {
  int64_t probe = 0;
  std::vector<int64_t> from;  // probes on what it is computed from, of values that depend on the weights
};

/// The probes on the values of one `moetap::router`. A hook has several of them where each arm of a branch reports.
struct ProbedRouter {
  HookPoint hook;
  std::optional<ProbedValue> logits;
  std::optional<int64_t> scores;  // the probe on what is reported
  std::vector<ProbedValue> selected, weights;
  // In order of execution, up to the first that is added to one that does not depend on the weights: the last of these.
  // Empty where nothing is added.
  std::vector<WeightedValue> from_weights;
  std::vector<int64_t> picks;     // probes on the indices of all picks of the method: others may hold the same ids
  bool ids_of_arguments = false;  // nothing selects them
  int64_t expert_dim = -1;
  std::string form;
};

/// The probes on the values of one `moetap::attention`. A hook has several of them where each arm of a branch reports.
struct ProbedAttention {
  HookPoint hook;
  std::optional<ProbedValue> query, key, probabilities;
  std::optional<int64_t> mask;  // the probe on what is reported
  // Absent where the graph does not fix it before a run. `scale`: with the value none, that of the operator.
  std::optional<std::optional<double>> scale;
  std::optional<bool> causal;
  int64_t num_heads = 0;
  std::string layout;

  // The first product with values that the model makes of what is reported: the probe on what it gives, the one on the
  // factor that depends on what is reported, and, where a fused operator tells, the one on the values.
  std::optional<int64_t> applied, factor, value;
};

struct ProbedModel {
  torch::jit::Module module;          // a twin that shares the weights
  std::vector<ProbedRouter> routers;  // in order of execution within a method
  std::vector<ProbedAttention> attentions;
};

/// A twin of an instrumented module that has not run. Every value that a `moetap::router` or `moetap::attention`
/// reports passes a probe where the model has made it, so that what the model does with it depends on what the probe
/// gives, and another one where it is reported. The pass knows of hooks only what their operators are given.
ProbedModel insert_probes(const Instrumented& instrumented);

}  // namespace moetap::hooks
