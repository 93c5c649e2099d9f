#include "plugin/run/run_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <utility>

#include "plugin/formats/file_error.h"
#include "plugin/formats/json_text.h"
#include "plugin/formats/whole_file.h"
#include "plugin/journal/logged_forward.h"
#include "plugin/process/error_text.h"
#include "plugin/process/notices.h"
#include "plugin/process/process_rank.h"
#include "plugin/records/config_keys.h"
#include "plugin/records/model_description_json.h"
#include "plugin/results/json_keys.h"
#include "plugin/results/samples_file.h"
#include "plugin/run/run_outputs.h"
#include "plugin/run/run_replay.h"

namespace moetap::plugin {
namespace {

namespace fs = std::filesystem;

void refuse_existing_run(const Config& config, const RunPaths& paths) {
  std::error_code error;
  const bool unfinished = fs::exists(paths.journal / "forwards.frames", error);
  if (fs::exists(paths.done, error) || (fs::exists(paths.dump, error) && !unfinished)) {
    throw std::runtime_error(config.output_dir + ": already holds a run" +
                             (config.resume ? " that is finished, there is nothing to resume" : "") +
                             "; name another output_dir, or remove this one");
  }
}

// Creates the run directory. Throws if a run is there already: it is never overwritten.
RunPaths open_run(const Config& config, const ProcessRank& rank) {
  // Absolute, since the host may change its working directory while the run goes on.
  RunPaths paths(fs::absolute(config.output_dir), rank.rank);
  std::error_code error;
  fs::create_directories(paths.inside, error);
  if (error) throw std::runtime_error("cannot write " + paths.inside.string() + ": " + error.message());
  refuse_existing_run(config, paths);
  return paths;
}

// Empty if it was removed.
std::string working_directory() {
  std::error_code error;
  return fs::current_path(error).string();
}

// Throws if the configuration of a resumed run changes what is recorded.
void check_same_config(const Config& config, const RunStart& start, const std::string& samples_copy) {
  // Relative paths of the two processes may be relative to different directories.
  Config now = config;
  now.make_paths_absolute(working_directory());
  Config before = start.config;
  before.make_paths_absolute(start.directory);
  for (const ConfigKey& key : config_keys()) {
    if (!key.free_on_resume && key.get(now) != key.get(before)) {
      throw std::invalid_argument(fmt::format("resume: key \"{}\" is {}, the run in {} was begun with {}",
                                              std::string(key.name), compact_text(key.get(now)), config.output_dir,
                                              compact_text(key.get(before))));
    }
  }
  // The file may have moved, but its lines must be the same.
  const bool same_samples = now.samples.empty() == before.samples.empty() &&
                            (now.samples.empty() || read_whole_file(now.samples) == read_whole_file(samples_copy));
  if (!same_samples) {
    throw std::invalid_argument(
        fmt::format("resume: key \"samples\" must name a file with the same lines as {}, with "
                    "which the run in {} was begun, got \"{}\"",
                    before.samples.empty() ? "no file" : start.config.samples, config.output_dir, config.samples));
  }
}

// True if the table knows every router of the record.
bool knows_hooks(const LayerTable& layers, const ForwardRecord& record) {
  const auto knows = [&](int64_t hook) { return layers.find(record.model->instance, hook).has_value(); };
  return std::all_of(record.routers.begin(), record.routers.end(),
                     [&](const RouterRecord& router) { return knows(router.hook); }) &&
         std::all_of(record.held.begin(), record.held.end(),
                     [&](const HeldRouter& router) { return knows(router.hook); }) &&
         std::all_of(record.transitions.begin(), record.transitions.end(), [&](const TransitionRecord& transition) {
           return knows(transition.from_hook) && knows(transition.to_hook);
         });
}

// The same for attention layers.
bool knows_attention(const LayerTable& layers, const ForwardRecord& record) {
  return std::all_of(record.attention.begin(), record.attention.end(), [&](const AttentionRecord& attention) {
    return layers.find(record.model->instance, attention.hook).has_value();
  });
}

void place_attention(LayerTable& layers, const ForwardRecord& record, const LayerTable& routers) {
  for (const AttentionRecord& attention : record.attention) {
    layers.place(*record.model, attention.hook, /*num_experts=*/0, &routers);
  }
}

void place_routers(LayerTable& layers, const ForwardRecord& record, const LayerTable& attention) {
  const auto place = [&](int64_t hook, int64_t num_experts) {
    layers.place(*record.model, hook, num_experts, &attention);
  };
  for (const RouterRecord& router : record.routers) place(router.hook, router.sums.num_experts);
  for (const HeldRouter& router : record.held) place(router.hook, router.values.num_experts);
  for (const TransitionRecord& transition : record.transitions) {
    place(transition.from_hook, transition.sums.num_experts_from);
    place(transition.to_hook, transition.sums.num_experts_to);
  }
}

std::string hook_placed_text(const LayerTable& layers, const LayerTable::Placement& placed) {
  const RunLayer& layer = layers.layers()[placed.place];
  return compact_text(nlohmann::ordered_json{{keys::kInstance.name, placed.instance},
                                             {keys::kHook.name, placed.hook},
                                             {keys::kPlace.name, placed.place},
                                             {keys::kComponent.name, layer.component},
                                             {keys::kLayer.name, layer.layer},
                                             {keys::kNumExperts.name, layer.num_experts}});
}

std::string column_withheld_text(const ForwardRecord& record, const UnverifiedColumn& column) {
  return compact_text(nlohmann::ordered_json{{keys::kInstance.name, record.model->instance},
                                             {keys::kHook.name, column.hook},
                                             {keys::kColumn.name, analysis::column_name(column.column)},
                                             {keys::kReason.name, column.reason}});
}

std::string method_ran_text(const ForwardRecord& record) {
  return compact_text(
      nlohmann::ordered_json{{keys::kInstance.name, record.model->instance}, {keys::kMethod.name, record.method}});
}

}  // namespace

RunState::RunState(Config run_config, ProcessRank process_rank, const RunPaths& paths)
    : config(std::move(run_config)),
      rank(process_rank),
      probe(probed_tokens(config)),
      dump({config.dump, config.dump_weights}, {paths.dump.string(), paths.journal.string(), rank.rank}),
      attention_dump({paths.dump.string(), paths.journal.string(), rank.rank}) {}

void RunState::add_model(std::shared_ptr<const ModelDescription> model, RunJournal& journal) {
  journal.add(kModelAdded, to_text(*model));
  models.push_back(std::move(model));
}

// Note [All of a record or nothing]
// A record is first prepared: everything that it changes is computed without changing the state, so all that can be
// wrong with the record is found there. Then the changes are applied: first to the dump's files, then to the journal,
// at last to the state. In this step only the disk can fail, and that ends the recording.

/// What one record changes.
struct RunState::Change {
  std::optional<LayerTable> layers, attention_layers;  // empty: it did not change
  std::string probed;                                  // from ProbeFile::encode
  DumpWriter::ForwardRows rows;
  AttentionDump::ForwardMatrices matrices;
  SummaryPart summary;
  RunJournal::ForwardFrames frames;
  std::optional<std::pair<std::string, std::string>> new_method;  // that ran; empty: the state knows it
  std::string instance;
  std::vector<UnverifiedColumn> unverified;
};

RunState::Change RunState::prepare(const ForwardRecord& record, const RunJournal& journal) const {
  Change change;
  std::vector<NewFrame> effects;
  if (!knows_hooks(layers, record)) {
    place_routers(change.layers.emplace(layers), record, attention_layers);
  }
  const LayerTable& table = change.layers ? *change.layers : layers;
  if (!knows_attention(attention_layers, record)) {
    place_attention(change.attention_layers.emplace(attention_layers), record, table);
  }
  const LayerTable& attention_table = change.attention_layers ? *change.attention_layers : attention_layers;
  LoggedForward logged = log_forward(record, {table, attention_table}, config);
  change.summary = logged.summary;
  ForwardTally tally;
  tally.index = record.index;
  tally.tokens = record.tokens;
  tally.out_of_range = record.out_of_range;
  tally.unattributed = record.unattributed;
  tally.unwritten = unwritten_before + record.unwritten_before;
  if (config.dump != Dump::kNone) {
    change.rows = dump.prepare(record, {table, attention_table});
    tally.dump_rows = change.rows.num_rows;
    if (!change.rows.layout_text.empty()) effects.push_back({kDumpLayout, change.rows.layout_text});
  }
  const auto add_new_places = [&](const LayerTable& known, const LayerTable& now) {
    for (size_t i = known.placements().size(); i < now.placements().size(); ++i) {
      effects.push_back({kHookPlaced, hook_placed_text(now, now.placements()[i])});
    }
  };
  change.matrices = attention_dump.prepare(record, attention_table, config);
  tally.dump_rows.insert(change.matrices.num_matrices.begin(), change.matrices.num_matrices.end());
  add_new_places(layers, table);
  add_new_places(attention_layers, attention_table);
  change.probed = probe.encode(record, table);
  if (!change.probed.empty()) effects.push_back({kProbe, change.probed});
  std::pair method(record.model->instance, record.method);
  if (!record.values_only && !methods_that_ran.contains(method)) {
    change.new_method = std::move(method);
    effects.push_back({kMethodRan, method_ran_text(record)});
  }
  change.instance = record.model->instance;
  change.unverified = record.unverified;
  for (const UnverifiedColumn& column : record.unverified) {
    effects.push_back({kColumnWithheld, column_withheld_text(record, column)});
  }
  change.frames = journal.build(std::move(effects), std::move(logged), tally);
  return change;
}

void RunState::apply(Change change, RunJournal& journal) {
  if (config.dump != Dump::kNone) dump.add(std::move(change.rows));
  attention_dump.add(change.matrices);
  journal.add(std::move(change.frames));
  if (change.layers) layers = std::move(*change.layers);
  if (change.attention_layers) attention_layers = std::move(*change.attention_layers);
  probe.add(change.probed);
  summary.add(change.summary);
  for (UnverifiedColumn& column : change.unverified) {
    unverified[{change.instance, column.hook}].try_emplace(analysis::column_name(column.column),
                                                           std::move(column.reason));
  }
  if (change.new_method) methods_that_ran.insert(std::move(*change.new_method));
}

void RunState::write(const ForwardRecord& record, RunJournal& journal) {
  dump.settle();
  attention_dump.settle();
  Change change;
  try {
    change = prepare(record, journal);
  } catch (const FileError&) {
    throw;
  } catch (const std::exception& error) {
    throw RecordError(fmt::format("forward {} cannot be recorded: {}", record.index, one_line(error)));
  }
  apply(std::move(change), journal);
}

RunFiles::RunFiles(const Config& config)
    : rank_(process_rank_from_environment()),
      paths_(open_run(config, rank_)),
      journal_(paths_.journal.string(), config.resume ? RunJournal::Left::kTake : RunJournal::Left::kRefuse),
      figures_(config, rank_) {
  const bool left = !journal_.left_by().empty();
  std::optional<RunStart> before;
  if (left && fs::exists(journal_.frames_path())) before = read_run_start(journal_.frames_path());
  if (before) {
    resume(config, *before);
    return;
  }
  try {
    refuse_existing_run(config, paths_);  // again: a run may have finished here before this process had the lock
    begin(config);
  } catch (const std::exception&) {
    journal_.try_to_remove();
    throw;
  }
}

void RunFiles::begin(const Config& config) {
  samples_.emplace(config.samples);
  state_ = std::make_unique<RunState>(config, rank_, paths_);
  state_->opened = std::chrono::system_clock::now();
  journal_.begin();
  samples_->copy_to(journal_.samples_copy());
  journal_.add(kRunStarted, run_start_text({config, working_directory(), rank_, state_->opened}));
}

void RunFiles::resume(const Config& config, const RunStart& start) {
  check_same_config(config, start, journal_.samples_copy());
  ReplayedRun replayed = replay(journal_, start, paths_, MissingRows::kEndRun);
  journal_.go_on(replayed.end_bytes);
  journal_.add(kRunResumed, "{}");
  samples_.emplace(start.config.samples.empty() ? "" : journal_.samples_copy());
  state_ = std::move(replayed.state);
  state_->config = config;
  ++state_->times_resumed;
  before_ = replayed.counters_for_resume();
  calls_before_ = replayed.calls;
  state_->unwritten_before = before_.unwritten;
  resumed_ = std::move(replayed.resumed);
}

// Everything that writes between the run's begin and its close goes through here, so that no error is forgotten: after
// one, `close` leaves the journal and writes no marker.
template <typename Write>
void RunFiles::guard(const Write& write) {
  try {
    write();
  } catch (const RecordError&) {
    throw;  // one record is lost, the next ones can be written
  } catch (const std::exception& error) {
    failed_ = true;
    throw std::runtime_error(one_line(error));
  }
}

// What all processes of the run counted, this one included.
Counters RunFiles::of_run(const Counters& of_session) const {
  Counters all = before_;
  all += of_session;
  return all;
}

void RunFiles::count(const Counters& counters) {
  newest_ = of_run(counters);
  counted_ = counters_text(newest_);
}

void RunFiles::add_counters() {
  if (counted_ == counted_added_) return;
  journal_.add(kCounted, counted_);
  counted_added_ = counted_;
}

void RunFiles::add_model(std::shared_ptr<const ModelDescription> model) {
  guard([&] { state_->add_model(std::move(model), journal_); });
}

void RunFiles::write(const ForwardRecord& record) {
  guard([&] { state_->write(record, journal_); });
}

void RunFiles::begin_batch() {
  guard([&] {
    // The journal has the forwards of all dump rows so far, so full shards can be made.
    state_->dump.settle();
    state_->attention_dump.settle();
    state_->dump.begin_batch();
    state_->attention_dump.begin_batch();
    journal_.begin_batch();
  });
}

void RunFiles::end_batch() {
  guard([&] {
    try {
      state_->attention_dump.end_batch();
      state_->dump.end_batch();
    } catch (const std::exception&) {
      journal_.drop_batch();  // no forward without its dump rows
      throw;
    }
    journal_.end_batch();
  });
}

int64_t RunFiles::bytes_written() const {
  return journal_.bytes() + state_->dump.bytes() + state_->attention_dump.bytes();
}

void RunFiles::flush() {
  guard([&] {
    add_counters();
    // The dump rows first: a forward whose frame is on the disk should have its dump rows there, too.
    state_->dump.sync();
    state_->attention_dump.sync();
    journal_.sync();
  });
  const auto due = figures_.due(newest_.forwards);
  if (due && *due <= std::chrono::steady_clock::now()) write_figures();
}

std::optional<std::chrono::steady_clock::time_point> RunFiles::next_flush() const {
  return figures_.due(newest_.forwards);
}

void RunFiles::write_figures() {
  try {
    figures_.write(run_figures(state_->summary, state_->layers, newest_));
  } catch (const std::exception& error) {
    notify(one_line(error) + "; the run is recorded without it");
  }
}

// For a state that may hold a part of a record: replaces it by that of the whole forwards in the journal.
void RunFiles::rebuild_state() {
  try {
    add_counters();
  } catch (const std::exception&) {
    counted_added_.clear();  // the disk is full; the counters that are in the journal are used
  }
  const auto start = read_run_start(journal_.frames_path());
  if (!start) throw std::runtime_error("cannot read " + journal_.frames_path() + ": its first frame is not whole");
  state_ = replay(journal_, *start, paths_, MissingRows::kCount).state;
}

void RunFiles::close(const Counters& counters, const RunTimes& times) {
  journal_.check_in_place();
  count(counters);
  const Counters all = of_run(counters);
  const HookCalls calls = HookCalls::of(counters);
  const std::string not_done = why_not_done(*state_, all, calls.called > 0 ? calls : calls_before_, paths_);
  if (failed_) {
    rebuild_state();
  } else if (unfinished_ || !not_done.empty()) {
    add_counters();
  }
  if (figures_.wanted()) write_figures();
  write_run_outputs(*state_, paths_, journal_, *samples_, all, {state_->opened, times.closed});
  // The journal of a run that is not done stays: `moetap recover` can write the files once the disk has room, and the
  // run can be resumed.
  if (failed_ || unfinished_) return;
  if (!not_done.empty()) throw std::runtime_error(not_done);
  mark_done(paths_, rank_.rank, journal_);
}

}  // namespace moetap::plugin
