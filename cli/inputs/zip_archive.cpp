#include "cli/inputs/zip_archive.h"

#include <fmt/format.h>

#include <fstream>
#include <string_view>

#include "cli/terminal/command_error.h"

namespace moetap::cli {

void check_is_zip_archive(const std::string& path, const std::string& not_what, const std::string& expected) {
  std::ifstream file(path, std::ios::binary);
  char magic[4] = {};
  if (!file.is_open()) {
    throw CommandError(fmt::format("{}: cannot be read; check its permissions", path));
  }
  file.read(magic, sizeof(magic));
  if (file.gcount() == 0) {
    throw CommandError(fmt::format("{}: is empty; {}", path, expected));
  }
  if (std::string_view(magic, static_cast<size_t>(file.gcount())) != std::string_view("PK\x03\x04", 4)) {
    throw CommandError(fmt::format("{}: {} (no zip archive); {}", path, not_what, expected));
  }
}

}  // namespace moetap::cli
