#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "plugin/journal/journal_lock.h"
#include "plugin/process/process_rank.h"
#include "plugin/run/run_paths.h"

namespace moetap::cli {

enum class ExistingRun { kRefuse, kReplace, kResume };

/// The directory that a run writes to, seen from outside the session: what lies there before, and what a failed run
/// must not leave. Only files of a run are ever removed; whatever else lies in the directory stays.
class RunDirectory {
 public:
  /// Throws CommandError if a session writes there (whatever `existing` is), if the directory holds a run of this
  /// process's rank and `existing` is kRefuse, or one that is finished and `existing` is kResume.
  RunDirectory(const std::string& path, const std::string& task, ExistingRun existing);

  /// Removes the run that lies there. Call it when nothing but the run itself can fail any more. Throws CommandError,
  /// and removes nothing, if a session has begun to write there since.
  void remove_existing_run();

  /// True if an unfinished run lies there that this one goes on with.
  bool resumes() const { return resumes_; }

  const plugin::RunPaths& paths() const { return paths_; }

  /// Removes everything that this run wrote, and the directory if the run created it. Call it only after the run's
  /// session was opened and closed. Does nothing if the run was resumed, or if another session has begun to write there
  /// since. Never throws.
  void discard() noexcept;

  /// For a run whose session could not be opened: files in the directory may be another session's, so this removes only
  /// folders that were not there before and are empty. Never throws.
  void remove_new_folders() noexcept;

 private:
  struct LockedJournal {
    std::filesystem::path folder;
    std::unique_ptr<plugin::JournalLock> owner;
  };

  bool holds_run() const;
  bool holds_files() const;
  std::vector<LockedJournal> lock_journals() const;
  void remove_files(const std::string& task);
  void remove_journals(const std::vector<LockedJournal>& journals);

  const plugin::ProcessRank rank_;
  const plugin::RunPaths paths_;
  const std::string task_;
  std::vector<std::filesystem::path> new_folders_;  // not there before the run; each before its parent
  bool resumes_ = false;
};

}  // namespace moetap::cli
