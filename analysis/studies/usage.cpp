#include "analysis/studies/usage.h"

#include <algorithm>
#include <array>
#include <limits>
#include <stdexcept>
#include <string>
#include <tuple>

#include "analysis/studies/expert_counts.h"
#include "analysis/studies/load_metrics.h"
#include "analysis/studies/sentence_numbers.h"
#include "analysis/studies/token_runs.h"
#include "analysis/studies/token_slice.h"
#include "analysis/studies/usage_comparison.h"
#include "analysis/studies/used_rows.h"

namespace moetap::analysis::studies {
namespace {

constexpr size_t kPhases = 2;  // prompt, generation

class Usage : public Study {
 public:
  Usage(const ComponentShape& shape, const StudyOptions& options)
      : shape_(shape), options_(options), slice_(options.token_range), layers_(shape.layers.size()) {
    if (!options.phase.empty() && options.phase != "prompt" && options.phase != "generation") {
      throw std::runtime_error("--phase must be prompt or generation, got \"" + options.phase + "\"");
    }
    for (size_t l = 0; l < layers_.size(); ++l) {
      for (std::vector<int64_t>& uses : layers_[l].uses) uses.resize(static_cast<size_t>(shape.layers[l].num_experts));
    }
    std::tie(first_, last_) = slice_.of(std::numeric_limits<int64_t>::max());
  }

  int num_passes() const override { return slice_.needs_size() ? 2 : 1; }
  void begin_pass(int pass) override {
    if (pass != 1) return;
    is_sized_ = true;
    next_place_ = 0;
    std::tie(first_, last_) = slice_.of(size_);
  }
  std::unique_ptr<Study> fork() const override {
    auto copy = std::make_unique<Usage>(shape_, options_);
    copy->is_sized_ = is_sized_;
    copy->size_ = is_sized_ ? size_ : 0;
    copy->first_ = first_;
    copy->last_ = last_;
    return copy;
  }
  /// A batch says the place of its first token among all, padding too where the notebook's definitions ask for it: the
  /// places of a phase, and of valid tokens there, are counted on the way.
  bool is_sequential() const override {
    const bool is_counted = !options_.phase.empty() || options_.definitions == Definitions::kNotebook;
    return is_counted && !options_.token_range.empty();
  }

  void observe(const TokenBatch& batch) override {
    choose(batch);
    if (slice_.needs_size() && !is_sized_) return;
    for (size_t l = 0; l < layers_.size(); ++l) {
      const UsedRows& rows = rows_.in_order(batch, l);
      for (const Stretch& chosen : chosen_) {
        layers_[l].tokens[chosen.phase] += rows.num_rows(chosen.first, chosen.last);
        rows.add_counts(chosen.first, chosen.last, layers_[l].uses[chosen.phase].data());
      }
    }
  }

  void merge(const Study& other) override {
    const auto& from = dynamic_cast<const Usage&>(other);
    if (from.is_sized_ != is_sized_) throw std::logic_error("usage: only sums of one pass can be merged");
    if (!is_sized_) size_ += from.size_;
    for (size_t l = 0; l < layers_.size(); ++l) {
      for (size_t phase = 0; phase < kPhases; ++phase) {
        layers_[l].tokens[phase] += from.layers_[l].tokens[phase];
        add_counts(layers_[l].uses[phase], from.layers_[l].uses[phase]);
      }
    }
  }
  void save(ByteSink& sink) const override {
    sink.integer(is_sized_);
    sink.integer(size_);
    for (const Layer& layer : layers_) {
      for (size_t phase = 0; phase < kPhases; ++phase) {
        sink.integer(layer.tokens[phase]);
        sink.values(layer.uses[phase]);
      }
    }
  }
  void load(ByteSource& source) override {
    is_sized_ = source.integer() != 0;
    size_ = source.integer();
    for (Layer& layer : layers_) {
      for (size_t phase = 0; phase < kPhases; ++phase) {
        layer.tokens[phase] = source.integer();
        layer.uses[phase] = source.values<int64_t>(layer.uses[phase].size());
      }
    }
  }

  Result finalize() const override;

 private:
  struct Layer {
    std::array<int64_t, kPhases> tokens{};
    std::array<std::vector<int64_t>, kPhases> uses;  // [E]
  };
  struct Stretch {  // of tokens of one phase
    int64_t first = 0, last = 0;
    size_t phase = 0;
  };

  /// Finds the tokens of the batch that count, and adds to size_ those among which places are counted.
  void choose(const TokenBatch& batch) {
    chosen_.clear();
    const bool of_phase = !options_.phase.empty();
    const size_t phase = options_.phase == "generation" ? 1 : 0;
    for (int64_t t = 0; t < batch.num_tokens; ++t) {
      if (!batch.is_valid(t)) continue;
      const size_t own = batch.phase[static_cast<size_t>(t)] == 0 ? 0 : 1;
      if (of_phase && own != phase) continue;
      const int64_t place = is_sequential() ? next_place_++ : batch.first_token + t;
      if (!is_sized_) ++size_;
      if (place < first_ || place >= last_) continue;
      if (chosen_.empty() || chosen_.back().last != t || chosen_.back().phase != own) chosen_.push_back({t, t, own});
      chosen_.back().last = t + 1;
    }
  }

  ComponentShape shape_;
  StudyOptions options_;
  TokenSlice slice_;
  int64_t first_ = 0, last_ = 0;  // the slice
  bool is_sized_ = false;         // the second pass
  int64_t size_ = 0;              // tokens of the phase
  int64_t next_place_ = 0;        // where is_sequential()
  std::vector<Layer> layers_;
  UsedRowsOfBatch rows_;
  std::vector<Stretch> chosen_;
};

Result Usage::finalize() const {
  Table usage("usage"), balance("load_balance");
  auto& component = usage.texts("component");
  auto& id = usage.texts("layer");
  auto& expert_id = usage.integers("expert_id");
  auto& selected = usage.integers("selected_count");
  auto& share = usage.reals("usage");
  auto& load_ratio = usage.reals("load_ratio");
  auto& balance_component = balance.texts("component");
  auto& balance_layer = balance.texts("layer");
  auto& tokens = balance.integers("tokens");
  auto& load_cv = balance.reals("load_cv");
  auto& max_violation = balance.reals("max_violation");
  auto& gini = balance.reals("gini");
  auto& jain = balance.reals("jain");
  auto& active = balance.integers("active_experts");
  auto& dead = balance.integers("dead_experts");
  auto& underused = balance.integers("underused_experts");
  std::vector<double> load_shares;
  const std::vector<std::string> names = layer_names(shape_);
  std::vector<std::string> name;  // of each row's layer
  std::vector<LayerUses> phases;
  int64_t dead_experts = 0, all_tokens = 0;
  std::array<int64_t, kPhases> phase_tokens{};
  for (size_t l = 0; l < layers_.size(); ++l) {
    const Layer& layer = layers_[l];
    std::vector<int64_t> counts = layer.uses[0];
    add_counts(counts, layer.uses[1]);
    phases.push_back({layer.uses[0], layer.uses[1], layer.tokens[0], layer.tokens[1]});
    for (size_t phase = 0; phase < kPhases; ++phase) phase_tokens[phase] += layer.tokens[phase];
    int64_t total = 0;
    for (const int64_t count : counts) total += count;
    const int64_t layer_tokens = layer.tokens[0] + layer.tokens[1];
    for (size_t e = 0; e < counts.size(); ++e) {
      const auto count = static_cast<double>(counts[e]);
      component.push_back(shape_.name);
      id.push_back(shape_.layers[l].id);
      expert_id.push_back(static_cast<int64_t>(e));
      selected.push_back(counts[e]);
      share.push_back(layer_tokens == 0 ? kUndefined : count / static_cast<double>(layer_tokens));
      load_ratio.push_back(total == 0 ? kUndefined
                                      : count * static_cast<double>(counts.size()) / static_cast<double>(total));
      name.push_back(names[l]);
      load_shares.push_back(total == 0 ? kUndefined : count / static_cast<double>(total));
    }
    const LoadMetrics metrics = load_metrics(counts);
    balance_component.push_back(shape_.name);
    balance_layer.push_back(shape_.layers[l].id);
    tokens.push_back(layer_tokens);
    load_cv.push_back(metrics.load_cv);
    max_violation.push_back(metrics.max_violation);
    gini.push_back(metrics.gini);
    jain.push_back(metrics.jain);
    active.push_back(metrics.active_experts);
    dead.push_back(metrics.dead_experts);
    underused.push_back(metrics.underused_experts);
    dead_experts += metrics.dead_experts;
    all_tokens = std::max(all_tokens, layer_tokens);
  }
  Result result;
  if (const int64_t most = place_of_largest(load_shares); most >= 0) {
    const auto row = static_cast<size_t>(most);
    result.sentence = "layer " + name[row] + " sends " + percent_text(load_shares[row]) + " of its load to expert " +
                      std::to_string(expert_id[row]) +
                      " (uniform: " + percent_text(load_shares[row] / load_ratio[row]) +
                      "), the largest share of all layers; " + count_text(dead_experts, "expert is", "experts are") +
                      " never used by " + count_text(all_tokens, "token", "tokens");
  } else {
    result.sentence = "no expert was used by " + count_text(all_tokens, "token", "tokens");
  }
  result.tables.push_back(std::move(usage));
  result.tables.push_back(std::move(balance));
  if (options_.phase.empty() && phase_tokens[0] > 0 && phase_tokens[1] > 0) {
    result.tables.push_back(usage_comparison(shape_.layers, phases));
    result.sentence += "; " + usage_comparison_sentence(result.tables.back(), "the prompt", "the generation");
  }
  return result;
}

}  // namespace

std::unique_ptr<Study> make_usage(const ComponentShape& shape, const StudyOptions& options) {
  return std::make_unique<Usage>(shape, options);
}

}  // namespace moetap::analysis::studies
