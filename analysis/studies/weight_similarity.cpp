#include "analysis/studies/weight_similarity.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "analysis/studies/layer_order.h"
#include "analysis/studies/sentence_numbers.h"
#include "analysis/studies/vector_similarity.h"

namespace moetap::analysis::studies {
namespace {

/// "model.layers.3.mlp.experts.5.w1.weight" -> "w1.weight"
std::string name_after_numbers(const std::string& name) {
  size_t after = 0;
  for (size_t first = 0; first <= name.size();) {
    const size_t last = std::min(name.find('.', first), name.size());
    if (LayerOrder::is_number(name.substr(first, last - first))) after = std::min(last + 1, name.size());
    first = last + 1;
  }
  return name.substr(after);
}

class WeightSimilarity : public Study {
 public:
  WeightSimilarity(const ComponentShape& shape, const StudyOptions& options)
      : shape_(shape), delta_max_(options.delta_max), layers_(shape.layers.size()) {}

  void observe(const WeightMatrix& weight) override {
    if (weight.model != 0 || weight.layer < 0 || static_cast<size_t>(weight.layer) >= layers_.size()) return;
    Layer& layer = layers_[static_cast<size_t>(weight.layer)];
    std::vector<float> values(weight.values.begin(), weight.values.end());
    if (weight.kind == WeightMatrix::Kind::kRouter) {
      layer.rows = weight.rows;
      layer.router = std::move(values);
    } else {
      layer.experts[weight.expert][name_after_numbers(weight.name)] = std::move(values);
    }
  }

  void merge(const Study& other) override {
    const auto& from = dynamic_cast<const WeightSimilarity&>(other);
    for (size_t l = 0; l < layers_.size(); ++l) {
      if (layers_[l].router.empty()) {
        layers_[l].router = from.layers_[l].router;
        layers_[l].rows = from.layers_[l].rows;
      }
      for (const auto& [expert, weights] : from.layers_[l].experts) {
        layers_[l].experts[expert].insert(weights.begin(), weights.end());
      }
    }
  }
  void save(ByteSink& sink) const override {
    for (const Layer& layer : layers_) {
      sink.integer(layer.rows);
      sink.values(layer.router);
      sink.integer(static_cast<int64_t>(layer.experts.size()));
      for (const auto& [expert, weights] : layer.experts) {
        sink.integer(expert);
        sink.integer(static_cast<int64_t>(weights.size()));
        for (const auto& [name, values] : weights) {
          sink.text(name);
          sink.values(values);
        }
      }
    }
  }
  void load(ByteSource& source) override {
    for (Layer& layer : layers_) {
      layer = {};
      layer.rows = source.integer();
      layer.router = source.values<float>();
      const auto size = static_cast<int64_t>(layer.router.size());
      if (layer.rows < 0 || (size > 0 && (layer.rows == 0 || size % layer.rows != 0))) ByteSource::refuse();
      for (int64_t left = source.integer(); left > 0; --left) {
        Weights& weights = layer.experts[source.integer()];
        for (int64_t names = source.integer(); names > 0; --names) {
          std::string name = source.text();
          weights[name] = source.values<float>();
        }
      }
    }
  }
  Result finalize() const override;

 private:
  using Weights = std::map<std::string, std::vector<float>>;
  struct Layer {
    int64_t rows = 0;
    std::vector<float> router;  // [rows, hidden]; empty: not given
    std::map<int64_t, Weights> experts;
  };

  static std::vector<double> column_norms(const Layer& layer);
  /// Cosine of all weights; kUndefined if names or sizes differ.
  static double cosine_of(const Weights& a, const Weights& b);

  ComponentShape shape_;
  int64_t delta_max_ = 0;
  std::vector<Layer> layers_;
};

std::vector<double> WeightSimilarity::column_norms(const Layer& layer) {
  const size_t hidden = layer.router.size() / static_cast<size_t>(layer.rows);
  std::vector<double> norms(hidden);
  for (size_t i = 0; i < layer.router.size(); ++i) {
    norms[i % hidden] += static_cast<double>(layer.router[i]) * static_cast<double>(layer.router[i]);
  }
  for (double& norm : norms) norm = std::sqrt(norm);
  return norms;
}

double WeightSimilarity::cosine_of(const Weights& a, const Weights& b) {
  double product = 0, square_a = 0, square_b = 0;
  if (a.size() != b.size()) return kUndefined;
  for (auto of_a = a.begin(), of_b = b.begin(); of_a != a.end(); ++of_a, ++of_b) {
    if (of_a->first != of_b->first || of_a->second.size() != of_b->second.size()) return kUndefined;
    for (size_t i = 0; i < of_a->second.size(); ++i) {
      const auto x = static_cast<double>(of_a->second[i]), y = static_cast<double>(of_b->second[i]);
      product += x * y;
      square_a += x * x;
      square_b += y * y;
    }
  }
  return square_a == 0 || square_b == 0 ? kUndefined : product / (std::sqrt(square_a) * std::sqrt(square_b));
}

Result WeightSimilarity::finalize() const {
  Table routers("router_similarity"), experts("expert_weight_similarity");
  auto& component = routers.texts("component");
  auto& layer_a = routers.texts("layer_a");
  auto& layer_b = routers.texts("layer_b");
  auto& router_cosine = routers.reals("cosine");
  auto& norm_correlation = routers.reals("column_norm_correlation");
  auto& expert_component = experts.texts("component");
  auto& expert_layer_a = experts.texts("layer_a");
  auto& expert_layer_b = experts.texts("layer_b");
  auto& delta = experts.integers("delta");
  auto& count = experts.integers("experts");
  auto& expert_cosine = experts.reals("cosine");
  std::vector<std::vector<double>> norms;
  for (const Layer& layer : layers_)
    norms.push_back(layer.router.empty() ? std::vector<double>{} : column_norms(layer));
  for (size_t a = 0; a < layers_.size(); ++a) {
    for (size_t b = a + 1; b < layers_.size(); ++b) {
      const Layer &from = layers_[a], &to = layers_[b];
      if (!from.router.empty() && !to.router.empty()) {
        const bool fits = from.rows == to.rows && from.router.size() == to.router.size();
        component.push_back(shape_.name);
        layer_a.push_back(shape_.layers[a].id);
        layer_b.push_back(shape_.layers[b].id);
        router_cosine.push_back(fits ? cosine(from.router.data(), to.router.data(), from.router.size()) : kUndefined);
        norm_correlation.push_back(fits ? pearson(norms[a].data(), norms[b].data(), norms[a].size()) : kUndefined);
      }
      if (static_cast<int64_t>(b - a) > delta_max_ || from.experts.empty() || to.experts.empty()) continue;
      double sum = 0;
      int64_t compared = 0;
      for (const auto& [expert, weights] : from.experts) {
        const auto found = to.experts.find(expert);
        const double similarity = found == to.experts.end() ? kUndefined : cosine_of(weights, found->second);
        if (similarity != similarity) continue;
        sum += similarity;
        ++compared;
      }
      expert_component.push_back(shape_.name);
      expert_layer_a.push_back(shape_.layers[a].id);
      expert_layer_b.push_back(shape_.layers[b].id);
      delta.push_back(static_cast<int64_t>(b - a));
      count.push_back(compared);
      expert_cosine.push_back(compared == 0 ? kUndefined : sum / static_cast<double>(compared));
    }
  }
  Result result;
  const int64_t router = place_of_largest(router_cosine), expert = place_of_largest(expert_cosine);
  if (router >= 0) {
    const auto row = static_cast<size_t>(router);
    result.sentence = "the routers of layers " + layer_a[row] + " and " + layer_b[row] +
                      " are most alike, with a cosine of " + number_text(router_cosine[row]);
  }
  if (expert >= 0) {
    const auto row = static_cast<size_t>(expert);
    result.sentence += (router >= 0 ? "; the experts of layers " : "the experts of layers ") + expert_layer_a[row] +
                       " and " + expert_layer_b[row] + " are most alike, with a mean cosine of " +
                       number_text(expert_cosine[row]);
  }
  if (router < 0 && expert < 0) result.sentence = "the model gave no two layers with weights to compare";
  result.tables.push_back(std::move(routers));
  result.tables.push_back(std::move(experts));
  return result;
}

}  // namespace

std::unique_ptr<Study> make_weight_similarity(const ComponentShape& shape, const StudyOptions& options) {
  return std::make_unique<WeightSimilarity>(shape, options);
}

}  // namespace moetap::analysis::studies
