#include "analysis/studies/sentence_numbers.h"

#include <cmath>
#include <cstdio>

namespace moetap::analysis::studies {
namespace {

std::string formatted(double value, int decimals) {
  char text[64];
  std::snprintf(text, sizeof(text), "%.*f", decimals, value);
  return text;
}

}  // namespace

std::string number_text(double value) {
  if (!std::isfinite(value)) return "undefined";
  const double size = std::abs(value);
  if (size == 0) return "0";
  if (size >= 1e15 || size < 1e-4) {
    char text[64];
    std::snprintf(text, sizeof(text), "%.2e", value);
    return text;
  }
  const int whole_digits = static_cast<int>(std::floor(std::log10(size))) + 1;
  return formatted(value, whole_digits >= 3 ? 0 : 3 - whole_digits);
}

std::string percent_text(double share) {
  if (!std::isfinite(share)) return "undefined";
  const double percent = 100 * share, size = std::abs(percent);
  if (share > 0.99 && share < 1) {
    // What is missing to all is the news: one digit of it.
    const double rest = 100 - percent;
    if (rest < 0.005) return "over 99.99 %";
    return formatted(percent, rest >= 0.095 ? 1 : 2) + " %";
  }
  if (size == 0 || size >= 99.95) return formatted(percent, 0) + " %";
  if (size < 0.005) return number_text(percent) + " %";
  return formatted(percent, size < 0.995 ? 2 : size < 9.95 ? 1 : 0) + " %";
}

std::string count_text(int64_t count, const std::string& one, const std::string& many) {
  return std::to_string(count) + ' ' + (count == 1 ? one : many);
}

int64_t place_of_largest(const std::vector<double>& values) {
  int64_t place = -1;
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] == values[i] && (place < 0 || values[i] > values[static_cast<size_t>(place)])) {
      place = static_cast<int64_t>(i);
    }
  }
  return place;
}

int64_t place_of_smallest(const std::vector<double>& values) {
  std::vector<double> negated;
  for (const double value : values) negated.push_back(-value);
  return place_of_largest(negated);
}

}  // namespace moetap::analysis::studies
