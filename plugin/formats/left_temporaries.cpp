#include "plugin/formats/left_temporaries.h"

#include <signal.h>

#include <cerrno>
#include <charconv>
#include <string>
#include <vector>

namespace moetap::plugin {

void remove_left_temporaries(const std::filesystem::path& path) {
  namespace fs = std::filesystem;
  const std::string begin = path.filename().string() + ".tmp-";
  std::vector<fs::path> left;
  std::error_code error;
  const fs::path parent = path.parent_path();
  for (const auto& entry : fs::directory_iterator(parent.empty() ? fs::path(".") : parent, error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(begin)) continue;
    pid_t process = 0;
    int number = 0;
    const char* end = name.data() + name.size();
    const auto read = std::from_chars(name.data() + begin.size(), end, process);
    if (read.ec != std::errc{} || read.ptr == end || *read.ptr != '-' || process <= 0) continue;
    const auto last = std::from_chars(read.ptr + 1, end, number);
    if (last.ec != std::errc{} || last.ptr != end) continue;
    if (::kill(process, 0) != 0 && errno == ESRCH) left.push_back(entry.path());
  }
  for (const fs::path& one : left) fs::remove_all(one, error);
}

}  // namespace moetap::plugin
