#include "analysis/studies/layer_activation.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "analysis/numbers/exact_sum.h"
#include "analysis/studies/expert_counts.h"
#include "analysis/studies/sentence_numbers.h"
#include "analysis/studies/token_runs.h"
#include "analysis/studies/used_experts.h"
#include "analysis/studies/vector_similarity.h"

namespace moetap::analysis::studies {
namespace {

class LayerActivation : public Study {
 public:
  LayerActivation(const ComponentShape& shape, const StudyOptions& options) : shape_(shape), options_(options) {
    for (const LayerShape& layer : shape.layers) layers_.emplace_back(static_cast<size_t>(layer.num_experts));
  }

  void observe(const TokenBatch& batch) override {
    for (size_t l = 0; l < layers_.size(); ++l) observe_layer(batch, batch.layers[l], layers_[l]);
  }

  void merge(const Study& other) override {
    const auto& from = dynamic_cast<const LayerActivation&>(other);
    for (size_t l = 0; l < layers_.size(); ++l) {
      Layer& layer = layers_[l];
      const Layer& added = from.layers_[l];
      layer.tokens += added.tokens;
      add_counts(layer.uses, added.uses);
      for (size_t e = 0; e < layer.sums.size(); ++e) {
        layer.sums[e].merge(added.sums[e]);
        layer.squares[e].merge(added.squares[e]);
      }
    }
  }
  void save(ByteSink& sink) const override {
    for (const Layer& layer : layers_) {
      sink.integer(layer.tokens);
      sink.values(layer.uses);
      sink.sums(layer.sums);
      sink.sums(layer.squares);
    }
  }
  void load(ByteSource& source) override {
    for (Layer& layer : layers_) {
      layer.tokens = source.integer();
      layer.uses = source.values<int64_t>(layer.uses.size());
      layer.sums = source.sums(layer.sums.size());
      layer.squares = source.sums(layer.squares.size());
    }
  }
  Result finalize() const override;

 private:
  struct Layer {
    explicit Layer(size_t num_experts)
        : uses(num_experts), sums(num_experts), squares(num_experts), block(2 * num_experts) {}

    double average(size_t e) const {
      const int64_t terms = tokens - sums[e].out_of_range();
      return terms <= 0 ? kUndefined : sums[e].value() / static_cast<double>(terms);
    }
    double variance(size_t e) const {
      const auto terms = static_cast<double>(tokens - sums[e].out_of_range());
      if (terms < 2) return kUndefined;
      const double mean = average(e);
      return std::max(0.0, (squares[e].value() - mean * sums[e].value()) / (terms - 1));
    }
    void take_block() {
      for (size_t e = 0; e < sums.size(); ++e) {
        sums[e].take(block[e]);
        squares[e].take(block[sums.size() + e]);
      }
      std::fill(block.begin(), block.end(), ExactLimbs{});
    }

    int64_t tokens = 0;                   // with scores
    std::vector<int64_t> uses;            // [E]
    std::vector<ExactSum> sums, squares;  // [E] of scores
    std::vector<ExactLimbs> block;        // [2, E] the last tokens; zero between batches
  };

  void observe_layer(const TokenBatch& batch, const LayerTokens& tokens, Layer& layer) {
    const size_t num_experts = layer.sums.size();
    int64_t in_block = 0;
    for (int64_t t = 0; t < batch.num_tokens; ++t) {
      if (!has_row(batch, tokens, t)) continue;
      for (const int32_t expert : used_.in_order(tokens, t)) ++layer.uses[static_cast<size_t>(expert)];
      const std::span<const double> scores = tokens.scores_of(t);
      if (scores.empty()) continue;
      ++layer.tokens;
      bool in_range = true;
      for (size_t e = 0; e < num_experts; ++e) in_range &= std::abs(scores[e]) < 0x1p13;  // so is the square
      if (!in_range) {
        for (size_t e = 0; e < num_experts; ++e) {
          const double score = std::abs(scores[e]) < 0x1p13 ? scores[e] : kUndefined;
          layer.sums[e].add(score);
          layer.squares[e].add(score * score);
        }
        continue;
      }
      ExactLimbs* const sums = layer.block.data();
      ExactLimbs* const squares = sums + num_experts;
      for (size_t e = 0; e < num_experts; ++e) sums[e].add(scores[e]);
      for (size_t e = 0; e < num_experts; ++e) squares[e].add(scores[e] * scores[e]);
      if (++in_block == kMaxExactTerms) {
        layer.take_block();
        in_block = 0;
      }
    }
    layer.take_block();
  }

  void add_correlations(const std::vector<std::vector<double>>& profiles, Result& result) const;

  ComponentShape shape_;
  StudyOptions options_;
  std::vector<Layer> layers_;
  UsedExperts used_;
};

void LayerActivation::add_correlations(const std::vector<std::vector<double>>& profiles, Result& result) const {
  Table correlations("layer_correlation"), periodicity("layer_periodicity");
  auto& component = correlations.texts("component");
  auto& layer_a = correlations.texts("layer_a");
  auto& layer_b = correlations.texts("layer_b");
  auto& distance = correlations.integers("delta");
  auto& correlation = correlations.reals("correlation");
  const std::vector<std::string> names = layer_names(shape_);
  std::vector<std::string> pair_names;
  const auto farthest = static_cast<size_t>(std::max<int64_t>(options_.delta_max, 0));
  for (size_t a = 0; a < profiles.size(); ++a) {
    for (size_t b = a + 1; b < profiles.size() && b - a <= farthest; ++b) {
      component.push_back(shape_.name);
      layer_a.push_back(shape_.layers[a].id);
      layer_b.push_back(shape_.layers[b].id);
      distance.push_back(static_cast<int64_t>(b - a));
      pair_names.push_back(names[a] + " and " + names[b]);
      correlation.push_back(profiles[a].size() == profiles[b].size()
                                ? pearson(profiles[a].data(), profiles[b].data(), profiles[a].size())
                                : kUndefined);
    }
  }
  auto& period_component = periodicity.texts("component");
  auto& delta = periodicity.integers("delta");
  auto& pairs = periodicity.integers("pairs");
  auto& mean = periodicity.reals("mean_correlation");
  auto& deviation = periodicity.reals("std_correlation");
  auto& strength = periodicity.texts("strength");
  for (const int64_t period : options_.periods) {
    double sum = 0, squares = 0;
    int64_t count = 0;
    if (period <= 0) continue;
    const std::vector<double> found = layer_correlations(profiles, static_cast<size_t>(period));
    for (const double value : found) {
      if (value != value) continue;
      sum += value;
      ++count;
    }
    const double average = count == 0 ? kUndefined : sum / static_cast<double>(count);
    for (const double value : found) {
      if (value == value) squares += (value - average) * (value - average);
    }
    period_component.push_back(shape_.name);
    delta.push_back(period);
    pairs.push_back(count);
    mean.push_back(average);
    deviation.push_back(count == 0 ? kUndefined : std::sqrt(squares / static_cast<double>(count)));
    strength.push_back(count == 0 ? "" : average > 0.7 ? "strong" : average > 0.4 ? "moderate" : "weak");
  }
  if (const int64_t most = place_of_largest(correlation); most >= 0) {
    const auto row = static_cast<size_t>(most);
    result.sentence = "layers " + pair_names[row] + " are most alike, with a correlation of " +
                      number_text(correlation[row]) + " of their mean scores";
    if (const int64_t period = place_of_largest(mean); period >= 0) {
      const auto place = static_cast<size_t>(period);
      result.sentence += "; layers " + std::to_string(delta[place]) + " apart correlate with " +
                         number_text(mean[place]) + " on average (" + strength[place] + ")";
    }
  } else {
    result.sentence = "no two layers have profiles to compare";
  }
  result.tables.push_back(std::move(correlations));
  result.tables.push_back(std::move(periodicity));
}

Result LayerActivation::finalize() const {
  Table table("layer_activation");
  auto& component = table.texts("component");
  auto& id = table.texts("layer");
  auto& tokens = table.integers("tokens");
  auto& expert_id = table.integers("expert_id");
  auto& average = table.reals("avg_activation");
  auto& variance = table.reals("var_activation");
  auto& selected = table.integers("selected_count");
  std::vector<std::vector<double>> profiles;
  Result result;
  for (size_t l = 0; l < layers_.size(); ++l) {
    const Layer& layer = layers_[l];
    int64_t not_finite = 0;
    profiles.emplace_back();
    for (size_t e = 0; e < layer.sums.size(); ++e) {
      component.push_back(shape_.name);
      id.push_back(shape_.layers[l].id);
      tokens.push_back(layer.tokens);
      expert_id.push_back(static_cast<int64_t>(e));
      average.push_back(layer.average(e));
      variance.push_back(layer.variance(e));
      selected.push_back(layer.uses[e]);
      profiles.back().push_back(layer.average(e));
      not_finite += layer.sums[e].out_of_range();
    }
    if (not_finite > 0) {
      result.notices.push_back("layer " + layer_names(shape_)[l] + ": " + count_text(not_finite, "score", "scores") +
                               " not finite or beyond 8192 left out");
    }
  }
  result.tables.push_back(std::move(table));
  add_correlations(profiles, result);
  return result;
}

}  // namespace

std::vector<double> layer_correlations(const std::vector<std::vector<double>>& profiles, size_t delta) {
  std::vector<double> correlations;
  for (size_t a = 0; a + delta < profiles.size(); ++a) {
    const std::vector<double>&from = profiles[a], &to = profiles[a + delta];
    correlations.push_back(from.size() == to.size() ? pearson(from.data(), to.data(), from.size()) : kUndefined);
  }
  return correlations;
}

std::unique_ptr<Study> make_layer_activation(const ComponentShape& shape, const StudyOptions& options) {
  return std::make_unique<LayerActivation>(shape, options);
}

}  // namespace moetap::analysis::studies
