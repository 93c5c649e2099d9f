#include "plugin/results/run_summary.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <vector>

#include "analysis/routers/router_metrics.h"
#include "plugin/formats/atomic_file.h"
#include "plugin/formats/json_text.h"
#include "plugin/results/json_keys.h"

namespace moetap::plugin {
namespace {

using nlohmann::ordered_json;

constexpr int kSchemaVersionOfSummary = 1;

template <typename Value>
ordered_json or_null(const std::optional<Value>& value) {
  return value ? ordered_json(*value) : ordered_json(nullptr);
}

// [rows * columns] row-major -> [rows][columns]
ordered_json matrix(std::span<const int64_t> values, int64_t columns) {
  ordered_json rows = ordered_json::array();
  for (size_t begin = 0; begin < values.size(); begin += static_cast<size_t>(columns)) {
    rows.push_back(ordered_json(values.subspan(begin, static_cast<size_t>(columns))));
  }
  return rows;
}

ordered_json coactivation(const analysis::RouterMetrics& metrics) {
  const int64_t num_experts = metrics.num_experts;
  if (!metrics.coactivation.empty()) return matrix(metrics.coactivation, num_experts);
  if (metrics.top_k > 1 || num_experts == 0) return nullptr;
  // One slot: no token selects two experts.
  std::vector<int64_t> diagonal(static_cast<size_t>(num_experts * num_experts));
  for (int64_t e = 0; e < num_experts; ++e) {
    diagonal[static_cast<size_t>(e * (num_experts + 1))] = metrics.selected_count[static_cast<size_t>(e)];
  }
  return matrix(diagonal, num_experts);
}

ordered_json transition_json(const analysis::TransitionSums* sums) {
  if (sums == nullptr || !sums->counts.defined()) return nullptr;
  const at::Tensor counts = sums->counts.contiguous();
  return matrix({counts.const_data_ptr<int64_t>(), static_cast<size_t>(counts.numel())}, sums->num_experts_to);
}

ordered_json layer_json(const RunLayer& layer, const analysis::RouterSums& sums,
                        const analysis::TransitionSums* transition) {
  const analysis::RouterMetrics metrics = finalize(sums);
  ordered_json json;
  json[keys::kName.name] = layer.name;
  json[keys::kNumExperts.name] = sums.num_experts > 0 ? ordered_json(sums.num_experts) : ordered_json(nullptr);
  json[keys::kTopK.name] = sums.top_k > 0 ? ordered_json(sums.top_k) : or_null(layer.top_k);
  json[keys::kScoring.name] = layer.scoring;
  json[keys::kTokens.name] = metrics.tokens;
  json[keys::kDroppedTokens.name] = metrics.dropped_tokens;
  json[keys::kInvalidIds.name] = metrics.invalid_ids;
  json[keys::kOutOfRangeTerms.name] = metrics.out_of_range_terms;
  json[keys::kEntropyAll.name] = or_null(metrics.entropy_all);
  json[keys::kEntropyTopk.name] = or_null(metrics.entropy_topk);
  json[keys::kEntropyAllBits.name] = or_null(metrics.entropy_all_bits);
  json[keys::kEntropyRatio.name] = or_null(metrics.entropy_ratio);
  if (layer.scoring.starts_with("sigmoid")) json[keys::kScoreEntropy.name] = or_null(metrics.score_entropy);
  json[keys::kMargin.name] = or_null(metrics.margin);
  json[keys::kRouterZLoss.name] = or_null(metrics.router_z_loss);
  json[keys::kBalanceLoss.name] = or_null(metrics.balance_loss);
  json[keys::kLoadCv.name] = metrics.load_cv;
  json[keys::kMaxViolation.name] = or_null(metrics.max_violation);
  json[keys::kGini.name] = or_null(metrics.gini);
  json[keys::kJain.name] = or_null(metrics.jain);
  json[keys::kActiveExperts.name] = metrics.active_experts;
  json[keys::kDeadExperts.name] = metrics.dead_experts;
  json[keys::kUnderusedExperts.name] = metrics.underused_experts;
  json[keys::kRepeatRate.name] = or_null(metrics.repeat_rate);
  json[keys::kSelectedCount.name] = metrics.selected_count;
  json[keys::kZeroWeightCount.name] = metrics.zero_weight_count;
  json[keys::kTop1Count.name] = metrics.top1_count;
  json[keys::kMeanProb.name] = or_null(metrics.mean_prob);
  ordered_json& mean_weight = json[keys::kMeanWeight.name] = ordered_json::array();
  for (const std::optional<double>& weight : metrics.mean_weight) mean_weight.push_back(or_null(weight));
  json[keys::kUsage.name] = or_null(metrics.usage);
  json[keys::kLoadRatio.name] = or_null(metrics.load_ratio);
  json[keys::kCoactivation.name] = coactivation(metrics);
  json[keys::kTransition.name] = transition_json(transition);
  return json;
}

analysis::RouterSums no_tokens(const RunLayer& layer) {
  return layer.num_experts > 0 ? analysis::empty_router_sums(layer.num_experts, layer.top_k.value_or(1), 1)
                               : analysis::RouterSums{};
}

}  // namespace

void RunSummary::add(const SummaryPart& part) {
  Phase& phase = part.generation ? generation_ : prompt_;
  phase.forwards += part.forwards;
  for (const RouterTotal& router : part.routers) add_sums(phase.sums[router.layer], router.sums);
  for (const auto& transition : part.transitions) {
    analysis::merge(phase.transitions[{transition.from, transition.to}], transition.sums);
  }
}

void RunSummary::Phase::merge(const Phase& other) {
  forwards += other.forwards;
  for (const auto& [layer, added] : other.sums) add_sums(sums[layer], added);
  for (const auto& [pair, added] : other.transitions) analysis::merge(transitions[pair], added);
}

void RunSummary::write(const std::string& path, const std::string& task, const LayerTable& layers) const {
  AtomicFile file(path);
  file.write(fmt::format("{{{}: {}, {}: {}, {}: {}, {}: {{", quoted_text(keys::kSchemaVersion.name),
                         kSchemaVersionOfSummary, quoted_text(keys::kTask.name), quoted_text(task),
                         quoted_text(keys::kForwards.name), forwards(), quoted_text(keys::kComponents.name)));
  Phase whole;
  whole.merge(prompt_);
  whole.merge(generation_);
  write_components(file, whole, layers);
  file.write(fmt::format("\n }}, {}: {{}}", quoted_text(keys::kAttention.name)));
  if (generation_.forwards > 0) {
    file.write(fmt::format(", {}: {{", quoted_text(keys::kPhases.name)));
    const char* separator = "";
    for (const auto& [key, phase] :
         {std::pair(&keys::kPrompt, &prompt_), std::pair(&keys::kGeneration, &generation_)}) {
      file.write(fmt::format("{}\n {}: {{{}: {}, {}: {{", separator, quoted_text(key->name),
                             quoted_text(keys::kForwards.name), phase->forwards, quoted_text(keys::kComponents.name)));
      write_components(file, *phase, layers);
      file.write("\n }}");
      separator = ",";
    }
    file.write("}");
  }
  file.write("}\n");
  file.commit();
}

void RunSummary::write_components(AtomicFile& file, const Phase& phase, const LayerTable& layers) {
  // Layer by layer: the tables of pairs of many experts are large as JSON values.
  const char* component_separator = "\n ";
  for (const auto& [component, places] : layers.by_component()) {
    file.write(fmt::format("{}{}: {{", component_separator, quoted_text(component)));
    component_separator = ",\n ";
    const char* layer_separator = "\n  ";
    for (size_t i = 0; i < places.size(); ++i) {
      const RunLayer& layer = layers.layers()[places[i]];
      const auto sums = phase.sums.find(places[i]);
      const auto json =
          layer_json(layer, sums == phase.sums.end() ? no_tokens(layer) : sums->second, phase.next_of(places, i));
      file.write(fmt::format("{}{}: {}", layer_separator, quoted_text(layer.layer), compact_text(json)));
      layer_separator = ",\n  ";
    }
    file.write("}");
  }
}

const analysis::TransitionSums* RunSummary::Phase::next_of(const std::vector<size_t>& places, size_t from) const {
  // The next MoE layer is the next that ran: one in an arm that was not taken has no matrix.
  for (size_t next = from + 1; next < places.size(); ++next) {
    const auto found = transitions.find({places[from], places[next]});
    if (found != transitions.end()) return &found->second;
  }
  return nullptr;
}

}  // namespace moetap::plugin
