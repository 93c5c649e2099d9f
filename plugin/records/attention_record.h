#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "analysis/attention/attention_sums.h"
#include "analysis/attention/expert_rows.h"

namespace moetap::plugin {

/// What the tokens of one router's experts attend to in an attention layer.
struct ExpertAttentionRecord {
  int64_t router_hook = 0;  // HookPoint::id
  // Of many tokens one row of sums, in which only what is summed by expert is there; of few the rows that would be
  // added, and no sums: Note [Sums by expert of few tokens].
  analysis::AttentionSums sums = {};
  analysis::ExpertRows rows = {};
};

/// What the queries of one sequence attend to, averaged over the heads: Note [Attention in full].
struct AttentionMatrixRecord {
  int64_t sample = -1;         // place in the forward; -1: unknown
  int64_t sequence = 0;        // of the call
  int64_t first_position = 0;  // of the first query
  at::Tensor probabilities;    // float32 [queries, keys], without padding
};

/// One attention call of one forward. Tensors are on the CPU.
struct AttentionRecord {
  int64_t hook = 0;              // HookPoint::id
  int64_t call = 0;              // number of this call among those of the hook in the forward, from 0
  analysis::AttentionSums sums;  // normalized; one row a sample of the forward; one row in all if not attributed
  bool attributed = true;        // the rows are the forward's samples
  int64_t num_key_heads = 0;
  std::vector<ExpertAttentionRecord> experts;   // of the routers that go with it
  std::vector<AttentionMatrixRecord> matrices;  // attention: full
  // With a dump: the values of each query that is no padding. A query that was not measured has only zeros.
  at::Tensor values;                     // float32 [T, value_names.size()]; undefined: there is no dump
  std::vector<std::string> value_names;  // as files have them
  at::Tensor row, position;              // [T], as in RouterRecord
};

}  // namespace moetap::plugin
