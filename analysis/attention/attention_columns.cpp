#include "analysis/attention/attention_columns.h"

namespace moetap::analysis {

std::vector<AttentionColumn> attention_columns(int64_t num_regions, bool self) {
  constexpr const char* kNames[kFirstRegion] = {"entropy",  "max_weight",        "key_mass", "distance",     "self",
                                                "diagonal", "diagonal_expected", "far",      "far_expected", "first",
                                                "last"};
  std::vector<AttentionColumn> columns;
  for (int64_t column = 0; column < kFirstRegion; ++column) {
    if (column != kSelf || self) columns.push_back({kNames[column], column});
  }
  for (int64_t region = 0; region < num_regions; ++region) {
    columns.push_back({"region." + std::to_string(region), region_column(region)});
  }
  if (self) columns.push_back({"received", received_column(num_regions)});
  return columns;
}

}  // namespace moetap::analysis
