#include "analysis/studies/study.h"

#include <stdexcept>

namespace moetap::analysis::studies {

std::vector<std::string> layer_names(const ComponentShape& shape) {
  std::vector<std::string> names;
  for (const LayerShape& layer : shape.layers) {
    names.push_back(shape.padded_length > 0 ? std::to_string(names.size() + 1) : layer.id);
  }
  return names;
}

std::unique_ptr<Study> Study::fork() const {
  throw std::logic_error("a study with several passes must say how it forks");
}

}  // namespace moetap::analysis::studies
