#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "plugin/run/run_reader.h"

namespace moetap::cli {

/// Which group of `--group-by KEY` each sample of some runs belongs to: the value of the key in the sample's `doc`.
class SampleGroups {
 public:
  SampleGroups() = default;  // no groups
  /// `samples_file`: one for all runs; "": the one that each run was recorded with. Throws CommandError: a file that is
  /// not there, no sample that has the key.
  SampleGroups(const std::vector<const plugin::RunReader*>& runs, const std::string& key,
               const std::string& samples_file);

  const std::vector<std::string>& names() const { return names_; }  // sorted
  /// −1: the sample has none.
  int32_t group_of(size_t run, int64_t sample) const;

 private:
  std::vector<std::string> names_;
  std::vector<std::vector<int32_t>> groups_;  // by run, then sample
};

}  // namespace moetap::cli
