#include "cli/run_directory.h"

#include <fmt/format.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/command_error.h"

namespace moetap::cli {
namespace {

namespace fs = std::filesystem;

std::string from_environment(const char* name, const char* mpi_name, const char* otherwise) {
  for (const char* candidate : {name, mpi_name}) {
    if (const char* value = std::getenv(candidate); value != nullptr && *value != '\0') {
      return value;
    }
  }
  return otherwise;
}

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
  const std::string rank = from_environment("RANK", "OMPI_COMM_WORLD_RANK", "0");
  shared_with_ranks_ = from_environment("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "1") != "1";
  done_marker_ = path_ / fmt::format("rank{}_metric_eval_done.txt", rank);
  own_dump_ = path_ / "moetap" / "dump" / ("rank" + rank);
  std::error_code error;
  existed_ = fs::exists(path_, error);
  if (existed_ && !fs::is_directory(path_, error)) {
    throw CommandError(fmt::format("{}: is a file; -o names the directory to write", path));
  }
  if (existing == ExistingRun::kRefuse && holds_run()) {
    throw CommandError(
        fmt::format("{}: already holds a run; name another directory, or replace it with --overwrite", path));
  }
}

bool RunDirectory::holds_run() const {
  std::error_code error;
  return fs::exists(done_marker_, error) || fs::exists(own_dump_, error) ||
         (!shared_with_ranks_ && fs::exists(path_ / "moetap" / "manifest.json", error));
}

void RunDirectory::remove_existing_run() {
  if (!holds_run()) {
    return;
  }
  const std::string task = task_of_existing_run(path_, task_);
  std::error_code error;
  // The marker goes first: whoever looks in between sees an unfinished run.
  fs::remove(done_marker_, error);
  if (shared_with_ranks_) {
    fs::remove_all(own_dump_, error);
  } else {
    fs::remove(path_ / (task + ".json"), error);
    fs::remove(path_ / "results.json", error);
    fs::remove_all(path_ / "moetap", error);
  }
  if (holds_run()) {
    throw CommandError(fmt::format(
        "{}: the run in it cannot be removed; check its permissions or name another directory", path_.string()));
  }
}

void RunDirectory::discard() noexcept {
  std::error_code error;
  fs::remove(done_marker_, error);
  if (shared_with_ranks_) {
    fs::remove_all(own_dump_, error);
    return;
  }
  fs::remove(path_ / (task_ + ".json"), error);
  fs::remove(path_ / "results.json", error);
  fs::remove_all(path_ / "moetap", error);
  if (!existed_) {
    fs::remove(path_, error);  // leaves a directory that is not empty
  }
}

void RunDirectory::mark_incomplete() noexcept {
  std::error_code error;
  fs::remove(done_marker_, error);
}

}  // namespace moetap::cli
