#include "analysis/studies/placement.h"

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "analysis/studies/expert_counts.h"
#include "analysis/studies/gpu_sets.h"
#include "analysis/studies/percentiles.h"
#include "analysis/studies/sentence_numbers.h"
#include "analysis/studies/token_runs.h"
#include "analysis/studies/used_rows.h"

namespace moetap::analysis::studies {
namespace {

constexpr int64_t kMinForwardTokens = 256;

struct Placement {
  int64_t num_gpus = 0;
  std::string name;
  std::vector<int32_t> gpu;  // [E]
};

std::vector<int64_t> gpu_loads(const Placement& placement, std::span<const int64_t> counts) {
  std::vector<int64_t> loads(static_cast<size_t>(placement.num_gpus));
  for (size_t e = 0; e < counts.size(); ++e) loads[static_cast<size_t>(placement.gpu[e])] += counts[e];
  return loads;
}

class PlacementStudy : public Study {
 public:
  PlacementStudy(const ComponentShape& shape, const StudyOptions& options) : shape_(shape), options_(options) {
    layers_.resize(shape.layers.size());
    for (size_t l = 0; l < layers_.size(); ++l) layers_[l].counts.resize(num_experts(l));
    has_file_ = !options.placement.empty();
    if (has_file_) {
      for (size_t l = 0; l < layers_.size(); ++l) set_placements(l, {placement_of_file(l)});
    }
  }

  int num_passes() const override { return has_file_ ? 1 : 2; }

  void begin_pass(int pass) override {
    if (pass != 1 || has_file_) return;
    scores_ = true;
    for (size_t l = 0; l < layers_.size(); ++l) place_by_counts(l);
  }

  std::unique_ptr<Study> fork() const override {
    auto copy = std::make_unique<PlacementStudy>(shape_, options_);
    copy->scores_ = scores_;
    for (size_t l = 0; scores_ && l < layers_.size(); ++l) {
      copy->layers_[l].counts = layers_[l].counts;
      copy->set_placements(l, layers_[l].placements);
    }
    return copy;
  }

  void observe(const TokenBatch& batch) override {
    std::vector<std::pair<int64_t, int64_t>> forwards;
    const bool scores = scores_ || has_file_;
    if (scores) for_forwards(batch, [&](int64_t first, int64_t last) { forwards.emplace_back(first, last); });
    for (size_t l = 0; l < layers_.size(); ++l) {
      const UsedRows& rows = rows_.in_order(batch, l);
      Layer& layer = layers_[l];
      if (counts_run()) rows.add_counts(0, batch.num_tokens, layer.counts.data());
      if (!scores) continue;
      layer.tokens += rows.num_rows(0, batch.num_tokens);
      layer.sets->add(rows);
      layer.sets->take(layer.fanout);
      for (const auto& [first, last] : forwards) {
        if (last - first >= kMinForwardTokens) score_forward(rows, layer, first, last);
      }
    }
  }

  void merge(const Study& other) override {
    const auto& from = dynamic_cast<const PlacementStudy&>(other);
    if (from.scores_ != scores_) throw std::logic_error("placement: only sums of one pass can be merged");
    for (size_t l = 0; l < layers_.size(); ++l) {
      Layer& layer = layers_[l];
      const Layer& added = from.layers_[l];
      if (counts_run()) add_counts(layer.counts, added.counts);
      layer.tokens += added.tokens;
      add_counts(layer.fanout, added.fanout);
      for (size_t p = 0; p < layer.ratios.size(); ++p) {
        layer.ratios[p].insert(layer.ratios[p].end(), added.ratios[p].begin(), added.ratios[p].end());
      }
    }
  }

  void save(ByteSink& sink) const override {
    sink.integer(scores_);
    for (const Layer& layer : layers_) {
      sink.values(layer.counts);
      sink.integer(layer.tokens);
      sink.values(layer.fanout);
      for (const std::vector<double>& ratios : layer.ratios) sink.values(sorted(ratios));
    }
  }
  void load(ByteSource& source) override {
    scores_ = source.integer() != 0;
    for (size_t l = 0; l < layers_.size(); ++l) {
      Layer& layer = layers_[l];
      layer.counts = source.values<int64_t>(num_experts(l));
      if (std::any_of(layer.counts.begin(), layer.counts.end(), [](int64_t count) { return count < 0; })) {
        ByteSource::refuse();
      }
      if (scores_) place_by_counts(l);
      layer.tokens = source.integer();
      layer.fanout = source.values<int64_t>(layer.fanout.size());
      for (std::vector<double>& ratios : layer.ratios) ratios = finite_values(source);
    }
  }

  Result finalize() const override;

 private:
  struct Layer {
    std::vector<int64_t> counts;  // [E] of the run
    std::vector<Placement> placements;
    int64_t tokens = 0;                       // that fanout is a mean over
    std::vector<int64_t> fanout;              // [placement]
    std::vector<std::vector<double>> ratios;  // [placement] of forwards
    std::optional<GpuSets> sets;
  };

  size_t num_experts(size_t l) const { return static_cast<size_t>(shape_.layers[l].num_experts); }
  bool counts_run() const { return !scores_; }

  Placement placement_of_file(size_t l) const {
    const std::string& id = shape_.layers[l].id;
    const auto found = options_.placement.find(id);
    if (found == options_.placement.end()) throw std::runtime_error("--placement has no layer \"" + id + "\"");
    if (found->second.size() != num_experts(l)) {
      throw std::runtime_error("--placement: layer \"" + id + "\" must have a GPU for each of its " +
                               std::to_string(num_experts(l)) + " experts, got " +
                               std::to_string(found->second.size()));
    }
    const auto [least, most] = std::minmax_element(found->second.begin(), found->second.end());
    if (num_experts(l) == 0) return {0, "file", {}};
    if (*least < 0 || *most >= kMaxGpus) {
      throw std::runtime_error("--placement: layer \"" + id + "\" has a GPU outside 0 .. " +
                               std::to_string(kMaxGpus - 1));
    }
    return {*most + int64_t{1}, "file", found->second};
  }

  void place_by_counts(size_t l) {
    std::vector<Placement> placements;
    const std::vector<int64_t>& counts = layers_[l].counts;
    const auto experts = static_cast<int64_t>(counts.size());
    for (int64_t gpus = 2; gpus <= experts; gpus *= 2) {
      if (experts % gpus != 0) continue;
      placements.push_back({gpus, "balanced", balanced_placement(counts, gpus)});
      placements.push_back({gpus, "contiguous", contiguous_placement(experts, gpus)});
    }
    set_placements(l, std::move(placements));
  }

  void set_placements(size_t l, std::vector<Placement> placements) {
    Layer& layer = layers_[l];
    layer.placements = std::move(placements);
    layer.tokens = 0;
    layer.fanout.assign(layer.placements.size(), 0);
    layer.ratios.assign(layer.placements.size(), {});
    std::vector<std::vector<int32_t>> gpus;
    std::vector<int64_t> num_gpus;
    for (const Placement& placement : layer.placements) {
      gpus.push_back(placement.gpu);
      num_gpus.push_back(placement.num_gpus);
    }
    layer.sets.emplace(gpus, num_gpus, num_experts(l));
  }

  void score_forward(const UsedRows& rows, Layer& layer, int64_t first, int64_t last) {
    if (rows.num_rows(first, last) < kMinForwardTokens) return;
    forward_counts_.assign(layer.counts.size(), 0);
    rows.add_counts(first, last, forward_counts_.data());
    for (size_t p = 0; p < layer.placements.size(); ++p) {
      const double ratio = max_over_mean(gpu_loads(layer.placements[p], forward_counts_));
      if (ratio == ratio) layer.ratios[p].push_back(ratio);
    }
  }

  static std::vector<double> sorted(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values;
  }

  static constexpr int64_t kMaxGpus = 65536;
  ComponentShape shape_;
  StudyOptions options_;
  bool has_file_ = false;
  bool scores_ = false;  // the second pass: the placements are fixed
  std::vector<Layer> layers_;
  UsedRowsOfBatch rows_;
  std::vector<int64_t> forward_counts_;  // [E]
};

Result PlacementStudy::finalize() const {
  Table table("placement");
  auto& component = table.texts("component");
  auto& id = table.texts("layer");
  auto& gpus = table.integers("gpus");
  auto& name = table.texts("placement");
  auto& run = table.reals("imbalance_run");
  auto& p50 = table.reals("imbalance_p50");
  auto& p95 = table.reals("imbalance_p95");
  auto& largest = table.reals("imbalance_max");
  auto& fanout = table.reals("fanout");
  for (size_t l = 0; l < layers_.size(); ++l) {
    const Layer& layer = layers_[l];
    for (size_t p = 0; p < layer.placements.size(); ++p) {
      const Placement& placement = layer.placements[p];
      const std::vector<double> ratios = sorted(layer.ratios[p]);
      component.push_back(shape_.name);
      id.push_back(shape_.layers[l].id);
      gpus.push_back(placement.num_gpus);
      name.push_back(placement.name);
      run.push_back(max_over_mean(gpu_loads(placement, layer.counts)));
      p50.push_back(percentile(ratios, 0.5));
      p95.push_back(percentile(ratios, 0.95));
      largest.push_back(ratios.empty() ? kUndefined : ratios.back());
      fanout.push_back(layer.tokens == 0 ? kUndefined
                                         : static_cast<double>(layer.fanout[p]) / static_cast<double>(layer.tokens));
    }
  }
  Result result;
  if (const int64_t worst = place_of_largest(run); worst >= 0) {
    const auto row = static_cast<size_t>(worst);
    result.sentence = "the busiest of " + std::to_string(gpus[row]) + " GPUs does " + number_text(run[row]) +
                      " times the mean in layer " + id[row] + " (" + name[row] + "), where a token's experts lie on " +
                      number_text(fanout[row]) + " GPUs";
    for (size_t other = 0; other < gpus.size(); ++other) {
      if (name[row] == "contiguous" && id[other] == id[row] && gpus[other] == gpus[row] && name[other] == "balanced") {
        result.sentence += "; balanced by the run's counts it does " + number_text(run[other]);
      }
    }
  } else {
    result.sentence =
        gpus.empty() ? "no number of GPUs from 2, 4, 8, ... divides the number of experts" : "no expert was used";
  }
  result.tables.push_back(std::move(table));
  return result;
}

}  // namespace

std::vector<int32_t> contiguous_placement(int64_t num_experts, int64_t num_gpus) {
  std::vector<int32_t> gpu;
  for (int64_t e = 0; e < num_experts; ++e) gpu.push_back(static_cast<int32_t>(e * num_gpus / num_experts));
  return gpu;
}

std::vector<int32_t> balanced_placement(std::span<const int64_t> counts, int64_t num_gpus) {
  const auto room = static_cast<int64_t>(counts.size()) / num_gpus;
  std::vector<int32_t> gpu(counts.size());
  std::vector<int64_t> loads(static_cast<size_t>(num_gpus)), held(static_cast<size_t>(num_gpus));
  for (const int32_t expert : experts_by_count(counts)) {
    size_t least = held.size();
    for (size_t g = 0; g < held.size(); ++g) {
      if (held[g] < room && (least == held.size() || loads[g] < loads[least])) least = g;
    }
    gpu[static_cast<size_t>(expert)] = static_cast<int32_t>(least);
    loads[least] += counts[static_cast<size_t>(expert)];
    ++held[least];
  }
  return gpu;
}

std::unique_ptr<Study> make_placement(const ComponentShape& shape, const StudyOptions& options) {
  return std::make_unique<PlacementStudy>(shape, options);
}

}  // namespace moetap::analysis::studies
