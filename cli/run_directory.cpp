#include "cli/run_directory.h"

#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/command_error.h"
#include "plugin/run_journal.h"
#include "plugin/run_owner.h"
#include "plugin/run_state.h"

namespace moetap::cli {
namespace {

namespace fs = std::filesystem;

/// The log's name in the run that lies there, which need not be that of the new run.
std::string task_of_existing_run(const fs::path& about, const std::string& otherwise) {
  std::ifstream file(about / "manifest.json");
  const auto manifest = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  const auto task = nlohmann::json::json_pointer("/config/task");
  if (!manifest.is_object() || !manifest.contains(task) || !manifest.at(task).is_string()) {
    return otherwise;
  }
  const auto name = manifest.at(task).get<std::string>();
  return name.empty() || name.find('/') != std::string::npos ? otherwise : name;
}

}  // namespace

RunDirectory::RunDirectory(const std::string& path, const std::string& task, ExistingRun existing)
    : rank_(plugin::process_rank_from_environment()), paths_(path, rank_.rank), task_(task) {
  std::error_code error;
  existed_ = fs::exists(paths_.run, error);
  if (existed_ && !fs::is_directory(paths_.run, error)) {
    throw CommandError(fmt::format("{}: is a file; -o names the directory to write", path));
  }
  // A journal of which only the lock is left belongs to a run that is just ending, or beginning.
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

bool RunDirectory::holds_run() const {
  std::error_code error;
  return fs::exists(paths_.done, error) || fs::exists(paths_.dump, error) || fs::exists(paths_.journal, error) ||
         fs::exists(paths_.about / "manifest.json", error) || fs::exists(paths_.log / (task_ + ".json"), error) ||
         fs::exists(paths_.log / "results.json", error);
}

void RunDirectory::remove_files(const std::string& task) noexcept {
  std::error_code error;
  // The marker goes first: whoever looks in between sees an unfinished run.
  fs::remove(paths_.done, error);
  fs::remove(paths_.log / (task + ".json"), error);
  fs::remove(paths_.log / "results.json", error);
  if (rank_.world_size == 1) {
    fs::remove_all(paths_.inside, error);
    return;
  }
  // Other ranks may write here: their files stay.
  for (const char* file : {"summary.json", "manifest.json", "probe.safetensors", "outputs"}) {
    fs::remove_all(paths_.about / file, error);
  }
  for (const fs::path& folder : {paths_.dump, paths_.journal}) fs::remove_all(folder, error);
}

void RunDirectory::remove_existing_run() {
  if (!holds_run()) {
    return;
  }
  remove_files(task_of_existing_run(paths_.about, task_));
  if (holds_run()) {
    throw CommandError(fmt::format(
        "{}: the run in it cannot be removed; check its permissions or name another directory", paths_.run.string()));
  }
}

void RunDirectory::discard_if_new() noexcept {
  if (!existed_) {
    discard();
  }
}

void RunDirectory::discard() noexcept {
  if (resumes_) {
    return;
  }
  remove_files(task_);
  if (!existed_) {
    std::error_code error;
    fs::remove(paths_.run, error);  // leaves a directory that is not empty
  }
}

}  // namespace moetap::cli
