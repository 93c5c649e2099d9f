#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/jit/api/module.h>

#include <functional>
#include <iosfwd>
#include <optional>
#include <string>
#include <vector>

#include "moe_sources.h"

namespace moetap::hooks::testing {

/// What a router must report, computed without TorchScript.
struct ExpectedRouting {
  at::Tensor logits;   // [T, E]
  at::Tensor ids;      // [T, K]; -1: unused
  at::Tensor weights;  // [T, K]
};

/// A way of routing: TorchScript text, and the same in plain ATen.
struct RouterPattern {
  std::string name;
  std::string scoring;
  std::optional<int64_t> num_experts = kExperts;
  std::optional<int64_t> top_k = kTopK;
  std::vector<int64_t> input_sizes = {kBatch, kSequence, kHidden};
  bool recombines = true;  // the block's output is its input and the weighed outputs of the experts, nothing else
  std::function<ModuleSource()> source = {};
  // What router and experts see of the block's input, [T, kHidden].
  std::function<at::Tensor(const at::Tensor& input)> hidden = {};
  // From the block and what its router sees.
  std::function<ExpectedRouting(const torch::jit::Module& block, const at::Tensor& hidden)> expected = {};
};

void PrintTo(const RouterPattern& pattern, std::ostream* stream);  // for GoogleTest

/// Patterns whose router is a method `route` that gives ids and weights [T, K]: every way of combining fits them.
struct RoutePattern {
  std::string name;
  std::string scoring;
  std::string route;
  std::vector<std::pair<std::string, at::Tensor>> buffers;
  // From what the router sees [T, kHidden], the gate's weight and the first buffer.
  std::function<ExpectedRouting(const at::Tensor& hidden, const at::Tensor& gate, const at::Tensor& buffer)> expected;
  int64_t top_k = kTopK;
};

std::vector<RoutePattern> softmax_patterns();  // A1 A2 A3 A4 B F G S
std::vector<RoutePattern> sigmoid_patterns();  // C D0 D D2 D3 E
std::vector<RouterPattern> block_patterns();   // A2c B2 C2 D4 G2 H1 H2 H3 K1 S2: blocks of their own

RouterPattern with_combine(const RoutePattern& pattern, const Combine& combine);

/// All of them; route patterns with every way of combining.
std::vector<RouterPattern> all_patterns();

/// Tensor at a dotted path of attributes.
at::Tensor tensor_at(const torch::jit::Module& module, const std::string& path);

}  // namespace moetap::hooks::testing
