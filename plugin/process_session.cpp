#include "plugin/process_session.h"

#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <stdexcept>

#include "plugin/environment.h"
#include "plugin/error_text.h"
#include "plugin/model_registry.h"
#include "plugin/notices.h"
#include "plugin/per_process.h"
#include "plugin/recording.h"
#include "plugin/run_files.h"

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
  return PerProcess<ProcessState>::get();
}

std::string in_this_process(std::string text) {
  for (size_t place; (place = text.find(kPidPlace)) != std::string::npos;) {
    text.replace(place, kPidPlace.size(), std::to_string(::getpid()));
  }
  return text;
}

}  // namespace

ProcessSession::ProcessSession(Config config) : config_(std::move(config)) {
  config_.check();
  if (!config_.hooks.is_null()) {
    throw std::invalid_argument("hooks are for models that are not instrumented yet: give them to moetap instrument");
  }
  if (config_.output_dir.empty()) {
    throw std::invalid_argument(
        "output_dir must name a directory: set MOETAP_OUTPUT_DIR, or output_dir in the "
        "configuration");
  }
}

std::string ProcessSession::next_output_dir() const {
  std::string folder = in_this_process(config_.output_dir);
  while (folder.size() > 1 && folder.back() == '/') folder.pop_back();
  return recordings_.empty() ? folder : fmt::format("{}-{}", folder, recordings_.size() + 1);
}

std::shared_ptr<ModelBinding> ProcessSession::bind(std::string_view description) {
  const std::lock_guard lock(mutex_);
  if (closed_) return nullptr;
  if (auto bound = ModelRegistry::get().find(description)) return bound;  // by another thread, meanwhile
  const std::string instance(instance_of(description));
  if (const auto refused = refused_.find(instance); refused != refused_.end()) {
    if (config_.strict) throw std::runtime_error(refused->second);
    return nullptr;
  }
  try {
    auto model = std::make_shared<const ModelDescription>(model_description_from_text(std::string(description)));
    Config config = config_;
    config.output_dir = next_output_dir();
    auto recording = std::make_shared<Recording>(config, std::make_unique<RunFiles>(config), threads_);
    close_at_exit(recording);
    auto binding = std::make_shared<ModelBinding>(recording, std::move(model));
    ModelRegistry::get().bind(binding);
    recordings_.push_back(std::move(recording));
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
  const std::lock_guard lock(mutex_);
  return recordings_;
}

void ProcessSession::flush() {
  for (const auto& recording : recordings()) recording->flush();
}

void ProcessSession::close() {
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
  ProcessState& process = state();
  const std::lock_guard lock(process.mutex);
  if (!process.session && !process.environment_was_read) {
    process.environment_was_read = true;
    process.records = false;
    if (const Environment environment = read_environment(); environment.asks_to_record()) {
      Config config = process_defaults();
      if (!environment.config_file.empty()) config.update_from_json_file(environment.config_file);
      if (!environment.output_dir.empty()) config.output_dir = environment.output_dir;
      process.session = std::make_shared<ProcessSession>(std::move(config));
      process.records = true;
    }
  }
  return process.session;
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
  std::shared_ptr<ProcessSession> session;
  try {
    session = process_session();
  } catch (const std::exception& error) {
    notify(one_line(error) + "; the model runs on and is not recorded");
    return nullptr;
  }
  if (session) return session->bind(description);
  if (!a_recording_was_opened()) {
    notify(
        "an instrumented model runs and nothing records it: set MOETAP_OUTPUT_DIR or MOETAP_CONFIG, or open a session");
  }
  return nullptr;
}

}  // namespace moetap::plugin
