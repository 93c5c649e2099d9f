#include "analysis/studies/groups.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "analysis/studies/group_samples.h"
#include "analysis/studies/percentiles.h"
#include "analysis/studies/seeded_random.h"
#include "analysis/studies/sentence_numbers.h"

namespace moetap::analysis::studies {
namespace {

using LayerCounts = GroupSamples::LayerCounts;

class Groups : public Study {
 public:
  Groups(const ComponentShape& shape, const StudyOptions& options)
      : shape_(shape), options_(options), samples_(shape) {}

  void observe(const TokenBatch& batch) override { samples_.observe(batch); }
  void merge(const Study& other) override { samples_.merge(dynamic_cast<const Groups&>(other).samples_); }
  void save(ByteSink& sink) const override { samples_.save(sink); }
  void load(ByteSource& source) override { samples_.load(source); }
  Result finalize() const override;

 private:
  struct Bounds {
    std::vector<double> low, high;  // [E]
  };
  Bounds bootstrap(const LayerCounts& counts, size_t group, size_t num_experts) const;
  double permutation_p(const LayerCounts& counts, size_t a, size_t b, size_t num_experts, double divergence) const;

  ComponentShape shape_;
  StudyOptions options_;
  GroupSamples samples_;
};

/// Sums of the uses of the samples [first, last).
std::vector<double> sum_of(const LayerCounts& counts, size_t first, size_t last, size_t num_experts) {
  std::vector<double> sums(num_experts);
  for (size_t s = first; s < last; ++s) {
    for (size_t e = 0; e < num_experts; ++e) sums[e] += counts.uses[s * num_experts + e];
  }
  return sums;
}

double tokens_of(const LayerCounts& counts, size_t group) {
  double tokens = 0;
  for (size_t s = counts.first_sample[group]; s < counts.first_sample[group + 1]; ++s) tokens += counts.tokens[s];
  return tokens;
}

Groups::Bounds Groups::bootstrap(const LayerCounts& counts, size_t group, size_t num_experts) const {
  const size_t first = counts.first_sample[group], size = counts.first_sample[group + 1] - first;
  SeededRandom random(options_.seed, "usage " + shape_.groups[group]);  // the same samples in every layer
  std::vector<uint32_t> times(size);
  std::vector<double> sums(num_experts);
  std::vector<std::vector<double>> usages(num_experts);
  for (int64_t draw = 0; draw < options_.draws; ++draw) {
    std::fill(times.begin(), times.end(), 0u);
    for (size_t s = 0; s < size; ++s) ++times[random.below(size)];
    std::fill(sums.begin(), sums.end(), 0.0);
    double tokens = 0;
    for (size_t s = 0; s < size; ++s) {
      if (times[s] == 0) continue;
      const auto weight = static_cast<double>(times[s]);
      const double* const uses = counts.uses.data() + (first + s) * num_experts;
      tokens += weight * counts.tokens[first + s];
      for (size_t e = 0; e < num_experts; ++e) sums[e] += weight * uses[e];
    }
    if (tokens == 0) continue;
    for (size_t e = 0; e < num_experts; ++e) usages[e].push_back(sums[e] / tokens);
  }
  Bounds bounds;
  for (std::vector<double>& of_expert : usages) {
    std::sort(of_expert.begin(), of_expert.end());
    bounds.low.push_back(percentile(of_expert, 0.025));
    bounds.high.push_back(percentile(of_expert, 0.975));
  }
  return bounds;
}

double Groups::permutation_p(const LayerCounts& counts, size_t a, size_t b, size_t num_experts,
                             double divergence) const {
  std::vector<uint32_t> samples;
  for (const size_t group : {a, b}) {
    for (size_t s = counts.first_sample[group]; s < counts.first_sample[group + 1]; ++s) {
      samples.push_back(static_cast<uint32_t>(s));
    }
  }
  const std::vector<uint32_t> in_order = samples;
  const size_t size_a = counts.first_sample[a + 1] - counts.first_sample[a];
  std::vector<double> all = sum_of(counts, counts.first_sample[a], counts.first_sample[a + 1], num_experts);
  const std::vector<double> of_b = sum_of(counts, counts.first_sample[b], counts.first_sample[b + 1], num_experts);
  for (size_t e = 0; e < num_experts; ++e) all[e] += of_b[e];
  // Counts are whole numbers, so sums are exact; only the divergence is rounded.
  const double at_least = divergence * (1 - 1e-12);
  SeededRandom random(options_.seed, "difference " + shape_.groups[a] + "\n" + shape_.groups[b]);
  std::vector<double> chosen(num_experts), rest(num_experts);
  int64_t hits = 0;
  for (int64_t draw = 0; draw < options_.draws; ++draw) {
    samples = in_order;
    random.choose(samples, size_a);
    std::fill(chosen.begin(), chosen.end(), 0.0);
    for (size_t i = 0; i < size_a; ++i) {
      const double* const uses = counts.uses.data() + samples[i] * num_experts;
      for (size_t e = 0; e < num_experts; ++e) chosen[e] += uses[e];
    }
    for (size_t e = 0; e < num_experts; ++e) rest[e] = all[e] - chosen[e];
    hits += js_divergence(chosen.data(), rest.data(), num_experts) >= at_least;
  }
  return static_cast<double>(1 + hits) / static_cast<double>(1 + options_.draws);
}

Result Groups::finalize() const {
  Table usage("group_usage"), difference("group_difference");
  auto& component = usage.texts("component");
  auto& id = usage.texts("layer");
  auto& group_name = usage.texts("group");
  auto& samples = usage.integers("samples");
  auto& tokens = usage.integers("tokens");
  auto& expert_id = usage.integers("expert_id");
  auto& mean = usage.reals("usage");
  auto& low = usage.reals("usage_low");
  auto& high = usage.reals("usage_high");
  auto& pair_component = difference.texts("component");
  auto& pair_layer = difference.texts("layer");
  auto& group_a = difference.texts("group_a");
  auto& group_b = difference.texts("group_b");
  auto& divergence = difference.reals("js_divergence");
  auto& p_value = difference.reals("p_value");
  const std::vector<std::string> names = layer_names(shape_);
  std::vector<std::string> pair_name;
  const size_t num_groups = shape_.groups.size();
  samples_.for_layers([&](size_t l, const LayerCounts& counts) {
    const auto num_experts = static_cast<size_t>(shape_.layers[l].num_experts);
    std::vector<std::vector<double>> sums;
    for (size_t g = 0; g < num_groups; ++g) {
      const size_t first = counts.first_sample[g], last = counts.first_sample[g + 1];
      const double group_tokens = tokens_of(counts, g);
      const Bounds bounds = bootstrap(counts, g, num_experts);
      sums.push_back(sum_of(counts, first, last, num_experts));
      for (size_t e = 0; e < num_experts; ++e) {
        component.push_back(shape_.name);
        id.push_back(shape_.layers[l].id);
        group_name.push_back(shape_.groups[g]);
        samples.push_back(static_cast<int64_t>(last - first));
        tokens.push_back(static_cast<int64_t>(group_tokens));
        expert_id.push_back(static_cast<int64_t>(e));
        mean.push_back(group_tokens == 0 ? kUndefined : sums[g][e] / group_tokens);
        low.push_back(bounds.low[e]);
        high.push_back(bounds.high[e]);
      }
    }
    for (size_t a = 0; a < num_groups; ++a) {
      for (size_t b = a + 1; b < num_groups; ++b) {
        const double between = js_divergence(sums[a].data(), sums[b].data(), num_experts);
        pair_component.push_back(shape_.name);
        pair_layer.push_back(shape_.layers[l].id);
        pair_name.push_back(names[l]);
        group_a.push_back(shape_.groups[a]);
        group_b.push_back(shape_.groups[b]);
        divergence.push_back(between);
        p_value.push_back(between == between ? permutation_p(counts, a, b, num_experts, between) : kUndefined);
      }
    }
  });
  Result result;
  if (const int64_t most = place_of_largest(divergence); most >= 0) {
    const auto row = static_cast<size_t>(most);
    const auto different = std::count_if(p_value.begin(), p_value.end(), [](double p) { return p < 0.05; });
    result.sentence = "groups " + group_a[row] + " and " + group_b[row] + " differ most, in layer " + pair_name[row] +
                      ": " + number_text(divergence[row]) + " bits, p = " + number_text(p_value[row]) +
                      "; p is below 0.05 in " + std::to_string(different) + " of " + std::to_string(p_value.size()) +
                      " comparisons, where chance gives " + number_text(0.05 * static_cast<double>(p_value.size()));
  } else {
    result.sentence = "there are no two groups with used experts to compare";
  }
  if (samples_.left_out() > 0) {
    result.notices.push_back(count_text(samples_.left_out(), "token", "tokens") +
                             " of no known sample or group left out");
  }
  result.tables.push_back(std::move(usage));
  result.tables.push_back(std::move(difference));
  return result;
}

}  // namespace

double js_divergence(const double* a, const double* b, size_t size) {
  double sum_a = 0, sum_b = 0;
  for (size_t i = 0; i < size; ++i) {
    sum_a += a[i];
    sum_b += b[i];
  }
  if (sum_a == 0 || sum_b == 0) return kUndefined;
  double divergence = 0;
  for (size_t i = 0; i < size; ++i) {
    const double p = a[i] / sum_a, q = b[i] / sum_b, middle = (p + q) / 2;
    if (p > 0) divergence += 0.5 * p * std::log2(p / middle);
    if (q > 0) divergence += 0.5 * q * std::log2(q / middle);
  }
  return std::max(divergence, 0.0);
}

std::unique_ptr<Study> make_groups(const ComponentShape& shape, const StudyOptions& options) {
  return std::make_unique<Groups>(shape, options);
}

}  // namespace moetap::analysis::studies
