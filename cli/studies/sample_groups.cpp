#include "cli/studies/sample_groups.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "cli/terminal/command_error.h"
#include "plugin/results/samples_file.h"

namespace moetap::cli {
namespace {

/// The value of the key in each line's `doc`; "": the line has none. Adds the keys that it saw.
std::vector<std::string> read_values(const std::string& path, const std::string& key, std::set<std::string>& keys) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    throw CommandError(fmt::format("--group-by: {} cannot be read; it has the samples' docs: name it with --samples",
                                   path.empty() ? "the run was recorded without --samples, and a samples file" : path));
  }
  const plugin::SamplesFile samples(path);
  std::vector<std::string> values;
  for (int64_t sample = 0; sample < samples.size(); ++sample) {
    const nlohmann::ordered_json fields = samples.given(sample);
    const auto doc = fields.find("doc");
    values.emplace_back();
    if (doc == fields.end()) continue;
    for (const auto& [name, value] : doc->items()) keys.insert(name);
    const auto found = doc->find(key);
    if (found != doc->end() && !found->is_null()) {
      values.back() = found->is_string() ? found->get<std::string>() : found->dump();
    }
  }
  return values;
}

}  // namespace

SampleGroups::SampleGroups(const std::vector<const plugin::RunReader*>& runs, const std::string& key,
                           const std::string& samples_file) {
  std::vector<std::vector<std::string>> values;
  std::set<std::string> names, keys;
  for (const plugin::RunReader* run : runs) {
    values.push_back(read_values(samples_file.empty() ? run->samples_file() : samples_file, key, keys));
    names.insert(values.back().begin(), values.back().end());
  }
  names.erase("");
  if (names.empty()) {
    throw CommandError(fmt::format("--group-by: no sample's doc has \"{}\"; they have {}", key,
                                   keys.empty() ? "no fields" : fmt::format("{}", fmt::join(keys, ", "))));
  }
  names_.assign(names.begin(), names.end());
  for (const auto& of_run : values) {
    std::vector<int32_t>& groups = groups_.emplace_back();
    for (const std::string& value : of_run) {
      const auto found = std::lower_bound(names_.begin(), names_.end(), value);
      groups.push_back(value.empty() ? -1 : static_cast<int32_t>(found - names_.begin()));
    }
  }
}

int32_t SampleGroups::group_of(size_t run, int64_t sample) const {
  if (run >= groups_.size() || sample < 0 || sample >= static_cast<int64_t>(groups_[run].size())) return -1;
  return groups_[run][static_cast<size_t>(sample)];
}

}  // namespace moetap::cli
