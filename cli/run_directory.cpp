#include "cli/run_directory.h"

#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/command_error.h"
#include "plugin/process_rank.h"

namespace moetap::cli {
namespace {

namespace fs = std::filesystem;

/// The log's name in the run that lies there, which need not be that of the new run.
std::string task_of_existing_run(const fs::path& run, const std::string& otherwise) {
  std::ifstream file(run / "moetap" / "manifest.json");
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
    : path_(path), task_(task) {
  const auto rank = plugin::process_rank_from_environment();
  shared_with_ranks_ = rank.world_size > 1;
  done_marker_ = path_ / fmt::format("rank{}_metric_eval_done.txt", rank.rank);
  const std::string folder = fmt::format("rank{}", rank.rank);
  dump_ = path_ / "moetap" / "dump" / folder;
  journal_ = path_ / "moetap" / "journal" / folder;
  std::error_code error;
  existed_ = fs::exists(path_, error);
  if (existed_ && !fs::is_directory(path_, error)) {
    throw CommandError(fmt::format("{}: is a file; -o names the directory to write", path));
  }
  if (existing == ExistingRun::kRefuse && holds_run()) {
    const char* what = fs::exists(journal_, error) ? "holds a run that has not finished" : "already holds a run";
    throw CommandError(fmt::format("{}: {}; name another directory, or replace it with --overwrite", path, what));
  }
}

bool RunDirectory::holds_run() const {
  std::error_code error;
  return fs::exists(done_marker_, error) || fs::exists(dump_, error) || fs::exists(journal_, error) ||
         (!shared_with_ranks_ &&
          (fs::exists(path_ / "moetap" / "manifest.json", error) || fs::exists(path_ / (task_ + ".json"), error) ||
           fs::exists(path_ / "results.json", error)));
}

void RunDirectory::remove_files(const std::string& task) noexcept {
  std::error_code error;
  // The marker goes first: whoever looks in between sees an unfinished run.
  fs::remove(done_marker_, error);
  if (shared_with_ranks_) {
    fs::remove_all(dump_, error);
    fs::remove_all(journal_, error);
    return;
  }
  fs::remove(path_ / (task + ".json"), error);
  fs::remove(path_ / "results.json", error);
  fs::remove_all(path_ / "moetap", error);
}

void RunDirectory::remove_existing_run() {
  if (!holds_run()) {
    return;
  }
  remove_files(task_of_existing_run(path_, task_));
  if (holds_run()) {
    throw CommandError(fmt::format(
        "{}: the run in it cannot be removed; check its permissions or name another directory", path_.string()));
  }
}

void RunDirectory::discard() noexcept {
  remove_files(task_);
  if (!existed_) {
    std::error_code error;
    fs::remove(path_, error);  // leaves a directory that is not empty
  }
}

void RunDirectory::mark_incomplete() noexcept {
  std::error_code error;
  fs::remove(done_marker_, error);
}

}  // namespace moetap::cli
