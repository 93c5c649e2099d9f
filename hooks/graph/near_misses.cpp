#include "hooks/graph/near_misses.h"

#include <algorithm>
#include <cctype>
#include <numeric>
#include <regex>
#include <set>
#include <utility>

namespace moetap::hooks {

namespace {

// A path that the pattern might match, with `#` for numbers.
std::string as_plain_path(const std::string& pattern) {
  static const std::regex numbers(R"(\(?\??:?(\\d|\[0-9\]|\[\d(-\d)?\]|\d+)[+*?]?(\{\d*,?\d*\})?\)?)");
  static const std::regex marks(R"([\\^$()?+*])");
  return std::regex_replace(std::regex_replace(pattern, numbers, "#"), marks, "");
}

}  // namespace

size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i + 1);
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = std::exchange(row[j + 1], std::min({replaced, row[j] + 1, row[j + 1] + 1}));
    }
  }
  return row.back();
}

std::vector<std::string> nearest(const std::string& pattern, const std::vector<std::string>& candidates, size_t most) {
  const std::string wanted = as_plain_path(pattern);
  std::vector<std::pair<size_t, std::string>> by_distance;
  std::set<std::string> seen;
  for (const std::string& candidate : candidates) {
    const std::string plain = as_plain_path(candidate);
    if (seen.insert(plain).second) by_distance.emplace_back(edit_distance(wanted, plain), candidate);
  }
  std::stable_sort(by_distance.begin(), by_distance.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<std::string> found;
  for (size_t i = 0; i < std::min(most, by_distance.size()); ++i) found.push_back(by_distance[i].second);
  return found;
}

}  // namespace moetap::hooks
