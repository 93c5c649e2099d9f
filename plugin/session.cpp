#include "plugin/session.h"

#include <ATen/core/TensorBody.h>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <filesystem>
#include <stdexcept>

#include "hooks/instrument.h"
#include "hooks/points/no_router.h"
#include "plugin/merge/merge_runs.h"
#include "plugin/process/process_rank.h"
#include "plugin/records/hook_spec_json.h"
#include "plugin/records/model_description_json.h"
#include "plugin/run/run_paths.h"
#include "plugin/session/model_registry.h"
#include "plugin/session/recording.h"

namespace moetap::plugin {
namespace {

std::unique_ptr<RecordSink> checked_run_files(const Config& config) {
  config.check();
  if (config.output_dir.empty()) {
    throw std::invalid_argument("output_dir must name a directory, got \"\"");
  }
  return open_run_files(config);
}

void bind_to(const std::shared_ptr<Recording>& recording, ModelDescription description) {
  ModelRegistry::get().bind(
      std::make_shared<ModelBinding>(recording, std::make_shared<const ModelDescription>(std::move(description))));
}

bool has_hook(const std::vector<hooks::HookPoint>& hooks, hooks::HookKind kind) {
  return std::any_of(hooks.begin(), hooks.end(), [&](const hooks::HookPoint& hook) { return hook.kind == kind; });
}

/// Throws std::invalid_argument if no router of an instrumented model reports what enters its projection.
void check_router_inputs(const torch::jit::Module& module) {
  const hooks::InstrumentedInputs inputs = hooks::instrumented_inputs(module);
  if (inputs.reported > 0) return;
  if (inputs.first_why.empty()) {
    throw std::invalid_argument(
        "the model was instrumented without the inputs of its routers: instrument it with --dump-router-input, or set "
        "dump_router_input to false");
  }
  throw std::invalid_argument(fmt::format(
      "dump_router_input: no router of the model shows what enters its projection; the first: {}", inputs.first_why));
}

/// A child process has copies of locks that its parent's threads may hold: destroying them could wait for ever.
void keep_inherited(std::shared_ptr<Recording> recording) {
  struct Kept {
    std::shared_ptr<Recording> recording;
    const Kept* next;
  };
  static std::atomic<const Kept*> first = nullptr;
  auto* kept = new Kept{std::move(recording), first.load()};
  while (!first.compare_exchange_weak(kept->next, kept)) {
  }
}

}  // namespace

Session::Session(Config config) : Session(config, checked_run_files(config)) {}

Session::Session(Config config, std::unique_ptr<RecordSink> sink) {
  config.check();
  std::error_code error;
  config.make_paths_absolute(std::filesystem::current_path(error));  // `attach` may read the hook spec much later
  recording_ = std::make_shared<Recording>(std::move(config), std::move(sink));
  close_at_exit(recording_);
}

Session::~Session() {
  const bool host_throws = std::uncaught_exceptions() > exceptions_at_opening_;
  if (!recording_->in_own_process()) {
    keep_inherited(std::move(recording_));
    return;
  }
  ModelRegistry::get().unbind(*recording_);
  // A host that did not say that it is done may have failed; a run that is unfinished can be resumed.
  recording_->close(config().resume || host_throws ? RunEnd::kUnfinished : RunEnd::kDone);
}

bool Session::is_done(const std::string& output_dir) {
  std::error_code error;
  return std::filesystem::exists(RunPaths(output_dir, process_rank_from_environment().rank).done, error);
}

torch::jit::Module Session::attach(const torch::jit::Module& module, const AttachOptions& options) {
  const auto bind = [&](ModelDescription description) { bind_to(recording_, std::move(description)); };
  const hooks::HookSpec spec = hook_spec_from_config(config().hooks);
  if (hooks::is_instrumented(module)) {
    if (!spec.empty() || !options.methods.empty()) {
      throw std::invalid_argument(
          fmt::format("the model is instrumented already: {} must be given when it is instrumented",
                      spec.empty() ? "methods" : "hooks"));
    }
    auto description = model_description_from_text(hooks::model_description(module));
    if (!options.model_file.empty()) {
      description.model_file = options.model_file;
      description.sha256 = options.sha256;
    }
    if (config().attention != Attention::kOff && !has_hook(description.hooks, hooks::HookKind::kAttention)) {
      throw std::invalid_argument(
          "the model was instrumented without attention: instrument it with --attention, or set attention to off");
    }
    if (config().dump_router_input) check_router_inputs(module);
    bind(std::move(description));
    return module;
  }
  ModelDescription description;
  const auto describe = [&](const hooks::Discovery& discovery) {
    if (discovery.hooks.empty()) {
      throw std::invalid_argument(hooks::no_router_message(module, discovery));
    }
    description = describe_model(module, discovery, options.model_file, options.sha256);
    return to_text(description);
  };
  const auto kinds =
      config().attention == Attention::kOff ? hooks::HookKinds::kRouters : hooks::HookKinds::kRoutersAndAttention;
  const auto inputs = config().dump_router_input ? hooks::RouterInputs::kReported : hooks::RouterInputs::kLeftOut;
  auto instrumented = hooks::instrument(module, describe, options.methods, spec, kinds, inputs);
  if (config().dump_router_input) check_router_inputs(instrumented.module);
  const bool has_attention = has_hook(description.hooks, hooks::HookKind::kAttention);
  bind(std::move(description));
  if (config().attention != Attention::kOff && !has_attention) {
    recording_->notice("no attention was found in a model: only its routers are recorded");
  }
  return instrumented.module;
}

void Session::attach_description(const std::string& description) {
  bind_to(recording_, model_description_from_text(description));
}

void Session::label(ForwardLabel label) {
  recording_->threads().label(std::move(label));
}

void Session::clear_label() {
  recording_->threads().clear_label();
}

void Session::pause() {
  recording_->pause();
}

void Session::resume() {
  recording_->resume();
}

void Session::log(std::string_view layer, std::string_view name, CustomValue value) {
  recording_->threads().log(layer, name, value);
}

void Session::flush() {
  recording_->flush();
}

void Session::close(RunEnd end) {
  if (!recording_->in_own_process()) {
    return;
  }
  ModelRegistry::get().unbind(*recording_);
  recording_->close(end);
  if (config().strict && write_error()) {
    throw std::runtime_error(*write_error());
  }
}

const ResumedRun& Session::resumed() const {
  return recording_->resumed();
}

Counters Session::counters() const {
  return recording_->counters();
}

std::optional<std::string> Session::write_error() const {
  return recording_->write_error();
}

const Config& Session::config() const {
  return recording_->config();
}

}  // namespace moetap::plugin
