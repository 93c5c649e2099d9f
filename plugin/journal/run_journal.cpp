#include "plugin/journal/run_journal.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <stdexcept>

#include "plugin/formats/byte_stream.h"
#include "plugin/formats/file_error.h"

namespace moetap::plugin {
namespace {

namespace fs = std::filesystem;

using PartLength = uint32_t;

std::string encode(const ForwardTally& tally) {
  ByteWriter bytes;
  bytes.number(tally.index);
  bytes.number(tally.tokens);
  bytes.number(tally.out_of_range);
  bytes.number(tally.unattributed);
  bytes.number(tally.unwritten);
  bytes.count(tally.dump_rows.size());
  for (const auto& [series, rows] : tally.dump_rows) {
    bytes.text(series);
    bytes.number(rows);
  }
  return bytes.take();
}

ForwardTally decode_tally(std::string_view encoded) {
  ByteReader bytes(encoded);
  ForwardTally tally;
  tally.index = bytes.number();
  tally.tokens = bytes.number();
  tally.out_of_range = bytes.number();
  tally.unattributed = bytes.number();
  tally.unwritten = bytes.number();
  for (uint64_t left = bytes.count(); left > 0; --left) {
    const std::string series = bytes.text();
    tally.dump_rows[series] = bytes.number();
  }
  return tally;
}

/// Takes the next part of a forward's frame from `rest`.
std::string_view next_part(std::string_view& rest) {
  PartLength length = 0;
  if (rest.size() < sizeof(length)) throw std::runtime_error("a forward's frame in the journal ends early");
  std::memcpy(&length, rest.data(), sizeof(length));
  rest.remove_prefix(sizeof(length));
  if (rest.size() < length) throw std::runtime_error("a forward's frame in the journal ends early");
  const std::string_view part = rest.substr(0, length);
  rest.remove_prefix(length);
  return part;
}

}  // namespace

RunJournal::RunJournal(std::string folder, Left left, uint64_t max_part_bytes)
    : folder_(std::move(folder)), max_part_bytes_(max_part_bytes) {
  const bool existed = fs::exists(folder_);
  owner_ = std::make_unique<JournalLock>(folder_);
  left_by_ = owner_->predecessor();
  if (left_by_.empty() && existed && fs::exists(frames_path())) left_by_ = "an unknown process";
  if (!left_by_.empty() && left == Left::kRefuse) {
    throw std::runtime_error(
        folder_ + ": holds the journal of a run that did not finish (" + left_by_ +
        "); complete its files with moetap recover, go on with resume, or name another output_dir");
  }
}

RunJournal::~RunJournal() = default;

void RunJournal::begin() {
  for (const auto& entry : fs::directory_iterator(folder_)) {
    if (entry.path().filename() != "owner") fs::remove_all(entry.path());
  }
  owner_->claim();
  log_ = std::make_unique<FrameLog>(frames_path());
  reader_ = std::make_unique<RandomAccessFile>(frames_path());
}

void RunJournal::go_on(int64_t end_bytes) {
  owner_->claim();
  log_ = std::make_unique<FrameLog>(frames_path(), end_bytes);
  reader_ = std::make_unique<RandomAccessFile>(frames_path());
}

void RunJournal::read_only() {
  log_.reset();
  reader_ = std::make_unique<RandomAccessFile>(frames_path());
}

void RunJournal::append_part(std::string& payload, const std::string& part) const {
  if (part.size() > max_part_bytes_) {
    throw std::runtime_error("it gives " + std::to_string(part.size()) + " bytes to one log entry, at most " +
                             std::to_string(max_part_bytes_) + " fit; use smaller batches or log_per_token: false");
  }
  const auto length = static_cast<PartLength>(part.size());
  payload.append(reinterpret_cast<const char*>(&length), sizeof(length));
  payload.append(part);
}

RunJournal::ForwardFrames RunJournal::build(std::vector<NewFrame> effects, LoggedForward forward,
                                            const ForwardTally& tally) const {
  int64_t begin = log_->next_payload();
  for (const NewFrame& effect : effects) begin += FrameLog::frame_bytes(effect.payload.size());
  std::string payload;
  append_part(payload, encode(forward.summary));
  append_part(payload, encode(tally));
  const bool has_shared = !forward.shared.routers.empty() || !forward.shared.attention.empty();
  const int64_t shared = !has_shared ? -1 : begin + static_cast<int64_t>(payload.size());
  append_part(payload, encode(forward.shared));

  Links links;
  for (LogPart& part : forward.parts) {
    if (part.samples.empty()) continue;
    const int64_t sample = part.samples.front();
    const auto twice = links.find(sample);  // a label may name a sample for several rows
    std::optional<size_t> known = entry_of(sample);
    if (known && !continues(entries_[*known], part)) known.reset();
    if (twice != links.end()) {
      part.previous = twice->second.last_part;
    } else if (known) {
      part.previous = entries_[*known].last_part;
    } else if (part.values_only) {
      continue;  // values of a forward that was dropped: they have no entry
    }
    part.shared = twice == links.end() ? shared : -1;  // only once for each entry of the forward
    Link& link = links[sample];
    if (known) link.entry = known;
    link.last_part = begin + static_cast<int64_t>(payload.size());
    append_part(payload, encode(part));
  }
  effects.push_back({kForward, std::move(payload)});
  return {std::move(effects), std::move(links)};
}

void RunJournal::add(ForwardFrames forward) {
  for (const NewFrame& frame : forward.frames) log_->append(frame.kind, frame.payload);
  commit(forward.links);  // last, so that no entry points to a frame that could not be written
}

void RunJournal::commit(const Links& links) {
  for (const auto& [sample, link] : links) {
    if (link.entry) {
      entries_[*link.entry].last_part = link.last_part;
    } else {
      add_entry({sample, link.last_part});
    }
  }
}

void RunJournal::forget_entries() {
  entries_.clear();
  entry_of_sample_.clear();
  num_ordered_ = 0;
}

void RunJournal::take_in(const JournalForward& forward) {
  Links links;
  for (size_t i = 0; i < forward.parts.size(); ++i) {
    const LogPart& part = forward.parts[i];
    if (part.samples.empty()) continue;
    const int64_t sample = part.samples.front();
    const auto twice = links.find(sample);
    const auto known = twice == links.end() && part.previous >= 0 ? entry_of(sample) : std::nullopt;
    const int64_t before = twice != links.end() ? twice->second.last_part : known ? entries_[*known].last_part : -1;
    if (part.previous != before) {
      throw std::runtime_error(frames_path() + ": the entry of sample " + std::to_string(sample) + " has lost a part");
    }
    Link& link = links[sample];
    if (known) link.entry = known;
    link.last_part = forward.places[i];
  }
  commit(links);
}

JournalForward read_forward(const Frame& frame) {
  JournalForward forward;
  std::string_view rest = frame.payload;
  const std::string_view summary = next_part(rest);
  forward.tally = decode_tally(next_part(rest));
  const LogPart shared = decode_log_part(next_part(rest));
  while (!rest.empty()) {
    forward.places.push_back(frame.payload_begin + static_cast<int64_t>(frame.payload.size() - rest.size()));
    forward.parts.push_back(decode_log_part(next_part(rest)));
  }
  forward.summary = decode_summary_part(summary, shared, forward.parts);
  return forward;
}

ForwardOutline read_outline(const Frame& frame) {
  ForwardOutline outline;
  std::string_view rest = frame.payload;
  outline.forwards = summed_forwards(next_part(rest));
  outline.tally = decode_tally(next_part(rest));
  next_part(rest);
  while (!rest.empty()) {
    for (const int64_t sample : decode_samples(next_part(rest))) {
      if (outline.first_sample < 0 || sample < outline.first_sample) outline.first_sample = sample;
    }
  }
  return outline;
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
  // An entry of one sample is found by that sample. An entry of several continues only if all of them are the same.
  return part.samples.size() == 1 || decode_log_part(read_part(entry.last_part)).samples == part.samples;
}

std::string RunJournal::read_part(int64_t place) const {
  PartLength length = 0;
  if (const std::string_view gathered = log_ ? log_->gathered_from(place) : ""; !gathered.empty()) {
    std::memcpy(&length, gathered.data(), sizeof(length));
    return std::string(gathered.substr(sizeof(length), length));
  }
  reader_->read(place, &length, sizeof(length));
  return reader_->read(place + static_cast<int64_t>(sizeof(length)), length);
}

std::vector<RunJournal::PartOfEntry> RunJournal::parts(const JournalEntry& entry) const {
  std::vector<PartOfEntry> parts;
  for (int64_t place = entry.last_part; place >= 0;) {
    PartOfEntry read;
    read.part = decode_log_part(read_part(place));
    measure_held(read.part);
    if (read.part.shared >= 0) read.shared = decode_log_part(read_part(read.part.shared));
    place = read.part.previous;
    parts.push_back(std::move(read));
  }
  std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<int64_t> RunJournal::samples_of(const JournalEntry& entry) const {
  return decode_samples(read_part(entry.last_part));
}

void RunJournal::remove() {
  log_.reset();
  reader_.reset();
  // The frames go first: a journal without frames counts as no run. The owner goes last, so the lock holds to the end.
  std::error_code error;
  fs::remove(frames_path(), error);
  for (fs::directory_iterator entry(folder_, error), end; !error && entry != end; entry.increment(error)) {
    std::error_code ignored;  // if something stays, the last removal fails
    if (entry->path().filename() != "owner") fs::remove_all(entry->path(), ignored);
  }
  fs::remove_all(folder_, error);
  if (error) throw FileError("cannot remove " + folder_ + ": " + error.message());
  // The folder of all ranks goes with its last one.
  fs::remove(fs::path(folder_).parent_path(), error);
}

void RunJournal::try_to_remove() noexcept {
  try {
    remove();
  } catch (const std::exception&) {
    // The folder stays, without frames: it counts as no run.
  }
}

}  // namespace moetap::plugin
