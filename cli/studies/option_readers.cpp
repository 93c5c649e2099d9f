#include "cli/studies/option_readers.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>
#include <set>
#include <stdexcept>
#include <string_view>

namespace moetap::cli {
namespace {

/// What an analysis is made of, as the rule looks at it.
struct Parts {
  std::set<std::string> studies, inputs;  // names; kinds as in AnalysisPlan::inputs
  bool has_components = false;            // of routers
};

/// Who reads an option: studies by name, inputs by kind, or what `reads` says beyond them.
struct OptionReaders {
  std::string_view option;
  std::vector<std::string> studies;
  std::vector<std::string> inputs = {};
  std::string what = "";  // in words; "": the studies
  bool (*reads)(const Parts&, const AnalyzeOptions&) = nullptr;
};

std::vector<std::string> names_of(bool (*chosen)(const studies::StudyEntry&)) {
  std::vector<std::string> names;
  for (const studies::StudyEntry& entry : studies::all_studies()) {
    if (chosen(entry)) names.emplace_back(entry.name);
  }
  return names;
}

std::vector<std::string> of_the_notebook() {
  std::vector<std::string> names;
  for (const studies::StudyEntry& entry : studies::notebook_studies()) names.emplace_back(entry.name);
  return names;
}

std::vector<std::string> of_gates() {
  return names_of([](const studies::StudyEntry& entry) { return (entry.needs & studies::kNeedsGates) != 0; });
}

const std::vector<OptionReaders>& all_readers() {
  static const std::vector<std::string> sequences{"aa_composition", "aa_correlation"};
  static const std::vector<std::string> sample_sankeys{"sankey_token_expert", "sankey_expert_region",
                                                       "sankey_group_expert_region"};
  static const std::vector<std::string> cut_sankeys{"sankey_expert_region", "sankey_group_expert_region",
                                                    "sankey_evolution"};
  static const std::vector<OptionReaders> readers{
      {"--definitions", of_the_notebook(), {}, "the notebook's studies"},
      {"--gate", of_gates(), {}, "studies of gates"},
      {"--component",
       {},
       {},
       "studies of routers",
       [](const Parts& parts, const AnalyzeOptions&) { return parts.has_components; }},
      {"--top-k", {}, {"logits"}, "logits (.safetensors, .pt)"},
      {"--experts", {}, {"routed_ids"}, "routed ids (.npy)"},
      {"--group-by", {"groups"}},
      {"--samples",
       {},
       {},
       "groups by a field of the samples' doc",
       [](const Parts& parts, const AnalyzeOptions& options) {
         return parts.studies.contains("groups") && options.group_by != "phase";
       }},
      {"--sample", sample_sankeys},
      {"--layer", sample_sankeys},
      {"--token-range", {"usage"}},
      {"--phase", {"usage", "expert_cache"}},
      {"--cache-phase", {"expert_cache"}},
      {"--warm", {"expert_cache"}},
      {"--placement", {"placement"}},
      {"--tokenizer", {"token_expert_enrichment"}},
      {"--alphabet",
       {},
       {},
       "token_expert_enrichment without --tokenizer",
       [](const Parts& parts, const AnalyzeOptions& options) {
         return parts.studies.contains("token_expert_enrichment") && options.tokenizer.empty();
       }},
      {"--model", {"weight_similarity", "matching"}},
      {"--positive", sequences},
      {"--negative", sequences},
      {"--max-length", {"aa_correlation"}},
      {"--regions",
       {},
       {},
       "information_flow, and sankey_expert_region of the recommended definitions",
       [](const Parts& parts, const AnalyzeOptions& options) {
         return parts.studies.contains("information_flow") ||
                (parts.studies.contains("sankey_expert_region") && !options.is_notebook());
       }},
      {"--absolute-regions", {"information_flow"}},
      {"--top", cut_sankeys},
      {"--threshold", cut_sankeys},
      {"--link-share", {"sankey_expert_region", "sankey_group_expert_region"}},
      {"--matrices", {"expert_attention_patterns"}},
      {"--draws", {"groups"}},
      {"--seed", {"groups"}},
      {"--delta-max", {"layer_activation", "weight_similarity"}},
  };
  return readers;
}

bool is_of_every_analysis(std::string_view option) {
  constexpr std::string_view kOptions[] = {"INPUT",   "--output", "--force",   "--only",
                                           "--shard", "--merge",  "--threads", "--list"};
  return std::find(std::begin(kOptions), std::end(kOptions), option) != std::end(kOptions);
}

const OptionReaders* find_readers(std::string_view option) {
  const auto& all = all_readers();
  const auto found = std::find_if(all.begin(), all.end(), [&](const OptionReaders& of) { return of.option == option; });
  return found == all.end() ? nullptr : &*found;
}

Parts parts_of(const AnalysisPlan& plan) {
  Parts parts;
  for (const nlohmann::ordered_json& input : plan.inputs) parts.inputs.insert(input.at("kind").get<std::string>());
  for (const AnalysisPlan::OfComponent& of : plan.components) {
    parts.studies.insert(of.studies.begin(), of.studies.end());
    parts.has_components |= !of.shape.layers.empty();
  }
  for (const AnalysisPlan::OfPair& of : plan.pairs) parts.studies.insert(of.studies.begin(), of.studies.end());
  parts.has_components |= !plan.pairs.empty();
  return parts;
}

bool is_read(const OptionReaders& readers, const Parts& parts, const AnalyzeOptions& options) {
  const auto has = [](const std::set<std::string>& names) {
    return [&](const std::string& name) { return names.contains(name); };
  };
  return std::any_of(readers.studies.begin(), readers.studies.end(), has(parts.studies)) ||
         std::any_of(readers.inputs.begin(), readers.inputs.end(), has(parts.inputs)) ||
         (readers.reads != nullptr && readers.reads(parts, options));
}

}  // namespace

std::vector<std::string> unread_options(const std::vector<std::string>& given, const AnalysisPlan& plan) {
  const Parts parts = parts_of(plan);
  std::vector<std::string> lines;
  for (const std::string& option : given) {
    const OptionReaders* readers = find_readers(option);
    if (is_of_every_analysis(option)) continue;
    if (readers == nullptr) throw std::logic_error(option + ": option_readers.cpp does not say who reads it");
    if (is_read(*readers, parts, plan.options)) continue;
    const std::string what =
        readers->what.empty() ? fmt::format("{}", fmt::join(readers->studies, ", ")) : readers->what;
    lines.push_back(fmt::format("{} changes nothing here: it is for {}", option, what));
  }
  return lines;
}

}  // namespace moetap::cli
