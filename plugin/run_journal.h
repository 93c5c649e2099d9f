#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "plugin/config.h"
#include "plugin/frame_log.h"
#include "plugin/logged_forward.h"
#include "plugin/random_access_file.h"

namespace moetap::plugin {

// Note [Journal]
// While a run goes on, RUN_DIR/moetap/journal/rankR/ holds all that its files are made of:
//
//   owner                 the process that writes (locked while it lives), "pid N"
//   forwards.frames       Note [Frames]: kRunStarted once, kModelAdded before a model's first forward, kHookPlaced
//   before a
//                         hook's first forward, kMethodRan before a method's, kForward for each forward, kProbe where
//                         probabilities were kept
//   samples.jsonl         a copy of the samples file
//   SERIES-NNNNNN.rows    rows of the dump that are not in a finished shard yet (dump_series.h)
//
// A forward is one frame, so it is there whole or not at all. It holds, each behind its length (u32): the summary part,
// the shared part (see Note [Whole-forward routers]), and the log's parts, one an entry. Parts of one entry are chained
// by their places, last to first, so that memory holds two numbers an entry and none a forward; the log is written at
// close in one pass over the entries in the order of doc_id.
enum JournalFrame : uint32_t {
  kRunStarted = 1,
  kModelAdded = 2,
  kForward = 3,
  kProbe = 4,
  kHookPlaced = 5,
  kMethodRan = 6
};

/// An entry of the log to be.
struct JournalEntry {
  int64_t first_sample = 0;  // whose fields it gets
  int64_t last_part = 0;     // where its last part lies
};

/// The journal of a run that this process writes. Used by one thread. Errors are std::runtime_error with one line.
class RunJournal {
 public:
  /// Creates the folder. Throws if another process writes there, or one that died left a journal.
  explicit RunJournal(std::string folder);
  RunJournal(const RunJournal&) = delete;
  RunJournal& operator=(const RunJournal&) = delete;
  ~RunJournal();  // leaves the files

  const std::string& folder() const { return folder_; }
  std::string samples_copy() const { return folder_ + "/samples.jsonl"; }

  /// Adds a frame that is no forward.
  void add(JournalFrame kind, const std::string& payload) { log_->append(kind, payload); }
  /// Chains the parts to what their entries have; sets their `previous` and `shared`.
  void add(LoggedForward forward);
  void sync() { log_->sync(); }

  const std::vector<JournalEntry>& entries() const { return entries_; }

  /// The parts of an entry in order, each with its shared part (or one without routers).
  struct PartOfEntry {
    LogPart part;
    LogPart shared;
  };
  std::vector<PartOfEntry> parts(const JournalEntry& entry) const;

  /// Removes the folder: its run's files are whole.
  void remove();

 private:
  void lock_folder();
  std::string read_part(int64_t place) const;
  std::optional<size_t> entry_of(int64_t first_sample) const;
  void add_entry(const JournalEntry& entry);
  bool continues(const JournalEntry& entry, const LogPart& part) const;

  std::string folder_;
  int owner_ = -1;  // descriptor of the locked file
  std::unique_ptr<FrameLog> log_;
  std::unique_ptr<RandomAccessFile> reader_;
  std::vector<JournalEntry> entries_;
  // Samples mostly come in order, and then need no index: the first `num_ordered_` entries ascend by first sample.
  size_t num_ordered_ = 0;
  std::unordered_map<int64_t, size_t> entry_of_sample_;  // of the others, the last such entry
};

}  // namespace moetap::plugin
