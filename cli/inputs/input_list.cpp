#include "cli/inputs/input_list.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <sstream>

#include "cli/terminal/command_error.h"
#include "plugin/formats/atomic_file.h"
#include "plugin/formats/whole_file.h"

namespace moetap::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kInputList = "inputs.txt";

std::vector<std::string> describe_inputs(const std::vector<std::string>& files) {
  std::vector<std::string> lines;
  for (const auto& file : files) {
    lines.push_back(fmt::format("{} ({} bytes)", fs::path(file).filename().string(), fs::file_size(file)));
  }
  return lines;
}

}  // namespace

void write_input_list(const fs::path& journal, const std::vector<std::string>& files) {
  plugin::write_file_atomically((journal / kInputList).string(),
                                fmt::format("{}\n", fmt::join(describe_inputs(files), "\n")));
}

void check_same_inputs(const fs::path& journal, const std::vector<std::string>& files) {
  const fs::path path = journal / kInputList;
  if (!fs::exists(path)) return;
  std::vector<std::string> expected;
  std::istringstream list(plugin::read_whole_file(path.string()));
  for (std::string line; std::getline(list, line);) expected.push_back(line);
  const auto actual = describe_inputs(files);
  for (size_t i = 0; i < std::max(expected.size(), actual.size()); ++i) {
    if (i < expected.size() && i < actual.size() && actual[i] == expected[i]) continue;
    throw CommandError(fmt::format(
        "--resume: input {} is {}, the run was begun with {}; give the same inputs, or name another directory", i,
        i < actual.size() ? actual[i] : "missing",
        i < expected.size() ? expected[i] : fmt::format("{} inputs", expected.size())));
  }
}

}  // namespace moetap::cli
