#include "cli/studies/token_index.h"

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>
#include <utility>

namespace moetap::cli {
namespace {

constexpr int64_t kBatchTokens = 1 << 15;
constexpr int64_t kUnknownPiece = 1 << 12;
constexpr auto kNumberBytes = static_cast<int64_t>(sizeof(int64_t));

/// Calls use(first token, labels) for all tokens, with the source in place of the rank.
template <typename Use>
void for_labels(const std::vector<const plugin::ComponentReader*>& readers, const std::vector<int32_t>& first_source,
                const std::function<void()>& check, const Use& use) {
  std::vector<plugin::TokenLabel> labels;
  int64_t before = 0;
  for (size_t run = 0; run < readers.size(); ++run) {
    std::map<int32_t, int32_t> source_of_rank;
    for (const auto& rank : readers[run]->ranks()) {
      source_of_rank.emplace(static_cast<int32_t>(rank.rank),
                             first_source[run] + static_cast<int32_t>(source_of_rank.size()));
    }
    const int64_t num_tokens = readers[run]->num_tokens();
    for (int64_t first = 0; first < num_tokens; first += kBatchTokens) {
      check();
      const int64_t n = std::min(kBatchTokens, num_tokens - first);
      labels.resize(static_cast<size_t>(n));
      readers[run]->read_labels(first, n, labels.data());
      for (plugin::TokenLabel& label : labels) label.rank = source_of_rank[label.rank];
      use(before + first, labels);
    }
    before += num_tokens;
  }
}

using Key = std::pair<int64_t, int64_t>;  // source, sample; by number: sample, source

}  // namespace

TokenIndex::TokenIndex(const std::vector<const plugin::ComponentReader*>& readers, const std::string& scratch_folder,
                       const std::function<void()>& check, SampleOrder order) {
  const bool by_number = order == SampleOrder::kByNumber;
  const auto key_of = [&](int32_t source, int64_t sample) {
    return by_number ? Key{sample, source} : Key{source, sample};
  };
  for (const plugin::ComponentReader* reader : readers) {
    first_source_.push_back(num_sources_);
    num_sources_ += static_cast<int32_t>(reader->ranks().size());
    num_tokens_ += reader->num_tokens();
  }
  std::map<Key, int64_t> counts;
  auto last = counts.end();
  Key last_key{-1, -1};
  std::pair<int32_t, int64_t> forward{-1, -1};
  for_labels(readers, first_source_, check, [&](int64_t first, const std::vector<plugin::TokenLabel>& labels) {
    for (size_t i = 0; i < labels.size(); ++i) {
      const plugin::TokenLabel& label = labels[i];
      const std::pair<int32_t, int64_t> of{label.rank, label.forward};
      if (of != forward) {
        has_forwards_ = has_forwards_ && label.forward >= 0 && of > forward;
        forward_cuts_.push_back(first + static_cast<int64_t>(i));
        forward = of;
        if (!has_forwards_) forward_cuts_.clear();
      }
      has_token_ids_ = has_token_ids_ || label.token_id >= 0;
      if (label.sample < 0 || label.phase < 0) {
        last_key = {std::numeric_limits<int64_t>::max(), 0};  // behind all samples
        continue;
      }
      const Key key = key_of(label.rank, label.sample);
      if (last == counts.end() || key != last->first) last = counts.try_emplace(key, 0).first;
      if (key < last_key) in_sample_order_ = false;
      last_key = key;
      ++last->second;
    }
  });
  if (has_forwards_) forward_cuts_.push_back(num_tokens_);
  for (const auto& [key, count] : counts) {
    const auto [source, sample] = by_number ? std::pair(key.second, key.first) : key;
    samples_.push_back({sample, static_cast<int32_t>(source), count});
    sample_cuts_.push_back(known_);
    known_ += count;
    longest_ = std::max(longest_, count);
  }
  for (int64_t unknown = known_; unknown < num_tokens_; unknown += kUnknownPiece) sample_cuts_.push_back(unknown);
  sample_cuts_.push_back(num_tokens_);
  if (in_sample_order_) return;

  order_ = std::make_unique<plugin::ScratchFile>(scratch_folder);
  std::map<Key, int64_t> next;
  for (size_t i = 0; i < samples_.size(); ++i)
    next.emplace(key_of(samples_[i].source, samples_[i].sample), sample_cuts_[i]);
  int64_t next_unknown = known_;
  std::vector<int64_t> tokens;
  for_labels(readers, first_source_, check, [&](int64_t first, const std::vector<plugin::TokenLabel>& labels) {
    int64_t begin = 0;  // of a stretch whose places in the order follow each other
    for (size_t i = 0; i < labels.size(); ++i) {
      const bool is_known = labels[i].sample >= 0 && labels[i].phase >= 0;
      int64_t& cursor = is_known ? next.at(key_of(labels[i].rank, labels[i].sample)) : next_unknown;
      if (cursor != begin + static_cast<int64_t>(tokens.size()) || tokens.empty()) {
        order_->write(begin * kNumberBytes, tokens.data(), static_cast<int64_t>(tokens.size()) * kNumberBytes);
        tokens.clear();
        begin = cursor;
      }
      tokens.push_back(first + static_cast<int64_t>(i));
      ++cursor;
    }
    order_->write(begin * kNumberBytes, tokens.data(), static_cast<int64_t>(tokens.size()) * kNumberBytes);
    tokens.clear();
  });
}

void TokenIndex::read_sample_order(int64_t first, int64_t n, int64_t* tokens) const {
  if (order_) {
    order_->read(first * kNumberBytes, tokens, n * kNumberBytes);
  } else {
    std::iota(tokens, tokens + n, first);
  }
}

}  // namespace moetap::cli
