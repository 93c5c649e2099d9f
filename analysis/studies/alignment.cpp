#include "analysis/studies/alignment.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <tuple>

#include "analysis/numbers/exact_sum.h"
#include "analysis/studies/sentence_numbers.h"
#include "analysis/studies/token_agreement.h"
#include "analysis/studies/token_runs.h"
#include "analysis/studies/used_experts.h"
#include "analysis/studies/value_digest.h"

namespace moetap::analysis::studies {
namespace {

/// The scoring alone does not order the experts as the choice does.
bool adds_to_scores(const std::string& scoring) {
  return scoring.ends_with("_bias") || scoring == "sparsemixer" || scoring == "hash" || scoring == "none";
}

struct AlignedLayer {
  explicit AlignedLayer(int64_t num_experts) : agreement(num_experts) {}

  TokenAgreement agreement;
  int64_t tokens = 0, unmatched_a = 0, unmatched_b = 0, same_set = 0, same_first = 0;
  ExactSum overlap;
  int64_t weight_tokens = 0, kl_tokens = 0;
  ExactSum weight_l1, kl;
  int64_t not_best = 0;  // tokens of A that did not take the K best scores
  ValueDigest margin_same, margin_changed;
};

/// Note on `PairBatch`: a place that both runs have with different tokens.
bool is_other_token(const PairBatch& batch, int64_t t) {
  if (batch.a.token_id.empty() || batch.b.token_id.empty()) return false;
  const int32_t a = batch.a.token_id[static_cast<size_t>(t)], b = batch.b.token_id[static_cast<size_t>(t)];
  return a >= 0 && b >= 0 && a != b;
}

class Alignment : public PairStudy {
 public:
  explicit Alignment(const PairShape& shape) : shape_(shape) {
    for (size_t l = 0; l < shape.a.layers.size(); ++l) {
      layers_.emplace_back(std::max(shape.a.layers[l].num_experts, shape.b.layers[l].num_experts));
    }
  }

  void observe(const PairBatch& batch) override {
    for (int64_t t = 0; t < batch.a.num_tokens; ++t) other_tokens_ += is_other_token(batch, t);
    changed_layers_.assign(static_cast<size_t>(batch.a.num_tokens), 0);
    is_matched_.assign(static_cast<size_t>(batch.a.num_tokens), 0);
    for (size_t l = 0; l < layers_.size(); ++l) {
      for (int64_t t = 0; t < batch.a.num_tokens; ++t) observe_token(batch, l, t);
    }
    for_samples(batch.a, [&](int64_t first, int64_t last) { observe_sample(batch.a, first, last); });
  }

  void merge(const PairStudy& other) override;
  void save(ByteSink& sink) const override;
  void load(ByteSource& source) override;
  Result finalize() const override;

 private:
  struct Sample {
    int64_t sample = 0, source = 0, tokens = 0, changed_layers = 0;
    int64_t first_changed_position = kNoInteger;
  };

  void observe_token(const PairBatch& batch, size_t l, int64_t t);
  void observe_sample(const TokenBatch& batch, int64_t first, int64_t last);
  std::vector<Sample> sorted_samples() const;
  Table layer_table() const;
  Table sample_table() const;

  static constexpr int64_t AlignedLayer::*kCounts[] = {
      &AlignedLayer::tokens,     &AlignedLayer::unmatched_a,   &AlignedLayer::unmatched_b, &AlignedLayer::same_set,
      &AlignedLayer::same_first, &AlignedLayer::weight_tokens, &AlignedLayer::kl_tokens,   &AlignedLayer::not_best};
  static constexpr ExactSum AlignedLayer::*kSums[] = {&AlignedLayer::overlap, &AlignedLayer::weight_l1,
                                                      &AlignedLayer::kl};
  static constexpr ValueDigest AlignedLayer::*kDigests[] = {&AlignedLayer::margin_same, &AlignedLayer::margin_changed};

  PairShape shape_;
  std::vector<AlignedLayer> layers_;
  std::vector<Sample> samples_;
  int64_t other_tokens_ = 0;
  UsedExperts used_a_, used_b_, ranked_a_, ranked_b_;
  ScoreRanks ranks_;
  std::vector<int32_t> changed_layers_;  // [T] of the batch
  std::vector<uint8_t> is_matched_;      // [T] in some layer
};

void Alignment::observe_token(const PairBatch& batch, size_t l, int64_t t) {
  const LayerTokens &a = batch.a.layers[l], &b = batch.b.layers[l];
  AlignedLayer& layer = layers_[l];
  const bool in_a = has_row(batch.a, a, t), in_b = has_row(batch.b, b, t);
  layer.unmatched_a += in_a && !in_b;
  layer.unmatched_b += in_b && !in_a;
  if (!in_a || !in_b) return;
  const std::span<const int32_t> used_a = used_a_.distinct(a, t), used_b = used_b_.distinct(b, t);
  const int64_t common = layer.agreement.common(used_a, used_b);
  const auto larger = static_cast<int64_t>(std::max(used_a.size(), used_b.size()));
  const bool is_same = common == larger && used_a.size() == used_b.size();
  const std::span<const int32_t> ranked_a = ranked_a_.ranked(a, t), ranked_b = ranked_b_.ranked(b, t);
  ++layer.tokens;
  layer.same_set += is_same;
  layer.same_first += (ranked_a.empty() ? -1 : ranked_a[0]) == (ranked_b.empty() ? -1 : ranked_b[0]);
  layer.overlap.add(larger == 0 ? 1 : static_cast<double>(common) / static_cast<double>(larger));
  is_matched_[static_cast<size_t>(t)] = 1;
  changed_layers_[static_cast<size_t>(t)] += !is_same;
  if (!a.weights.empty() && !b.weights.empty()) {
    ++layer.weight_tokens;
    layer.weight_l1.add(layer.agreement.weight_l1(a, b, t));
  }
  if (!a.logits.empty() && !b.logits.empty() && a.num_experts == b.num_experts) {
    ++layer.kl_tokens;
    layer.kl.add(kl_of_softmaxes(a.logits_of(t), b.logits_of(t)));
  }
  if (!a.scores.empty()) {
    const BestScores best = ranks_.of(a.scores_of(t), a.ids_of(t));
    layer.not_best += !best.takes_best;
    if (std::isfinite(best.margin)) (is_same ? layer.margin_same : layer.margin_changed).add(best.margin);
  }
}

void Alignment::observe_sample(const TokenBatch& batch, int64_t first, int64_t last) {
  const auto i = static_cast<size_t>(first);
  if (batch.sample[i] < 0) return;
  Sample sample{batch.sample[i], batch.source[i]};
  for (int64_t t = first; t < last; ++t) {
    const int64_t changed = changed_layers_[static_cast<size_t>(t)];
    sample.tokens += is_matched_[static_cast<size_t>(t)];
    sample.changed_layers += changed;
    if (changed > 0 && sample.first_changed_position == kNoInteger) {
      sample.first_changed_position = batch.position[static_cast<size_t>(t)];
    }
  }
  if (sample.tokens > 0) samples_.push_back(sample);
}

void Alignment::merge(const PairStudy& other) {
  const auto& from = dynamic_cast<const Alignment&>(other);
  for (size_t l = 0; l < layers_.size(); ++l) {
    for (int64_t AlignedLayer::*count : kCounts) layers_[l].*count += from.layers_[l].*count;
    for (ExactSum AlignedLayer::*sum : kSums) (layers_[l].*sum).merge(from.layers_[l].*sum);
    for (ValueDigest AlignedLayer::*digest : kDigests) (layers_[l].*digest).merge(from.layers_[l].*digest);
  }
  samples_.insert(samples_.end(), from.samples_.begin(), from.samples_.end());
  other_tokens_ += from.other_tokens_;
}

void Alignment::save(ByteSink& sink) const {
  for (const AlignedLayer& layer : layers_) {
    for (int64_t AlignedLayer::*count : kCounts) sink.integer(layer.*count);
    for (ExactSum AlignedLayer::*sum : kSums) sink.sum(layer.*sum);
    for (ValueDigest AlignedLayer::*digest : kDigests) (layer.*digest).save(sink);
  }
  sink.values(sorted_samples());
  sink.integer(other_tokens_);
}

void Alignment::load(ByteSource& source) {
  for (AlignedLayer& layer : layers_) {
    for (int64_t AlignedLayer::*count : kCounts) layer.*count = source.integer();
    for (ExactSum AlignedLayer::*sum : kSums) layer.*sum = source.sum();
    for (ValueDigest AlignedLayer::*digest : kDigests) (layer.*digest).load(source);
  }
  samples_ = source.values<Sample>();
  other_tokens_ = source.integer();
}

std::vector<Alignment::Sample> Alignment::sorted_samples() const {
  std::vector<Sample> samples = samples_;
  std::sort(samples.begin(), samples.end(), [](const Sample& a, const Sample& b) {
    return std::tie(a.sample, a.source) < std::tie(b.sample, b.source);
  });
  return samples;
}

double share(double part, int64_t of) {
  return of == 0 ? kUndefined : part / static_cast<double>(of);
}

/// The mean over the terms that were in range.
double mean(const ExactSum& sum, int64_t terms) {
  return share(sum.value(), terms - sum.out_of_range());
}

Table Alignment::layer_table() const {
  Table table("alignment");
  auto& component = table.texts("component");
  auto& id = table.texts("layer");
  auto& tokens = table.integers("tokens");
  auto& unmatched_a = table.integers("unmatched_a");
  auto& unmatched_b = table.integers("unmatched_b");
  auto& same_set = table.reals("same_set");
  auto& same_first = table.reals("same_first");
  auto& overlap = table.reals("overlap");
  auto& weight_l1 = table.reals("weight_l1");
  auto& kl = table.reals("kl");
  auto& margin_same = table.reals("margin_same");
  auto& margin_changed = table.reals("margin_changed");
  for (size_t l = 0; l < layers_.size(); ++l) {
    const AlignedLayer& layer = layers_[l];
    const bool has_margins = layer.not_best == 0 && !adds_to_scores(shape_.a.layers[l].scoring);
    component.push_back(shape_.a.name);
    id.push_back(shape_.a.layers[l].id);
    tokens.push_back(layer.tokens);
    unmatched_a.push_back(layer.unmatched_a);
    unmatched_b.push_back(layer.unmatched_b);
    same_set.push_back(share(static_cast<double>(layer.same_set), layer.tokens));
    same_first.push_back(share(static_cast<double>(layer.same_first), layer.tokens));
    overlap.push_back(mean(layer.overlap, layer.tokens));
    weight_l1.push_back(mean(layer.weight_l1, layer.weight_tokens));
    kl.push_back(mean(layer.kl, layer.kl_tokens));
    margin_same.push_back(has_margins ? layer.margin_same.median() : kUndefined);
    margin_changed.push_back(has_margins ? layer.margin_changed.median() : kUndefined);
  }
  return table;
}

Table Alignment::sample_table() const {
  Table table("alignment_samples");
  auto& component = table.texts("component");
  auto& number = table.integers("sample");
  auto& tokens = table.integers("tokens");
  auto& changed = table.reals("changed_layers_mean");
  auto& position = table.integers("first_changed_position");
  for (const Sample& sample : sorted_samples()) {
    component.push_back(shape_.a.name);
    number.push_back(sample.sample);
    tokens.push_back(sample.tokens);
    changed.push_back(share(static_cast<double>(sample.changed_layers), sample.tokens));
    position.push_back(sample.first_changed_position);
  }
  return table;
}

Result Alignment::finalize() const {
  Result result;
  Table layers = layer_table();
  const auto& same_set = std::get<std::vector<double>>(layers.find("same_set")->cells);
  const auto& overlap = std::get<std::vector<double>>(layers.find("overlap")->cells);
  int64_t tokens = 0, same = 0, unmatched = 0;
  for (size_t l = 0; l < layers_.size(); ++l) {
    const AlignedLayer& layer = layers_[l];
    const std::string& id = shape_.a.layers[l].id;
    tokens += layer.tokens;
    same += layer.same_set;
    unmatched += layer.unmatched_a + layer.unmatched_b;
    if (const int64_t beyond = layer.weight_l1.out_of_range() + layer.kl.out_of_range(); beyond > 0) {
      result.notices.push_back("layer " + id + ": " + count_text(beyond, "value", "values") +
                               " of weight_l1 or kl not finite, left out of the means");
    }
    if (const int bits = std::max(layer.margin_same.rounded_bits(), layer.margin_changed.rounded_bits()); bits > 0) {
      result.notices.push_back("layer " + id + ": medians of margins are of values rounded to " +
                               std::to_string(52 - bits) + " bits");
    }
  }
  if (other_tokens_ > 0) {
    result.notices.push_back(shape_.a.name + ": " + count_text(other_tokens_, "token has", "tokens have") +
                             " another id in the other run: without a partner, though sample and position agree");
  }
  if (const int64_t worst = place_of_smallest(same_set); worst >= 0) {
    const auto l = static_cast<size_t>(worst);
    result.sentence = percent_text(share(static_cast<double>(same), tokens)) +
                      " of the tokens' expert sets are the same in both runs; least in layer " + shape_.a.layers[l].id +
                      ": " + percent_text(same_set[l]) + " (mean overlap " + percent_text(overlap[l]) + ")";
    if (unmatched > 0) result.sentence += "; " + count_text(unmatched, "row", "rows") + " without a partner";
  } else {
    result.sentence =
        "the runs have no token in common; " + count_text(unmatched, "row", "rows") + " without a partner";
  }
  result.tables.push_back(std::move(layers));
  result.tables.push_back(sample_table());
  return result;
}

}  // namespace

std::unique_ptr<PairStudy> make_alignment(const PairShape& shape, const StudyOptions&) {
  return std::make_unique<Alignment>(shape);
}

}  // namespace moetap::analysis::studies
