#pragma once

#include <ATen/core/DimVector.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "hooks/points/token_layout.h"
#include "plugin/process/recycled_memory.h"

namespace moetap::plugin {

/// Sizes of the arguments of a forward, as `moetap::begin` got them; empty: the argument is absent.
using ArgumentSizes = std::vector<std::optional<at::DimVector>, RecyclingAllocator<std::optional<at::DimVector>>>;

/// Where the tokens of a call lie: token t is of sample t / batch_step % batch, and of column t / sequence_step %
/// length of it. Where tokens were taken out, t is the token's place among all, not its row.
struct TokenPlaces {
  int64_t batch = 1, batch_step = 1;
  bool has_sequence = false;
  int64_t length = 1, sequence_step = 1;
  std::vector<hooks::TokenDim> parts = {};  // of the sequence, if it is a concatenation
  std::vector<int64_t> part_sizes = {};     // -1: not known
  int64_t num_places = 0;                   // tokens before any were taken out
};

/// Which of the arguments of a dimension tells its size.
enum class SizeFrom {
  kLargest,  // the others are broadcast
  kFirst,    // the one that the tokens came from: a mask may cover a cache as well
};

/// The size of a dimension; empty: the arguments do not show it.
std::optional<int64_t> size_of(const hooks::TokenDim& dim, const ArgumentSizes& sizes,
                               SizeFrom from = SizeFrom::kLargest);

/// The places of the `num_tokens` tokens of a call whose router has `layout`; empty if it is not known, or does not fit
/// the sizes.
std::optional<TokenPlaces> place_tokens(const hooks::TokenLayout& layout, const ArgumentSizes& sizes,
                                        int64_t num_tokens);

/// The number of samples that the arguments show: that of `batches`, else their shared first dimension, of those that
/// have two or more. Empty: they do not share one.
std::optional<int64_t> batch_of_arguments(const std::vector<hooks::TokenDim>& batches, const ArgumentSizes& sizes);

}  // namespace moetap::plugin
