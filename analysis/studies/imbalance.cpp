#include "analysis/studies/imbalance.h"

#include <algorithm>
#include <string>
#include <utility>

#include "analysis/studies/expert_counts.h"
#include "analysis/studies/percentiles.h"
#include "analysis/studies/sentence_numbers.h"
#include "analysis/studies/token_runs.h"
#include "analysis/studies/used_rows.h"

namespace moetap::analysis::studies {
namespace {

class Imbalance : public Study {
 public:
  explicit Imbalance(const ComponentShape& shape) : shape_(shape), layers_(shape.layers.size()) {
    for (size_t l = 0; l < layers_.size(); ++l) {
      layers_[l].counts.resize(static_cast<size_t>(shape.layers[l].num_experts));
    }
  }

  void observe(const TokenBatch& batch) override {
    std::vector<std::pair<int64_t, int64_t>> forwards;
    for_forwards(batch, [&](int64_t first, int64_t last) { forwards.emplace_back(first, last); });
    for (size_t l = 0; l < layers_.size(); ++l) {
      const UsedRows& rows = rows_.in_order(batch, l);
      rows.add_counts(0, batch.num_tokens, layers_[l].counts.data());
      const auto experts = static_cast<int64_t>(layers_[l].counts.size());
      for (const auto& [first, last] : forwards) {
        if (last - first >= experts) observe_forward(rows, layers_[l], first, last);
      }
    }
  }

  void merge(const Study& other) override {
    const auto& from = dynamic_cast<const Imbalance&>(other);
    for (size_t l = 0; l < layers_.size(); ++l) {
      add_counts(layers_[l].counts, from.layers_[l].counts);
      layers_[l].ratios.insert(layers_[l].ratios.end(), from.layers_[l].ratios.begin(), from.layers_[l].ratios.end());
    }
  }

  void save(ByteSink& sink) const override {
    for (const Layer& layer : layers_) {
      sink.values(layer.counts);
      sink.values(sorted_ratios(layer));
    }
  }
  void load(ByteSource& source) override {
    for (Layer& layer : layers_) {
      layer.counts = source.values<int64_t>(layer.counts.size());
      layer.ratios = finite_values(source);
    }
  }

  Result finalize() const override {
    Table table("imbalance");
    auto& component = table.texts("component");
    auto& id = table.texts("layer");
    auto& forwards = table.integers("forwards");
    auto& run = table.reals("run");
    auto& p50 = table.reals("p50");
    auto& p95 = table.reals("p95");
    auto& largest = table.reals("max");
    for (size_t l = 0; l < layers_.size(); ++l) {
      const std::vector<double> ratios = sorted_ratios(layers_[l]);
      component.push_back(shape_.name);
      id.push_back(shape_.layers[l].id);
      forwards.push_back(static_cast<int64_t>(ratios.size()));
      run.push_back(max_over_mean(layers_[l].counts));
      p50.push_back(percentile(ratios, 0.5));
      p95.push_back(percentile(ratios, 0.95));
      largest.push_back(ratios.empty() ? kUndefined : ratios.back());
    }
    Result result;
    if (const int64_t worst = place_of_largest(p95); worst >= 0) {
      const auto l = static_cast<size_t>(worst);
      result.sentence = "in layer " + id[l] + " the busiest expert is used " + number_text(run[l]) +
                        " times the mean over the run, but " + number_text(p95[l]) +
                        " times or more in one forward of twenty, at most " + number_text(largest[l]);
    } else if (const int64_t busiest = place_of_largest(run); busiest >= 0) {
      const auto l = static_cast<size_t>(busiest);
      result.sentence = "the busiest expert of layer " + id[l] + " is used " + number_text(run[l]) +
                        " times the mean over the run; no forward has as many tokens as its layer has experts";
    } else {
      result.sentence = "no expert was used";
    }
    result.tables.push_back(std::move(table));
    return result;
  }

 private:
  struct Layer {
    std::vector<int64_t> counts;  // [E]
    std::vector<double> ratios;   // of forwards of at least E tokens
  };

  void observe_forward(const UsedRows& rows, Layer& layer, int64_t first, int64_t last) {
    if (rows.num_rows(first, last) < static_cast<int64_t>(layer.counts.size())) return;
    forward_counts_.assign(layer.counts.size(), 0);
    rows.add_counts(first, last, forward_counts_.data());
    const double ratio = max_over_mean(forward_counts_);
    if (ratio == ratio) layer.ratios.push_back(ratio);
  }

  static std::vector<double> sorted_ratios(const Layer& layer) {
    std::vector<double> ratios = layer.ratios;
    std::sort(ratios.begin(), ratios.end());
    return ratios;
  }

  ComponentShape shape_;
  std::vector<Layer> layers_;
  UsedRowsOfBatch rows_;
  std::vector<int64_t> forward_counts_;  // [E]
};

}  // namespace

std::unique_ptr<Study> make_imbalance(const ComponentShape& shape, const StudyOptions&) {
  return std::make_unique<Imbalance>(shape);
}

}  // namespace moetap::analysis::studies
