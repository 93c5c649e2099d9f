#include "hooks/graph/module_path.h"

#include <algorithm>
#include <cctype>
#include <sstream>

namespace moetap::hooks {

std::vector<std::string> path_elements(const std::string& path) {
  std::vector<std::string> elements;
  std::stringstream stream(path);
  for (std::string element; std::getline(stream, element, '.');) elements.push_back(element);
  return elements;
}

std::string join_path(const std::vector<std::string>& elements) {
  std::string path;
  for (const auto& element : elements) path += (path.empty() ? "" : ".") + element;
  return path;
}

bool is_number(const std::string& element) {
  return !element.empty() &&
         std::all_of(element.begin(), element.end(), [](unsigned char c) { return std::isdigit(c); });
}

}  // namespace moetap::hooks
