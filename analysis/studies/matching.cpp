#include "analysis/studies/matching.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "analysis/studies/assignment.h"
#include "analysis/studies/expert_counts.h"
#include "analysis/studies/sentence_numbers.h"
#include "analysis/studies/token_runs.h"
#include "analysis/studies/used_experts.h"
#include "analysis/studies/vector_similarity.h"

namespace moetap::analysis::studies {
namespace {

class Matching : public PairStudy {
 public:
  explicit Matching(const PairShape& shape) : shape_(shape) {
    for (size_t l = 0; l < shape.a.layers.size(); ++l) {
      layers_.emplace_back(shape.a.layers[l].num_experts, shape.b.layers[l].num_experts);
    }
  }

  void observe(const PairBatch& batch) override {
    for (size_t l = 0; l < layers_.size(); ++l) {
      const LayerTokens &a = batch.a.layers[l], &b = batch.b.layers[l];
      Layer& layer = layers_[l];
      for (int64_t t = 0; t < batch.a.num_tokens; ++t) {
        if (!has_row(batch.a, a, t) || !has_row(batch.b, b, t)) continue;
        const std::span<const int32_t> used_b = used_b_.distinct(b, t);
        for (const int32_t expert : used_b) ++layer.uses[1][static_cast<size_t>(expert)];
        for (const int32_t expert : used_a_.distinct(a, t)) {
          ++layer.uses[0][static_cast<size_t>(expert)];
          int64_t* const row = layer.both.data() + static_cast<size_t>(expert) * layer.uses[1].size();
          for (const int32_t other : used_b) ++row[other];
        }
      }
    }
  }

  void observe(const WeightMatrix& weight) override {
    if (weight.kind != WeightMatrix::Kind::kRouter || weight.model < 0 || weight.model > 1) return;
    if (weight.layer < 0 || static_cast<size_t>(weight.layer) >= layers_.size()) return;
    Layer& layer = layers_[static_cast<size_t>(weight.layer)];
    const auto model = static_cast<size_t>(weight.model);
    if (weight.rows != static_cast<int64_t>(layer.uses[model].size())) return;
    layer.routers[model].assign(weight.values.begin(), weight.values.end());
  }

  void merge(const PairStudy& other) override {
    const auto& from = dynamic_cast<const Matching&>(other);
    for (size_t l = 0; l < layers_.size(); ++l) {
      Layer& layer = layers_[l];
      const Layer& added = from.layers_[l];
      add_counts(layer.both, added.both);
      for (size_t model = 0; model < 2; ++model) {
        add_counts(layer.uses[model], added.uses[model]);
        if (layer.routers[model].empty()) layer.routers[model] = added.routers[model];
      }
    }
  }
  void save(ByteSink& sink) const override {
    for (const Layer& layer : layers_) {
      sink.values(layer.both);
      for (size_t model = 0; model < 2; ++model) {
        sink.values(layer.uses[model]);
        sink.values(layer.routers[model]);
      }
    }
  }
  void load(ByteSource& source) override {
    for (Layer& layer : layers_) {
      layer.both = source.values<int64_t>(layer.both.size());
      for (size_t model = 0; model < 2; ++model) {
        layer.uses[model] = source.values<int64_t>(layer.uses[model].size());
        layer.routers[model] = source.values<float>();
        const size_t rows = layer.uses[model].size();
        if (!layer.routers[model].empty() && (rows == 0 || layer.routers[model].size() % rows != 0)) {
          ByteSource::refuse();
        }
      }
    }
  }

  Result finalize() const override;

 private:
  struct Layer {
    Layer(int64_t num_a, int64_t num_b)
        : both(static_cast<size_t>(num_a * num_b)),
          uses{std::vector<int64_t>(static_cast<size_t>(num_a)), std::vector<int64_t>(static_cast<size_t>(num_b))} {}

    /// Both routers are known and read hidden states of one size.
    bool has_routers() const {
      return !routers[0].empty() && !routers[1].empty() &&
             routers[0].size() / uses[0].size() == routers[1].size() / uses[1].size();
    }

    std::vector<int64_t> both;                  // [E_A, E_B] tokens that used one in A and the other in B
    std::array<std::vector<int64_t>, 2> uses;   // of A [E_A] and of B [E_B]
    std::array<std::vector<float>, 2> routers;  // [E, hidden] of A and of B; empty: not known
  };

  static std::vector<double> similarities(const Layer& layer);

  PairShape shape_;
  std::vector<Layer> layers_;
  UsedExperts used_a_, used_b_;
};

std::vector<double> Matching::similarities(const Layer& layer) {
  const size_t num_a = layer.uses[0].size(), num_b = layer.uses[1].size();
  const bool has_routers = layer.has_routers();
  const size_t hidden = has_routers ? layer.routers[0].size() / num_a : 0;
  std::vector<double> similarities(num_a * num_b);
  for (size_t i = 0; i < num_a; ++i) {
    for (size_t j = 0; j < num_b; ++j) {
      double& similarity = similarities[i * num_b + j];
      if (has_routers) {
        similarity = cosine(layer.routers[0].data() + i * hidden, layer.routers[1].data() + j * hidden, hidden);
      } else {
        const double uses = static_cast<double>(layer.uses[0][i]) * static_cast<double>(layer.uses[1][j]);
        similarity = uses == 0 ? kUndefined : static_cast<double>(layer.both[i * num_b + j]) / std::sqrt(uses);
      }
    }
  }
  return similarities;
}

Result Matching::finalize() const {
  Table table("matching");
  auto& component = table.texts("component");
  auto& id = table.texts("layer");
  auto& expert_a = table.integers("expert_a");
  auto& expert_b = table.integers("expert_b");
  auto& similarity = table.reals("similarity");
  auto& identity = table.reals("identity_similarity");
  int64_t moved = 0, layers_with_routers = 0;
  double sum = 0, identity_sum = 0;
  int64_t compared = 0;
  for (size_t l = 0; l < layers_.size(); ++l) {
    const Layer& layer = layers_[l];
    const size_t num_a = layer.uses[0].size(), num_b = layer.uses[1].size();
    layers_with_routers += layer.has_routers();
    const std::vector<double> all = similarities(layer);
    std::vector<double> cost;
    for (const double value : all) cost.push_back(1 - (std::isfinite(value) ? value : 0));
    const std::vector<int64_t> partner =
        optimal_assignment(cost, static_cast<int64_t>(num_a), static_cast<int64_t>(num_b));
    for (size_t i = 0; i < num_a; ++i) {
      component.push_back(shape_.a.name);
      id.push_back(shape_.a.layers[l].id);
      expert_a.push_back(static_cast<int64_t>(i));
      expert_b.push_back(partner[i] < 0 ? kNoInteger : partner[i]);
      similarity.push_back(partner[i] < 0 ? kUndefined : all[i * num_b + static_cast<size_t>(partner[i])]);
      identity.push_back(i < num_b ? all[i * num_b + i] : kUndefined);
      moved += partner[i] != static_cast<int64_t>(i);
      if (std::isfinite(similarity.back()) && std::isfinite(identity.back())) {
        sum += similarity.back();
        identity_sum += identity.back();
        ++compared;
      }
    }
  }
  Result result;
  if (compared == 0) {
    const bool has_any = std::any_of(layers_.begin(), layers_.end(), [](const Layer& layer) {
      return !layer.routers[0].empty() || !layer.routers[1].empty();
    });
    result.sentence = std::string("nothing to match by: no token used an expert in both runs, and ") +
                      (has_any ? "the models have no two routers of one layer and hidden size"
                               : "no models were given (--model A.pt B.pt)");
  } else {
    const auto count = static_cast<double>(compared);
    result.sentence = std::to_string(moved) + " of " +
                      count_text(static_cast<int64_t>(expert_a.size()), "expert", "experts") +
                      " match an expert of another number; mean similarity " + number_text(sum / count) +
                      ", of the same numbers " + number_text(identity_sum / count) + " (" +
                      (layers_with_routers > 0 ? "router rows" : "usage by shared tokens") + ")";
  }
  if (layers_with_routers > 0 && layers_with_routers < static_cast<int64_t>(layers_.size())) {
    result.notices.push_back(
        count_text(static_cast<int64_t>(layers_.size()) - layers_with_routers, "layer is", "layers are") +
        " matched by usage, since the models have no two routers of one hidden size for them");
  }
  result.tables.push_back(std::move(table));
  return result;
}

}  // namespace

std::unique_ptr<PairStudy> make_matching(const PairShape& shape, const StudyOptions&) {
  return std::make_unique<Matching>(shape);
}

}  // namespace moetap::analysis::studies
