#include "analysis/studies/sentence.h"

#include <cmath>
#include <cstdio>

namespace moetap::analysis::studies {
namespace {

std::string formatted(const char* format, double value) {
  if (std::isnan(value)) return "undefined";
  char text[64];
  std::snprintf(text, sizeof(text), format, value);
  return text;
}

}  // namespace

std::string percent(double share) {
  return formatted("%.1f %%", 100 * share);
}

std::string decimal(double value) {
  return formatted("%.3f", value);
}

std::string counted(int64_t count, const std::string& thing) {
  return std::to_string(count) + " " + thing + (count == 1 ? "" : "s");
}

}  // namespace moetap::analysis::studies
