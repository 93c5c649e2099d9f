#include "cli/studies/study_sums.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>

#include "analysis/studies/input_check.h"
#include "cli/terminal/command_error.h"

namespace moetap::cli {
namespace {

using nlohmann::ordered_json;
using studies::StudyEntry;

}  // namespace

ordered_json AnalysisPlan::to_json() const {
  ordered_json json{{"moetap_version", MOETAP_VERSION},
                    {"inputs", inputs},
                    {"options", cli::to_json(options)},
                    {"is_arrays", is_arrays}};
  json["components"] = json["pairs"] = json["not_run"] = ordered_json::array();
  json["studies"] = ordered_json::array();
  for (const OfComponent& of : components) {
    json["components"].push_back({{"shape", cli::to_json(of.shape)}, {"studies", of.studies}});
    for (const std::string& study : of.studies) json["studies"].push_back(of.shape.name + "/" + study);
  }
  for (const OfPair& of : pairs) {
    json["pairs"].push_back({{"a", cli::to_json(of.shape.a)},
                             {"b", cli::to_json(of.shape.b)},
                             {"run_a", of.shape.run_a},
                             {"run_b", of.shape.run_b},
                             {"studies", of.studies}});
    for (const std::string& study : of.studies) json["studies"].push_back(of.shape.a.name + "/" + study);
  }
  for (const StudyLeftOut& of : left_out) json["not_run"].push_back({of.study, of.needs});
  json["notices"] = notices;
  return json;
}

AnalysisPlan AnalysisPlan::from_json(const ordered_json& json) {
  AnalysisPlan plan;
  plan.inputs = json.at("inputs");
  plan.options = analyze_options_from_json(json.at("options"));
  json.at("is_arrays").get_to(plan.is_arrays);
  for (const ordered_json& of : json.at("components")) {
    plan.components.push_back({shape_from_json(of.at("shape")), of.at("studies").get<std::vector<std::string>>()});
  }
  for (const ordered_json& of : json.at("pairs")) {
    plan.pairs.push_back({{shape_from_json(of.at("a")), shape_from_json(of.at("b")), of.at("run_a").get<std::string>(),
                           of.at("run_b").get<std::string>()},
                          of.at("studies").get<std::vector<std::string>>()});
    const studies::PairShape& shape = plan.pairs.back().shape;
    const auto same = [](const studies::LayerShape& one, const studies::LayerShape& other) {
      return one.id == other.id;
    };
    if (!std::equal(shape.a.layers.begin(), shape.a.layers.end(), shape.b.layers.begin(), shape.b.layers.end(), same)) {
      throw std::runtime_error("its two runs have different layers");
    }
  }
  for (const ordered_json& of : json.at("not_run")) {
    plan.left_out.push_back({of.at(0).get<std::string>(), of.at(1).get<std::string>()});
  }
  json.at("notices").get_to(plan.notices);
  return plan;
}

const StudyEntry* find_study(const std::string& name, bool is_arrays) {
  static const std::vector<StudyEntry> entries = studies::all_studies();
  static const StudyEntry check = studies::input_check_entry(false), check_arrays = studies::input_check_entry(true);
  if (name == check.name) return is_arrays ? &check_arrays : &check;
  const auto found =
      std::find_if(entries.begin(), entries.end(), [&](const StudyEntry& entry) { return entry.name == name; });
  return found == entries.end() ? nullptr : &*found;
}

std::string missing_input(const StudyEntry& entry, uint32_t has) {
  constexpr uint32_t kEitherAttention = studies::kNeedsAttention | studies::kNeedsStats;
  uint32_t missing = entry.needs & ~has;
  // Rows of the arrays, of attention in full, or its statistics: one of them is enough.
  if ((entry.needs & kEitherAttention) == kEitherAttention && (has & kEitherAttention) != 0)
    missing &= ~kEitherAttention;
  if (missing == 0) return "";
  if (std::strlen(entry.fill) > 0) return entry.fill;
  struct Line {
    uint32_t bits;
    const char* what;
  };
  constexpr Line kLines[] = {
      {studies::kNeedsTwoRuns, "two runs (moetap analyze A B)"},
      {studies::kNeedsTokens, "the choices of tokens: a run with --dump, or arrays"},
      {studies::kNeedsWeights | studies::kNeedsGates, "weights: a run with --dump topk, or gate_scores.npy"},
      {studies::kNeedsScores | studies::kNeedsLogits, "all scores: a run with --dump full"},
      {kEitherAttention, "attention: a run with --attention stats or full, or attn_weights.npy"},
      {studies::kNeedsTokenIds, "token ids: a run whose model takes them (--token-ids), or token_types.npy"},
      {studies::kNeedsGroups, "--group-by KEY"},
      {studies::kNeedsSequences, "FASTA files: --positive FILE --negative FILE"},
      {studies::kNeedsLog, "a log of LibMoE's evaluation (<task>.json)"},
      {studies::kNeedsModel, "the model's weights: --model MODEL.pt"},
      {studies::kNeedsSamples, "tokens whose samples are known"},
      {studies::kNeedsForwards, "tokens whose forwards are known: a run"},
  };
  std::vector<std::string> needs;
  for (const Line& line : kLines) {
    if ((missing & line.bits) != 0) needs.emplace_back(line.what);
  }
  return fmt::format("{}", fmt::join(needs, "; "));
}

namespace {

/// A table of two runs takes the place of that of both as one input (usage_comparison: of two runs, or of the phases).
void leave_out(const std::string& name, Analysis& analysis) {
  for (StudyResult& of : analysis.results) {
    if (find_study(of.study, false)->make_pair != nullptr) continue;
    const auto removed =
        std::erase_if(of.result.tables, [&](const studies::Table& table) { return table.name() == name; });
    if (removed == 0) continue;
    of.result.notices.push_back(
        name + " of the phases is left out: the table is that of the two runs; analyze one run for it");
  }
}

}  // namespace

StudySums::StudySums(AnalysisPlan plan) : plan_(std::move(plan)) {
  const auto entry_of = [&](const std::string& name) {
    const StudyEntry* entry = find_study(name, plan_.is_arrays);
    if (entry == nullptr) throw CommandError(fmt::format("{}: is no study of this moetap", name));
    return entry;
  };
  for (const AnalysisPlan::OfComponent& of : plan_.components) {
    std::vector<RunningStudy>& running = components_.emplace_back();
    const auto options = std::make_shared<studies::StudyOptions>(study_options(plan_.options, of.shape));
    for (const std::string& name : of.studies) {
      const StudyEntry* entry = entry_of(name);
      if (entry->make == nullptr) throw CommandError(fmt::format("{}: compares two runs", name));
      const auto make = [entry, shape = of.shape, options] { return entry->make(shape, *options); };
      running.push_back({entry, make, make()});
    }
  }
  for (const AnalysisPlan::OfPair& of : plan_.pairs) {
    std::vector<RunningPair>& running = pairs_.emplace_back();
    const auto options = std::make_shared<studies::StudyOptions>(study_options(plan_.options, of.shape.a));
    for (const std::string& name : of.studies) {
      const StudyEntry* entry = entry_of(name);
      if (entry->make_pair == nullptr) throw CommandError(fmt::format("{}: is no study of two runs", name));
      const auto make = [entry, shape = of.shape, options] { return entry->make_pair(shape, *options); };
      running.push_back({entry, make, make()});
    }
  }
}

Partial StudySums::to_partial(int64_t shard, int64_t num_shards) const {
  Partial partial;
  partial.what = plan_.to_json();
  partial.shard = shard;
  partial.num_shards = num_shards;
  const auto save = [&](const auto& running) {
    for (const auto& of : running) {
      studies::ByteSink sink;
      of.study->save(sink);
      partial.studies.push_back(sink.bytes());
    }
  };
  for (const auto& running : components_) save(running);
  for (const auto& running : pairs_) save(running);
  return partial;
}

void StudySums::merge(const Partial& partial) {
  size_t next = 0;
  const auto add = [&](auto& running) {
    for (auto& of : running) {
      if (next == partial.studies.size()) studies::ByteSource::refuse();
      studies::ByteSource source(partial.studies[next++]);
      auto study = of.make();
      study->load(source);
      if (!source.at_end()) studies::ByteSource::refuse();
      if (!of.is_filled) {
        of.study = std::move(study);  // with what it knows of finished passes
        of.is_filled = true;
      } else {
        of.study->merge(*study);
      }
    }
  };
  for (auto& running : components_) add(running);
  for (auto& running : pairs_) add(running);
}

void StudySums::check_input() const {
  std::vector<std::string> errors;
  for (const auto& running : components_) {
    for (const RunningStudy& of : running) {
      const auto* check = dynamic_cast<const studies::InputCheck*>(of.study.get());
      if (check == nullptr) continue;
      const std::vector<std::string> found = check->verdict().errors;
      errors.insert(errors.end(), found.begin(), found.end());
    }
  }
  if (errors.empty()) return;
  throw CommandError(errors.size() == 1
                         ? errors.front()
                         : fmt::format("{}; and {} more: {}", errors.front(), errors.size() - 1, errors[1]));
}

Analysis StudySums::finalize() const {
  check_input();
  Analysis analysis;
  analysis.inputs_json = plan_.inputs.dump();
  analysis.options_json = cli::to_json(plan_.options).dump();
  analysis.matrices = plan_.options.matrices;
  analysis.left_out = plan_.left_out;
  analysis.notices = plan_.notices;
  bool has_main = false;
  for (size_t i = 0; i < components_.size(); ++i) {
    const std::string& name = plan_.components[i].shape.name;
    analysis.components.push_back(name);
    const bool has_routers = !plan_.components[i].shape.layers.empty();
    if (!has_routers || !has_main) analysis.in_folder_itself.push_back(name);
    has_main = has_main || has_routers;
    for (const RunningStudy& of : components_[i]) {
      analysis.results.push_back({name, of.entry->name, of.study->finalize()});
    }
  }
  for (size_t i = 0; i < pairs_.size(); ++i) {
    const std::string& name = plan_.pairs[i].shape.a.name;
    if (std::find(analysis.components.begin(), analysis.components.end(), name) == analysis.components.end()) {
      analysis.components.push_back(name);
      if (!has_main) analysis.in_folder_itself.push_back(name);
    }
    has_main = true;
    for (const RunningPair& of : pairs_[i]) {
      studies::Result result = of.study->finalize();
      for (const studies::Table& table : result.tables) leave_out(table.name(), analysis);
      analysis.results.push_back({name, of.entry->name, std::move(result)});
    }
  }
  return analysis;
}

}  // namespace moetap::cli
