#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "analysis/attention/attention_device_kernels.h"
#include "analysis/attention/attention_paths.h"
#include "analysis/attention/attention_sums.h"

namespace moetap::analysis {

/// By kernels, on the current stream of the call's device: no synchronisation, no operation of LibTorch that computes;
/// what is allocated are the rows' tensors and one block of memory for the kernels, which is given back. Arguments are
/// checked already, and not refused.
AttentionRows measure_with_kernels(const AttentionDeviceKernels& kernels, const AttentionCall& call,
                                   const AttentionTokens& tokens, const AttentionOptions& options);

/// Calls of a device that LibTorch's operations measured or added up, though it has kernels, by the reason
/// (`attention_kernel_refusal`, `attention_sums_kernel_refusal`), since the process began. Thread-safe.
std::map<std::string, int64_t> refused_attention_calls();

/// Why `measure_on_device` does not measure a call with kernels, in words; empty: it does.
std::string why_not_by_kernels(const AttentionCall& call, const AttentionTokens& tokens);

/// By kernels where the device has some that take the call, else by operations.
AttentionRows measure_on_device(const AttentionCall& call, const AttentionTokens& tokens,
                                const AttentionOptions& options);

/// The same for `add_rows` and `add_experts`, whose arguments are checked already.
void add_rows_on_device(AttentionSums& sums, const AttentionRows& rows, const at::Tensor& row);
void add_experts_on_device(AttentionSums& sums, const AttentionRows& rows, const at::Tensor& row,
                           const at::Tensor& selected, const at::Tensor& weights);

}  // namespace moetap::analysis
