#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "analysis/studies/table.h"

namespace moetap::cli {

/// What a study found in a component.
struct StudyResult {
  std::string component, study;
  analysis::studies::Result result;
};

/// A study that did not run.
struct StudyLeftOut {
  std::string study, needs;  // needs: what would give it its input
};

struct Analysis {
  std::string inputs_json;              // a JSON array
  std::string options_json;             // a JSON object: what was asked for
  std::vector<std::string> components;  // in order
  // Those whose tables lie in the folder itself: the first one of the routers, and what is no component of a model (a
  // log, sequences). The tables of the others may have the same names.
  std::vector<std::string> in_folder_itself;
  std::vector<StudyResult> results;
  std::vector<StudyLeftOut> left_out;
  std::vector<std::string> notices;
  bool matrices = false;  // are to be written
};

/// A cell's number as text: the shortest that reads back as the same; "" if it is undefined or not finite.
std::string number_text(double value);

/// The folder of a component's tables. A hook spec may name a component anything: '/', '%' and a first '.' become %XX,
/// so that no name leads out of the folder and no two names share one.
std::string component_folder(const std::string& component);

/// Writes NAME.csv for each table and analysis.json with everything into a folder that is there. Tables with a column
/// `component` hold the rows of all components; the others of a second component lie in a folder of its name. A matrix
/// is NAME.npy, beside its tables. Throws std::runtime_error "cannot write PATH: REASON".
void write_analysis(const Analysis& analysis, const std::string& folder, const std::function<void()>& check);

/// What analysis.json would hold, to the last digit.
nlohmann::ordered_json analysis_json(const Analysis& analysis);

}  // namespace moetap::cli
