#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "plugin/formats/frame_log.h"
#include "plugin/formats/random_access_file.h"
#include "plugin/journal/journal_lock.h"
#include "plugin/journal/logged_forward.h"
#include "plugin/records/config.h"

namespace moetap::plugin {

// Note [Journal]
// While a run goes on, RUN_DIR/moetap/journal/rankR/ holds all that its files are made of:
//
//   owner                 who writes, or wrote (journal_lock.h)
//   forwards.frames       Note [Frames], see JournalFrame
//   samples.jsonl         a copy of the samples file
//   SERIES-NNNNNN.rows    rows of the dump that are not in a finished shard yet (shard_rows.h)
//
// A forward is one frame (kForward), so it is there whole or not at all. It holds, each behind its length (u32): the
// summary part, the tally, the shared part (see Note [Whole-forward routers]), and the log's parts, one an entry. Parts
// of one entry are chained by their places, last to first, so that memory holds two numbers an entry and none a
// forward; the log is written at close in one pass over the entries in the order of doc_id.
//
// What else a forward changed (a hook's place, the dump's layout, probabilities) stands in frames before its own and
// counts only if that one follows. Its rows of the dump are appended before, too: the tally says how many rows each
// series then has, so that rows of a forward that does not count are told and cut off.
enum JournalFrame : uint32_t {
  kRunStarted = 1,  // JSON: config, rank, world_size, time; first and once
  kModelAdded = 2,  // a ModelDescription, before the model's first forward
  kForward = 3,
  kProbe = 4,       // ProbeFile::add; before the forward
  kHookPlaced = 5,  // JSON; before the hook's first forward
  kMethodRan = 6,   // JSON; before the method's first forward
  kDumpLayout = 7,  // DumpWriter::changed_layout; before the forward
  kCounted = 8,     // JSON of counters, whenever the journal is synced
  kRunResumed = 9,  // JSON: time; another process goes on
};

/// What a forward adds to the run's counters and to the dump.
struct ForwardTally {
  int64_t index = 0;  // ForwardRecord::index
  int64_t tokens = 0;
  int64_t out_of_range = 0;
  int64_t unattributed = 0;
  std::map<std::string, int64_t> dump_rows;  // series that got rows -> how many it then has
};

/// An entry of the log to be.
struct JournalEntry {
  int64_t first_sample = 0;  // whose fields it gets
  int64_t last_part = 0;     // where its last part lies
};

/// A kForward frame, taken apart.
struct JournalForward {
  SummaryPart summary;
  ForwardTally tally;
  std::vector<LogPart> parts;
  std::vector<int64_t> places;  // of the parts
};

/// A frame to be appended.
struct NewFrame {
  JournalFrame kind;
  std::string payload;
};

/// Throws std::runtime_error for a payload that no journal wrote.
JournalForward read_forward(const Frame& frame);

/// The journal of a run. Used by one thread. Errors are std::runtime_error with one line.
class RunJournal {
 public:
  enum class Left { kRefuse, kTake };  // what to do with the journal of a process that died
  static constexpr uint64_t kMaxPartBytes = std::numeric_limits<uint32_t>::max();  // a part's length is a u32

  /// Creates the folder and owns it. Throws if another session writes there; if a process that died left a journal and
  /// `left` is kRefuse. `begin`, or `go_on` where one was left, must follow before anything is added. `max_part_bytes`:
  /// what one forward may give to one log entry, or to the summary.
  RunJournal(std::string folder, Left left, uint64_t max_part_bytes = kMaxPartBytes);
  RunJournal(const RunJournal&) = delete;
  RunJournal& operator=(const RunJournal&) = delete;
  ~RunJournal();  // leaves the files

  const std::string& folder() const { return folder_; }
  std::string samples_copy() const { return folder_ + "/samples.jsonl"; }
  std::string frames_path() const { return frames_path_in(folder_); }
  static std::string frames_path_in(const std::string& folder) { return folder + "/forwards.frames"; }

  /// Who left a journal here; empty: nobody.
  const std::string& left_by() const { return left_by_; }

  /// Tells others that this process works on what was left.
  void claim() { owner_->claim(left_by_); }

  /// Begins a new journal, in place of what was left.
  void begin();
  /// Goes on behind the first `end_bytes` bytes of the frames.
  void go_on(int64_t end_bytes);
  /// Only reads from now on: `take_in`, `entries`, `parts`, `remove`.
  void read_only();

  /// Of one entry, the parts of one forward.
  struct Link {
    std::optional<size_t> entry;  // empty: a new one
    int64_t last_part = 0;
  };

  /// Forgets all entries, for `take_in` from the first frame on.
  void forget_entries();
  /// Adds the entries of a frame that the journal holds already.
  void take_in(const JournalForward& forward);

  /// Adds a frame that is no forward.
  void add(JournalFrame kind, const std::string& payload) { log_->append(kind, payload); }

  /// The frames of one forward. Once they are built, only the disk can refuse them.
  struct ForwardFrames {
    std::vector<NewFrame> frames;  // in order; the last is the forward's own
    std::map<int64_t, Link> links;
  };
  /// Chains the parts to what their entries have: sets their `previous` and `shared`. `effects`: what else the forward
  /// changes, to stand before its own frame. Writes nothing. Throws std::runtime_error if the forward is too large.
  ForwardFrames build(std::vector<NewFrame> effects, LoggedForward forward, const ForwardTally& tally) const;
  /// Appends what `build` gave. Nothing may be added between the two.
  void add(ForwardFrames forward);
  void sync() { log_->sync(); }
  /// Throws if the files were removed meanwhile.
  void check_in_place() const { log_->check_in_place(); }

  const std::vector<JournalEntry>& entries() const { return entries_; }

  /// The parts of an entry in order, each with its shared part (or one without routers).
  struct PartOfEntry {
    LogPart part;
    LogPart shared;
  };
  std::vector<PartOfEntry> parts(const JournalEntry& entry) const;

  /// Removes the folder: its run's files are whole.
  void remove();
  /// The same where an error is on its way already, which must not be replaced by another one.
  void try_to_remove() noexcept;

 private:
  using Links = std::map<int64_t, Link>;  // by first sample

  void append_part(std::string& payload, const std::string& part) const;
  void commit(const Links& links);
  std::string read_part(int64_t place) const;
  std::optional<size_t> entry_of(int64_t first_sample) const;
  void add_entry(const JournalEntry& entry);
  bool continues(const JournalEntry& entry, const LogPart& part) const;

  std::string folder_;
  uint64_t max_part_bytes_;
  std::string left_by_;
  std::unique_ptr<JournalLock> owner_;
  std::unique_ptr<FrameLog> log_;
  std::unique_ptr<RandomAccessFile> reader_;
  std::vector<JournalEntry> entries_;
  // Samples mostly come in order, and then need no index: the first `num_ordered_` entries ascend by first sample.
  size_t num_ordered_ = 0;
  std::unordered_map<int64_t, size_t> entry_of_sample_;  // of the others, the last such entry
};

}  // namespace moetap::plugin
