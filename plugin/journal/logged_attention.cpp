#include "plugin/journal/logged_attention.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <stdexcept>

namespace moetap::plugin {
namespace {

using analysis::AttentionSums;

template <typename Attention, typename Same>
void add_to(std::vector<Attention>& all, Attention attention, const Same& same) {
  const auto known = std::find_if(all.begin(), all.end(), same);
  if (known == all.end()) {
    all.push_back(std::move(attention));
  } else {
    merge(known->sums, attention.sums);
  }
}

void encode(ByteWriter& bytes, const AttentionSums& sums) {
  bytes.count(static_cast<uint64_t>(sums.num_heads));
  bytes.count(static_cast<uint64_t>(sums.num_regions));
  bytes.count(static_cast<uint64_t>(sums.num_experts));
  bytes.count(static_cast<uint64_t>(sums.num_rows));
  bytes.count(sums.self);
  bytes.count(sums.has_shared);
  const at::Tensor words = sums.words.contiguous();
  bytes.count(static_cast<uint64_t>(words.numel()));
  bytes.sparse({words.const_data_ptr<int64_t>(), static_cast<size_t>(words.numel())});
}

AttentionSums decode_sums(ByteReader& bytes) {
  AttentionSums sums;
  sums.num_heads = static_cast<int64_t>(bytes.count());
  sums.num_regions = static_cast<int64_t>(bytes.count());
  sums.num_experts = static_cast<int64_t>(bytes.count());
  sums.num_rows = static_cast<int64_t>(bytes.count());
  sums.self = bytes.count() != 0;
  sums.has_shared = bytes.count() != 0;
  const auto words = static_cast<int64_t>(bytes.count());
  const auto layout = sums.layout();
  if (words != (sums.has_shared ? layout.words() : layout.shared_begin())) {
    throw std::runtime_error("a frame of the journal holds sums of attention of a wrong size");
  }
  sums.words = at::empty({words}, at::kLong);
  bytes.sparse({sums.words.mutable_data_ptr<int64_t>(), static_cast<size_t>(words)});
  return sums;
}

}  // namespace

SplitAttention split_attention(const AttentionRecord& attention, size_t layer, size_t num_parts, PartsAre parts_are) {
  const bool by_sample = parts_are == PartsAre::kSamples;
  const bool split = by_sample && attention.attributed && attention.sums.num_rows == static_cast<int64_t>(num_parts);
  SplitAttention result;
  if (split) {
    for (size_t i = 0; i < num_parts; ++i) {
      result.parts.push_back({layer, select_row(attention.sums, static_cast<int64_t>(i))});
    }
  } else {
    LoggedAttention whole{layer, select_row(sum_rows(attention.sums), 0)};
    (!by_sample || num_parts == 1 ? result.parts : result.shared).push_back(std::move(whole));
  }
  return result;
}

void add_attention(std::vector<LoggedAttention>& all, LoggedAttention attention) {
  const size_t layer = attention.layer;
  add_to(all, std::move(attention), [layer](const LoggedAttention& known) { return known.layer == layer; });
}

void add_attention(std::vector<AttentionTotal>& all, AttentionTotal attention) {
  const size_t layer = attention.layer;
  add_to(all, std::move(attention), [layer](const AttentionTotal& known) { return known.layer == layer; });
}

void add_attention(std::vector<ExpertAttentionTotal>& all, ExpertAttentionTotal attention) {
  const size_t layer = attention.layer, router = attention.router;
  add_to(all, std::move(attention),
         [layer, router](const ExpertAttentionTotal& known) { return known.layer == layer && known.router == router; });
}

void encode(ByteWriter& bytes, const std::vector<LoggedAttention>& attention) {
  bytes.count(attention.size());
  for (const LoggedAttention& one : attention) {
    bytes.count(one.layer);
    encode(bytes, one.sums);
  }
}

void encode(ByteWriter& bytes, const std::vector<AttentionTotal>& attention) {
  bytes.count(attention.size());
  for (const AttentionTotal& one : attention) {
    bytes.count(one.layer);
    bytes.count(static_cast<uint64_t>(one.num_key_heads));
    encode(bytes, one.sums);
  }
}

void encode(ByteWriter& bytes, const std::vector<ExpertAttentionTotal>& attention) {
  bytes.count(attention.size());
  for (const ExpertAttentionTotal& one : attention) {
    bytes.count(one.layer);
    bytes.count(one.router);
    encode(bytes, one.sums);
  }
}

std::vector<LoggedAttention> decode_logged_attention(ByteReader& bytes) {
  std::vector<LoggedAttention> all;
  for (uint64_t left = bytes.count(); left > 0; --left) {
    LoggedAttention one;
    one.layer = bytes.count();
    one.sums = decode_sums(bytes);
    all.push_back(std::move(one));
  }
  return all;
}

std::vector<AttentionTotal> decode_attention_totals(ByteReader& bytes) {
  std::vector<AttentionTotal> all;
  for (uint64_t left = bytes.count(); left > 0; --left) {
    AttentionTotal one;
    one.layer = bytes.count();
    one.num_key_heads = static_cast<int64_t>(bytes.count());
    one.sums = decode_sums(bytes);
    all.push_back(std::move(one));
  }
  return all;
}

std::vector<ExpertAttentionTotal> decode_expert_attention(ByteReader& bytes) {
  std::vector<ExpertAttentionTotal> all;
  for (uint64_t left = bytes.count(); left > 0; --left) {
    ExpertAttentionTotal one;
    one.layer = bytes.count();
    one.router = bytes.count();
    one.sums = decode_sums(bytes);
    all.push_back(std::move(one));
  }
  return all;
}

}  // namespace moetap::plugin
