#include "analysis/studies/predictability.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "analysis/studies/expert_counts.h"
#include "analysis/studies/largest_experts.h"
#include "analysis/studies/pair_counts.h"
#include "analysis/studies/row_ranks.h"
#include "analysis/studies/sentence_numbers.h"
#include "analysis/studies/token_id_blocks.h"
#include "analysis/studies/token_id_counts.h"
#include "analysis/studies/token_runs.h"
#include "analysis/studies/used_rows.h"

namespace moetap::analysis::studies {
namespace {

// Units of a probability: sums of up to 32 are whole numbers that a double holds, the same in any order.
constexpr double kProbabilityScale = 0x1p48;

/// Hits by the number of experts that the token used next, so that the mean of shares is exact.
struct Recall {
  std::vector<int64_t> hits;    // [E + 1]
  std::vector<int64_t> tokens;  // [E + 1]

  explicit Recall(size_t num_experts) : hits(num_experts + 1), tokens(num_experts + 1) {}
  /// `is_named(expert)`
  template <typename IsNamed>
  void add(std::span<const int32_t> used, const IsNamed& is_named) {
    int64_t named = 0;
    for (const int32_t expert : used) named += static_cast<int64_t>(is_named(static_cast<size_t>(expert)));
    add(used.size(), named);
  }
  void add(size_t used, int64_t named) {
    hits[used] += named;
    ++tokens[used];
  }
  int64_t num_tokens() const {
    int64_t total = 0;
    for (const int64_t count : tokens) total += count;
    return total;
  }
  double mean() const {
    double sum = 0;
    for (size_t used = 1; used < hits.size(); ++used) {
      sum += static_cast<double>(hits[used]) / static_cast<double>(used);
    }
    return num_tokens() == 0 ? kUndefined : sum / static_cast<double>(num_tokens());
  }
};

/// Two layers, one after the other.
struct LayerPair {
  LayerPair(const LayerShape& from, const LayerShape& to)
      : num_from(static_cast<size_t>(from.num_experts)),
        num_to(static_cast<size_t>(to.num_experts)),
        top_k(static_cast<size_t>(to.top_k)),
        uses(num_from),
        next_uses(num_to),
        both(num_from * num_to),
        popular(num_to),
        ids(num_to),
        token(num_to) {}

  size_t num_from = 0, num_to = 0, top_k = 0;
  // Of samples of even number.
  int64_t counted_tokens = 0;
  std::vector<int64_t> uses;       // [from] tokens that used it
  std::vector<int64_t> next_uses;  // [to]
  std::vector<int64_t> both;       // [from, to]
  // What they name: fixed before the second pass.
  RowRanks probability;                // [from, to] in units
  std::vector<uint8_t> named_popular;  // [to]
  // Of samples of odd number.
  Recall popular, ids, token;

  void fix_names(size_t most_used) {
    LargestExperts<int64_t>().name(next_uses.data(), num_to, top_k, named_popular);
    std::vector<double> shares(both.size());
    for (size_t e = 0; e < num_from; ++e) {
      for (size_t x = 0; x < num_to && uses[e] > 0; ++x) {
        const double share = static_cast<double>(both[e * num_to + x]) / static_cast<double>(uses[e]);
        shares[e * num_to + x] = std::round(share * kProbabilityScale);
      }
    }
    probability = RowRanks(std::move(shares), num_to, most_used);
  }
};

/// The experts that each token id names in the next layers: a bit each, those of one id side by side.
class NamedByIds {
 public:
  NamedByIds(const TokenIdCounts& counts, const std::vector<LayerPair>& pairs) : first_{0} {
    for (const LayerPair& pair : pairs) first_.push_back(first_.back() + (pair.num_to + 63) / 64);
    const auto ids = static_cast<size_t>(counts.num_ids());
    words_.resize((ids + 1) * first_.back());
    LargestExperts<uint32_t> largest;
    std::vector<uint8_t> named;
    std::vector<uint32_t> of_id;
    for (size_t row = 0; row <= ids; ++row) {  // the last one: an id that was never seen
      for (size_t p = 0; p < pairs.size(); ++p) {
        of_id.assign(pairs[p].num_to, 0);
        if (row < ids) counts.read(row, p, of_id);
        largest.name(of_id.data(), pairs[p].num_to, pairs[p].top_k, named);
        uint64_t* const words = words_.data() + row * first_.back() + first_[p];
        for (size_t x = 0; x < named.size(); ++x) words[x / 64] |= uint64_t{named[x]} << (x % 64);
      }
    }
  }

  const uint64_t* of(size_t row, size_t pair) const { return words_.data() + row * first_.back() + first_[pair]; }

 private:
  std::vector<size_t> first_;    // [pairs + 1]
  std::vector<uint64_t> words_;  // [ids + 1][pairs][words of `to`]
};

/// What the first pass found.
struct CountedPairs {
  std::vector<LayerPair> pairs;
  TokenIdCounts by_id;
  NamedByIds named;

  size_t row_of(int32_t id) const {
    const int64_t row = by_id.find(id);
    return static_cast<size_t>(row < 0 ? by_id.num_ids() : row);
  }
};

class Predictability : public Study {
 public:
  explicit Predictability(const ComponentShape& shape)
      : shape_(shape), pairs_(empty_pairs(shape)), by_id_(widths_of(pairs_)) {}

  int num_passes() const override { return 2; }
  void begin_pass(int pass) override {
    if (pass != 1) return;
    scores_ = true;
    for (size_t p = 0; p < pairs_.size(); ++p) pairs_[p].fix_names(static_cast<size_t>(shape_.layers[p].top_k));
    NamedByIds named(by_id_, pairs_);
    counted_ =
        std::make_shared<const CountedPairs>(CountedPairs{std::move(pairs_), std::move(by_id_), std::move(named)});
    pairs_ = empty_pairs(shape_);
    by_id_ = TokenIdCounts(widths_of(pairs_));
    for (size_t p = 0; p < pairs_.size(); ++p) pairs_[p].counted_tokens = counted_->pairs[p].counted_tokens;
  }
  std::unique_ptr<Study> fork() const override {
    auto copy = std::make_unique<Predictability>(shape_);
    copy->scores_ = scores_;
    copy->counted_ = counted_;
    for (size_t p = 0; scores_ && p < pairs_.size(); ++p) copy->pairs_[p].counted_tokens = pairs_[p].counted_tokens;
    copy->samples_ = scores_ ? samples_ : 0;
    return copy;
  }

  void observe(const TokenBatch& batch) override {
    rows_of_layer_.clear();
    for (size_t l = 0; l < shape_.layers.size() && !pairs_.empty(); ++l) {
      rows_of_layer_.push_back(&rows_.distinct(batch, l));
    }
    for_samples(batch, [&](int64_t first, int64_t last) {
      const int64_t sample = batch.sample[static_cast<size_t>(first)];
      if (sample < 0) return;
      if (!scores_) ++samples_;
      if (!scores_ && sample % 2 == 0) count(batch, first, last);
      if (scores_ && sample % 2 == 1) score(batch, first, last);
    });
  }

  void merge(const Study& other) override;
  void save(ByteSink& sink) const override;
  void load(ByteSource& source) override;
  Result finalize() const override;

 private:
  static std::vector<LayerPair> empty_pairs(const ComponentShape& shape) {
    std::vector<LayerPair> pairs;
    for (size_t l = 0; l + 1 < shape.layers.size(); ++l) pairs.emplace_back(shape.layers[l], shape.layers[l + 1]);
    return pairs;
  }

  static std::vector<int64_t> widths_of(const std::vector<LayerPair>& pairs) {
    std::vector<int64_t> widths;
    for (const LayerPair& pair : pairs) widths.push_back(static_cast<int64_t>(pair.num_to));
    return widths;
  }
  bool has_rows(size_t p, int64_t t) const {
    return rows_of_layer_[p]->has_row(t) && rows_of_layer_[p + 1]->has_row(t);
  }

  void count(const TokenBatch& batch, int64_t first, int64_t last) {
    by_id_.check_room(last - first);
    for (size_t p = 0; p < pairs_.size(); ++p) {
      LayerPair& pair = pairs_[p];
      const UsedRows &from = *rows_of_layer_[p], &to = *rows_of_layer_[p + 1];
      if (from.is_whole() && to.is_whole() && last - first >= static_cast<int64_t>(pair.num_from)) {
        pair.counted_tokens += last - first;
        to.add_counts(first, last, pair.next_uses.data());
        from.add_counts(first, last, pair.uses.data());
        pair_counts_.add(from, to, first, last, pair.num_from, pair.num_to, pair.both.data());
        continue;
      }
      for (int64_t t = first; t < last; ++t) {
        if (!has_rows(p, t)) continue;
        ++pair.counted_tokens;
        const std::span<const int32_t> next = rows_of_layer_[p + 1]->of(t);
        for (const int32_t expert : next) ++pair.next_uses[static_cast<size_t>(expert)];
        for (const int32_t expert : rows_of_layer_[p]->of(t)) {
          ++pair.uses[static_cast<size_t>(expert)];
          int64_t* const both = pair.both.data() + static_cast<size_t>(expert) * pair.num_to;
          for (const int32_t after : next) ++both[after];
        }
      }
    }
    for_id_blocks(batch, first, last, by_id_, [&](int64_t t, size_t row, size_t p) {
      if (has_rows(p, t)) by_id_.add(row, p, rows_of_layer_[p + 1]->of(t));
    });
  }

  void score(const TokenBatch& batch, int64_t first, int64_t last) {
    named_rows_.clear();
    for (int64_t t = first; t < last; ++t) {
      const int32_t id = batch.token_id[static_cast<size_t>(t)];
      named_rows_.push_back(id < 0 ? 0 : counted_->row_of(id));
    }
    for (size_t p = 0; p < pairs_.size(); ++p) {
      LayerPair& pair = pairs_[p];
      const LayerPair& known = counted_->pairs[p];
      const auto top_k = static_cast<int64_t>(pair.top_k);
      for (int64_t t = first; t < last; ++t) {
        if (!has_rows(p, t)) continue;
        const std::span<const int32_t> next = rows_of_layer_[p + 1]->of(t);
        if (next.empty()) continue;
        pair.popular.add(next, [&](size_t x) { return known.named_popular[x]; });
        pair.ids.add(next.size(), known.probability.count_named(rows_of_layer_[p]->of(t), next, top_k, sums_));
        if (batch.token_id[static_cast<size_t>(t)] < 0) continue;
        const uint64_t* const named = counted_->named.of(named_rows_[static_cast<size_t>(t - first)], p);
        pair.token.add(next, [&](size_t x) { return named[x / 64] >> (x % 64) & 1; });
      }
    }
  }

  static constexpr Recall LayerPair::*kRecalls[] = {&LayerPair::popular, &LayerPair::ids, &LayerPair::token};

  ComponentShape shape_;
  std::vector<LayerPair> pairs_;
  TokenIdCounts by_id_;                          // of each pair: [to]
  std::shared_ptr<const CountedPairs> counted_;  // in the first pass; set in the second
  bool scores_ = false;
  int64_t samples_ = 0;
  UsedRowsOfBatch rows_;
  std::vector<const UsedRows*> rows_of_layer_;  // of the batch
  std::vector<size_t> named_rows_;              // of the sample's tokens
  RowRanks::Sums sums_;
  PairCounts pair_counts_;
};

void Predictability::merge(const Study& other) {
  const auto& from = dynamic_cast<const Predictability&>(other);
  if (from.scores_ != scores_) throw std::logic_error("predictability: only sums of one pass can be merged");
  if (!scores_) samples_ += from.samples_;
  for (size_t p = 0; p < pairs_.size(); ++p) {
    LayerPair& pair = pairs_[p];
    const LayerPair& added = from.pairs_[p];
    if (!scores_) {
      pair.counted_tokens += added.counted_tokens;
      add_counts(pair.uses, added.uses);
      add_counts(pair.next_uses, added.next_uses);
      add_counts(pair.both, added.both);
      continue;
    }
    for (Recall LayerPair::*recall : kRecalls) {
      add_counts((pair.*recall).hits, (added.*recall).hits);
      add_counts((pair.*recall).tokens, (added.*recall).tokens);
    }
  }
  if (!scores_) by_id_.merge(from.by_id_);
}

void Predictability::save(ByteSink& sink) const {
  sink.integer(scores_);
  sink.integer(samples_);
  for (const LayerPair& pair : pairs_) {
    sink.integer(pair.counted_tokens);
    if (!scores_) {
      sink.values(pair.uses);
      sink.values(pair.next_uses);
      sink.values(pair.both);
    }
    for (Recall LayerPair::*recall : kRecalls) {
      sink.values((pair.*recall).hits);
      sink.values((pair.*recall).tokens);
    }
  }
  if (!scores_) by_id_.save(sink);
}

void Predictability::load(ByteSource& source) {
  scores_ = source.integer() != 0;
  samples_ = source.integer();
  for (LayerPair& pair : pairs_) {
    pair.counted_tokens = source.integer();
    if (!scores_) {
      pair.uses = source.values<int64_t>(pair.uses.size());
      pair.next_uses = source.values<int64_t>(pair.next_uses.size());
      pair.both = source.values<int64_t>(pair.both.size());
    }
    for (Recall LayerPair::*recall : kRecalls) {
      (pair.*recall).hits = source.values<int64_t>((pair.*recall).hits.size());
      (pair.*recall).tokens = source.values<int64_t>((pair.*recall).tokens.size());
    }
  }
  if (!scores_) by_id_.load(source);
}

Result Predictability::finalize() const {
  Table table("predictability");
  auto& component = table.texts("component");
  auto& from_layer = table.texts("from_layer");
  auto& to_layer = table.texts("to_layer");
  auto& tokens = table.integers("tokens");
  auto& popular = table.reals("recall_popular");
  auto& ids = table.reals("recall_ids");
  auto& token = table.reals("recall_token");
  std::vector<double> gain;
  for (size_t p = 0; p < pairs_.size(); ++p) {
    const LayerPair& pair = pairs_[p];
    const bool is_defined = samples_ >= 2 && pair.counted_tokens > 0;
    component.push_back(shape_.name);
    from_layer.push_back(shape_.layers[p].id);
    to_layer.push_back(shape_.layers[p + 1].id);
    tokens.push_back(is_defined ? pair.popular.num_tokens() : kNoInteger);
    popular.push_back(is_defined ? pair.popular.mean() : kUndefined);
    ids.push_back(is_defined ? pair.ids.mean() : kUndefined);
    token.push_back(is_defined ? pair.token.mean() : kUndefined);
    gain.push_back(ids.back() - popular.back());
  }
  Result result;
  if (const int64_t best = place_of_largest(gain); best >= 0) {
    const auto p = static_cast<size_t>(best);
    const std::vector<std::string> names = layer_names(shape_);
    result.sentence = "the experts of layer " + names[p] + " name " + percent_text(ids[p]) + " of those of layer " +
                      names[p + 1] + ", its most used ones " + percent_text(popular[p]) +
                      (token[p] == token[p] ? ", the token id " + percent_text(token[p]) : "") +
                      "; no pair of layers gains more";
  } else {
    result.sentence = pairs_.empty() ? "one layer alone has no next one"
                                     : "two samples are needed, one of even and one of odd number";
  }
  result.tables.push_back(std::move(table));
  return result;
}

}  // namespace

std::unique_ptr<Study> make_predictability(const ComponentShape& shape, const StudyOptions&) {
  return std::make_unique<Predictability>(shape);
}

}  // namespace moetap::analysis::studies
