#include "plugin/merge/merge_summaries.h"

#include <algorithm>
#include <filesystem>
#include <stdexcept>

#include "plugin/formats/atomic_file.h"
#include "plugin/merge/merge_parts.h"
#include "plugin/merge/merged_state.h"
#include "plugin/run/run_outputs.h"

namespace moetap::plugin {

std::vector<std::string> merge_summaries(const std::string& run_dir, const std::string& output_dir,
                                         MissingRanks missing_ranks) {
  MergeOptions options;
  options.relabel = true;  // sums do not tell samples: those of two ranks may have one number
  options.allow_missing = missing_ranks == MissingRanks::kLeaveOut;
  std::vector<std::string> missing;
  RunParts parts = open_parts({run_dir}, options, missing);
  if (parts.empty()) throw std::runtime_error(run_dir + ": holds no rank that finished");
  number_samples(parts, options);
  const RunPaths paths(output_dir, 0);
  std::filesystem::create_directories(paths.about);
  RunState state(merged_config(parts), {0, 1}, paths);
  RunTimes times{parts.front()->start().opened, {}};
  for (const auto& part : parts) times.opened = std::min(times.opened, part->start().opened);
  state.opened = times.opened;
  SumsWriter sums(sums_path(paths));  // is not finished: nothing is left of it
  add_parts(state, sums, parts);
  RunEnding ending = merged_ending(state, parts);
  for (const std::string& line : missing) ++ending.counters.notices[line];
  state.times_resumed = ending.times_resumed;
  times.closed = ending.closed;
  OutputSources sources;
  sources.write_log = [&](const std::string&, const std::string&, const LogLayout&) { return ending.losses; };
  sources.keep_sums = [](const LogLosses&) {};
  write_run_outputs(state, paths, ending.counters, times, ending.recovery, sources);
  write_file_atomically(paths.done.string(), "rank 0 eval done");
  return missing;
}

}  // namespace moetap::plugin
