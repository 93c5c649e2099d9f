#include "cli/studies/input_fingerprint.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <vector>

#include "cli/inputs/sha256.h"
#include "cli/terminal/command_error.h"
#include "plugin/formats/random_access_file.h"

namespace moetap::cli {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kEndBytes = int64_t{64} << 10;

std::string of_file(const fs::path& path) {
  const plugin::RandomAccessFile file(path.string());
  const int64_t size = file.size_bytes(), end = std::min(size, kEndBytes);
  return fmt::format("{} {}", size, sha256_of_text(file.read(0, end) + file.read(size - end, end)));
}

}  // namespace

std::string input_fingerprint(const std::string& folder, const std::vector<std::string>& names) {
  std::vector<fs::path> files;
  std::error_code error;
  for (const std::string& name : names) {
    const fs::path path = fs::path(folder) / name;
    if (!fs::is_directory(path, error)) {
      if (fs::exists(path, error)) files.push_back(path);
      continue;
    }
    for (const auto& entry : fs::recursive_directory_iterator(path, error)) {
      if (entry.is_regular_file(error)) files.push_back(entry.path());
    }
    if (error) throw CommandError(fmt::format("{}: {}", path.string(), error.message()));
  }
  std::sort(files.begin(), files.end());
  std::string text;
  for (const fs::path& file : files) {
    text += fmt::format("{} {}\n", file.lexically_relative(folder).string(), of_file(file));
  }
  return sha256_of_text(text);
}

}  // namespace moetap::cli
