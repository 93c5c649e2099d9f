#pragma once

#include <string>
#include <vector>

namespace moetap::hooks {

/// The elements of a dotted path: "model.layers.0" gives model, layers, 0. An empty path has none.
std::vector<std::string> path_elements(const std::string& path);

/// The dotted path of its elements.
std::string join_path(const std::vector<std::string>& elements);

/// True if the element consists of decimal digits, as the index of a module list does.
bool is_number(const std::string& element);

}  // namespace moetap::hooks
