#pragma once

#include "analysis/attention/attention_kernel_finish.cuh"
#include "analysis/attention/attention_kernel_rows.cuh"
#include "analysis/attention/attention_kernel_softmax.cuh"
#include "analysis/attention/attention_kernel_tokens.cuh"

// Note [The attention kernels]
// Five launches on one stream measure an attention call; nothing waits for the host, and no matrix of queries and keys
// is ever there, but where it is asked for:
//
//   prepare   what the tokens are: positions, n, which queries are measured, what each key counts for; clears the sums
//   softmax   first pass over the scores: the largest and the sum of powers, row by row and head by head
//   combine   puts the parts of the first pass together: of scores, probabilities; which rows are none
//   rows      second pass over the scores: the sums of p by row, by key and by head
//   matrix    third pass, where the matrix is asked for: probabilities, averaged over the heads
//   finish    the values of the lines
//
// The second pass cannot begin before the first is over in all heads: a row that is not finite in one head counts in
// none, also not for what its keys receive.
//
// Who owns what. In both passes a block owns up to 64 rows of one head, and a part of the keys; a warp of it 16 rows,
// with tensor cores. It goes through its keys in tiles of 64: all threads copy the tile to shared memory, where the
// rows of queries stay, and each warp makes its 16 x 64 scores in registers: a lane holds 8 keys' pairs of rows g and g
// + 8 (Note [Tiles of a product]). Rows that are not measured (padding, sampling) are in no block: `prepare` numbers
// those that are, in the order of the tensor (*slots*). Tiles that causality hides from a block, and those of keys that
// a mask closes to all, are skipped. Products of float32 are made of three of tf32, good to 2^-21.
//
// The sums of p. What depends on the key alone (regions, bins, ends) is a product too, of p with columns of zeros and
// ones: p is split into two halves, of 22 bits. What depends on the distance is added lane by lane; bands only where a
// tile is not wholly in or out. Sums over rows (`received`) are halved from lane to lane, then added up by the block.
//
// Note [Sums of the attention kernel]
// Within a part of the keys (at most 1,024) sums are floats in one order; parts, heads, blocks and rows are added in
// memory as integers, exactly (kRowUnits; Note [Exact sums] for heads). How the work is cut depends on the shape alone.
// So the bits depend neither on the order of blocks nor on the device, and an atomic addition costs one sum of a part.
namespace moetap::analysis::attention_kernel {

/// Calls run(score source) for the source of a call, as a constant.
template <typename Run>
void for_source(const AttentionKernelArguments& call, const Run& run) {
  if (call.probabilities.data != nullptr) {
    run(std::integral_constant<ScoreSource, ScoreSource::kGiven>());
  } else if (call.query.type == AttentionElement::kHalf) {
    run(std::integral_constant<ScoreSource, ScoreSource::kHalf>());
  } else if (call.query.type == AttentionElement::kBFloat16) {
    run(std::integral_constant<ScoreSource, ScoreSource::kBFloat16>());
  } else {
    run(std::integral_constant<ScoreSource, ScoreSource::kFloat>());
  }
}

}  // namespace moetap::analysis::attention_kernel
