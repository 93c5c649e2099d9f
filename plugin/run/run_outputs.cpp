#include "plugin/run/run_outputs.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <exception>
#include <functional>
#include <stdexcept>

#include "plugin/formats/atomic_file.h"
#include "plugin/process/error_text.h"
#include "plugin/process/notices.h"
#include "plugin/results/log_file.h"
#include "plugin/run/run_sums.h"
#include "plugin/run/silent_hooks.h"

namespace moetap::plugin {
namespace {

std::string month_day_hour_minute(std::chrono::system_clock::time_point time) {
  const std::time_t seconds = std::chrono::system_clock::to_time_t(time);
  std::tm local{};
  ::localtime_r(&seconds, &local);
  return fmt::format("{:%m%d_%H%M}", local);
}

void notify_losses(const Counters& counters, const LogLosses& losses, OnOverflow on_overflow) {
  for (const auto& [refusal, times_refused] : losses.refused_names) {
    notify(fmt::format("{} ({} times)", refusal, times_refused));
  }
  if (losses.not_finite > 0) {
    notify(fmt::format("{} values were infinite or NaN and are left out of the log", losses.not_finite));
  }
  if (counters.dropped > 0) {
    const char* reason = on_overflow == OnOverflow::kDrop
                             ? "the queue was full (raise queue_bytes, or set on_overflow to block)"
                             : "they ended after the session was closed";
    notify(fmt::format("{} of {} forwards were dropped: {}", counters.dropped, counters.forwards + counters.dropped,
                       reason));
  }
}

// True if the configuration sets a key that exists for LibMoE's readers alone. Notices about them are shown only then.
bool log_is_for_libmoe(const Config& config) {
  return config.libmoe_guide_layout || config.renumber_layers;
}

}  // namespace

void write_run_outputs(RunState& state, const RunPaths& paths, const RunJournal& journal, const SamplesFile& samples,
                       const Counters& counters, const RunTimes& times, const std::optional<RecoveryNote>& recovery) {
  OutputSources sources;
  sources.has_entries = !journal.entries().empty();
  sources.write_log = [&](const std::string& path, const std::string& time, const LogLayout& layout) {
    return write_log_file(path, time, counters, layout, journal, samples);
  };
  sources.keep_sums = [&](const LogLosses& losses) {
    write_run_sums(state, paths, journal, samples, counters, times, losses, recovery);
  };
  write_run_outputs(state, paths, counters, times, recovery, sources);
}

void write_run_outputs(RunState& state, const RunPaths& paths, const Counters& counters, const RunTimes& times,
                       const std::optional<RecoveryNote>& recovery, const OutputSources& sources) {
  for (const auto& model : state.models) {
    for (const auto& [instance, method] : state.methods_that_ran) {
      if (instance != model->instance) continue;
      state.layers.add_silent(*model, method, &state.attention_layers);
      if (state.records(hooks::HookKind::kAttention)) {
        state.attention_layers.add_silent(*model, method, &state.layers);
      }
    }
  }
  std::string first_error;
  const auto attempt = [&](const std::function<void()>& write) {
    try {
      write();
    } catch (const std::exception& error) {
      if (first_error.empty()) first_error = one_line(error);
    }
  };
  LogLosses losses;
  std::string readers_notice;
  const SilentHooks silent = find_silent_hooks(state, counters);
  attempt([&] { std::filesystem::create_directories(paths.about); });
  attempt([&] { state.dump.finish(); });
  attempt([&] { state.attention_dump.finish(); });
  attempt([&] { state.probe.write((paths.about / "probe.safetensors").string(), state.layers); });
  attempt([&] {
    state.summary.write((paths.about / "summary.json").string(), state.config.task,
                        {state.layers, state.attention_layers},
                        AttentionRegions::from_text(state.config.attention_regions));
  });
  attempt([&] {
    const LogLayout layout(state.config, {state.layers, state.attention_layers});
    losses = sources.write_log((paths.log / (state.config.task + ".json")).string(),
                               month_day_hour_minute(times.opened), layout);
    if (sources.has_entries) readers_notice = layout.readers_notice();
  });
  attempt([&] {
    write_results_file((paths.log / "results.json").string(),
                       state.models.empty() ? "" : state.models.front()->model_file, state.config);
  });
  attempt([&] { sources.keep_sums(losses); });
  attempt([&] {
    std::vector<std::string> notices{readers_notice, silent.notice()};
    std::erase(notices, "");
    write_manifest_file(
        (paths.about / "manifest.json").string(),
        {state.config, state.models, state.layers, state.attention_layers, state.summary, state.unverified, state.rank,
         counters, losses, std::move(notices), times, state.times_resumed, recovery, sources.missing});
  });
  if (!readers_notice.empty() && log_is_for_libmoe(state.config)) notify(readers_notice);
  // Where no hook reported, that is the run's error: see `why_not_done`.
  if (!silent.names.empty() && !silent.none_reported()) notify(silent.notice());
  if (state.rank.world_size > 1) {
    notify(fmt::format("rank {} of {}: {} holds this rank's samples alone; moetap merge makes one run of all ranks",
                       state.rank.rank, state.rank.world_size, (paths.log / (state.config.task + ".json")).string()));
  }
  notify_losses(counters, losses, state.config.on_overflow);
  if (!first_error.empty()) throw std::runtime_error(first_error);
}

std::string why_not_done(const RunState& state, const Counters& counters, const HookCalls& calls,
                         const RunPaths& paths) {
  std::string reason;
  if (calls.all_stopped()) {
    reason = "every hook stopped after a failure";
  } else if (counters.unwritten > 0 && state.summary.forwards() == 0) {
    reason = "no forward could be recorded";
  } else if (counters.unwritten > 0 && state.config.strict) {
    reason =
        fmt::format("{} of {} forwards could not be recorded and strict is set", counters.unwritten, counters.forwards);
  } else if (const SilentHooks silent = find_silent_hooks(state, counters); silent.none_reported()) {
    reason = silent.notice();
  } else if (!state.unverified.empty() && state.config.strict) {
    reason = fmt::format("{} hooks have columns that do not fit and strict is set", state.unverified.size());
  } else {
    return "";
  }
  return fmt::format("{}, so the run is not marked as done; \"notices\" in {} say why", reason,
                     (paths.about / "manifest.json").string());
}

void mark_done(const RunPaths& paths, int64_t rank, RunJournal& journal) {
  write_file_atomically(paths.done.string(), fmt::format("rank {} eval done", rank));
  journal.remove();
}

}  // namespace moetap::plugin
