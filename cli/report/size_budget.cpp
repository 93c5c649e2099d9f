#include "cli/report/size_budget.h"

#include <fmt/format.h>

#include <cstdlib>

#include "plugin/formats/json_text.h"

namespace moetap::cli {

int64_t json_bytes(const nlohmann::ordered_json& value) {
  return static_cast<int64_t>(plugin::compact_text(value).size());
}

void round_reals(nlohmann::ordered_json& value, int digits) {
  if (digits >= 17) return;
  if (value.is_number_float()) {
    value = std::strtod(fmt::format("{:.{}g}", value.get<double>(), digits).c_str(), nullptr);
  } else if (value.is_structured()) {
    for (auto& one : value) round_reals(one, digits);
  }
}

int digits_for(int64_t num_reals) {
  constexpr int64_t kExact = 16'000, kNine = 40'000;
  return num_reals <= kExact ? 17 : num_reals <= kNine ? 9 : 6;
}

}  // namespace moetap::cli
