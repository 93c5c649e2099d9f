#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "plugin/run/run_reader.h"

namespace moetap::cli {

/// What the user asks of the tokens' view.
struct TokenOptions {
  int64_t max_samples = 12;
  int64_t max_tokens = 256;                                // of a sample
  int64_t max_bytes = 400'000, max_image_bytes = 900'000;  // of the tokens and of the pictures as JSON
  std::string images;  // folder of pictures, named as the samples or their doc_id; "": none
  std::optional<int64_t>
      image_token;         // its id marks an image's tokens; empty: as --attention-regions tokens:image=ID says
  std::string grid;        // ROWSxCOLUMNS of the image's tokens; "": from their number
  std::string vocabulary;  // tokenizer.json; "": ids are shown
};

/// The fields of a run's samples, a JSON object each, by sample; empty: the run has none that can be read, and
/// `notices` gets why a file that is there cannot.
std::vector<nlohmann::ordered_json> sample_fields(const plugin::RunReader& run, std::vector<std::string>& notices);

struct TokenData {
  nlohmann::ordered_json
      tokens;  // {components: {name: {layers, top_k, samples, note}}, images, vocabulary}; null: no dump
  nlohmann::ordered_json categories;  // {component: {categories, layers: {layer: [C][E] counts}, tokens: {layer: [C]}}}
};

/// Reads the dump, all ranks: how long each sample is, then tokens of the samples of a plan (token_plan.h), and of all
/// samples how often each category (`doc.category`) chose each expert. `attention` is that of `run_data`: it tells the
/// columns of attention. Memory is that of the kept samples and the counts. `notices` gets what could not be read.
/// Throws CommandError; std::runtime_error where the dump is damaged.
TokenData token_data(const plugin::RunReader& run, const TokenOptions& options, const nlohmann::ordered_json& attention,
                     const std::string& scratch_folder, const std::function<void()>& check,
                     std::vector<std::string>& notices);

}  // namespace moetap::cli
