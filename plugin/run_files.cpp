#include "plugin/run_files.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <ctime>
#include <exception>
#include <filesystem>
#include <functional>
#include <set>
#include <stdexcept>
#include <utility>
#include <vector>

#include "plugin/atomic_file.h"
#include "plugin/dump_writer.h"
#include "plugin/error_text.h"
#include "plugin/json_keys.h"
#include "plugin/layer_table.h"
#include "plugin/log_entry.h"
#include "plugin/log_file.h"
#include "plugin/logged_forward.h"
#include "plugin/manifest_file.h"
#include "plugin/notices.h"
#include "plugin/probe_file.h"
#include "plugin/process_rank.h"
#include "plugin/run_journal.h"
#include "plugin/run_summary.h"
#include "plugin/samples_file.h"

namespace moetap::plugin {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

/// Where a rank of a run writes.
struct RunPaths {
  RunPaths(const std::string& output_dir, int64_t rank)
      : run(output_dir), inside(run / "moetap"), done(run / fmt::format("rank{}_metric_eval_done.txt", rank)) {
    const std::string folder = fmt::format("rank{}", rank);
    dump = inside / "dump" / folder;
    journal = inside / "journal" / folder;
  }

  fs::path run, inside, done, dump, journal;
};

// Creates the run directory; a run that lies there is never written over.
RunPaths open_run(const Config& config, const ProcessRank& rank) {
  RunPaths paths(config.output_dir, rank.rank);
  std::error_code error;
  fs::create_directories(paths.inside, error);
  if (error) throw std::runtime_error("cannot write " + paths.inside.string() + ": " + error.message());
  if (fs::exists(paths.done, error) || fs::exists(paths.dump, error)) {
    throw std::runtime_error(config.output_dir + ": already holds a run; name another output_dir, or remove this one");
  }
  return paths;
}

std::string month_day_hour_minute(std::chrono::system_clock::time_point time) {
  const std::time_t seconds = std::chrono::system_clock::to_time_t(time);
  std::tm local{};
  ::localtime_r(&seconds, &local);
  return fmt::format("{:%m%d_%H%M}", local);
}

std::string text(const ordered_json& json) {
  return json.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

}  // namespace

struct RunFiles::Impl {
  explicit Impl(const Config& given)
      : config(given),
        rank(process_rank_from_environment()),
        paths(open_run(config, rank)),
        samples(config.samples),
        journal(paths.journal.string()),
        probe(config.probe_tokens),
        dump(config.dump, {paths.dump.string(), paths.journal.string(), rank.rank}) {
    try {
      samples.copy_to(journal.samples_copy());
      journal.add(kRunStarted, text(ordered_json{{keys::kSchemaVersion.name, 1},
                                                 {keys::kConfig.name, config.to_json()},
                                                 {keys::kRank.name, rank.rank},
                                                 {keys::kWorldSize.name, rank.world_size}}));
    } catch (const std::exception&) {
      journal.remove();
      throw;
    }
  }

  void add_placements();
  void write_all(const Counters& counters, const RunTimes& times);

  Config config;
  ProcessRank rank;
  RunPaths paths;
  SamplesFile samples;
  RunJournal journal;
  LayerTable layers;
  size_t placed_hooks = 0;  // placements that the journal holds
  RunSummary summary;
  ProbeFile probe;
  DumpWriter dump;
  std::vector<std::shared_ptr<const ModelDescription>> models;
  std::set<std::pair<std::string, std::string>> methods_that_ran;  // (instance, method)
  bool failed = false;                                             // a record could not be written
};

RunFiles::RunFiles(const Config& config) : impl_(std::make_unique<Impl>(config)) {}

RunFiles::~RunFiles() = default;

void RunFiles::add_model(std::shared_ptr<const ModelDescription> model) {
  impl_->journal.add(kModelAdded, to_text(*model));
  impl_->models.push_back(std::move(model));
}

void RunFiles::write(const ForwardRecord& record) {
  Impl& run = *impl_;
  try {
    LoggedForward logged = log_forward(record, run.layers, run.config);
    if (run.config.dump != Dump::kNone) run.dump.add(record, run.layers);
    run.add_placements();
    const std::string probed = run.probe.add(record, run.layers);
    if (!probed.empty()) run.journal.add(kProbe, probed);
    if (!record.values_only && run.methods_that_ran.emplace(record.model->instance, record.method).second) {
      run.journal.add(kMethodRan, text(ordered_json{{"instance", record.model->instance}, {"method", record.method}}));
    }
    const SummaryPart summary = logged.summary;
    run.journal.add(std::move(logged));
    run.summary.add(summary);
  } catch (const std::exception& error) {
    run.failed = true;
    throw std::runtime_error(one_line(error));
  }
}

void RunFiles::Impl::add_placements() {
  for (; placed_hooks < layers.placements().size(); ++placed_hooks) {
    const LayerTable::Placement& placed = layers.placements()[placed_hooks];
    const RunLayer& layer = layers.layers()[placed.place];
    journal.add(kHookPlaced, text(ordered_json{{"instance", placed.instance},
                                               {"hook", placed.hook},
                                               {"place", placed.place},
                                               {"component", layer.component},
                                               {"layer", layer.layer},
                                               {"num_experts", layer.num_experts}}));
  }
}

void RunFiles::flush() {
  impl_->journal.sync();
  impl_->dump.sync();
}

void RunFiles::Impl::write_all(const Counters& counters, const RunTimes& times) {
  for (const auto& model : models) {
    for (const auto& [instance, method] : methods_that_ran) {
      if (instance == model->instance) layers.add_silent(*model, method);
    }
  }
  // What one file cannot be made of may be there for the others.
  std::string first_error;
  const auto attempt = [&](const std::function<void()>& write) {
    try {
      write();
    } catch (const std::exception& error) {
      if (first_error.empty()) first_error = one_line(error);
    }
  };
  LogLosses losses;
  attempt([&] { dump.finish(); });
  attempt([&] { probe.write((paths.inside / "probe.safetensors").string(), layers); });
  attempt([&] { summary.write((paths.inside / "summary.json").string(), config.task, layers); });
  attempt([&] {
    const LogLayout layout(config, layers);
    losses = write_log_file((paths.run / (config.task + ".json")).string(), month_day_hour_minute(times.opened), layout,
                            journal, samples);
    const std::string notice = layout.readers_notice();
    if (!notice.empty() && !journal.entries().empty()) notify(notice);
  });
  for (const auto& [refusal, times_refused] : losses.refused_names) {
    notify(fmt::format("{} ({} times)", refusal, times_refused));
  }
  if (losses.not_finite > 0) {
    notify(fmt::format("{} values were infinite or NaN and are left out of the log", losses.not_finite));
  }
  attempt([&] {
    write_results_file((paths.run / "results.json").string(), models.empty() ? "" : models.front()->model_file, config);
  });
  attempt([&] {
    write_manifest_file((paths.inside / "manifest.json").string(),
                        {config, models, layers, rank, counters, losses, times});
  });
  if (!first_error.empty()) throw std::runtime_error(first_error);
  if (failed) return;  // the journal tells what is missing; the run is not done
  write_file_atomically(paths.done.string(), fmt::format("rank {} eval done", rank.rank));
  journal.remove();
}

void RunFiles::close(const Counters& counters, const RunTimes& times) {
  impl_->write_all(counters, times);
}

}  // namespace moetap::plugin
