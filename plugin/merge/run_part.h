#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "plugin/formats/random_access_file.h"
#include "plugin/records/model_description.h"
#include "plugin/run/run_paths.h"
#include "plugin/run/run_replay.h"
#include "plugin/run/run_sums.h"

namespace moetap::plugin {

/// One rank of a finished run, as it is merged: Note [Sums of a finished run]. Memory holds 40 bytes an entry of the
/// log and 32 a forward of the dump; sums and rows stay on the disk. Used by one thread.
class RunPart {
 public:
  /// Throws std::runtime_error with one line: the rank keeps no sums, or they are damaged or of another version.
  RunPart(const std::string& run_dir, int64_t rank, bool is_only_rank);

  const std::string& name() const { return name_; }  // for messages
  const RunPaths& paths() const { return paths_; }
  int64_t rank() const { return rank_; }
  const RunStart& start() const { return *start_; }
  const RunEnding& ending() const { return *ending_; }
  const std::vector<std::shared_ptr<const ModelDescription>>& models() const { return models_; }
  /// Payloads of kHookPlaced, kMethodRan and kColumnWithheld, in order.
  const std::vector<Frame>& descriptions() const { return descriptions_; }

  struct Entry {
    int64_t doc_id = 0;
    int64_t first_sample = 0;
    int64_t begin = 0;  // of its LoggedSamples in the file
    uint32_t bytes = 0;
    bool numbered = false;
  };
  const std::vector<Entry>& entries() const { return entries_; }  // in the order of the log
  std::vector<int64_t> samples_of(const Entry& entry) const;
  const std::vector<int64_t>& samples() const { return samples_; }  // of all entries, ascending, each once

  /// A forward of the dump.
  struct Forward {
    int64_t first_sample = -1;
    int64_t index = 0;
    int64_t begin = 0;  // of its ForwardExtents in the file
    uint32_t bytes = 0;
  };
  const std::vector<Forward>& forwards() const { return forwards_; }
  std::vector<ForwardExtents::Extent> extents_of(const Forward& forward) const;

  /// Calls `use` with the payload of each frame of this kind.
  void for_frames(uint32_t kind, const std::function<void(std::string_view payload)>& use) const;

  /// What `sample` is called in the merged run; -1 stays.
  int64_t renumbered(int64_t sample) const { return sample < 0 ? sample : sample + sample_offset; }
  int64_t sample_offset = 0;
  /// Places in the merged run's tables, by place in this one's.
  std::vector<size_t> routers, attention;

 private:
  void take(Frame frame);
  void take_entries(const Frame& frame);
  void take_forwards(const Frame& frame);
  [[noreturn]] void damaged() const;

  std::string name_, path_;
  int64_t rank_;
  RunPaths paths_;
  std::optional<RunStart> start_;
  std::optional<RunEnding> ending_;
  std::vector<std::shared_ptr<const ModelDescription>> models_;
  std::vector<Frame> descriptions_;
  std::vector<Entry> entries_;
  std::vector<int64_t> samples_;
  std::vector<Forward> forwards_;
  std::vector<std::string> series_;
  std::unique_ptr<RandomAccessFile> file_;
};

}  // namespace moetap::plugin
