#include "plugin/run/run_sums.h"

#include <utility>

#include "plugin/formats/byte_stream.h"
#include "plugin/formats/frame_log.h"
#include "plugin/formats/json_text.h"
#include "plugin/results/json_keys.h"
#include "plugin/results/log_file.h"
#include "plugin/run/run_replay.h"

namespace moetap::plugin {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;
using std::chrono::system_clock;

constexpr size_t kMostInBlock = 4096;  // forwards or entries in one frame

/// Takes what the journal says of the run and of the forwards that count.
void add_from_journal(SumsWriter& sums, const RunState& state, const RunJournal& journal) {
  std::map<std::string, int64_t> rows;  // of the series, so far
  std::vector<Frame> effects;           // of a forward whose own frame has not come yet
  const bool has_dump = writes_dump(state.config);
  FrameReader frames(journal.frames_path());
  while (auto frame = frames.next()) {
    switch (frame->kind) {
      case kProbe:
      case kHookPlaced:
      case kMethodRan:
      case kColumnWithheld:
        effects.push_back(std::move(*frame));
        break;
      case kDumpLayout:
        break;
      case kForward: {
        const ForwardOutline outline = read_outline(*frame);
        for (const Frame& effect : effects) {
          if (effect.kind == kProbe) {
            sums.add_probed(outline.first_sample, outline.tally.index, effect.payload);
          } else {
            sums.add(effect.kind, effect.payload);
          }
        }
        effects.clear();
        if (!has_dump || outline.forwards != 1) break;
        ForwardExtents forward{outline.first_sample, outline.tally.index, {}};
        for (const auto& [series, end] : outline.tally.dump_rows) {
          int64_t& begin = rows[series];
          forward.extents.push_back({series, begin, end - begin});
          begin = end;
        }
        sums.add(forward);
        break;
      }
      default:
        effects.clear();  // their forward could not be written
        if (frame->kind == kRunStarted || frame->kind == kModelAdded) sums.add(frame->kind, frame->payload);
    }
  }
}

}  // namespace

std::string sums_path(const RunPaths& paths) {
  return (paths.about / "sums.frames").string();
}

std::string to_text(const RunEnding& ending) {
  ordered_json json = {
      {keys::kConfig.name, ending.config.to_json()},
      {keys::kCounters.name, json::parse(counters_text(ending.counters))},
      {keys::kNotFinite.name, ending.losses.not_finite},
      {keys::kRefused.name, ending.losses.refused_names},
      {keys::kClosed.name,
       std::chrono::duration_cast<std::chrono::microseconds>(ending.closed.time_since_epoch()).count()},
      {keys::kResumed.name, ending.times_resumed},
      {keys::kDumpRows.name, ending.dump_rows}};
  if (ending.recovery) {
    json[keys::kRecoveredFrom.name] = ending.recovery->owner;
    json[keys::kLost.name] = {{keys::kJournalBytes.name, ending.recovery->lost_bytes},
                              {keys::kForwards.name, ending.recovery->lost_forwards},
                              {keys::kDumpRows.name, ending.recovery->missing_dump_rows}};
  }
  if (!ending.missing.empty()) json[keys::kMissing.name] = ending.missing;
  return ascii_text(json);
}

RunEnding run_ending_from_text(const std::string& text, const std::string& source) {
  const json read = json::parse(text);
  RunEnding ending;
  ending.config = Config::from_json(read.at(keys::kConfig.name), source);
  const json& counted = read.at(keys::kCounters.name);
  for (const CounterInfo& count : kCounters) ending.counters.*count.member = counted.value(count.key.name, int64_t{0});
  ending.counters.notices = counted.at(keys::kNotices.name).get<std::map<std::string, int64_t>>();
  ending.losses.not_finite = read.at(keys::kNotFinite.name).get<int64_t>();
  ending.losses.refused_names = read.at(keys::kRefused.name).get<std::map<std::string, int64_t>>();
  ending.closed = system_clock::time_point(std::chrono::microseconds(read.at(keys::kClosed.name).get<int64_t>()));
  ending.times_resumed = read.at(keys::kResumed.name).get<int64_t>();
  ending.dump_rows = read.at(keys::kDumpRows.name).get<std::map<std::string, int64_t>>();
  ending.missing = read.value(keys::kMissing.name, std::vector<std::string>());
  if (read.contains(keys::kRecoveredFrom.name)) {
    const json& lost = read.at(keys::kLost.name);
    ending.recovery = RecoveryNote{
        read.at(keys::kRecoveredFrom.name).get<std::string>(), lost.at(keys::kJournalBytes.name).get<int64_t>(),
        lost.at(keys::kForwards.name).get<int64_t>(), lost.at(keys::kDumpRows.name).get<int64_t>()};
  }
  return ending;
}

SumsWriter::SumsWriter(const std::string& path) : file_(path, AtomicFile::Readers::kOwner) {}

void SumsWriter::add(uint32_t kind, std::string_view payload) {
  file_.write(FrameLog::frame(kind, payload));
}

void SumsWriter::add_probed(int64_t first_sample, int64_t index, std::string_view encoded) {
  ByteWriter bytes;
  bytes.number(first_sample);
  bytes.number(index);
  bytes.raw(encoded);
  add(kProbed, bytes.take());
}

void SumsWriter::add(const ForwardExtents& forward) {
  if (block_kind_ != kForwardsDumped) end_block();
  block_kind_ = kForwardsDumped;
  block_.number(forward.first_sample);
  block_.number(forward.index);
  block_.count(forward.extents.size());
  for (const ForwardExtents::Extent& extent : forward.extents) {
    const auto [known, is_new] = series_.try_emplace(extent.series, series_.size());
    if (is_new) add(kSeriesNamed, extent.series);
    block_.count(known->second);
    block_.number(extent.begin);
    block_.number(extent.rows);
    dump_rows_[extent.series] = extent.begin + extent.rows;
  }
  if (++num_in_block_ == kMostInBlock) end_block();
}

void SumsWriter::add(const LoggedSamples& entry) {
  if (block_kind_ != kLogged) end_block();
  block_kind_ = kLogged;
  block_.number(entry.doc_id);
  block_.count(entry.numbered);
  block_.count(entry.samples.size());
  for (const int64_t sample : entry.samples) block_.number(sample);
  if (++num_in_block_ == kMostInBlock) end_block();
}

void SumsWriter::end_block() {
  if (num_in_block_ == 0) return;
  file_.write(FrameLog::frame(block_kind_, block_.take()));
  block_ = ByteWriter();
  num_in_block_ = 0;
}

void SumsWriter::finish(const RunSummary& summary, RunEnding ending) {
  end_block();
  for (const SummaryPart& part : summary.parts()) add(kSummed, encode(part));
  ending.dump_rows = dump_rows_;
  add(kRunEnded, to_text(ending));
  file_.commit();
}

void write_run_sums(const RunState& state, const RunPaths& paths, const RunJournal& journal, const SamplesFile& samples,
                    const Counters& counters, const RunTimes& times, const LogLosses& losses,
                    const std::optional<RecoveryNote>& recovery) {
  SumsWriter sums(sums_path(paths));
  add_from_journal(sums, state, journal);
  const bool by_row = state.config.log_entries == LogEntries::kRow;
  for (const PlacedEntry& placed : log_order(journal, samples, state.config.log_entries)) {
    const JournalEntry& entry = journal.entries()[placed.entry];
    sums.add({placed.doc_id, placed.numbered,
              by_row ? std::vector<int64_t>{entry.first_sample} : journal.samples_of(entry)});
  }
  sums.finish(state.summary, {state.config, counters, losses, times.closed, state.times_resumed, recovery, {}, {}});
}

}  // namespace moetap::plugin
