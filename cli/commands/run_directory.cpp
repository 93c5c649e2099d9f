#include "cli/commands/run_directory.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/terminal/command_error.h"
#include "plugin/journal/journal_lock.h"
#include "plugin/journal/run_journal.h"
#include "plugin/process/error_text.h"
#include "plugin/results/json_keys.h"
#include "plugin/run/run_replay.h"

namespace moetap::cli {

namespace fs = std::filesystem;

namespace {

/// The log's name in the run that is in the directory; the new run may have another.
std::string task_of_existing_run(const fs::path& about, const std::string& otherwise) {
  std::ifstream file(about / "manifest.json");
  const auto manifest = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  const auto task = nlohmann::json::json_pointer() / plugin::keys::kConfig.name / plugin::keys::kTask.name;
  if (!manifest.is_object() || !manifest.contains(task) || !manifest.at(task).is_string()) {
    return otherwise;
  }
  const auto name = manifest.at(task).get<std::string>();
  return name.empty() || name.find('/') != std::string::npos ? otherwise : name;
}

std::vector<fs::path> entries_of(const fs::path& folder) {
  std::vector<fs::path> entries;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    entries.push_back(entry->path());
  }
  return entries;
}

}  // namespace

RunDirectory::RunDirectory(const std::string& path, const std::string& task, ExistingRun existing)
    : rank_(plugin::process_rank_from_environment()), paths_(path, rank_.rank), task_(task) {
  std::error_code error;
  for (const fs::path& folder : {paths_.journal, paths_.journal.parent_path(), paths_.dump, paths_.dump.parent_path(),
                                 paths_.about, paths_.inside, paths_.run}) {
    if (!fs::exists(folder, error)) new_folders_.push_back(folder);
  }
  if (fs::exists(paths_.run, error) && !fs::is_directory(paths_.run, error)) {
    throw CommandError(fmt::format("{}: is a file; -o names the directory to write", path));
  }
  // Also finds a session that is just beginning or ending, whose journal holds only the lock.
  if (const auto owner = plugin::living_owner(paths_.journal.string())) {
    throw CommandError(
        fmt::format("{}: is written by another session ({}); name another directory, or wait until it "
                    "has ended",
                    path, *owner));
  }
  const bool unfinished = fs::exists(paths_.journal, error) && !fs::exists(paths_.done, error);
  if (existing == ExistingRun::kResume) {
    if (!unfinished && holds_run()) {
      throw CommandError(fmt::format(
          "{}: holds a run that is finished, there is nothing to resume; name another directory, or replace it with "
          "--overwrite instead of --resume",
          path));
    }
    resumes_ = unfinished && fs::exists(plugin::RunJournal::frames_path_in(paths_.journal.string()), error) &&
               plugin::read_run_start(plugin::RunJournal::frames_path_in(paths_.journal.string()));
  }
  if (existing == ExistingRun::kRefuse && holds_run()) {
    throw CommandError(
        unfinished ? fmt::format("{}: holds a run that has not finished; go on with it (--resume), complete its "
                                 "files (moetap recover), replace it (--overwrite) or name another directory",
                                 path)
                   : fmt::format("{}: already holds a run; name another directory, or replace it with "
                                 "--overwrite",
                                 path));
  }
}

bool RunDirectory::holds_files() const {
  std::error_code error;
  return fs::exists(paths_.done, error) || fs::exists(paths_.dump, error) ||
         fs::exists(paths_.about / "manifest.json", error) || fs::exists(paths_.log / (task_ + ".json"), error) ||
         fs::exists(paths_.log / "results.json", error);
}

bool RunDirectory::holds_run() const {
  std::error_code error;
  return holds_files() || fs::exists(paths_.journal, error);
}

// Note [Removing a run]
// Another session may begin at any time, even after this process has looked. So each journal is locked, as a session
// locks it, before anything is removed, and its lock file is removed last. Until then no session can begin; one that
// begins later makes a new lock file and folder. The lock file and the folder are therefore removed by name and never
// recursively: by then the folder may hold files of that session.

std::vector<RunDirectory::LockedJournal> RunDirectory::lock_journals() const {
  std::vector<fs::path> folders;
  if (rank_.world_size == 1) folders = entries_of(plugin::RunPaths::journals(paths_.run));
  std::erase(folders, paths_.journal);
  folders.push_back(paths_.journal);  // last: locking it may create it
  std::vector<LockedJournal> journals;
  for (const fs::path& folder : folders) {
    try {
      journals.push_back({folder, std::make_unique<plugin::JournalLock>(folder.string())});
    } catch (const std::runtime_error& error) {
      throw CommandError(plugin::one_line(error));
    }
  }
  return journals;
}

void RunDirectory::remove_files(const std::string& task) {
  std::error_code error;
  // The marker is removed first: who looks meanwhile sees an unfinished run.
  fs::remove(paths_.done, error);
  fs::remove(paths_.log / (task + ".json"), error);
  fs::remove(paths_.log / "results.json", error);
  if (rank_.world_size > 1) {
    // Other ranks may write here: their files stay.
    for (const char* file : {"summary.json", "manifest.json", "probe.safetensors", "outputs"}) {
      fs::remove_all(paths_.about / file, error);
    }
    fs::remove_all(paths_.dump, error);
    return;
  }
  for (const fs::path& entry : entries_of(paths_.inside)) {
    if (entry != plugin::RunPaths::journals(paths_.run)) fs::remove_all(entry, error);
  }
}

void RunDirectory::remove_journals(const std::vector<LockedJournal>& journals) {
  std::error_code error;
  for (const LockedJournal& journal : journals) {
    for (const fs::path& entry : entries_of(journal.folder)) {
      if (entry.filename() != "owner") fs::remove_all(entry, error);
    }
    fs::remove(journal.folder / "owner", error);
    fs::remove(journal.folder, error);
  }
  for (const fs::path& folder :
       {plugin::RunPaths::journals(paths_.run), paths_.dump.parent_path(), paths_.about, paths_.inside}) {
    fs::remove(folder, error);  // leaves one that is not empty
  }
}

void RunDirectory::remove_existing_run() {
  if (!holds_run()) {
    return;
  }
  const auto journals = lock_journals();
  remove_files(task_of_existing_run(paths_.about, task_));
  if (holds_files()) {
    throw CommandError(fmt::format(
        "{}: the run in it cannot be removed; check its permissions or name another directory", paths_.run.string()));
  }
  remove_journals(journals);
}

void RunDirectory::remove_new_folders() noexcept {
  std::error_code error;
  for (const fs::path& folder : new_folders_) fs::remove(folder, error);  // leaves one that is not empty
}

void RunDirectory::discard() noexcept {
  std::error_code error;
  if (resumes_ || !fs::exists(paths_.run, error)) {
    return;
  }
  try {
    const auto journals = lock_journals();
    remove_files(task_);
    remove_journals(journals);
  } catch (const std::exception&) {
    return;  // another session has begun
  }
  remove_new_folders();
}

}  // namespace moetap::cli
