#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "analysis/attention/attention_device_kernels.h"
#include "analysis/attention/attention_paths.h"

namespace moetap::analysis {

/// By kernels, on the current stream of the call's device: no synchronisation, no operation of LibTorch that computes;
/// what is allocated are the rows' tensors and one block of memory for the kernels, which is given back. Arguments are
/// checked already, and not refused.
AttentionRows measure_with_kernels(const AttentionDeviceKernels& kernels, const AttentionCall& call,
                                   const AttentionTokens& tokens, const AttentionOptions& options);

/// Calls of a device that LibTorch's operations measured, though it has kernels, by the reason
/// (`attention_kernel_refusal`), since the process began. Thread-safe.
std::map<std::string, int64_t> refused_attention_calls();

/// By kernels where the device has some that take the call, else by operations.
AttentionRows measure_on_device(const AttentionCall& call, const AttentionTokens& tokens,
                                const AttentionOptions& options);

}  // namespace moetap::analysis
