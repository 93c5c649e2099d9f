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
//   SERIES-NNNNNN.rows, .columns    dump rows that are not in a finished shard yet (shard_rows.h)
//
// A forward is one frame (kForward), so it is there whole or not at all. The frame holds, each with its length (u32)
// before it: the summary part, the tally, the shared part (see Note [Whole-forward routers]), and the log's parts, one
// for each entry. Each part holds the place of the part before it in the same entry. So memory holds two numbers for
// each entry and none for each forward. The log is written at close, in one pass over the entries in the order of
// doc_id.
//
// What else a forward changed (a hook's place, a method that ran, the dump's layout, probabilities) is in frames before
// its own; they count only if its own frame follows. Its dump rows are appended before that, too. The tally says how
// many rows each series then has, so dump rows of a forward that does not count are recognised and cut off.
enum JournalFrame : uint32_t {
  kRunStarted = 1,  // JSON: schema_version, config, directory, rank, world_size, opened; the first frame, once
  kModelAdded = 2,  // to_text(ModelDescription); before the model's first forward
  kForward = 3,     // see above
  kProbe = 4,       // ProbeFile::encode; before the forward
  kHookPlaced = 5,  // JSON; before the hook's first forward
  kMethodRan = 6,   // JSON; before the method's first forward
  kDumpLayout = 7,  // DumpWriter::ForwardRows::layout_text; before the forward
  kCounted = 8,     // JSON of counters; before each sync if they changed
  kRunResumed = 9,  // JSON: {}; from here on another process writes
  // 10 and 11 are frames of shards (shard_rows.h), 13 and 14 of matrices, from 20 on of a finished run's sums.
  kColumnWithheld = 12,  // JSON: instance, hook, column, reason; before the forward that tells it
};

/// What a forward adds to the run's counters and to the dump.
struct ForwardTally {
  int64_t index = 0;  // ForwardRecord::index
  int64_t tokens = 0;
  int64_t out_of_range = 0;
  int64_t unattributed = 0;
  int64_t unwritten = 0;  // forwards of the run that were lost before it, since they could not be recorded
  std::map<std::string, int64_t> dump_rows;  // series that got dump rows -> how many it has with them
};

/// An entry of the log that is written at close.
struct JournalEntry {
  int64_t first_sample = 0;  // the entry gets this sample's fields
  int64_t last_part = 0;     // place of its last part
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

/// Decodes a kForward frame. Throws std::runtime_error for a payload that no journal wrote.
JournalForward read_forward(const Frame& frame);

/// What a kForward frame says about its forward, without the sums.
struct ForwardOutline {
  int64_t forwards = 0;  // SummaryPart::forwards
  ForwardTally tally;
  int64_t first_sample = -1;  // the smallest; -1: none
};
ForwardOutline read_outline(const Frame& frame);

/// The journal of a run. Used by one thread. Errors are std::runtime_error with one line.
class RunJournal {
 public:
  enum class Left { kRefuse, kTake };  // what to do with the journal of a process that died
  static constexpr uint64_t kMaxPartBytes = std::numeric_limits<uint32_t>::max();  // a part's length is a u32

  /// Creates the folder and locks it. Throws if another session writes there, or if a process that died left a journal
  /// and `left` is kRefuse. Before anything is added, `begin` must follow, or `go_on` where a journal was left.
  /// `max_part_bytes`: the most that one forward may give to one log entry, or to the summary.
  RunJournal(std::string folder, Left left, uint64_t max_part_bytes = kMaxPartBytes);
  RunJournal(const RunJournal&) = delete;
  RunJournal& operator=(const RunJournal&) = delete;
  ~RunJournal();  // leaves the files and releases the lock

  const std::string& folder() const { return folder_; }
  std::string samples_copy() const { return folder_ + "/samples.jsonl"; }
  std::string frames_path() const { return frames_path_in(folder_); }
  static std::string frames_path_in(const std::string& folder) { return folder + "/forwards.frames"; }

  /// The process that died and left a journal here; empty: none.
  const std::string& left_by() const { return left_by_; }

  /// Writes this process into the file `owner`, before the one that left the journal.
  void claim() { owner_->claim(left_by_); }

  /// Begins a new journal; removes what was left.
  void begin();
  /// Keeps the first `end_bytes` bytes of the frames and appends after them.
  void go_on(int64_t end_bytes);
  /// Opens what was left for reading only. After it, call only `take_in`, `entries`, `parts` and `remove`.
  void read_only();

  /// What one forward changes in one entry.
  struct Link {
    std::optional<size_t> entry;  // place in `entries()`; empty: a new entry
    int64_t last_part = 0;        // place of the forward's last part for it
  };

  /// Forgets all entries, so that `take_in` can start again at the first frame.
  void forget_entries();
  /// Adds a forward that is in the journal's file to the entries. Throws std::runtime_error if a part is missing.
  void take_in(const JournalForward& forward);

  /// Adds a frame that is no forward.
  void add(JournalFrame kind, const std::string& payload) { log_->append(kind, payload); }
  /// Between the two, frames are gathered: see FrameLog.
  void begin_batch() { log_->begin_batch(); }
  void end_batch() { log_->end_batch(); }
  void drop_batch() { log_->drop_batch(); }

  /// The frames of one forward. Once they are built, only the disk can refuse them.
  struct ForwardFrames {
    std::vector<NewFrame> frames;   // in order; the last is the forward's own
    std::map<int64_t, Link> links;  // by the entry's first sample
  };
  /// Builds a forward's frames; sets `previous` and `shared` of its parts. `effects`: frames of what else the forward
  /// changes, placed before its own. Writes nothing. Throws std::runtime_error if the forward is too large.
  ForwardFrames build(std::vector<NewFrame> effects, LoggedForward forward, const ForwardTally& tally) const;
  /// Appends what `build` gave. Nothing may be added between the two.
  void add(ForwardFrames forward);
  int64_t bytes() const { return log_->bytes(); }
  void sync() { log_->sync(); }
  /// Throws if the file of frames was removed or replaced.
  void check_in_place() const { log_->check_in_place(); }

  const std::vector<JournalEntry>& entries() const { return entries_; }

  /// An entry's parts, first to last, each with its shared part (without routers if there is none).
  struct PartOfEntry {
    LogPart part;
    LogPart shared;
  };
  std::vector<PartOfEntry> parts(const JournalEntry& entry) const;
  /// Its samples, in the order of the forward's rows.
  std::vector<int64_t> samples_of(const JournalEntry& entry) const;

  /// Removes the folder, once the run's files are whole. Throws FileError if something stays.
  void remove();
  /// The same without throwing, for callers that already handle an error and must not replace it.
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
  // Samples mostly come in order and then need no index: the first `num_ordered_` entries ascend by first sample.
  size_t num_ordered_ = 0;
  std::unordered_map<int64_t, size_t> entry_of_sample_;  // other entries, by first sample; the last one of a sample
};

}  // namespace moetap::plugin
