#pragma once

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

namespace moetap::cli {

// Note [The page's size]
// A page is to stay below 6 MB, of which Plotly takes 4.8. Counts and metrics of a layer are always whole. What is left
// is shared out among the parts that grow with layers × experts² or with samples (PageBudget), each of which is cut to
// its share, the largest or an even choice first, and the page says what it left out.

inline constexpr int64_t kPageBytes = 5'990'000;

/// What is left of a page for the parts that can be cut.
class PageBudget {
 public:
  explicit PageBudget(int64_t bytes) : left_(bytes) {}

  /// Counts a part that is in the page.
  void use(int64_t bytes) { left_ -= bytes; }

  /// For a part that is about to be made: so many of all shares that are still to be given. A part that takes less
  /// leaves the rest to those after it. Where little is left, a part gets a least amount all the same.
  int64_t share(int64_t own, int64_t others) const {
    constexpr int64_t kLeast = 40'000;
    return std::max(kLeast, left_ / (own + others) * own);
  }

 private:
  int64_t left_;
};

/// The bytes of a value as a page holds it.
int64_t json_bytes(const nlohmann::ordered_json& value);

/// Reals of at most `digits` significant digits in a value and all that is in it; integers stay. 17 digits: unchanged.
void round_reals(nlohmann::ordered_json& value, int digits);

/// The digits to keep where there are so many reals.
int digits_for(int64_t num_reals);

}  // namespace moetap::cli
