#pragma once

#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>

#include <cstdint>
#include <string>
#include <vector>

#include "hooks/points/hook_point.h"

namespace moetap::cli {

/// What `--attention full` keeps of one sample of a forward.
struct AttentionBytes {
  int64_t bytes = 0;              // of the layers that are known
  int64_t num_layers = 0;         // that are known
  int64_t num_unknown = 0;        // layers whose sizes only the run shows
  int64_t queries = 0, keys = 0;  // of the largest

  /// One line for the user.
  std::string text() const;
};

/// Computes it before the first forward, from the arguments that it will get. `hooks`: those of the method.
AttentionBytes attention_bytes(const std::vector<hooks::HookPoint>& hooks, const c10::FunctionSchema& schema,
                               const std::vector<c10::IValue>& arguments);

}  // namespace moetap::cli
