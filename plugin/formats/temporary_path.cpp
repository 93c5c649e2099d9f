#include "plugin/formats/temporary_path.h"

#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <system_error>
#include <vector>

namespace moetap::plugin {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kMark = ".tmp-";

}  // namespace

std::string temporary_path(const std::string& path, int64_t number) {
  return path + std::string(kMark) + std::to_string(::getpid()) + "-" + std::to_string(number);
}

std::optional<TemporaryName> parse_temporary_name(std::string_view name) {
  const size_t mark = name.rfind(kMark);
  if (mark == std::string_view::npos || mark == 0) return std::nullopt;
  TemporaryName parsed{name.substr(0, mark)};
  const char* const end = name.data() + name.size();
  const auto process = std::from_chars(name.data() + mark + kMark.size(), end, parsed.process);
  if (process.ec != std::errc{} || process.ptr == end || *process.ptr != '-' || parsed.process <= 0)
    return std::nullopt;
  const auto number = std::from_chars(process.ptr + 1, end, parsed.number);
  if (number.ec != std::errc{} || number.ptr != end || parsed.number < 0) return std::nullopt;
  return parsed;
}

bool is_dead(pid_t process) {
  return ::kill(process, 0) != 0 && errno == ESRCH;
}

void remove_left_temporaries(const fs::path& path) {
  const std::string wanted = path.filename().string();
  const fs::path folder = path.parent_path();
  std::vector<fs::path> left;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder.empty() ? fs::path(".") : folder, error)) {
    const std::string name = entry.path().filename().string();
    // A file that a dead process wrote under a temporary name has a temporary name of its own: both were its.
    auto parsed = parse_temporary_name(name);
    while (parsed && is_dead(parsed->process) && parsed->path != wanted) parsed = parse_temporary_name(parsed->path);
    if (parsed && is_dead(parsed->process)) left.push_back(entry.path());
  }
  for (const fs::path& of : left) fs::remove_all(of, error);
}

}  // namespace moetap::plugin
