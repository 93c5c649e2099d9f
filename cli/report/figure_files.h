#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace moetap::cli {

/// An interactive figure as a file of its own, under the name that its users know.
struct FigureFile {
  const char* figure;  // its id in report/figures
  const char* name;    // of the file, without .html
};

/// The figures that a page with this data draws: those whose `has` in report/figures holds for a component. The test
/// tests/report/test_split.py compares the two.
std::vector<FigureFile> figures_with_data(const nlohmann::ordered_json& page);

}  // namespace moetap::cli
