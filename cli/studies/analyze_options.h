#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "analysis/studies/study.h"
#include "cli/studies/batch_buffer.h"

namespace moetap::cli {

/// The options of `moetap analyze` that change what it finds. Paths are as the user gave them.
struct AnalyzeOptions {
  std::vector<std::string> only;  // names of studies; empty: all that are not by name only
  std::string component;          // "": all
  std::string definitions = "recommended";
  std::string gate = "raw";
  std::string layer;  // id of the Sankeys' layer; "": the default
  std::string group_by, samples_file;
  std::string tokenizer, alphabet, placement;
  std::vector<std::string> positive, negative;  // FASTA files
  std::vector<std::string> models;
  int64_t top_k = 0;        // of logits: how many experts a token chooses
  int64_t num_experts = 0;  // of routed ids; 0: the largest id + 1
  bool matrices = false;
  studies::StudyOptions study;  // numbers, and the plain texts; the rest is filled by `study_options`

  bool is_notebook() const { return definitions == "notebook"; }
  GateOption gate_option() const { return gate == "topk" ? GateOption::kTopK : GateOption::kRaw; }
};

/// As analysis.json and a partial hold them; options with their default are left out.
nlohmann::ordered_json to_json(const AnalyzeOptions& options);
/// Throws nlohmann::json::exception for anything else than what `to_json` gave, and std::runtime_error where a value is
/// outside what the command line takes: studies allocate and divide by them.
AnalyzeOptions analyze_options_from_json(const nlohmann::ordered_json& json);

/// What a study gets: definitions, the place of the layer in `shape`, the texts of token ids, the placement. Reads the
/// files of the options. Throws CommandError.
studies::StudyOptions study_options(const AnalyzeOptions& options, const studies::ComponentShape& shape);

nlohmann::ordered_json to_json(const studies::ComponentShape& shape);
studies::ComponentShape shape_from_json(const nlohmann::ordered_json& json);

}  // namespace moetap::cli
