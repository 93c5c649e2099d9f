#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace moetap::analysis {

inline constexpr int64_t kMaxAttentionRegions = 16;

class SequenceKeys;

/// The tensors that one attention call reported, in moetap's layout: B sequences, H heads of queries, Hk of keys, Sq
/// queries, Sk keys. All on one device, any strides; not modified, not kept. Either `probabilities`, or `query` and
/// `key`, from which the probabilities are made.
struct AttentionCall {
  at::Tensor probabilities;  // [B, H, Sq, Sk], any floating dtype: as the model used them, before dropout
  at::Tensor scores;         // [B, H, Sq, Sk], what the softmax read; undefined: not known. Beside probabilities only
  at::Tensor query;          // [B, H, Sq, D], any floating dtype
  at::Tensor key;            // [B, Hk, Sk, D]; Hk divides H, query head h uses key head h / (H / Hk)
  at::Tensor mask;           // broadcasts to [B, H, Sq, Sk]; bool: true keeps; floating: is added; undefined: none
  at::Tensor log_sum_exp;    // float32 [B, H, Sq], natural, over all keys; undefined: computed
  double scale = 1;          // of query and key, before the mask is added
  bool causal = false;       // query i sees keys j <= i, both by their index in the tensor
};

/// What the queries and keys of a call are. Tensors on the call's device.
struct AttentionTokens {
  // int32 [B, Sq], [B, Sk]: rank of the token among the valid tokens of its sample; -1: padding, neither a row nor a
  // key. n, the number of keys of a sequence, is the number of its key positions that are not -1.
  at::Tensor query_position;
  at::Tensor key_position;
  // uint8 [B, Sq], [B, Sk], each less than num_regions. Undefined: part r of `num_regions` holds the positions from
  // floor(r * n / num_regions) on; of queries that are no keys, n is their largest position + 1.
  at::Tensor query_region;
  at::Tensor key_region;
  int64_t num_regions = 5;  // at most kMaxAttentionRegions
  bool self = true;         // queries are keys too: a row has `self` and `received`
  at::Tensor sampled;       // bool [B, Sq]: queries that are measured; undefined: all
  // What `sequence_keys` (attention_keys.h) makes of these keys, on the CPU; null: it is made for each call.
  std::shared_ptr<const std::vector<SequenceKeys>> sequences;
};

struct AttentionOptions {
  bool matrix = false;  // AttentionRows::matrix is made
};

}  // namespace moetap::analysis
