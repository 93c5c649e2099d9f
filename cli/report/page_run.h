#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "plugin/run/run_reader.h"
#include "plugin/run/run_snapshot.h"

namespace moetap::cli {

/// What a page does with a run whose processes have not ended.
enum class UnfinishedRun { kRefuse, kShow };

/// A run as a page reads it: the metrics of all its ranks together, and the dump where it is whole. Ranks that were not
/// merged are added up in a folder of its own, and so is what a run that still goes on has recorded so far; the run is
/// only read.
class PageRun {
 public:
  /// `scratch_folder` takes a folder that is removed with this object. Throws CommandError or std::runtime_error.
  PageRun(const std::string& folder, const std::string& scratch_folder, UnfinishedRun unfinished);
  ~PageRun();
  PageRun(const PageRun&) = delete;
  PageRun& operator=(const PageRun&) = delete;

  const std::string& folder() const { return folder_; }
  /// Of one rank: manifest, summary and probe of all.
  const plugin::RunReader& metrics() const { return *metrics_; }
  /// With all ranks and their dumps; null while the run goes on.
  const plugin::RunReader* dump() const { return dump_.get(); }
  /// Ranks, where the run goes on or its processes died; else empty.
  const std::vector<plugin::SnapshotRank>& unfinished() const { return unfinished_; }
  /// What the metrics lack, a line each.
  const std::vector<std::string>& missing() const { return missing_; }

 private:
  void read_unfinished(const std::string& scratch_folder);
  std::string make_folder(const std::string& scratch_folder, const char* name);

  std::string folder_, own_folder_;
  std::shared_ptr<const plugin::RunReader> metrics_, dump_;  // one object where they are of one rank
  std::vector<plugin::SnapshotRank> unfinished_;
  std::vector<std::string> missing_;
};

}  // namespace moetap::cli
