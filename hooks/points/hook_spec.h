#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "hooks/points/hook_point.h"

namespace moetap::hooks {

/// Names a value inside the call of a module. Plain data, as are the structs below; docs/hook_specs.md explains them.
struct ValueReference {
  enum class Kind {
    kOutputOf,  // what a submodule returned
    kInputOf,   // what a submodule was given
    kOperator,  // output or input of an operator
    kVariable,  // a value by the name that the model's code gives it
  };
  Kind kind = Kind::kOutputOf;
  // kOutputOf, kInputOf: path from the matched module, "" for that module itself. kOperator: "aten::topk". kVariable: a
  // regular expression over names of variables.
  std::string target;
  std::string method;                 // of the submodule; "": any
  std::optional<int64_t> output;      // place among several outputs
  std::optional<int64_t> argument;    // place among the inputs, without self
  std::string argument_name;          // kInputOf: the same by name
  std::optional<int64_t> occurrence;  // which of several calls or operators, in order of execution; -1: the last
};

/// What an entry says of attention: either query and key, as for a fused operator, or probabilities
/// (operator_schemas.h).
struct AttentionSpec {
  std::optional<ValueReference> query, key, mask;
  std::optional<double> scale;
  std::optional<bool> causal;
  std::optional<ValueReference> probabilities, scores;

  std::optional<std::string> layout, implementation;
  std::optional<int64_t> num_heads, num_key_heads;
  std::optional<bool> self_attention;

  bool names_values() const { return query || key || mask || scale || causal || probabilities || scores; }
};

/// One entry of a hook spec: what the user says of the hooks of one kind in the modules that it matches. What is empty
/// stays as discovery found it.
struct HookSpecEntry {
  std::string module;  // regular expression (ECMAScript) over the whole path of a called module or a hook
  HookKind kind = HookKind::kRouter;
  std::optional<std::string> method;  // only where this method reaches it: "forward", "encoder.forward"
  std::optional<int64_t> call;        // only this call of the module in a method, in order of execution; -1: the last
  bool skip = false;                  // leave out what discovery found there

  std::optional<std::string> name, layer, component;  // may hold $1, $2, ... of `module`

  AttentionSpec attention;  // of kind kAttention; what follows is of kind kRouter

  std::optional<ValueReference> logits, scores;
  std::vector<ValueReference> selected, weights;  // several: a tensor a slot
  bool selects_all = false;  // every token gets every expert (dense mixtures); `weights` are their weights

  std::optional<std::string> scoring, form;  // of the operator: operator_schemas.h
  std::optional<int64_t> num_experts, top_k, expert_dim;

  bool names_values() const {
    return logits || scores || selects_all || !selected.empty() || !weights.empty() || attention.names_values();
  }
};

struct HookSpec {
  std::string source;  // names it in messages: "spec.json"
  std::vector<HookSpecEntry> entries;

  bool empty() const { return entries.empty(); }
  bool names(HookKind kind) const {
    return std::any_of(entries.begin(), entries.end(), [&](const HookSpecEntry& entry) { return entry.kind == kind; });
  }
};

/// A hook spec that does not fit the model: one line that names the entry and what would have fitted.
class HookSpecError : public std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

}  // namespace moetap::hooks
