#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/jit/api/module.h>

#include <string>
#include <utility>
#include <vector>

#include "recorded_operators.h"

namespace moetap::hooks::testing {

// All different, so that a wrong axis shows.
inline constexpr int64_t kBatch = 3;
inline constexpr int64_t kSequence = 5;
inline constexpr int64_t kTokens = kBatch * kSequence;
inline constexpr int64_t kHidden = 8;
inline constexpr int64_t kExperts = 6;
inline constexpr int64_t kTopK = 2;

/// A module to compile from TorchScript text. `code` holds its methods, not indented; it may call `torch.*`, `fork` and
/// `moetap.log`, and name the types `float32` and `boolean`.
struct ModuleSource {
  std::string type;  // modules of one type name still have different types, unless they are made by `another_of`
  std::vector<std::pair<std::string, at::Tensor>> parameters = {};
  std::vector<std::pair<std::string, at::Tensor>> buffers = {};
  std::vector<std::pair<std::string, int64_t>> integers = {};
  std::vector<std::pair<std::string, torch::jit::Module>> modules = {};
  std::string code = {};
};

torch::jit::Module compile(const ModuleSource& source);

/// A second object of the module's type, with parameters drawn anew: layers that share one class type.
torch::jit::Module another_of(const torch::jit::Module& module, uint64_t seed);

/// float32, normally distributed, the same for one seed.
at::Tensor random_tensor(at::IntArrayRef sizes, uint64_t seed);

/// [kBatch, kSequence, kHidden].
at::Tensor random_input(uint64_t seed = 1);

/// A module with the parameter `weight`.
torch::jit::Module holder(const std::string& type, const at::Tensor& weight);

/// A module that holds others and does nothing.
torch::jit::Module folder(const std::string& type,
                          const std::vector<std::pair<std::string, torch::jit::Module>>& modules);

/// A model that calls `layers.0.mlp`, `layers.1.mlp`, ... one after the other.
torch::jit::Module stacked(const std::vector<torch::jit::Module>& mlps);

/// Ways in which a block uses ids [T, K] and weights [T, K]: methods `experts(self, h, ids, weights)` over the
/// parameter `expert_weights` [kExperts, kHidden, kHidden].
struct Combine {
  const char* name;
  const char* code;
};
extern const Combine kMaskEachExpert;      // compares ids with each expert's number
extern const Combine kIndexParameters;     // indexes the experts' parameters by ids
extern const Combine kDispatchTokens;      // sends the chosen rows to each expert
extern const Combine kSortTokensByExpert;  // sorts the pairs by expert id, as grouped products do

/// [kExperts, kHidden, kHidden], for `expert_weights`.
at::Tensor expert_weights(uint64_t seed = 7);

/// A block with a `gate` submodule of weight [kExperts, kHidden], `expert_weights` and a method `route(self, h)` that
/// gives ids and weights; its forward normalises what came in, and adds what the experts gave to it.
ModuleSource block_source(const std::string& route, const Combine& combine, uint64_t seed = 7);

/// A report with the experts last and the tokens flattened.
struct CanonicalReport {
  at::Tensor logits;   // [T, E]; undefined: not reported
  at::Tensor scores;   // [T, E]; undefined: not reported
  at::Tensor ids;      // [T, K]; -1: unused
  at::Tensor weights;  // [T, K]; undefined: not reported
};

/// Reads a report as hooks/points/operator_schemas.h says.
CanonicalReport canonical(const RouterReport& report, int64_t num_tokens);

/// The weighted sum of the experts' outputs for hidden [T, kHidden], each token's experts called one by one.
at::Tensor recombined(const at::Tensor& hidden, const at::Tensor& experts, const at::Tensor& ids,
                      const at::Tensor& weights);

/// Calls a method with tensors.
at::Tensor call(const torch::jit::Module& module, const std::vector<at::Tensor>& inputs,
                const std::string& method = "forward");

/// A model description for tests that do not read it.
std::string describe_nothing();

}  // namespace moetap::hooks::testing
