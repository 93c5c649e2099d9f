#include "plugin/run_journal.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <limits>
#include <stdexcept>

#include "plugin/file_error.h"

namespace moetap::plugin {
namespace {

using PartLength = uint32_t;

void append_part(std::string& payload, const std::string& part) {
  if (part.size() > std::numeric_limits<PartLength>::max()) {
    throw std::runtime_error("a forward gives " + std::to_string(part.size()) +
                             " bytes to one log entry, at most 4 GiB fit; use smaller batches or log_per_token: false");
  }
  const auto length = static_cast<PartLength>(part.size());
  payload.append(reinterpret_cast<const char*>(&length), sizeof(length));
  payload.append(part);
}

}  // namespace

RunJournal::RunJournal(std::string folder) : folder_(std::move(folder)) {
  lock_folder();
  try {
    log_ = std::make_unique<FrameLog>(folder_ + "/forwards.frames");
    reader_ = std::make_unique<RandomAccessFile>(log_->path());
  } catch (const std::runtime_error&) {
    ::close(owner_);
    throw;
  }
}

RunJournal::~RunJournal() {
  ::close(owner_);
}

void RunJournal::lock_folder() {
  std::error_code error;
  std::filesystem::create_directories(folder_, error);
  const std::string path = folder_ + "/owner";
  if (error) throw std::runtime_error("cannot write " + path + ": " + error.message());
  owner_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (owner_ < 0) throw_file_error("write", path, errno);
  char text[64] = {};
  const bool has_owner = ::pread(owner_, text, sizeof(text) - 1, 0) > 0;
  std::string who = text;
  who = who.substr(0, who.find('\n'));
  const bool locked = ::flock(owner_, LOCK_EX | LOCK_NB) == 0;
  const bool is_own = locked && !has_owner;
  if (!is_own) {
    ::close(owner_);
    throw std::runtime_error(locked
                                 ? folder_ + ": holds the journal of a run that did not finish (" + who +
                                       "); name another output_dir, or remove this one"
                                 : folder_ + ": is written by another session (" + who + "); name another output_dir");
  }
  const std::string own = "pid " + std::to_string(::getpid()) + "\n";
  if (::pwrite(owner_, own.data(), own.size(), 0) < 0) {
    const int error_number = errno;
    ::close(owner_);
    throw_file_error("write", path, error_number);
  }
}

void RunJournal::add(LoggedForward forward) {
  const int64_t begin = log_->next_payload();
  std::string payload;
  append_part(payload, encode(forward.summary));
  const int64_t shared = forward.shared.routers.empty() ? -1 : begin + static_cast<int64_t>(payload.size());
  append_part(payload, encode(forward.shared));

  struct Chained {
    std::optional<size_t> entry;  // empty: a new one
    int64_t last_part = 0;
  };
  std::map<int64_t, Chained> chained;  // by first sample
  for (LogPart& part : forward.parts) {
    if (part.samples.empty()) continue;
    const int64_t sample = part.samples.front();
    const auto twice = chained.find(sample);  // a label may name a sample for several rows
    std::optional<size_t> known = entry_of(sample);
    if (known && !continues(entries_[*known], part)) known.reset();
    if (twice != chained.end()) {
      part.previous = twice->second.last_part;
    } else if (known) {
      part.previous = entries_[*known].last_part;
    } else if (part.values_only) {
      continue;  // the forward that it belongs to was dropped
    }
    part.shared = twice == chained.end() ? shared : -1;  // once an entry and forward
    Chained& link = chained[sample];
    if (known) link.entry = known;
    link.last_part = begin + static_cast<int64_t>(payload.size());
    append_part(payload, encode(part));
  }
  log_->append(kForward, payload);
  // Only now: a frame that could not be written must not be pointed to.
  for (const auto& [sample, link] : chained) {
    if (link.entry) {
      entries_[*link.entry].last_part = link.last_part;
    } else {
      add_entry({sample, link.last_part});
    }
  }
}

std::optional<size_t> RunJournal::entry_of(int64_t first_sample) const {
  const auto other = entry_of_sample_.find(first_sample);
  if (other != entry_of_sample_.end()) return other->second;
  const auto end = entries_.begin() + static_cast<std::ptrdiff_t>(num_ordered_);
  const auto found =
      std::lower_bound(entries_.begin(), end, first_sample,
                       [](const JournalEntry& entry, int64_t sample) { return entry.first_sample < sample; });
  if (found == end || found->first_sample != first_sample) return std::nullopt;
  return static_cast<size_t>(found - entries_.begin());
}

void RunJournal::add_entry(const JournalEntry& entry) {
  if (num_ordered_ == entries_.size() && (entries_.empty() || entries_.back().first_sample < entry.first_sample)) {
    ++num_ordered_;
  } else {
    entry_of_sample_[entry.first_sample] = entries_.size();
  }
  entries_.push_back(entry);
}

bool RunJournal::continues(const JournalEntry& entry, const LogPart& part) const {
  // One sample's entry is known by the sample; of several, all must be the same.
  return part.samples.size() == 1 || decode_log_part(read_part(entry.last_part)).samples == part.samples;
}

std::string RunJournal::read_part(int64_t place) const {
  PartLength length = 0;
  reader_->read(place, &length, sizeof(length));
  return reader_->read(place + static_cast<int64_t>(sizeof(length)), length);
}

std::vector<RunJournal::PartOfEntry> RunJournal::parts(const JournalEntry& entry) const {
  std::vector<PartOfEntry> parts;
  for (int64_t place = entry.last_part; place >= 0;) {
    PartOfEntry read;
    read.part = decode_log_part(read_part(place));
    if (read.part.shared >= 0) read.shared = decode_log_part(read_part(read.part.shared));
    place = read.part.previous;
    parts.push_back(std::move(read));
  }
  std::reverse(parts.begin(), parts.end());
  return parts;
}

void RunJournal::remove() {
  log_.reset();
  reader_.reset();
  std::error_code error;
  std::filesystem::remove_all(folder_, error);
  if (error) throw std::runtime_error("cannot remove " + folder_ + ": " + error.message());
  // The folder of all ranks goes with its last one.
  std::filesystem::remove(std::filesystem::path(folder_).parent_path(), error);
}

}  // namespace moetap::plugin
