#include "analysis/studies/sankey_evolution.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "analysis/studies/expert_ranking.h"
#include "analysis/studies/gate_transitions.h"
#include "analysis/studies/sentence_numbers.h"
#include "analysis/studies/usage_scratch.h"

namespace moetap::analysis::studies {
namespace {

constexpr int64_t kTop = 6;
constexpr double kNotebookScale = 100;
constexpr double kNotebookThreshold = 0.01;  // of T

class SankeyEvolution : public Study {
 public:
  SankeyEvolution(const ComponentShape& shape, const StudyOptions& options)
      : is_notebook_(options.definitions == Definitions::kNotebook),
        padding_(options.notebook_padding),
        top_(options.top > 0 ? options.top : kTop),
        threshold_(options.threshold >= 0 ? options.threshold
                   : is_notebook_         ? kNotebookThreshold
                                          : 0),
        sums_(experts_of_layers(shape)) {
    for (const LayerShape& layer : shape.layers) gates_.emplace_back(1, layer.num_experts);
  }

  void observe(const TokenBatch& batch) override {
    const bool is_by_token = is_notebook_ && padding_ != -1;
    const std::span<const uint8_t> counted = is_by_token ? without(batch, padding_) : batch.valid;
    add_gates(batch, counted);
    const GateTransitions* const shared =
        batch.usage != nullptr && !is_by_token ? batch.usage->transitions_of(batch, false) : nullptr;
    if (shared != nullptr) {
      sums_.merge(*shared);
    } else {
      sums_.add(batch, counted);
    }
  }
  void merge(const Study& other) override {
    const auto& from = dynamic_cast<const SankeyEvolution&>(other);
    sums_.merge(from.sums_);
    for (size_t l = 0; l < gates_.size(); ++l) gates_[l].merge(from.gates_[l]);
  }
  void save(ByteSink& sink) const override {
    sums_.save(sink);
    for (const ExactTable& layer : gates_) layer.save(sink);
  }
  void load(ByteSource& source) override {
    sums_.load(source);
    for (ExactTable& layer : gates_) layer.load(source);
  }

  Result finalize() const override {
    Table table("sankey_evolution");
    auto& from_layer = table.integers("from_layer");
    auto& to_layer = table.integers("to_layer");
    auto& from = table.integers("from_expert");
    auto& to = table.integers("to_expert");
    auto& value = table.reals("value");
    auto& probability = table.reals("probability");
    double shown = 0, flow = 0;
    for (int64_t pair = 0; pair < sums_.num_pairs(); ++pair) {
      const ExactTable& sums = sums_.sums(pair);
      const std::vector<double> totals = row_sums(sums);
      double all = 0;
      for (const double total : totals) all += total;
      flow += all > 0 ? 1 : 0;
      for (const int64_t x : top_of(static_cast<size_t>(pair))) {
        for (const int64_t y : top_of(static_cast<size_t>(pair) + 1)) {
          const double sum = sums.value(x, y);
          const double share = all > 0 ? sum / all : 0;
          if (!((is_notebook_ ? sum : share) > threshold_)) continue;
          from_layer.push_back(pair + 1);
          to_layer.push_back(pair + 2);
          from.push_back(x);
          to.push_back(y);
          value.push_back(is_notebook_ ? kNotebookScale * sum : share);
          probability.push_back(sum / totals[static_cast<size_t>(x)]);
          shown += share;
        }
      }
    }
    Result result;
    result.sentence = "no token was seen by two layers that follow each other";
    if (flow > 0) {
      result.sentence = "the " + std::to_string(top_) + " most important experts of each layer carry " +
                        percent_text(shown / flow) + " of the flow between layers, in " +
                        count_text(static_cast<int64_t>(value.size()), "link", "links");
    }
    if (is_notebook_ && padding_ != -1) {
      result.notices.push_back("as in the notebook, token " + std::to_string(padding_) +
                               " is taken for padding, because a sample of the first ten ends with ten of it");
    }
    result.tables.push_back(std::move(table));
    return result;
  }

 private:
  /// 1 for each token that is not `token`.
  std::span<const uint8_t> without(const TokenBatch& batch, int32_t token) {
    counted_.assign(static_cast<size_t>(batch.num_tokens), 1);
    for (size_t t = 0; t < batch.token_id.size(); ++t) counted_[t] = batch.token_id[t] != token;
    return counted_;
  }

  void add_gates(const TokenBatch& batch, std::span<const uint8_t> counted) {
    for (size_t l = 0; l < gates_.size(); ++l) {
      const LayerTokens& layer = batch.layers[l];
      if (layer.gates.empty()) continue;
      for (int64_t t = 0; t < batch.num_tokens; ++t) {
        if ((!counted.empty() && counted[static_cast<size_t>(t)] == 0) || !layer.has_seen(t)) continue;
        const auto ids = layer.ids_of(t);
        const auto gates = layer.gates_of(t);
        gates_[l].make_room(0, layer.top_k);
        for (size_t k = 0; k < ids.size(); ++k) {
          if (ids[k] >= 0) gates_[l].add_in_room(0, ids[k], gates[k]);
        }
      }
    }
  }

  std::vector<int64_t> top_of(size_t layer) const {
    std::vector<int64_t> experts = ranked(normalized(gates_[layer].values()));
    experts.resize(std::min(experts.size(), static_cast<size_t>(top_)));
    return experts;
  }

  const bool is_notebook_;
  const int32_t padding_;
  const int64_t top_;
  const double threshold_;
  GateTransitions sums_;
  std::vector<ExactTable> gates_;  // [L] of [1, E]
  std::vector<uint8_t> counted_;   // of the batch at hand
};

}  // namespace

std::unique_ptr<Study> make_sankey_evolution(const ComponentShape& shape, const StudyOptions& options) {
  return std::make_unique<SankeyEvolution>(shape, options);
}

}  // namespace moetap::analysis::studies
