#pragma once

#include <cstdint>
#include <vector>

#include "cli/studies/batch_buffer.h"

namespace moetap::cli {

/// Row of each side, −1: it has none.
struct PairedRow {
  int64_t a = -1, b = -1;
  int32_t source = 0;    // of the sample: that of A if it has the sample, for a run may have it in another rank
  int64_t other_b = -1;  // a row of A alone: the row of B that has its place, but another token
};

/// Which rows of two batches, each of whole samples that stand in the same order, are the same tokens. `samples_a` and
/// `samples_b`: where each sample begins, and the number of rows at the end: a sample that one side does not have is
/// empty there. Rows come sample by sample, by position.
std::vector<PairedRow> pair_rows(const studies::TokenBatch& a, const std::vector<int64_t>& samples_a,
                                 const studies::TokenBatch& b, const std::vector<int64_t>& samples_b);

/// A batch with the rows in this order; a row −1 is a token that no layer has seen, with the labels of the other side.
class GatheredBatch {
 public:
  const studies::TokenBatch& gather(const studies::TokenBatch& own, const studies::TokenBatch& other,
                                    const std::vector<PairedRow>& rows, bool is_a);

 private:
  BatchBuffer buffer_;
};

}  // namespace moetap::cli
