#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

namespace moetap::cli {

// Note [The page's size]
// A page is to stay below 6 MB, of which Plotly takes 4.8. So what grows with layers × experts² or with samples is cut
// to a budget, the largest first, and the page says what it left out. Counts and metrics of a layer are always whole.

/// Bytes that the data of a whole page may take as JSON.
inline constexpr int64_t kPageDataBytes = 1'000'000;

/// Reals of at most `digits` significant digits in a value and all that is in it; integers stay. 17 digits: unchanged.
void round_reals(nlohmann::ordered_json& value, int digits);

/// The digits to keep where there are so many reals.
int digits_for(int64_t num_reals);

}  // namespace moetap::cli
