#pragma once

#include <filesystem>
#include <string>

#include "plugin/process_rank.h"
#include "plugin/run_paths.h"

namespace moetap::cli {

enum class ExistingRun { kRefuse, kReplace, kResume };

/// The directory that a run writes to, seen from outside the session: what lies there before, and what a failed run
/// must not leave. Only files of a run are ever removed; whatever else lies in the directory stays.
class RunDirectory {
 public:
  /// Throws CommandError if a session writes there (whatever `existing` is), if the directory holds a run of this
  /// process's rank and `existing` is kRefuse, or one that is finished and `existing` is kResume.
  RunDirectory(const std::string& path, const std::string& task, ExistingRun existing);

  /// Removes the run that lies there. Call it when nothing but the run itself can fail any more.
  void remove_existing_run();

  /// True if an unfinished run lies there that this one goes on with.
  bool resumes() const { return resumes_; }

  const plugin::RunPaths& paths() const { return paths_; }

  /// Removes everything that this run wrote, and the directory if the run created it. Call it only once the run
  /// directory is this process's; leaves a run that is resumed. Never throws.
  void discard() noexcept;

  /// The session could not be opened: removes the directory if it was not there before. Never throws.
  void discard_if_new() noexcept;

 private:
  bool holds_run() const;
  void remove_files(const std::string& task) noexcept;

  const plugin::ProcessRank rank_;
  const plugin::RunPaths paths_;
  const std::string task_;
  bool existed_;
  bool resumes_ = false;
};

}  // namespace moetap::cli
