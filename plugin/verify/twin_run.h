#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/jit/api/module.h>

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace moetap::plugin {

/// What stands in the place of a probed value the first time that a forward makes it.
using Overrides = std::map<int64_t, at::Tensor>;

/// One forward of a model, plain or probed.
struct TwinRun {
  std::optional<at::Tensor> output;    // the first tensor of the output
  std::vector<at::Tensor> outputs;     // all tensors of the output
  std::map<int64_t, at::Tensor> seen;  // by probe: what the model made first, before an override
  std::string error;                   // one line; empty: it ran

  bool ran() const { return error.empty(); }
  /// What the probe saw first; undefined if it saw nothing.
  at::Tensor first(int64_t probe) const {
    const auto found = seen.find(probe);
    return found == seen.end() ? at::Tensor() : found->second;
  }
};

/// Registers the operator of `hooks::insert_probes` in this process, once.
void register_probe_operator();

/// Runs the method with copies of the arguments (without self), its random numbers seeded. Never throws for what the
/// model does. One thread at a time.
TwinRun run_twin(const torch::jit::Method& method, const std::vector<c10::IValue>& arguments, uint64_t seed,
                 const Overrides& overrides = {});

/// The rounding of a sum in another order, relative. `is_low`: half precision.
constexpr double rounding_of_sums(bool is_low) {
  return is_low ? 2e-2 : 1e-4;
}

/// Same dtype, shape and bits.
bool same_bits(const at::Tensor& a, const at::Tensor& b);
/// Equal but for the rounding of a sum in another order.
bool almost_equal(const at::Tensor& a, const at::Tensor& b);

}  // namespace moetap::plugin
