#include "plugin/run/run_ranks.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <optional>
#include <string_view>

#include "plugin/run/run_paths.h"

namespace moetap::plugin {
namespace {

namespace fs = std::filesystem;

// The number between the two; empty: the name is another one.
std::optional<int64_t> number_in(std::string_view name, std::string_view begin, std::string_view end) {
  if (name.size() <= begin.size() + end.size() || !name.starts_with(begin) || !name.ends_with(end)) {
    return std::nullopt;
  }
  int64_t number = -1;
  const char* last = name.data() + name.size() - end.size();
  const auto read = std::from_chars(name.data() + begin.size(), last, number);
  return read.ec == std::errc{} && read.ptr == last && number >= 0 ? std::optional(number) : std::nullopt;
}

}  // namespace

RunRanks find_run_ranks(const std::string& run_dir) {
  RunRanks ranks;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(run_dir, error)) {
    const auto rank = number_in(entry.path().filename().string(), "rank", "_metric_eval_done.txt");
    if (rank) ranks.done.push_back(*rank);
  }
  for (const auto& entry : fs::directory_iterator(RunPaths::journals(run_dir), error)) {
    const auto rank = number_in(entry.path().filename().string(), "rank", "");
    if (rank && fs::exists(entry.path() / "forwards.frames", error)) ranks.unfinished.push_back(*rank);
  }
  std::sort(ranks.done.begin(), ranks.done.end());
  std::sort(ranks.unfinished.begin(), ranks.unfinished.end());
  return ranks;
}

}  // namespace moetap::plugin
