#include "analysis/studies/usage_comparison.h"

#include <algorithm>
#include <cmath>
#include <variant>

#include "analysis/studies/expert_counts.h"
#include "analysis/studies/sentence_numbers.h"
#include "analysis/studies/token_runs.h"
#include "analysis/studies/used_experts.h"

namespace moetap::analysis::studies {
namespace {

double usage(const std::vector<int64_t>& uses, size_t expert, int64_t tokens) {
  if (tokens == 0 || expert >= uses.size()) return kUndefined;
  return static_cast<double>(uses[expert]) / static_cast<double>(tokens);
}

class UsageOfTwoRuns : public PairStudy {
 public:
  explicit UsageOfTwoRuns(const PairShape& shape) : shape_(shape), uses_(shape.a.layers.size()) {
    for (size_t l = 0; l < uses_.size(); ++l) {
      uses_[l].a.resize(static_cast<size_t>(shape.a.layers[l].num_experts));
      uses_[l].b.resize(static_cast<size_t>(shape.b.layers[l].num_experts));
    }
  }

  void observe(const PairBatch& batch) override {
    for (size_t l = 0; l < uses_.size(); ++l) {
      count(batch.a, l, uses_[l].a, uses_[l].tokens_a);
      count(batch.b, l, uses_[l].b, uses_[l].tokens_b);
    }
  }
  void merge(const PairStudy& other) override {
    const auto& from = dynamic_cast<const UsageOfTwoRuns&>(other);
    for (size_t l = 0; l < uses_.size(); ++l) {
      add_counts(uses_[l].a, from.uses_[l].a);
      add_counts(uses_[l].b, from.uses_[l].b);
      uses_[l].tokens_a += from.uses_[l].tokens_a;
      uses_[l].tokens_b += from.uses_[l].tokens_b;
    }
  }
  void save(ByteSink& sink) const override {
    for (const LayerUses& uses : uses_) {
      sink.values(uses.a);
      sink.values(uses.b);
      sink.integer(uses.tokens_a);
      sink.integer(uses.tokens_b);
    }
  }
  void load(ByteSource& source) override {
    for (LayerUses& uses : uses_) {
      uses.a = source.values<int64_t>(uses.a.size());
      uses.b = source.values<int64_t>(uses.b.size());
      uses.tokens_a = source.integer();
      uses.tokens_b = source.integer();
    }
  }
  Result finalize() const override {
    Result result;
    result.tables.push_back(usage_comparison(shape_.a.layers, uses_));
    result.sentence = usage_comparison_sentence(result.tables[0], shape_.run_a, shape_.run_b);
    return result;
  }

 private:
  void count(const TokenBatch& batch, size_t l, std::vector<int64_t>& uses, int64_t& tokens) {
    for (int64_t t = 0; t < batch.num_tokens; ++t) {
      if (!has_row(batch, batch.layers[l], t)) continue;
      ++tokens;
      for (const int32_t expert : used_.in_order(batch.layers[l], t)) ++uses[static_cast<size_t>(expert)];
    }
  }

  PairShape shape_;
  std::vector<LayerUses> uses_;
  UsedExperts used_;
};

}  // namespace

Table usage_comparison(const std::vector<LayerShape>& layers, const std::vector<LayerUses>& uses) {
  Table table("usage_comparison");
  auto& layer = table.texts("layer");
  auto& expert_id = table.integers("expert_id");
  auto& a = table.reals("a");
  auto& b = table.reals("b");
  auto& diff = table.reals("diff");
  auto& specialization = table.reals("specialization");
  auto& dominant = table.texts("dominant");
  for (size_t l = 0; l < uses.size(); ++l) {
    for (size_t e = 0; e < std::max(uses[l].a.size(), uses[l].b.size()); ++e) {
      const double of_a = usage(uses[l].a, e, uses[l].tokens_a), of_b = usage(uses[l].b, e, uses[l].tokens_b);
      const double sum = of_a + of_b;
      layer.push_back(layers[l].id);
      expert_id.push_back(static_cast<int64_t>(e));
      a.push_back(of_a);
      b.push_back(of_b);
      diff.push_back(of_a - of_b);
      specialization.push_back(sum == 0 ? 0 : std::abs(of_a - of_b) / sum);
      dominant.push_back(of_a > of_b ? "a" : of_b > of_a ? "b" : "");
    }
  }
  return table;
}

std::string usage_comparison_sentence(const Table& table, const std::string& name_a, const std::string& name_b) {
  const auto& diff = std::get<std::vector<double>>(table.find("diff")->cells);
  std::vector<double> distance;
  for (const double value : diff) distance.push_back(std::abs(value));
  const int64_t most = place_of_largest(distance);
  if (most < 0) return name_a + " and " + name_b + " do not both have tokens";
  const auto row = static_cast<size_t>(most);
  const auto& a = std::get<std::vector<double>>(table.find("a")->cells);
  const auto& b = std::get<std::vector<double>>(table.find("b")->cells);
  if (distance[row] == 0) return name_a + " and " + name_b + " use every expert equally often";
  return "the use of expert " + std::to_string(std::get<std::vector<int64_t>>(table.find("expert_id")->cells)[row]) +
         " in layer " + std::get<std::vector<std::string>>(table.find("layer")->cells)[row] + " differs most: by " +
         percent_text(a[row]) + " of the tokens of " + name_a + " and " + percent_text(b[row]) + " of those of " +
         name_b;
}

std::unique_ptr<PairStudy> make_usage_comparison(const PairShape& shape, const StudyOptions&) {
  return std::make_unique<UsageOfTwoRuns>(shape);
}

}  // namespace moetap::analysis::studies
