#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string_view>

namespace moetap::analysis {

/// Which queries are measured: of each sequence the `count` valid ones whose hash is smallest, all where there are
/// fewer. The hash is of (seed, sample, layer, position), so the choice does not depend on padding, nor on the
/// sequences beside. samples: int64 [B], numbers of the samples; positions: int32 [B, Sq], -1 for padding, on one
/// device. Gives bool [B, Sq] there. CPU: loops; elsewhere LibTorch operations, no synchronisation.
at::Tensor sampled_rows(uint64_t seed, const at::Tensor& samples, std::string_view layer, const at::Tensor& positions,
                        int64_t count);

/// The same by operations, also for tensors on the CPU.
at::Tensor sampled_rows_with_operations(uint64_t seed, const at::Tensor& samples, std::string_view layer,
                                        const at::Tensor& positions, int64_t count);

}  // namespace moetap::analysis
