#include "plugin/journal/logged_attention.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <iterator>
#include <span>
#include <stdexcept>

#include "plugin/journal/expert_rows_bytes.h"

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

std::span<const int64_t> values_of(const at::Tensor& words) {
  return {words.const_data_ptr<int64_t>(), static_cast<size_t>(words.numel())};
}

std::span<int64_t> places_of(const at::Tensor& words) {
  return {words.mutable_data_ptr<int64_t>(), static_cast<size_t>(words.numel())};
}

int64_t shared_words(const AttentionSums& sums) {
  return sums.layout().words() - sums.layout().shared_begin();
}

/// A list whose elements `read` fills one by one.
template <typename Element, typename Read>
std::vector<Element> decode_list(ByteReader& bytes, const Read& read) {
  std::vector<Element> all;
  for (uint64_t left = bytes.count(); left > 0; --left) read(all.emplace_back());
  return all;
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
  bytes.sparse(values_of(words));
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
  bytes.sparse(places_of(sums.words));
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
  const auto known = std::find_if(all.begin(), all.end(), [&](const ExpertAttentionTotal& one) {
    return one.layer == attention.layer && one.router == attention.router;
  });
  if (known == all.end()) {
    all.push_back(std::move(attention));
    return;
  }
  merge(known->sums, attention.sums);
  std::move(attention.rows.begin(), attention.rows.end(), std::back_inserter(known->rows));
}

int64_t ExpertAttentionTotal::num_waiting() const {
  int64_t count = 0;
  for (const analysis::ExpertRows& one : rows) count += one.num_rows();
  return count;
}

void ExpertAttentionTotal::add_waiting() {
  if (rows.empty()) return;
  AttentionSums added;
  analysis::add_experts(added, analysis::joined(rows));
  merge(sums, added);  // fresh: a copy may share the words
  rows.clear();
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

void encode_shared(ByteWriter& bytes, const std::vector<AttentionTotal>& attention) {
  bytes.count(attention.size());
  for (const AttentionTotal& one : attention) {
    const at::Tensor words = one.sums.words.narrow(0, one.sums.layout().shared_begin(), shared_words(one.sums));
    bytes.count(one.layer);
    bytes.count(static_cast<uint64_t>(one.num_key_heads));
    bytes.sparse(values_of(words.contiguous()));
  }
}

void encode(ByteWriter& bytes, const std::vector<ExpertAttentionTotal>& attention) {
  bytes.count(attention.size());
  for (const ExpertAttentionTotal& one : attention) {
    bytes.count(one.layer);
    bytes.count(one.router);
    bytes.count(one.sums.defined());
    if (one.sums.defined()) encode(bytes, one.sums);
    bytes.count(one.rows.size());
    for (const analysis::ExpertRows& rows : one.rows) encode(bytes, rows);
  }
}

std::vector<LoggedAttention> decode_logged_attention(ByteReader& bytes) {
  return decode_list<LoggedAttention>(bytes, [&](LoggedAttention& one) {
    one.layer = bytes.count();
    one.sums = decode_sums(bytes);
  });
}

std::vector<AttentionTotal> decode_attention_totals(ByteReader& bytes) {
  return decode_list<AttentionTotal>(bytes, [&](AttentionTotal& one) {
    one.layer = bytes.count();
    one.num_key_heads = static_cast<int64_t>(bytes.count());
    one.sums = decode_sums(bytes);
  });
}

std::vector<ExpertAttentionTotal> decode_expert_attention(ByteReader& bytes) {
  return decode_list<ExpertAttentionTotal>(bytes, [&](ExpertAttentionTotal& one) {
    one.layer = bytes.count();
    one.router = bytes.count();
    if (bytes.count() != 0) one.sums = decode_sums(bytes);
    for (uint64_t left = bytes.count(); left > 0; --left) one.rows.push_back(decode_expert_rows(bytes));
  });
}

std::vector<AttentionTotal> decode_shared(ByteReader& bytes,
                                          const std::vector<const std::vector<LoggedAttention>*>& parts) {
  return decode_list<AttentionTotal>(bytes, [&](AttentionTotal& one) {
    one.layer = bytes.count();
    one.num_key_heads = static_cast<int64_t>(bytes.count());
    for (const auto* part : parts) {
      for (const LoggedAttention& logged : *part) {
        if (logged.layer == one.layer) merge(one.sums, logged.sums);
      }
    }
    if (!one.sums.defined() || one.sums.has_shared || one.sums.num_rows != 1) {
      throw std::runtime_error("a frame of the journal holds sums of attention that is in none of its parts");
    }
    const at::Tensor shared = at::empty({shared_words(one.sums)}, at::kLong);
    bytes.sparse(places_of(shared));
    one.sums.words = at::cat({one.sums.words, shared});
    one.sums.has_shared = true;
  });
}

}  // namespace moetap::plugin
