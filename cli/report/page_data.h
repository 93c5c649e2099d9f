#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/report/token_data.h"
#include "cli/report/training_log.h"

namespace moetap::cli {

/// What a page is made of.
struct PageInputs {
  std::vector<std::string> folders;  // runs (at most two) and analyses, in the user's order
  std::string title;                 // "": made of the names of the folders
  std::string training_log;          // "": none
  std::string affinity;              // "": none
  TokenOptions tokens;
};

struct PageData {
  nlohmann::ordered_json json;  // docs/report.md says what it holds
  std::string title;
  bool has_tokens = false;  // what each token did, which gives back most of a text
  std::vector<Diagnostic> diagnostics;
  std::vector<std::string> notices;
};

/// Reads everything that a page shows. `scratch_folder` takes files while a dump is read. Throws CommandError or
/// std::runtime_error with one line.
PageData page_data(const PageInputs& inputs, const std::string& scratch_folder, const std::function<void()>& check);

}  // namespace moetap::cli
