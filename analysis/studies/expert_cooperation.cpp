#include "analysis/studies/expert_cooperation.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "analysis/studies/exact_table.h"
#include "analysis/studies/sentence_numbers.h"

namespace moetap::analysis::studies {
namespace {

/// The sums of one layer. A pair stands once, at (smaller id, larger id).
struct LayerPairs {
  int64_t num_experts = 0;
  int64_t num_tokens = 0;         // T
  ExactTable strength;            // [E, E] of unordered pairs of slots
  std::vector<int64_t> together;  // [E, E] tokens that have both; the diagonal: tokens that have the expert

  explicit LayerPairs(int64_t num_experts)
      : num_experts(num_experts),
        strength(num_experts, num_experts),
        together(static_cast<size_t>(num_experts * num_experts)) {}

  int64_t& tokens_of(int64_t a, int64_t b) { return together[static_cast<size_t>(a * num_experts + b)]; }
  int64_t tokens_of(int64_t a, int64_t b) const { return together[static_cast<size_t>(a * num_experts + b)]; }
};

struct Pair {
  int64_t a = 0, b = 0;
  double strength = 0, share = 0;
};

class ExpertCooperation : public Study {
 public:
  ExpertCooperation(const ComponentShape& shape, const StudyOptions& options)
      : names_(layer_names(shape)), is_notebook_(options.definitions == Definitions::kNotebook) {
    for (const LayerShape& layer : shape.layers) layers_.emplace_back(layer.num_experts);
  }

  void observe(const TokenBatch& batch) override {
    for (size_t l = 0; l < layers_.size(); ++l) {
      const LayerTokens& layer = batch.layers[l];
      for (int64_t t = 0; t < batch.num_tokens; ++t) {
        if (!layer.has_seen(t) || !batch.is_valid(t)) continue;
        ++layers_[l].num_tokens;
        take_slots(layer.ids_of(t), layer.gates_of(t));
        add_token(layers_[l]);
      }
    }
  }

  void merge(const Study& other) override {
    const auto& from = dynamic_cast<const ExpertCooperation&>(other);
    for (size_t l = 0; l < layers_.size(); ++l) {
      LayerPairs& into = layers_[l];
      into.num_tokens += from.layers_[l].num_tokens;
      into.strength.merge(from.layers_[l].strength);
      for (size_t i = 0; i < into.together.size(); ++i) into.together[i] += from.layers_[l].together[i];
    }
  }
  void save(ByteSink& sink) const override {
    for (const LayerPairs& layer : layers_) {
      sink.integer(layer.num_tokens);
      layer.strength.save(sink);
      sink.values(layer.together);
    }
  }
  void load(ByteSource& source) override {
    for (LayerPairs& layer : layers_) {
      layer.num_tokens = source.integer();
      layer.strength.load(source);
      layer.together = source.values<int64_t>(layer.together.size());
    }
  }

  Result finalize() const override {
    Table table("expert_cooperation");
    auto& layers = table.integers("layer");
    auto& a = table.integers("expert_a");
    auto& b = table.integers("expert_b");
    auto& strength = table.reals("strength");
    auto& share = table.reals("share");
    auto& tokens = table.integers("tokens");
    auto& lift = table.reals("lift");
    int64_t out_of_range = 0;
    for (size_t l = 0; l < layers_.size(); ++l) {
      const LayerPairs& layer = layers_[l];
      out_of_range += layer.strength.out_of_range();
      for (const Pair& pair : pairs_of(layer)) {
        const auto both = static_cast<double>(layer.tokens_of(pair.a, pair.b));
        layers.push_back(static_cast<int64_t>(l) + 1);
        a.push_back(pair.a);
        b.push_back(pair.b);
        strength.push_back(pair.strength);
        share.push_back(pair.share);
        tokens.push_back(layer.tokens_of(pair.a, pair.b));
        lift.push_back(both * static_cast<double>(layer.num_tokens) /
                       (static_cast<double>(layer.tokens_of(pair.a, pair.a)) *
                        static_cast<double>(layer.tokens_of(pair.b, pair.b))));
      }
    }
    Result result;
    result.sentence = "no token has two experts";
    if (!share.empty()) {
      const auto best = static_cast<size_t>(std::max_element(share.begin(), share.end()) - share.begin());
      result.sentence = "experts " + std::to_string(a[best]) + " and " + std::to_string(b[best]) + " of layer " +
                        names_[static_cast<size_t>(layers[best] - 1)] +
                        " cooperate most: " + percent_text(share[best]) + " of the layer's strength, in " +
                        count_text(tokens[best], "token", "tokens") + ", " + number_text(lift[best]) +
                        " times as often as if they were independent";
    }
    if (out_of_range > 0) {
      result.notices.push_back(
          std::to_string(out_of_range) +
          " pairs of slots have a negative, infinite or NaN gate and were left out of the strength");
    }
    result.tables.push_back(std::move(table));
    return result;
  }

 private:
  struct Slot {
    int32_t expert = 0;
    bool is_repeated = false;  // an earlier slot has the expert
    double root = 0;           // of the gate
  };

  void take_slots(std::span<const int32_t> ids, std::span<const double> gates) {
    slots_.clear();
    for (size_t k = 0; k < ids.size(); ++k) {
      if (ids[k] < 0) continue;
      const auto has_expert = [&](const Slot& slot) { return slot.expert == ids[k]; };
      slots_.push_back(
          {ids[k], std::any_of(slots_.begin(), slots_.end(), has_expert), gates.empty() ? 0 : std::sqrt(gates[k])});
    }
  }

  void add_token(LayerPairs& layer) const {
    for (size_t i = 0; i < slots_.size(); ++i) {
      const Slot& one = slots_[i];
      if (!one.is_repeated) ++layer.tokens_of(one.expert, one.expert);
      for (size_t j = i + 1; j < slots_.size(); ++j) {
        const Slot& other = slots_[j];
        const int64_t low = std::min(one.expert, other.expert), high = std::max(one.expert, other.expert);
        layer.strength.add(low, high, one.root * other.root);
        if (low != high && !one.is_repeated && !other.is_repeated) ++layer.tokens_of(low, high);
      }
    }
  }

  /// Pairs that share a token, by share descending, then ids. The sum is over ordered pairs: the notebook's has the
  /// diagonal, and its share is the entry of its matrix.
  std::vector<Pair> pairs_of(const LayerPairs& layer) const {
    std::vector<Pair> pairs;
    double sum = 0;
    for (int64_t a = 0; a < layer.num_experts; ++a) {
      // Two slots of one expert are two ordered pairs of slots, which both feed the diagonal.
      if (is_notebook_) sum += 2 * layer.strength.value(a, a);
      for (int64_t b = a + 1; b < layer.num_experts; ++b) {
        const double strength = layer.strength.value(a, b);
        sum += 2 * strength;
        if (layer.tokens_of(a, b) > 0) pairs.push_back({a, b, strength, 0});
      }
    }
    for (Pair& pair : pairs) {
      if (is_notebook_) {
        pair.share = pair.strength / (sum + 1e-10);
      } else {
        pair.share = sum > 0 ? 2 * pair.strength / sum : 0;
      }
    }
    std::stable_sort(pairs.begin(), pairs.end(), [](const Pair& x, const Pair& y) { return x.share > y.share; });
    return pairs;
  }

  const std::vector<std::string> names_;  // [L]
  const bool is_notebook_;
  std::vector<LayerPairs> layers_;
  std::vector<Slot> slots_;  // of the token at hand
};

}  // namespace

std::unique_ptr<Study> make_expert_cooperation(const ComponentShape& shape, const StudyOptions& options) {
  return std::make_unique<ExpertCooperation>(shape, options);
}

}  // namespace moetap::analysis::studies
