#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "analysis/studies/token_batch.h"
#include "analysis/studies/token_id_counts.h"

namespace moetap::analysis::studies {

// Note [Blocks of token ids]
// Rows of counts by token id lie all over the memory, and each is longer than the caches like. So some tokens at a time
// go through all parts: while a part of their rows is counted, the next one comes.

/// Calls `use(t, row of the token's id, part)` for all tokens of the batch in [first, last) with a known id, and all
/// parts.
template <typename Use>
void for_id_blocks(const TokenBatch& batch, int64_t first, int64_t last, TokenIdCounts& counts, const Use& use) {
  constexpr int64_t kBlock = 32;
  struct Token {
    int64_t t = 0;
    size_t row = 0;
  };
  std::array<Token, kBlock> tokens;
  for (int64_t begin = first; begin < last; begin += kBlock) {
    size_t size = 0;
    for (int64_t t = begin; t < std::min(begin + kBlock, last); ++t) {
      const int32_t id = batch.token_id[static_cast<size_t>(t)];
      if (id < 0) continue;
      tokens[size++] = {t, counts.row_of(id)};
      if (counts.num_parts() > 0) counts.prefetch(tokens[size - 1].row, 0);
    }
    for (size_t part = 0; part < counts.num_parts(); ++part) {
      for (size_t i = 0; i < size; ++i) {
        if (part + 1 < counts.num_parts()) counts.prefetch(tokens[i].row, part + 1);
        use(tokens[i].t, tokens[i].row, part);
      }
    }
  }
}

}  // namespace moetap::analysis::studies
