#include "analysis/devices/own_file.h"

#include <dlfcn.h>
#include <link.h>

#include <system_error>

namespace moetap::analysis {
namespace {

/// How the dynamic linker knows the file; null: not at all.
const link_map* own_link_map() {
  Dl_info info{};
  void* map = nullptr;
  const bool found = ::dladdr1(reinterpret_cast<const void*>(&own_file), &info, &map, RTLD_DL_LINKMAP) != 0;
  return found ? static_cast<const link_map*>(map) : nullptr;
}

std::filesystem::path find_own_file() {
  const link_map* map = own_link_map();
  if (map == nullptr) return {};
  std::error_code error;
  // Of the program the linker knows only argv[0], which may be a bare name that was found in PATH.
  const auto file = std::filesystem::canonical(*map->l_name == '\0' ? "/proc/self/exe" : map->l_name, error);
  return error ? std::filesystem::path() : file;
}

/// Never destroyed: forwards may run while the process exits.
const std::filesystem::path& file_at_load() {
  static const auto* file = new std::filesystem::path(find_own_file());
  return *file;
}

// The linker may know a relative path (LD_PRELOAD=lib/libmoetap.so), which the host's first `chdir` makes useless.
[[maybe_unused]] const std::filesystem::path& found_at_load = file_at_load();

}  // namespace

bool is_in_program() {
  const link_map* map = own_link_map();
  return map != nullptr && *map->l_name == '\0';  // the program itself has no name there
}

std::filesystem::path own_file() {
  return file_at_load();
}

}  // namespace moetap::analysis
