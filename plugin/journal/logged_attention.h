#pragma once

#include <cstddef>
#include <vector>

#include "analysis/attention/attention_sums.h"
#include "plugin/formats/byte_stream.h"
#include "plugin/journal/logged_router.h"
#include "plugin/records/attention_record.h"

namespace moetap::plugin {

/// What the journal keeps of an attention layer for one log entry and forward.
struct LoggedAttention {
  size_t layer = 0;              // place in the run's table of attention layers
  analysis::AttentionSums sums;  // one row, without what is shared
};

/// What a forward adds to the run's sums of an attention layer.
struct AttentionTotal {
  size_t layer = 0;
  int64_t num_key_heads = 0;
  analysis::AttentionSums sums;  // one row, with what is shared
};

/// What forwards add to the sums of a router's experts over an attention layer.
struct ExpertAttentionTotal {
  size_t layer = 0;                             // of the attention
  size_t router = 0;                            // place in the run's table of routers
  analysis::AttentionSums sums = {};            // undefined: `rows` are all
  std::vector<analysis::ExpertRows> rows = {};  // that are not in the sums so far

  int64_t num_waiting() const;
  /// Adds the rows to the sums.
  void add_waiting();
};

/// What an attention layer gives to each part of its forward; as SplitRouter.
struct SplitAttention {
  std::vector<LoggedAttention> parts;
  std::vector<LoggedAttention> shared;
};
SplitAttention split_attention(const AttentionRecord& attention, size_t layer, size_t num_parts, PartsAre parts_are);

/// Adds to a list that holds each layer once: in a loop a layer reports several times in a forward.
void add_attention(std::vector<LoggedAttention>& all, LoggedAttention attention);
void add_attention(std::vector<AttentionTotal>& all, AttentionTotal attention);
void add_attention(std::vector<ExpertAttentionTotal>& all, ExpertAttentionTotal attention);

void encode(ByteWriter& bytes, const std::vector<LoggedAttention>& attention);
void encode(ByteWriter& bytes, const std::vector<AttentionTotal>& attention);
/// Only what is shared: Note [Sums stand once in a frame].
void encode_shared(ByteWriter& bytes, const std::vector<AttentionTotal>& attention);
void encode(ByteWriter& bytes, const std::vector<ExpertAttentionTotal>& attention);
std::vector<LoggedAttention> decode_logged_attention(ByteReader& bytes);
std::vector<AttentionTotal> decode_attention_totals(ByteReader& bytes);
/// What `encode_shared` wrote, with the rows of all parts of the forward, those of its shared part included. Throws
/// std::runtime_error where the parts do not hold a layer.
std::vector<AttentionTotal> decode_shared(ByteReader& bytes,
                                          const std::vector<const std::vector<LoggedAttention>*>& parts);
std::vector<ExpertAttentionTotal> decode_expert_attention(ByteReader& bytes);

}  // namespace moetap::plugin
