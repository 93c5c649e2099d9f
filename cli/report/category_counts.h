#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "plugin/dump/token_join.h"
#include "plugin/run/run_reader.h"

namespace moetap::cli {

/// How often the tokens of each category (`doc.category` of their sample) chose each expert, layer by layer. Counts are
/// integers: the same however the tokens are cut.
class CategoryCounts {
 public:
  /// At most 60 categories are counted, the first ones by name; without any, `json` is null.
  CategoryCounts(const std::vector<nlohmann::ordered_json>& fields, const std::vector<plugin::ReadLayer>& layers);

  /// ids: [n, width], −1 where there is none.
  void add(size_t layer, const plugin::TokenLabel* labels, int64_t n, const int32_t* ids, int64_t width);

  /// {categories, layers: {layer: [C][E]}, tokens: {layer: [C]}, note}
  nlohmann::ordered_json json() const;

 private:
  struct Layer {
    std::string id;
    int64_t num_experts = 0;
    std::vector<int64_t> counts;  // [C, E]
    std::vector<int64_t> tokens;  // [C]
  };
  std::vector<std::string> categories_;
  size_t num_left_out_ = 0;
  std::vector<int32_t> category_of_;  // by sample; −1: none
  std::vector<Layer> layers_;
};

}  // namespace moetap::cli
