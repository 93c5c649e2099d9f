#include "cli/report/page_run.h"

#include <fmt/format.h>
#include <stdlib.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>

#include "cli/terminal/command_error.h"
#include "cli/terminal/held_notices.h"
#include "plugin/journal/journal_lock.h"
#include "plugin/merge/merge_summaries.h"
#include "plugin/run/run_paths.h"
#include "plugin/run/run_ranks.h"

namespace moetap::cli {
namespace {

namespace fs = std::filesystem;

/// The first process that records the run now; "": none does.
std::string recording_process(const std::string& folder, const std::vector<int64_t>& ranks) {
  for (const int64_t rank : ranks) {
    const auto owner = plugin::living_owner(plugin::RunPaths(folder, rank).journal.string());
    if (owner) return *owner;
  }
  return "";
}

}  // namespace

PageRun::PageRun(const std::string& folder, const std::string& scratch_folder, UnfinishedRun unfinished)
    : folder_(folder) {
  const plugin::RunRanks ranks = plugin::find_run_ranks(folder);
  if (!ranks.unfinished.empty()) {
    const std::string process = recording_process(folder, ranks.unfinished);
    if (unfinished == UnfinishedRun::kRefuse && !process.empty()) {
      throw CommandError(
          fmt::format("{}: is still being recorded ({}); --watch shows it while it goes on", folder, process));
    }
    if (unfinished == UnfinishedRun::kShow) {
      read_unfinished(scratch_folder);
      return;
    }
  }
  dump_ = std::make_shared<const plugin::RunReader>(folder);
  if (dump_->ranks().size() == 1) {
    metrics_ = dump_;
    return;
  }
  const HeldNotices notices;
  const std::string merged = make_folder(scratch_folder, "merged");
  try {
    missing_ = plugin::merge_summaries(folder, merged, plugin::MissingRanks::kRefuse);
  } catch (const std::runtime_error& error) {
    throw CommandError(
        fmt::format("{}: its {} ranks cannot be read as one run: {}", folder, dump_->ranks().size(), error.what()));
  }
  metrics_ = std::make_shared<const plugin::RunReader>(merged);
}

PageRun::~PageRun() {
  std::error_code error;
  if (!own_folder_.empty()) fs::remove_all(own_folder_, error);
}

void PageRun::read_unfinished(const std::string& scratch_folder) {
  const HeldNotices notices;
  const std::string snapshot = make_folder(scratch_folder, "snapshot");
  unfinished_ = plugin::snapshot_run(folder_, snapshot);
  if (unfinished_.empty()) throw CommandError(folder_ + ": has recorded no forward yet");
  if (unfinished_.size() == 1 && unfinished_.front().rank == 0) {
    try {
      metrics_ = std::make_shared<const plugin::RunReader>(snapshot);
      return;
    } catch (const std::runtime_error&) {
      // One of several ranks: the others have recorded nothing yet.
    }
  }
  const std::string merged = make_folder(scratch_folder, "merged");
  missing_ = plugin::merge_summaries(snapshot, merged, plugin::MissingRanks::kLeaveOut);
  for (std::string& line : missing_) {
    if (line.starts_with(snapshot)) line.replace(0, snapshot.size(), folder_);
  }
  metrics_ = std::make_shared<const plugin::RunReader>(merged);
}

std::string PageRun::make_folder(const std::string& scratch_folder, const char* name) {
  if (own_folder_.empty()) {
    std::string path = (fs::path(scratch_folder) / ".moetap-report-XXXXXX").string();
    if (::mkdtemp(path.data()) == nullptr)
      throw CommandError(fmt::format("cannot write {}: {}", scratch_folder, std::generic_category().message(errno)));
    own_folder_ = path;
  }
  const fs::path made = fs::path(own_folder_) / name;
  fs::create_directories(made);
  return made.string();
}

}  // namespace moetap::cli
