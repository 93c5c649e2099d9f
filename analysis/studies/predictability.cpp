#include "analysis/studies/predictability.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "analysis/studies/expert_counts.h"
#include "analysis/studies/largest_experts.h"
#include "analysis/studies/sentence_numbers.h"
#include "analysis/studies/token_id_counts.h"
#include "analysis/studies/token_runs.h"
#include "analysis/studies/used_experts.h"
#include "analysis/studies/vector_loops.h"

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
    for (const int32_t expert : used) hits[used.size()] += is_named(static_cast<size_t>(expert));
    ++tokens[used.size()];
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
        by_id(to.num_experts),
        popular(num_to),
        ids(num_to),
        token(num_to) {}

  size_t num_from = 0, num_to = 0, top_k = 0;
  // Of samples of even number.
  int64_t counted_tokens = 0;
  std::vector<int64_t> uses;       // [from] tokens that used it
  std::vector<int64_t> next_uses;  // [to]
  std::vector<int64_t> both;       // [from, to]
  TokenIdCounts by_id;             // [to]
  // What they name: fixed before the second pass.
  std::vector<double> probability;     // [from, to] in units
  std::vector<uint8_t> named_popular;  // [to]
  std::vector<uint8_t> named_unknown;  // [to] for a token id that was never seen
  std::vector<uint8_t> named_by_id;    // [ids by place, to]
  // Of samples of odd number.
  Recall popular, ids, token;

  void fix_names() {
    LargestExperts<int64_t>().name(next_uses.data(), num_to, top_k, named_popular);
    probability.assign(both.size(), 0);
    for (size_t e = 0; e < num_from; ++e) {
      for (size_t x = 0; x < num_to && uses[e] > 0; ++x) {
        const double share = static_cast<double>(both[e * num_to + x]) / static_cast<double>(uses[e]);
        probability[e * num_to + x] = std::round(share * kProbabilityScale);
      }
    }
    LargestExperts<uint32_t> largest;
    largest.name(std::vector<uint32_t>(num_to).data(), num_to, top_k, named_unknown);
    std::vector<uint8_t> named;
    std::vector<uint32_t> counts;
    for (int64_t place = 0; place < by_id.num_ids(); ++place) {
      by_id.read(place, counts);
      largest.name(counts.data(), num_to, top_k, named);
      named_by_id.insert(named_by_id.end(), named.begin(), named.end());
    }
  }
};

class Predictability : public Study {
 public:
  explicit Predictability(const ComponentShape& shape) : shape_(shape), pairs_(empty_pairs(shape)) {}

  int num_passes() const override { return 2; }
  void begin_pass(int pass) override {
    if (pass != 1) return;
    scores_ = true;
    for (LayerPair& pair : pairs_) pair.fix_names();
    counted_ = std::make_shared<const std::vector<LayerPair>>(std::move(pairs_));
    pairs_ = empty_pairs(shape_);
    for (size_t p = 0; p < pairs_.size(); ++p) pairs_[p].counted_tokens = (*counted_)[p].counted_tokens;
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
    for_samples(batch, [&](int64_t first, int64_t last) {
      const int64_t sample = batch.sample[static_cast<size_t>(first)];
      if (sample < 0) return;
      if (!scores_) ++samples_;
      for (size_t p = 0; p < pairs_.size(); ++p) {
        if (!scores_ && sample % 2 == 0) count(batch, p, first, last);
        if (scores_ && sample % 2 == 1) score(batch, p, first, last);
      }
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

  void count(const TokenBatch& batch, size_t p, int64_t first, int64_t last) {
    const LayerTokens &from = batch.layers[p], &to = batch.layers[p + 1];
    LayerPair& pair = pairs_[p];
    pair.by_id.check_room(last - first);
    for (int64_t t = first; t < last; ++t) {
      if (!has_row(batch, from, t) || !has_row(batch, to, t)) continue;
      ++pair.counted_tokens;
      const std::span<const int32_t> next = used_next_.distinct(to, t);
      for (const int32_t expert : next) ++pair.next_uses[static_cast<size_t>(expert)];
      for (const int32_t expert : used_.distinct(from, t)) {
        ++pair.uses[static_cast<size_t>(expert)];
        int64_t* const both = pair.both.data() + static_cast<size_t>(expert) * pair.num_to;
        for (const int32_t after : next) ++both[after];
      }
      const int32_t id = batch.token_id[static_cast<size_t>(t)];
      if (id < 0) continue;
      pair.by_id.add(id, next);
    }
  }

  void score(const TokenBatch& batch, size_t p, int64_t first, int64_t last) {
    const LayerTokens &from = batch.layers[p], &to = batch.layers[p + 1];
    LayerPair& pair = pairs_[p];
    const LayerPair& known = (*counted_)[p];
    sums_.resize(pair.num_to);
    const auto top_k = static_cast<int64_t>(pair.top_k);
    for (int64_t t = first; t < last; ++t) {
      if (!has_row(batch, from, t) || !has_row(batch, to, t)) continue;
      const std::span<const int32_t> next = used_next_.distinct(to, t);
      if (next.empty()) continue;
      pair.popular.add(next, [&](size_t x) { return known.named_popular[x]; });
      loops_.add_rows(known.probability.data(), used_.distinct(from, t), pair.num_to, sums_.data());
      pair.ids.add(next, [&](size_t x) { return loops_.rank_of(sums_.data(), pair.num_to, x) < top_k; });
      const int32_t id = batch.token_id[static_cast<size_t>(t)];
      if (id < 0) continue;
      const int64_t place = known.by_id.place_of(id);
      const uint8_t* const named =
          place < 0 ? known.named_unknown.data() : known.named_by_id.data() + static_cast<size_t>(place) * pair.num_to;
      pair.token.add(next, [&](size_t x) { return named[x]; });
    }
  }

  static constexpr Recall LayerPair::*kRecalls[] = {&LayerPair::popular, &LayerPair::ids, &LayerPair::token};

  ComponentShape shape_;
  std::vector<LayerPair> pairs_;
  std::shared_ptr<const std::vector<LayerPair>> counted_;  // in the first pass; set in the second
  bool scores_ = false;
  int64_t samples_ = 0;
  UsedExperts used_, used_next_;
  std::vector<double> sums_;  // [to]
  const VectorLoops& loops_ = vector_loops();
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
      pair.by_id.merge(added.by_id);
      continue;
    }
    for (Recall LayerPair::*recall : kRecalls) {
      add_counts((pair.*recall).hits, (added.*recall).hits);
      add_counts((pair.*recall).tokens, (added.*recall).tokens);
    }
  }
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
      pair.by_id.save(sink);
    }
    for (Recall LayerPair::*recall : kRecalls) {
      sink.values((pair.*recall).hits);
      sink.values((pair.*recall).tokens);
    }
  }
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
      pair.by_id.load(source);
    }
    for (Recall LayerPair::*recall : kRecalls) {
      (pair.*recall).hits = source.values<int64_t>((pair.*recall).hits.size());
      (pair.*recall).tokens = source.values<int64_t>((pair.*recall).tokens.size());
    }
  }
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
