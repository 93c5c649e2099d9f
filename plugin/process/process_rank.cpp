#include "plugin/process/process_rank.h"

#include <charconv>
#include <cstdlib>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>

namespace moetap::plugin {
namespace {

std::optional<int64_t> number_in(const char* variable) {
  const char* text = std::getenv(variable);
  if (text == nullptr || *text == '\0') return std::nullopt;
  const std::string value = text;
  int64_t number = 0;
  const auto read = std::from_chars(value.data(), value.data() + value.size(), number);
  if (read.ec != std::errc{} || read.ptr != value.data() + value.size() || number < 0) {
    throw std::runtime_error(std::string(variable) + " must be a whole number of 0 or more, got \"" + value + "\"");
  }
  return number;
}

}  // namespace

ProcessRank process_rank_from_environment() {
  for (const auto& [rank, size] :
       {std::pair("RANK", "WORLD_SIZE"), std::pair("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")}) {
    const std::optional<int64_t> number = number_in(rank);
    if (!number) continue;
    // Without a size, this process counts as the last one; the largest number has none after it.
    constexpr int64_t kLargest = std::numeric_limits<int64_t>::max();
    const int64_t world_size = number_in(size).value_or(*number == kLargest ? kLargest : *number + 1);
    if (*number >= world_size) {
      throw std::runtime_error(std::string(rank) + " must be below " + size + ", got " + std::to_string(*number) +
                               " of " + std::to_string(world_size));
    }
    return {*number, world_size};
  }
  return {};
}

}  // namespace moetap::plugin
