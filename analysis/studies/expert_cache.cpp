#include "analysis/studies/expert_cache.h"

#include <algorithm>
#include <string>
#include <utility>

#include "analysis/studies/cache_accesses.h"
#include "analysis/studies/cache_stacks.h"
#include "analysis/studies/expert_counts.h"
#include "analysis/studies/sentence_numbers.h"
#include "analysis/studies/token_runs.h"
#include "analysis/studies/used_rows.h"

namespace moetap::analysis::studies {
namespace {

class ExpertCache : public Study {
 public:
  ExpertCache(const ComponentShape& shape, const StudyOptions& options)
      : shape_(shape), is_warm_(options.warm), phase_(options.cache_phase) {
    for (const LayerShape& layer : shape.layers) layers_.emplace_back(layer.num_experts, phase_);
  }

  bool is_sequential() const override { return is_warm_; }

  void observe(const TokenBatch& batch) override {
    std::vector<std::pair<int64_t, int64_t>> samples;
    for_samples(batch, [&](int64_t first, int64_t last) {
      if (batch.sample[static_cast<size_t>(first)] >= 0) {
        samples.emplace_back(first, last);
      } else {
        unknown_samples_ += last - first;
      }
    });
    for (size_t l = 0; l < layers_.size(); ++l) {
      rows_.in_order(batch, l).add_counts(0, batch.num_tokens, layers_[l].uses.data());
      const UsedRows& ranked = rows_.ranked(batch, l);
      for (const auto& [first, last] : samples) observe_sample(batch, ranked, layers_[l], first, last);
    }
  }

  void merge(const Study& other) override {
    const auto& from = dynamic_cast<const ExpertCache&>(other);
    unknown_samples_ += from.unknown_samples_;
    for (size_t l = 0; l < layers_.size(); ++l) {
      for (std::vector<int64_t> Layer::*sums : kSums) add_counts(layers_[l].*sums, from.layers_[l].*sums);
    }
  }

  void save(ByteSink& sink) const override {
    sink.integer(unknown_samples_);
    for (const Layer& layer : layers_) {
      for (std::vector<int64_t> Layer::*sums : kSums) sink.values(layer.*sums);
    }
  }
  void load(ByteSource& source) override {
    unknown_samples_ = source.integer();
    for (Layer& layer : layers_) {
      for (std::vector<int64_t> Layer::*sums : kSums) layer.*sums = source.values<int64_t>((layer.*sums).size());
    }
  }

  Result finalize() const override {
    Table table("expert_cache");
    auto& component = table.texts("component");
    auto& id = table.texts("layer");
    auto& capacity = table.integers("capacity");
    auto& accesses = table.integers("accesses");
    auto& lru = table.reals("lru");
    auto& optimal = table.reals("optimal");
    auto& fixed = table.reals("static");
    for (size_t l = 0; l < layers_.size(); ++l) {
      const Layer& layer = layers_[l];
      const std::vector<int32_t> popular = experts_by_count(layer.uses);
      int64_t total = 0, lru_hits = 0, optimal_hits = 0, static_hits = 0;
      for (const int64_t count : layer.accesses) total += count;
      for (size_t c = 1; c <= popular.size(); ++c) {
        lru_hits += layer.lru[c];
        optimal_hits += layer.optimal[c];
        static_hits += layer.accesses[static_cast<size_t>(popular[c - 1])];
        component.push_back(shape_.name);
        id.push_back(shape_.layers[l].id);
        capacity.push_back(static_cast<int64_t>(c));
        accesses.push_back(total);
        lru.push_back(rate(lru_hits, total));
        optimal.push_back(rate(optimal_hits, total));
        fixed.push_back(rate(static_hits, total));
      }
    }
    Result result;
    result.sentence = sentence();
    if (unknown_samples_ > 0) {
      result.notices.push_back(count_text(unknown_samples_, "token", "tokens") + " of no known sample left out");
    }
    result.tables.push_back(std::move(table));
    return result;
  }

 private:
  struct Layer {
    Layer(int64_t num_experts, const std::string& phase)
        : sequence(num_experts, phase),
          lru_stack(num_experts),
          optimal_stack(num_experts),
          lru(static_cast<size_t>(num_experts) + 1),
          optimal(static_cast<size_t>(num_experts) + 1),
          accesses(static_cast<size_t>(num_experts)),
          uses(static_cast<size_t>(num_experts)) {}

    CacheAccesses sequence;
    LruStack lru_stack;
    OptimalStack optimal_stack;
    std::vector<int64_t> lru;       // [E + 1] counted accesses by stack distance; 0: misses
    std::vector<int64_t> optimal;   // likewise
    std::vector<int64_t> accesses;  // [E] counted accesses of each expert
    std::vector<int64_t> uses;      // [E] by all tokens of the run
  };
  static constexpr std::vector<int64_t> Layer::*kSums[] = {&Layer::lru, &Layer::optimal, &Layer::accesses,
                                                           &Layer::uses};

  static double rate(int64_t hits, int64_t accesses) {
    return accesses == 0 ? kUndefined : static_cast<double>(hits) / static_cast<double>(accesses);
  }

  void observe_sample(const TokenBatch& batch, const UsedRows& ranked, Layer& layer, int64_t first, int64_t last) {
    const CacheAccesses& accesses = layer.sequence;
    layer.sequence.take_sample(batch, ranked, first, last);
    if (is_warm_) {
      layer.optimal_stack.restart(accesses.first_use());
    } else {
      layer.lru_stack.clear();
      layer.optimal_stack.clear();
    }
    layer.lru_stack.access(accesses.experts(), lru_distances_);
    layer.optimal_stack.access(accesses.experts(), accesses.next_use(), optimal_distances_);
    accesses.for_counted([&](size_t i) {
      ++layer.lru[static_cast<size_t>(lru_distances_[i])];
      ++layer.optimal[static_cast<size_t>(optimal_distances_[i])];
      ++layer.accesses[static_cast<size_t>(accesses.experts()[i])];
    });
  }

  /// How many experts a layer LRU needs for nine hits of ten, and what the best would be, over all layers.
  std::string sentence() const {
    size_t largest = 0;
    int64_t total = 0;
    for (const Layer& layer : layers_) {
      largest = std::max(largest, layer.accesses.size());
      for (const int64_t count : layer.accesses) total += count;
    }
    if (total == 0) return "no access of the phase " + phase_ + " was counted";
    std::vector<int64_t> lru(largest + 1), optimal(largest + 1);
    for (const Layer& layer : layers_) {
      for (size_t c = 1; c < layer.lru.size(); ++c) {
        lru[c] += layer.lru[c];
        optimal[c] += layer.optimal[c];
      }
    }
    int64_t lru_hits = 0, optimal_hits = 0;
    size_t c = 1;
    for (; c <= largest; ++c) {
      lru_hits += lru[c];
      optimal_hits += optimal[c];
      if (rate(lru_hits, total) >= 0.9) break;
    }
    const bool is_reached = c <= largest;
    c = std::min(c, largest);
    return "an LRU cache of " + count_text(static_cast<int64_t>(c), "expert", "experts") + " a layer hits " +
           percent_text(rate(lru_hits, total)) + " of the accesses" +
           (is_reached ? "" : ", and more experts do not help") + "; the best one of that size would hit " +
           percent_text(rate(optimal_hits, total));
  }

  ComponentShape shape_;
  bool is_warm_ = false;
  std::string phase_;
  std::vector<Layer> layers_;
  UsedRowsOfBatch rows_;
  std::vector<int32_t> lru_distances_, optimal_distances_;  // of the sample at hand
  int64_t unknown_samples_ = 0;                             // tokens
};

}  // namespace

std::unique_ptr<Study> make_expert_cache(const ComponentShape& shape, const StudyOptions& options) {
  return std::make_unique<ExpertCache>(shape, options);
}

}  // namespace moetap::analysis::studies
