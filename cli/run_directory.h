#pragma once

#include <filesystem>
#include <string>

namespace moetap::cli {

enum class ExistingRun { kRefuse, kReplace };

/// The directory that a run writes to, seen from outside the session: what lies there before, and what a failed run
/// must not leave. Only files of a run are ever removed; whatever else lies in the directory stays.
class RunDirectory {
 public:
  /// Throws CommandError if the directory holds a run of this process's rank and `existing` is kRefuse.
  RunDirectory(const std::string& path, const std::string& task, ExistingRun existing);

  /// Removes the run that lies there. Call it when nothing but the run itself can fail any more.
  void remove_existing_run();

  /// Removes everything that this run wrote, and the directory if the run created it. Never throws.
  void discard() noexcept;

  /// Takes back the word that the evaluation is done, which the run's other files do not give. Never throws.
  void mark_incomplete() noexcept;

 private:
  bool holds_run() const;
  void remove_files(const std::string& task) noexcept;

  std::filesystem::path path_;
  std::string task_;
  std::filesystem::path done_marker_;
  std::filesystem::path dump_;     // of this rank
  std::filesystem::path journal_;  // of this rank; there while a run goes on, and after one that died
  bool shared_with_ranks_;         // other ranks may write here: their files stay
  bool existed_;
};

}  // namespace moetap::cli
