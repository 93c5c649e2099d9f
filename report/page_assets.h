#pragma once

#include <span>
#include <string_view>

namespace moetap::report {

/// A script of the page, by its name in this folder. Plotly's is `plotly.min.js`.
struct PageScript {
  std::string_view name;
  std::string_view text;
};

/// The files of the page, as they were when the program was built. They live as long as the process.
std::string_view page_template();
std::string_view page_style();
/// In the order in which the page runs them; Plotly comes first.
std::span<const PageScript> page_scripts();

}  // namespace moetap::report
