#include "plugin/process/environment.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <string_view>

namespace moetap::plugin {
namespace {

std::string path_in(const std::filesystem::path& directory, const char* variable) {
  const char* value = std::getenv(variable);
  return value == nullptr || *value == '\0' ? "" : (directory / value).string();
}

Environment environment_now() {
  std::error_code error;  // the working directory was removed: paths stay as they are
  const auto directory = std::filesystem::current_path(error);
  return {directory.string(), path_in(directory, "MOETAP_CONFIG"), path_in(directory, "MOETAP_OUTPUT_DIR")};
}

/// LD_PRELOAD without the entries whose file is named `library`. Entries are separated by spaces or colons.
std::string without_library(std::string_view preload, const std::string& library) {
  std::string kept;
  while (!preload.empty()) {
    const size_t end = std::min(preload.find_first_of(" :"), preload.size());
    const std::string entry(preload.substr(0, end));
    preload.remove_prefix(std::min(end + 1, preload.size()));
    if (entry.empty() || std::filesystem::path(entry).filename() == library) continue;
    kept += (kept.empty() ? "" : ":") + entry;
  }
  return kept;
}

Environment on_load() {
  Dl_info own{};
  const char* preload = std::getenv("LD_PRELOAD");
  if (preload != nullptr && dladdr(reinterpret_cast<const void*>(&read_environment), &own) != 0) {
    const std::string rest = without_library(preload, std::filesystem::path(own.dli_fname).filename().string());
    if (rest.empty()) {
      ::unsetenv("LD_PRELOAD");
    } else {
      ::setenv("LD_PRELOAD", rest.c_str(), /*overwrite=*/1);
    }
  }
  return environment_now();
}

const Environment& environment_at_load() {
  static const auto* environment = new Environment(on_load());
  return *environment;
}

// Read before `main`, while the process has one thread.
[[maybe_unused]] const Environment& read_at_load = environment_at_load();

}  // namespace

Environment read_environment() {
  const Environment& at_load = environment_at_load();
  return at_load.asks_to_record() ? at_load : environment_now();
}

}  // namespace moetap::plugin
