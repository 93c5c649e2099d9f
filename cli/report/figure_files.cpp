#include "cli/report/figure_files.h"

#include <algorithm>
#include <functional>
#include <string>

namespace moetap::cli {
namespace {

using nlohmann::ordered_json;
using Condition = std::function<bool(const ordered_json& page)>;

struct Row {
  FigureFile file;
  Condition has;
};

/// The value behind some keys; null if one of them is missing.
const ordered_json& at(const ordered_json& value, std::initializer_list<const char*> keys) {
  static const ordered_json kNothing;
  const ordered_json* found = &value;
  for (const char* key : keys) {
    if (!found->is_object()) return kNothing;
    const auto next = found->find(key);
    if (next == found->end()) return kNothing;
    found = &*next;
  }
  return *found;
}

bool any(const ordered_json& list, const Condition& holds) {
  return list.is_structured() && std::any_of(list.begin(), list.end(), holds);
}

bool any_run_layer(const ordered_json& page, const char* part, const Condition& holds, bool first_run_only = true) {
  const ordered_json& runs = at(page, {"runs"});
  if (!runs.is_array()) return false;
  for (size_t i = 0; i < runs.size() && (i == 0 || !first_run_only); ++i) {
    if (any(at(runs[i], {part}), [&](const auto& layers) { return any(layers, holds); })) return true;
  }
  return false;
}

bool is_router(const ordered_json& layer) {
  return at(layer, {"selected_count"}).is_array() && !layer["selected_count"].empty();
}

bool has_table(const ordered_json& page, const char* name, const char* column = nullptr) {
  return any(at(page, {"analysis", "components"}), [&](const auto& studies) {
    return any(studies, [&](const auto& study) {
      const ordered_json& table = at(study, {"tables", name});
      if (column != nullptr) return any(at(table, {column}), [](const auto& cell) { return cell.is_number(); });
      return any(table, [](const auto& cells) { return cells.is_array() && !cells.empty(); });
    });
  });
}

Condition table(const char* name, const char* column = nullptr) {
  return [=](const auto& page) { return has_table(page, name, column); };
}

/// A run, or the study that stands in for one.
bool has_stand_in(const ordered_json& page) {
  return at(page, {"runs"}).empty() && has_table(page, "usage") && has_table(page, "load_balance");
}

Condition router(const Condition& holds) {
  return [=](const auto& page) {
    return any_run_layer(page, "components", [&](const auto& layer) { return is_router(layer) && holds(layer); });
  };
}

/// A number of some layer; of the study that stands in for a run, a column.
Condition metric(const char* name) {
  return [=](const auto& page) {
    if (has_stand_in(page)) return has_table(page, "load_balance", name);
    return any_run_layer(
        page, "components", [&](const auto& layer) { return is_router(layer) && at(layer, {name}).is_number(); },
        false);
  };
}

Condition either(const Condition& a, const Condition& b) {
  return [=](const auto& page) { return a(page) || b(page); };
}

bool has_pairs(const ordered_json& layer) {
  return at(layer, {"top_k"}).is_number() && layer["top_k"] > 1 &&
         (at(layer, {"coactivation"}).is_array() || at(layer, {"coactivation_cells"}).is_object());
}

bool has_next(const ordered_json& layer) {
  return at(layer, {"transition"}).is_array() || at(layer, {"transition_cells"}).is_object();
}

Condition attention(const Condition& holds) {
  return [=](const auto& page) {
    return any_run_layer(page, "attention", [&](const auto& layer) {
      return at(layer, {"rows"}).is_number() && layer["rows"] > 0 && holds(layer);
    });
  };
}

Condition attention_key(const char* key) {
  return attention([=](const auto& layer) { return at(layer, {key}).is_array(); });
}

Condition experts_key(const char* key) {
  return attention([=](const auto& layer) {
    const ordered_json& experts = at(layer, {"experts"});
    const auto holds = [&](const auto& one) {
      return !at(one, {"gate_mass"}).empty() &&
             any(at(one, {key}), [](const auto& of_expert) { return !of_expert.is_null(); });
    };
    return experts.is_array() ? any(experts, holds) : holds(experts);
  });
}

Condition tokens(bool weights) {
  return [=](const auto& page) {
    return any(at(page, {"tokens", "components"}), [&](const auto& component) {
      return any(at(component, {"samples"}),
                 [&](const auto& sample) { return !weights || sample.contains("weights"); });
    });
  };
}

/// Layers of a component whose mean probabilities are known.
bool has_profiles(const ordered_json& page, size_t at_least) {
  const ordered_json& runs = at(page, {"runs"});
  return !runs.empty() && any(at(runs[0], {"components"}), [&](const auto& layers) {
    return static_cast<size_t>(std::count_if(layers.begin(), layers.end(), [](const auto& layer) {
             const ordered_json& mean = at(layer, {"mean_prob"});
             return is_router(layer) && mean.is_array() &&
                    std::all_of(mean.begin(), mean.end(), [](const auto& p) { return p.is_number(); });
           })) >= at_least;
  });
}

bool has_change(const ordered_json& page) {
  const ordered_json& runs = at(page, {"runs"});
  if (runs.size() < 2) return false;
  for (const auto& [name, layers] : at(runs[0], {"components"}).items()) {
    for (const auto& a : layers) {
      const bool shared =
          is_router(a) && a["tokens"] > 0 && any(at(runs[1], {"components", name.c_str()}), [&](const auto& b) {
            return is_router(b) && b["layer"] == a["layer"] && b["tokens"] > 0 &&
                   b["selected_count"].size() == a["selected_count"].size();
          });
      if (shared) return true;
    }
  }
  return false;
}

bool has_phases(const ordered_json& page) {
  const ordered_json& runs = at(page, {"runs"});
  if (runs.empty()) return false;
  const auto saw = [&](const char* phase, const std::string& component) {
    return any(at(runs[0], {"phases", phase, component.c_str()}),
               [](const auto& layer) { return at(layer, {"tokens"}).is_number() && layer["tokens"] > 0; });
  };
  const ordered_json& prompt = at(runs[0], {"phases", "prompt"});
  if (!prompt.is_object()) return false;
  for (const auto& [component, layers] : prompt.items()) {
    if (saw("prompt", component) && saw("generation", component)) return true;
  }
  return false;
}

Condition epochs(const char* key) {
  return [=](const auto& page) {
    return any(at(page, {"training", "epochs"}),
               [&](const auto& epoch) { return at(epoch, {key}).is_number() || at(epoch, {key}).is_array(); });
  };
}

const std::vector<Row>& rows() {
  const auto always = [](const ordered_json&) { return true; };
  const auto routers = either(router(always), has_stand_in);
  const auto grouped = either(table("group_usage"), [](const auto& page) { return !at(page, {"categories"}).empty(); });
  static const std::vector<Row> kRows = {
      {{"usage", "expert_activation_heatmap"}, routers},
      {{"experts-of-a-layer", "expert_usage_layer"}, routers},
      {{"phases", "prompt_generation"}, has_phases},
      {{"activation-3d", "expert_activation_3d"}, [](const auto& page) { return !at(page, {"probe"}).empty(); }},
      {{"balance", "load_balance"}, metric("load_cv")},
      {{"entropy", "router_certainty"}, either(metric("entropy_ratio"), metric("margin"))},
      {{"z-loss", "router_z_loss"}, metric("router_z_loss")},
      {{"balance-loss", "balance_loss"}, metric("balance_loss")},
      {{"repeat", "repeat_rate"}, metric("repeat_rate")},
      {{"active", "active_experts"}, metric("active_experts")},
      {{"coactivation", "coactivation"}, router(has_pairs)},
      {{"cooperation", "expert_cooperation_network"}, either(table("expert_cooperation"), router(has_pairs))},
      {{"transition", "expert_transition"}, router(has_next)},
      {{"paths", "routing_paths"}, router(has_next)},
      {{"tokens", "tokens"}, tokens(false)},
      {{"token-flow", "token_experts"}, tokens(true)},
      {{"sankey-token-expert", "sankey_token_expert"}, table("sankey_token_expert")},
      {{"sankey-expert-region", "sankey_expert_region"}, table("sankey_expert_region")},
      {{"sankey-group-expert-region", "sankey_group_expert_region"}, table("sankey_group_expert_region")},
      {{"attention-over-layers", "attention_over_layers"}, attention(always)},
      {{"attention-regions", "attention_regions"}, attention_key("region_mass")},
      {{"attention-heads", "attention_heads"}, attention_key("head_entropy")},
      {{"expert-attention", "expert_attention_summary"}, experts_key("gate_mass")},
      {{"expert-patterns", "expert_attention_patterns"}, experts_key("pattern")},
      {{"information-flow", "expert_information_flow"}, either(attention_key("flow"), table("information_flow"))},
      {{"region-specialization", "expert_attention_specialization"},
       either(experts_key("specialization"), table("region_specialization"))},
      {{"sankey-region", "three_level_sankey"}, experts_key("flow")},
      {{"layer-correlation", "layer_correlation_matrix"},
       either([](const auto& page) { return has_profiles(page, 2); }, table("layer_correlation"))},
      {{"periodicity", "periodic_pattern_analysis"}, [](const auto& page) { return has_profiles(page, 13); }},
      {{"router-similarity", "router_similarity_matrix"}, table("router_similarity", "cosine")},
      {{"router-norms", "router_similarity_matrix_column_norms"},
       table("router_similarity", "column_norm_correlation")},
      {{"expert-weights", "expert_weight_similarity"}, table("expert_weight_similarity", "cosine")},
      {{"importance", "expert_distribution_across_layers"}, table("expert_usage")},
      {{"role-shift", "expert_role_shift_between_layers"}, table("layer_changes")},
      {{"stability", "expert_stability_across_layers"},
       either(table("expert_evolution_stats"), table("expert_stability"))},
      {{"evolution-sankey", "expert_evolution_sankey"}, table("expert_transitions")},
      {{"expert-cache", "expert_cache"}, table("expert_cache", "lru")},
      {{"placement", "placement"}, table("placement")},
      {{"imbalance", "imbalance"}, table("imbalance")},
      {{"predictability", "predictability"}, table("predictability", "recall_ids")},
      {{"categories", "group_usage"}, grouped},
      {{"category-entropy", "category_entropy"}, grouped},
      {{"group-difference", "group_difference"}, table("group_difference")},
      {{"enrichment", "token_expert_enrichment"}, table("token_expert_enrichment")},
      {{"aa-correlation", "aa_correlation"},
       either(table("aa_correlation_positive"), table("aa_correlation_negative"))},
      {{"aa-composition", "aa_composition"}, table("aa_composition")},
      {{"logged-entropy", "logged_category_entropy"}, table("category_entropy", "dist_entropy")},
      {{"change-usage", "usage_comparison"}, has_change},
      {{"change-divergence", "usage_divergence"}, has_change},
      {{"change-metrics", "metric_changes"}, has_change},
      {{"alignment", "alignment"}, table("alignment")},
      {{"matching", "matching"}, table("matching")},
      {{"switch-fraction", "switch_fraction"}, table("switch_fraction")},
      {{"saturation", "saturation"}, table("saturation")},
      {{"training-diagnostics", "training_diagnostics"},
       [](const auto& page) {
         return !at(page, {"training", "diagnostics"}).empty();
       }},
      {{"expert-utilization", "expert_utilization"}, epochs("utilization")},
      {{"training-entropy", "router_entropy"}, epochs("entropy")},
      {{"training-accuracy", "routing_accuracy"}, epochs("routing_acc")},
      {{"training-lr", "learning_rate"}, epochs("lr")},
      {{"expert-sum", "expert_utilization_by_sum"}, epochs("utilization")},
      {{"affinity", "router_affinity_matrix_heatmap"},
       [](const auto& page) {
         return !at(page, {"affinity", "rows"}).empty();
       }},
  };
  return kRows;
}

}  // namespace

std::vector<FigureFile> figures_with_data(const ordered_json& page) {
  std::vector<FigureFile> files;
  for (const Row& row : rows()) {
    if (row.has(page)) files.push_back(row.file);
  }
  return files;
}

}  // namespace moetap::cli
