#include "analysis/studies/token_expert_enrichment.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "analysis/studies/expert_counts.h"
#include "analysis/studies/hypergeometric.h"
#include "analysis/studies/sentence_numbers.h"
#include "analysis/studies/token_id_blocks.h"
#include "analysis/studies/token_id_counts.h"
#include "analysis/studies/used_rows.h"

namespace moetap::analysis::studies {
namespace {

constexpr uint32_t kMinCount = 5;
constexpr size_t kMaxIdsOfExpert = 50;

struct Pair {
  int32_t expert = 0, token_id = 0;
  int64_t count = 0;
  double lift = 0, log_p = 0;
};

class TokenExpertEnrichment : public Study {
 public:
  TokenExpertEnrichment(const ComponentShape& shape, const StudyOptions& options) : shape_(shape), options_(options) {
    for (const LayerShape& layer : shape.layers) layers_.emplace_back(layer.num_experts);
    std::vector<int64_t> widths;
    for (const LayerShape& layer : shape.layers) widths.push_back(layer.num_experts + 1);
    by_id_ = TokenIdCounts(widths);
  }

  void observe(const TokenBatch& batch) override {
    by_id_.check_room(batch.num_tokens);
    std::vector<const UsedRows*> rows;
    for (size_t l = 0; l < layers_.size(); ++l) {
      rows.push_back(&rows_.distinct(batch, l));
      layers_[l].tokens += rows[l]->num_rows(0, batch.num_tokens);
      rows[l]->add_counts(0, batch.num_tokens, layers_[l].uses.data());
    }
    for_id_blocks(batch, 0, batch.num_tokens, by_id_, [&](int64_t t, size_t row, size_t l) {
      if (!rows[l]->has_row(t)) return;
      by_id_.add(row, l, rows[l]->of(t));
      by_id_.add_one(row, l, static_cast<int32_t>(layers_[l].uses.size()));
    });
  }

  void merge(const Study& other) override {
    const auto& from = dynamic_cast<const TokenExpertEnrichment&>(other);
    for (size_t l = 0; l < layers_.size(); ++l) {
      layers_[l].tokens += from.layers_[l].tokens;
      add_counts(layers_[l].uses, from.layers_[l].uses);
    }
    by_id_.merge(from.by_id_);
  }
  void save(ByteSink& sink) const override {
    for (const Layer& layer : layers_) {
      sink.integer(layer.tokens);
      sink.values(layer.uses);
    }
    by_id_.save(sink);
  }
  void load(ByteSource& source) override {
    for (Layer& layer : layers_) {
      layer.tokens = source.integer();
      layer.uses = source.values<int64_t>(layer.uses.size());
    }
    by_id_.load(source);
  }

  Result finalize() const override;

 private:
  struct Layer {
    explicit Layer(int64_t num_experts) : uses(static_cast<size_t>(num_experts)) {}

    int64_t tokens = 0;         // N
    std::vector<int64_t> uses;  // [E] M
  };

  /// All pairs with a count of kMinCount or more, their p adjusted, the best first.
  std::vector<Pair> pairs_of(size_t l) const;

  ComponentShape shape_;
  StudyOptions options_;
  std::vector<Layer> layers_;
  TokenIdCounts by_id_{{}};  // of each layer: [E] both; last: n
  UsedRowsOfBatch rows_;
};

std::vector<Pair> TokenExpertEnrichment::pairs_of(size_t l) const {
  const Layer& layer = layers_[l];
  std::vector<Pair> pairs;
  std::vector<double> log_p;
  const size_t num_experts = layer.uses.size();
  std::vector<uint32_t> counts;
  for (const int32_t id : by_id_.ids()) {
    by_id_.read(static_cast<size_t>(by_id_.find(id)), l, counts);
    const auto drawn = static_cast<int64_t>(counts[num_experts]);
    for (size_t e = 0; e < num_experts; ++e) {
      if (counts[e] < kMinCount) continue;
      const auto count = static_cast<int64_t>(counts[e]);
      const double lift = static_cast<double>(count) / static_cast<double>(drawn) /
                          (static_cast<double>(layer.uses[e]) / static_cast<double>(layer.tokens));
      pairs.push_back({static_cast<int32_t>(e), id, count, lift, 0});
      log_p.push_back(log_upper_tail({layer.tokens, layer.uses[e], drawn}, count));
    }
  }
  const std::vector<double> adjusted = adjust_log_p_values(log_p);
  for (size_t i = 0; i < pairs.size(); ++i) pairs[i].log_p = adjusted[i];
  std::sort(pairs.begin(), pairs.end(), [](const Pair& a, const Pair& b) {
    if (a.log_p != b.log_p) return a.log_p < b.log_p;
    if (a.lift != b.lift) return a.lift > b.lift;
    return a.token_id != b.token_id ? a.token_id < b.token_id : a.expert < b.expert;
  });
  return pairs;
}

Result TokenExpertEnrichment::finalize() const {
  Table table("token_expert_enrichment");
  auto& component = table.texts("component");
  auto& id = table.texts("layer");
  auto& expert_id = table.integers("expert_id");
  auto& token_id = table.integers("token_id");
  auto& text = table.texts("text");
  auto& count = table.integers("count");
  auto& lift = table.reals("lift");
  auto& p_value = table.reals("p_value");
  const Pair none{};
  Pair best = none;
  std::string best_layer;
  int64_t candidates = 0, significant = 0;
  for (size_t l = 0; l < layers_.size(); ++l) {
    const std::vector<Pair> pairs = pairs_of(l);
    candidates += static_cast<int64_t>(pairs.size());
    for (const Pair& pair : pairs) significant += pair.log_p < std::log(0.01);
    std::vector<std::vector<Pair>> written(layers_[l].uses.size());
    for (const Pair& pair : pairs) {
      std::vector<Pair>& of_expert = written[static_cast<size_t>(pair.expert)];
      if (of_expert.size() < kMaxIdsOfExpert) of_expert.push_back(pair);
    }
    if (!pairs.empty() && (best.count == 0 || pairs.front().log_p < best.log_p)) {
      best = pairs.front();
      best_layer = layer_names(shape_)[l];
    }
    for (std::vector<Pair>& of_expert : written) {
      std::sort(of_expert.begin(), of_expert.end(),
                [](const Pair& a, const Pair& b) { return a.token_id < b.token_id; });
      for (const Pair& pair : of_expert) {
        component.push_back(shape_.name);
        id.push_back(shape_.layers[l].id);
        expert_id.push_back(pair.expert);
        token_id.push_back(pair.token_id);
        text.push_back(options_.token_text ? options_.token_text(pair.token_id) : "");
        count.push_back(pair.count);
        lift.push_back(pair.lift);
        p_value.push_back(std::exp(pair.log_p));
      }
    }
  }
  Result result;
  if (best.count == 0) {
    result.sentence = "no expert saw a token id five times";
  } else {
    const std::string name = options_.token_text ? " (\"" + options_.token_text(best.token_id) + "\")" : "";
    result.sentence = count_text(significant, "pair", "pairs") + " of " + std::to_string(candidates) +
                      " token ids and experts meet more often than chance (adjusted p below 0.01); most of all token " +
                      std::to_string(best.token_id) + name + " and expert " + std::to_string(best.expert) +
                      " of layer " + best_layer + ", " + number_text(best.lift) + " times as often";
  }
  result.tables.push_back(std::move(table));
  return result;
}

}  // namespace

std::unique_ptr<Study> make_token_expert_enrichment(const ComponentShape& shape, const StudyOptions& options) {
  return std::make_unique<TokenExpertEnrichment>(shape, options);
}

}  // namespace moetap::analysis::studies
