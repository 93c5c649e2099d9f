#include "plugin/process_session.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <stdexcept>

#include "plugin/journal/run_journal.h"
#include "plugin/merge/merge_runs.h"
#include "plugin/process/environment.h"
#include "plugin/process/error_text.h"
#include "plugin/process/fork_local.h"
#include "plugin/process/notices.h"
#include "plugin/process/process_rank.h"
#include "plugin/records/model_description_json.h"
#include "plugin/run/run_paths.h"
#include "plugin/run/run_replay.h"
#include "plugin/session/model_registry.h"
#include "plugin/session/recording.h"

namespace moetap::plugin {
namespace {

constexpr std::string_view kPidPlace = "{pid}";

/// What the process knows of its session. A child process starts with a state of its own.
struct ProcessState {
  std::mutex mutex;  // guards session and environment_was_read
  std::shared_ptr<ProcessSession> session;
  bool environment_was_read = false;
  std::atomic<bool> records = true;  // false: no session, and the environment asks for none
};

ProcessState& state() {
  return fork_local<ProcessState>();
}

/// The model whose unfinished run lies in a directory; empty: none does.
std::optional<ModelDescription> model_of_unfinished_run(const std::string& folder) {
  const RunPaths paths(folder, process_rank_from_environment().rank);
  const std::string frames = RunJournal::frames_path_in(paths.journal.string());
  return std::filesystem::exists(frames) ? read_first_model(frames) : std::nullopt;
}

std::string in_this_process(std::string text) {
  for (size_t place; (place = text.find(kPidPlace)) != std::string::npos;) {
    text.replace(place, kPidPlace.size(), std::to_string(::getpid()));
  }
  return text;
}

Config with_absolute_paths(Config config) {
  std::error_code error;
  config.make_paths_absolute(std::filesystem::current_path(error));
  return config;
}

void open_from_environment(ProcessState& process) {
  const Environment environment = read_environment();
  if (!environment.asks_to_record()) return;
  Config config = process_defaults();
  if (!environment.config_file.empty()) config.update_from_json_file(environment.config_file);
  if (!environment.output_dir.empty()) config.output_dir = environment.output_dir;
  config.make_paths_absolute(environment.directory);
  process.session = std::make_shared<ProcessSession>(std::move(config));
}

struct FoundSession {
  std::shared_ptr<ProcessSession> session;
  bool environment_was_read_now = false;
};

/// Opens it if the environment asks for it. If several threads call this at once, only one reads the environment, and
/// only that one learns why nothing is recorded: from the exception, or from `environment_was_read_now`.
FoundSession find_session() {
  ProcessState& process = state();
  const std::lock_guard lock(process.mutex);
  if (process.session || process.environment_was_read) return {process.session};
  process.environment_was_read = true;
  try {
    open_from_environment(process);
  } catch (const std::exception&) {
    process.records = false;
    throw;
  }
  // Not earlier: another thread would conclude that there is no session while this one opens it.
  process.records = process.session != nullptr;
  return {process.session, /*environment_was_read_now=*/true};
}

}  // namespace

ProcessSession::ProcessSession(Config config) : config_(with_absolute_paths(std::move(config))), process_(::getpid()) {
  config_.check();
  if (!config_.hooks.is_null()) {
    throw std::invalid_argument("hooks are for models that are not instrumented yet: give them to moetap instrument");
  }
  if (config_.output_dir.empty()) {
    throw std::invalid_argument(
        "output_dir must name a directory: set MOETAP_OUTPUT_DIR, or output_dir in the configuration");
  }
}

bool ProcessSession::in_own_process() const {
  return ::getpid() == process_;
}

std::string ProcessSession::output_dir_of(const ModelDescription& model) const {
  std::string first = in_this_process(config_.output_dir);
  while (first.size() > 1 && first.back() == '/') first.pop_back();
  const auto numbered = [&](size_t number) { return number == 1 ? first : fmt::format("{}-{}", first, number); };
  if (!config_.resume) return numbered(recordings_.size() + 1);
  std::string otherwise;  // the first directory without an unfinished run
  for (size_t number = 1;; ++number) {
    const std::string folder = numbered(number);
    const bool is_own = std::any_of(recordings_.begin(), recordings_.end(),
                                    [&](const auto& entry) { return entry.second->config().output_dir == folder; });
    if (is_own) continue;
    const auto unfinished = model_of_unfinished_run(folder);
    if (unfinished && unfinished->identity == model.identity) return folder;
    if (!unfinished && otherwise.empty()) otherwise = folder;
    if (!std::filesystem::exists(folder)) return otherwise;
  }
}

std::shared_ptr<ModelBinding> ProcessSession::bind(std::string_view description) {
  if (!in_own_process()) return nullptr;
  const std::lock_guard lock(mutex_);
  if (closed_) return nullptr;
  const std::string instance(instance_of(description));
  // Another thread has bound the model meanwhile; or its recording is closed, and is not opened again.
  if (recordings_.contains(instance)) return ModelRegistry::get().find(description);
  // A Session has attached the model. While that is being closed, the forward is not recorded.
  if (auto attached = ModelRegistry::get().find(description)) {
    return attached->recording().accepts() ? attached : nullptr;
  }
  if (const auto refused = refused_.find(instance); refused != refused_.end()) {
    if (config_.strict) throw std::runtime_error(refused->second);
    return nullptr;
  }
  try {
    auto model = std::make_shared<const ModelDescription>(model_description_from_text(std::string(description)));
    Config config = config_;
    config.output_dir = output_dir_of(*model);
    auto recording = std::make_shared<Recording>(config, open_run_files(config), threads_);
    close_at_exit(recording);
    if (paused_) recording->pause();
    auto binding = std::make_shared<ModelBinding>(recording, std::move(model));
    try {
      ModelRegistry::get().bind(binding);
    } catch (const std::exception&) {
      recording->close(RunEnd::kUnfinished);  // a Session was faster; no empty run may count as done
      throw;
    }
    recordings_[instance] = std::move(recording);
    if (recordings_.size() > 1) {
      notify(fmt::format("{} is a further model of this process: it records into {}", binding->model()->model_file,
                         config.output_dir));
    }
    return binding;
  } catch (const std::exception& error) {
    const std::string& reason = refused_[instance] = one_line(error);
    if (config_.strict) throw;
    notify(reason + "; the model runs on and is not recorded");
    return nullptr;
  }
}

std::vector<std::shared_ptr<Recording>> ProcessSession::recordings() const {
  std::vector<std::shared_ptr<Recording>> all;
  if (!in_own_process()) return all;
  const std::lock_guard lock(mutex_);
  for (const auto& [instance, recording] : recordings_) all.push_back(recording);
  return all;
}

void ProcessSession::set_paused(bool paused) {
  if (!in_own_process()) return;
  {
    const std::lock_guard lock(mutex_);
    paused_ = paused;  // also of models that run later
  }
  for (const auto& recording : recordings()) paused ? recording->pause() : recording->resume();
}

void ProcessSession::flush() {
  for (const auto& recording : recordings()) recording->flush();
}

void ProcessSession::close() {
  if (!in_own_process()) return;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  for (const auto& recording : recordings()) {
    ModelRegistry::get().unbind(*recording);
    recording->close();
  }
}

Counters ProcessSession::counters() const {
  Counters sum;
  for (const auto& recording : recordings()) sum += recording->counters();
  return sum;
}

std::optional<std::string> ProcessSession::write_error() const {
  for (const auto& recording : recordings()) {
    if (auto error = recording->write_error()) return error;
  }
  return std::nullopt;
}

Config process_defaults() {
  Config config;
  config.unlabelled = Unlabelled::kFollow;
  return config;
}

std::shared_ptr<ProcessSession> open_process_session(Config config) {
  ProcessState& process = state();
  const std::lock_guard lock(process.mutex);
  if (process.session) {
    throw std::invalid_argument("the session of this process is open already; close it first");
  }
  process.session = std::make_shared<ProcessSession>(std::move(config));
  process.environment_was_read = true;
  process.records = true;
  return process.session;
}

std::shared_ptr<ProcessSession> process_session() {
  return find_session().session;
}

void close_process_session(const std::shared_ptr<ProcessSession>& session) {
  session->close();
  ProcessState& process = state();
  const std::lock_guard lock(process.mutex);
  if (process.session == session) {
    process.session.reset();
    process.records = false;
  }
}

std::shared_ptr<ModelBinding> bind_to_process_session(std::string_view description) {
  if (!state().records.load(std::memory_order_acquire)) return nullptr;
  FoundSession found;
  try {
    found = find_session();
  } catch (const std::exception& error) {
    notify(one_line(error) + "; the model runs on and is not recorded");
    return nullptr;
  }
  if (found.session) return found.session->bind(description);
  if (found.environment_was_read_now && !a_recording_was_opened()) {
    notify(
        "an instrumented model runs and nothing records it: set MOETAP_OUTPUT_DIR or MOETAP_CONFIG, or open a session");
  }
  return nullptr;
}

}  // namespace moetap::plugin
