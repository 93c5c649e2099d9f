#include "plugin/run/run_replay.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>

#include "plugin/formats/json_text.h"
#include "plugin/records/model_description_json.h"
#include "plugin/results/json_keys.h"

namespace moetap::plugin {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;
using std::chrono::system_clock;

constexpr int kSchemaVersionOfJournal = 6;

int64_t microseconds(system_clock::time_point time) {
  return std::chrono::duration_cast<std::chrono::microseconds>(time.time_since_epoch()).count();
}

system_clock::time_point time_from(int64_t microseconds) {
  return system_clock::time_point(std::chrono::microseconds(microseconds));
}

void add(std::vector<int64_t>& samples, const std::vector<LogPart>& parts) {
  for (const LogPart& part : parts) samples.insert(samples.end(), part.samples.begin(), part.samples.end());
}

RunStart run_start_from(const json& start, const std::string& frames_path) {
  const auto version = start.value(keys::kSchemaVersion.name, int64_t{0});
  if (version != kSchemaVersionOfJournal) {
    throw std::runtime_error(frames_path + ": is a journal of version " + std::to_string(version) +
                             ", this moetap reads version " + std::to_string(kSchemaVersionOfJournal) +
                             "; complete the run with the moetap that wrote it (moetap recover), or name another "
                             "output_dir");
  }
  return RunStart{Config::from_json(start.at(keys::kConfig.name), frames_path),
                  start.at(keys::kDirectory.name).get<std::string>(),
                  {start.at(keys::kRank.name).get<int64_t>(), start.at(keys::kWorldSize.name).get<int64_t>()},
                  time_from(start.at(keys::kOpened.name).get<int64_t>())};
}

}  // namespace

std::string run_start_text(const RunStart& start) {
  const ordered_json frame = {{keys::kSchemaVersion.name, kSchemaVersionOfJournal},
                              {keys::kConfig.name, start.config.to_json()},
                              {keys::kDirectory.name, start.directory},
                              {keys::kRank.name, start.rank.rank},
                              {keys::kWorldSize.name, start.rank.world_size},
                              {keys::kOpened.name, microseconds(start.opened)}};
  return compact_text(frame);
}

std::string counters_text(const Counters& counters) {
  ordered_json frame;
  for (const CounterInfo& count : kCounters) frame[count.key.name] = counters.*count.member;
  frame[keys::kNotices.name] = counters.notices;
  return compact_text(frame);
}

std::optional<RunStart> read_run_start(const std::string& frames_path) {
  const auto frame = FrameReader(frames_path).next();
  if (!frame || frame->kind != kRunStarted) return std::nullopt;
  try {
    return run_start_from(json::parse(frame->payload), frames_path);
  } catch (const json::exception&) {
    throw std::runtime_error(frames_path + ": the first frame of the journal is whole, but its content is not what " +
                             "moetap writes");
  }
}

std::optional<ModelDescription> read_first_model(const std::string& frames_path) {
  FrameReader frames(frames_path);
  while (const auto frame = frames.next()) {
    if (frame->kind == kModelAdded) return model_description_from_text(frame->payload);
    if (frame->kind == kForward) break;
  }
  return std::nullopt;
}

/// Builds a ReplayedRun from the frames of a journal, one after the other.
class JournalReplay {
 public:
  JournalReplay(RunJournal& journal, const RunStart& start, const RunPaths& paths, MissingRows missing_rows)
      : journal_(journal), missing_rows_(missing_rows) {
    run_.state = std::make_unique<RunState>(start.config, start.rank, paths);
    run_.state->opened = start.opened;
  }

  ReplayedRun run();

 private:
  bool take(Frame frame);
  bool take_forward(const Frame& frame);
  void take_counters(const json& counted);
  void take_effects();
  void end_process();
  const ModelDescription& model_of(const json& frame) const;
  void place_hook(const json& placed);

  RunJournal& journal_;
  MissingRows missing_rows_;
  ReplayedRun run_;
  std::map<std::string, int64_t> available_rows_;  // series -> dump rows that are there
  std::map<std::string, int64_t> dump_rows_;       // series -> dump rows of the forwards so far
  HookCalls earlier_;                              // of the processes that have ended
  std::vector<Frame> effects_;                     // frames of a forward whose own frame has not come yet
};

ReplayedRun JournalReplay::run() {
  const std::string path = journal_.frames_path();
  journal_.forget_entries();
  available_rows_ = run_.state->dump.restore();
  available_rows_.merge(run_.state->attention_dump.restore());
  FrameReader frames(path);
  try {
    while (auto frame = frames.next()) {
      if (!take(std::move(*frame))) break;
      // The frames before a forward's own count only with it.
      if (effects_.empty()) run_.end_bytes = frames.whole_bytes();
    }
  } catch (const json::exception&) {
    throw std::runtime_error(path + ": a frame of the journal is whole, but its content is not what moetap writes");
  }
  end_process();
  run_.lost_bytes = frames.size_bytes() - run_.end_bytes;
  run_.missing_dump_rows = run_.state->dump.cut(dump_rows_) + run_.state->attention_dump.cut(dump_rows_);
  auto& samples = run_.resumed.samples;
  std::sort(samples.begin(), samples.end());
  samples.erase(std::unique(samples.begin(), samples.end()), samples.end());
  run_.resumed.resumed = true;
  if (!samples.empty()) run_.resumed.next_sample = std::max<int64_t>(samples.back() + 1, 0);
  return std::move(run_);
}

bool JournalReplay::take(Frame frame) {
  switch (frame.kind) {
    case kForward:
      return take_forward(frame);
    case kProbe:
    case kHookPlaced:
    case kMethodRan:
    case kDumpLayout:
    case kColumnWithheld:
      effects_.push_back(std::move(frame));
      return true;
    default:
      break;
  }
  effects_.clear();  // their forward could not be written
  if (frame.kind == kModelAdded) {
    run_.state->models.push_back(std::make_shared<const ModelDescription>(model_description_from_text(frame.payload)));
  } else if (frame.kind == kCounted) {
    take_counters(json::parse(frame.payload));
  } else if (frame.kind == kRunResumed) {
    ++run_.state->times_resumed;
    // The host ran again what followed the newest recorded forward.
    run_.counters.unwritten = run_.unwritten_before_newest;
    end_process();
    run_.forwards_handed_over = 0;
  }
  return true;
}

void JournalReplay::take_counters(const json& counted) {
  const auto of = [&](const CounterInfo& count) { return counted.value(count.key.name, int64_t{0}); };
  for (const CounterInfo& count : kCounters) {
    if (count.source == CounterSource::kLastSync) run_.counters.*count.member = of(count);
    if (count.member == &Counters::forwards) run_.forwards_handed_over = of(count);
  }
  run_.forwards_handed_over -= run_.counters.unwritten;
  run_.counters.notices = counted.at(keys::kNotices.name).get<std::map<std::string, int64_t>>();
}

bool JournalReplay::take_forward(const Frame& frame) {
  const JournalForward forward = read_forward(frame);
  if (missing_rows_ == MissingRows::kEndRun) {
    for (const auto& [series, rows] : forward.tally.dump_rows) {
      const auto available = available_rows_.find(series);
      if (available == available_rows_.end() || available->second < rows) return false;
    }
  }
  take_effects();
  journal_.take_in(forward);
  run_.state->summary.add(forward.summary);
  for (const auto& [series, rows] : forward.tally.dump_rows) dump_rows_[series] = rows;
  if (forward.summary.forwards > 0) {
    run_.counters.forwards += forward.summary.forwards;
    run_.resumed.next_forward = std::max(run_.resumed.next_forward, forward.tally.index + forward.summary.forwards);
  }
  run_.counters.tokens += forward.tally.tokens;
  run_.counters.out_of_range += forward.tally.out_of_range;
  run_.counters.unattributed += forward.tally.unattributed;
  run_.unwritten_before_newest = forward.tally.unwritten;
  add(run_.resumed.samples, forward.parts);
  return true;
}

void JournalReplay::take_effects() {
  RunState& state = *run_.state;
  for (const Frame& frame : effects_) {
    if (frame.kind == kProbe) {
      state.probe.add(frame.payload);
    } else if (frame.kind == kHookPlaced) {
      place_hook(json::parse(frame.payload));
    } else if (frame.kind == kMethodRan) {
      const json ran = json::parse(frame.payload);
      state.methods_that_ran.emplace(ran.at(keys::kInstance.name).get<std::string>(),
                                     ran.at(keys::kMethod.name).get<std::string>());
    } else if (frame.kind == kColumnWithheld) {
      const json withheld = json::parse(frame.payload);
      const std::pair hook(withheld.at(keys::kInstance.name).get<std::string>(),
                           withheld.at(keys::kHook.name).get<int64_t>());
      state.unverified[hook].try_emplace(withheld.at(keys::kColumn.name).get<std::string>(),
                                         withheld.at(keys::kReason.name).get<std::string>());
    } else {
      state.dump.set_layout(frame.payload);
    }
  }
  effects_.clear();
}

// The model that a frame names.
const ModelDescription& JournalReplay::model_of(const json& frame) const {
  const auto instance = frame.at(keys::kInstance.name).get<std::string>();
  const auto& models = run_.state->models;
  const auto model =
      std::find_if(models.begin(), models.end(), [&](const auto& known) { return known->instance == instance; });
  if (model == models.end()) {
    throw std::runtime_error(journal_.frames_path() + ": a frame names a model that is not in the journal");
  }
  return **model;
}

void JournalReplay::place_hook(const json& placed) {
  RunState& state = *run_.state;
  const ModelDescription& model = model_of(placed);
  const auto hook = placed.at(keys::kHook.name).get<int64_t>();
  if (hook < 0 || hook >= static_cast<int64_t>(model.hooks.size())) {
    throw std::runtime_error(journal_.frames_path() + ": a frame places a hook that no model in the journal has");
  }
  const bool is_router = model.hooks[static_cast<size_t>(hook)].kind == hooks::HookKind::kRouter;
  LayerTable& layers = is_router ? state.layers : state.attention_layers;
  const LayerTable& beside = is_router ? state.attention_layers : state.layers;
  const size_t place = layers.place(model, hook, placed.at(keys::kNumExperts.name).get<int64_t>(), &beside);
  if (place != placed.at(keys::kPlace.name).get<size_t>()) {
    throw std::runtime_error(journal_.frames_path() + ": layer " + placed.at(keys::kLayer.name).get<std::string>() +
                             " gets another place than when it was recorded; use the moetap that wrote the journal");
  }
}

// What the process that ends here has called.
void JournalReplay::end_process() {
  const HookCalls all = HookCalls::of(run_.counters);
  if (all.called > earlier_.called) run_.calls = {all.called - earlier_.called, all.failed - earlier_.failed};
  earlier_ = all;
}

Counters ReplayedRun::counters_for_resume() const {
  Counters kept = counters;
  kept.unwritten = unwritten_before_newest;  // the host runs again what followed the newest forward
  kept.forwards += kept.unwritten;           // `forwards` counts those that could not be written, too
  return kept;
}

ReplayedRun replay(RunJournal& journal, const RunStart& start, const RunPaths& paths, MissingRows missing_rows) {
  return JournalReplay(journal, start, paths, missing_rows).run();
}

}  // namespace moetap::plugin
