#include "analysis/studies/expert_transitions.h"

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "analysis/studies/gate_transitions.h"
#include "analysis/studies/sentence_numbers.h"
#include "analysis/studies/usage_scratch.h"

namespace moetap::analysis::studies {
namespace {

class ExpertTransitions : public Study {
 public:
  ExpertTransitions(const ComponentShape& shape, const StudyOptions& options)
      : names_(layer_names(shape)),
        is_notebook_(options.definitions == Definitions::kNotebook),
        sums_(experts_of_layers(shape)) {}

  void observe(const TokenBatch& batch) override {
    const GateTransitions* const shared =
        batch.usage != nullptr ? batch.usage->transitions_of(batch, is_notebook_) : nullptr;
    if (shared != nullptr) {
      sums_.merge(*shared);
    } else {
      sums_.add(batch, is_notebook_ ? std::span<const uint8_t>{} : batch.valid);
    }
  }
  void merge(const Study& other) override { sums_.merge(dynamic_cast<const ExpertTransitions&>(other).sums_); }
  void save(ByteSink& sink) const override { sums_.save(sink); }
  void load(ByteSource& source) override { sums_.load(source); }

  Result finalize() const override {
    Table table("expert_transitions");
    auto& from_layer = table.integers("from_layer");
    auto& to_layer = table.integers("to_layer");
    auto& from = table.integers("from_expert");
    auto& to = table.integers("to_expert");
    auto& weight = table.reals("weight");
    auto& probability = table.reals("probability");
    Result result;
    result.sentence = "no token was seen by two layers that follow each other";
    double best_share = 0;
    for (int64_t pair = 0; pair < sums_.num_pairs(); ++pair) {
      const ExactTable& sums = sums_.sums(pair);
      const std::vector<double> totals = row_sums(sums);
      double all = 0;
      for (const double total : totals) all += total;
      for (int64_t x = 0; x < sums.rows(); ++x) {
        for (int64_t y = 0; y < sums.width(); ++y) {
          const double value = sums.value(x, y);
          if (!(value > 0)) continue;
          from_layer.push_back(pair + 1);
          to_layer.push_back(pair + 2);
          from.push_back(x);
          to.push_back(y);
          weight.push_back(value);
          probability.push_back(value / totals[static_cast<size_t>(x)]);
          if (value / all > best_share) {
            best_share = value / all;
            result.sentence =
                "the strongest transition is from expert " + std::to_string(x) + " of layer " +
                names_[static_cast<size_t>(pair)] + " to expert " + std::to_string(y) + " of layer " +
                names_[static_cast<size_t>(pair) + 1] + ": " + percent_text(best_share) +
                " of the flow between the two layers, and " + percent_text(probability.back()) +
                " of what the first expert sends on (uniform: " + percent_text(1 / static_cast<double>(sums.width())) +
                ")";
          }
        }
      }
    }
    if (sums_.out_of_range() > 0) {
      result.notices.push_back(std::to_string(sums_.out_of_range()) +
                               " products of gates are infinite, NaN or beyond 6.7e7 and were left out");
    }
    result.tables.push_back(std::move(table));
    return result;
  }

 private:
  const std::vector<std::string> names_;  // [L]
  const bool is_notebook_;
  GateTransitions sums_;
};

}  // namespace

std::unique_ptr<Study> make_expert_transitions(const ComponentShape& shape, const StudyOptions& options) {
  return std::make_unique<ExpertTransitions>(shape, options);
}

}  // namespace moetap::analysis::studies
