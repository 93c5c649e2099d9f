#pragma once

#include <algorithm>
#include <string>

namespace moetap::analysis::studies {

/// The order of layer ids in tables: numbers by size, then other texts by letters.
struct LayerOrder {
  static bool is_number(const std::string& id) {
    return !id.empty() && std::all_of(id.begin(), id.end(), [](char c) { return c >= '0' && c <= '9'; });
  }
  bool operator()(const std::string& a, const std::string& b) const {
    const bool number_a = is_number(a), number_b = is_number(b);
    if (number_a != number_b) return number_a;
    if (number_a && a.size() != b.size()) return a.size() < b.size();
    return a < b;
  }
};

}  // namespace moetap::analysis::studies
