#include "plugin/session.h"

#include <ATen/core/TensorBody.h>
#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "hooks/instrument.h"
#include "plugin/hook_spec_json.h"
#include "plugin/model_registry.h"
#include "plugin/recording.h"
#include "plugin/run_files.h"

namespace moetap::plugin {
namespace {

[[noreturn]] void throw_no_router(const torch::jit::Module& module, const hooks::Discovery& discovery) {
  std::string methods;
  for (const auto& method : module.get_methods()) {
    methods += (methods.empty() ? "" : ", ") + method.name();
  }
  std::string skipped;
  constexpr size_t kMostShown = 3;
  for (size_t i = 0; i < std::min(discovery.skipped.size(), kMostShown); ++i) {
    skipped += fmt::format("{} {} ({})", i == 0 ? ": " : ";", discovery.skipped[i].node, discovery.skipped[i].reason);
  }
  throw std::invalid_argument(
      fmt::format("no router was found in the methods {}; {} selections were looked at and skipped{}",
                  methods.empty() ? "(none)" : methods, discovery.skipped.size(), skipped));
}

std::unique_ptr<RecordSink> open_run_files(const Config& config) {
  config.check();
  if (config.output_dir.empty()) {
    throw std::invalid_argument("output_dir must name a directory, got \"\"");
  }
  return std::make_unique<RunFiles>(config);
}

bool has_router(const std::vector<hooks::HookPoint>& hooks) {
  return std::any_of(hooks.begin(), hooks.end(),
                     [](const hooks::HookPoint& hook) { return hook.kind == hooks::HookKind::kRouter; });
}

bool is_layer_id(std::string_view layer) {
  return layer == "mm_projector" ||
         (!layer.empty() && std::all_of(layer.begin(), layer.end(), [](char c) { return c >= '0' && c <= '9'; }));
}

}  // namespace

Session::Session(Config config) : Session(config, open_run_files(config)) {}

Session::Session(Config config, std::unique_ptr<RecordSink> sink) {
  config.check();
  recording_ = std::make_shared<Recording>(std::move(config), std::move(sink));
  close_at_exit(recording_);
}

Session::~Session() {
  if (!recording_->in_own_process()) {
    // A child process has copies of locks that its parent's threads may hold: destroying them could wait for ever.
    static_cast<void>(new std::shared_ptr<Recording>(recording_));
    return;
  }
  ModelRegistry::get().unbind(*recording_);
  recording_->close();
}

torch::jit::Module Session::attach(const torch::jit::Module& module, const AttachOptions& options) {
  auto& registry = ModelRegistry::get();
  const auto bind = [&](ModelDescription description) {
    registry.bind(
        std::make_shared<ModelBinding>(recording_, std::make_shared<const ModelDescription>(std::move(description))));
  };
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
    bind(std::move(description));
    return module;
  }
  ModelDescription description;
  const auto describe = [&](const hooks::Discovery& discovery) {
    if (!has_router(discovery.hooks)) {
      throw_no_router(module, discovery);
    }
    description = describe_model(module, discovery, options.model_file, options.sha256);
    return to_text(description);
  };
  auto instrumented = hooks::instrument(module, describe, options.methods, spec);
  bind(std::move(description));
  return instrumented.module;
}

void Session::label(ForwardLabel label) {
  for (const int64_t sample : label.samples) {
    if (sample < 0) {
      throw std::invalid_argument(fmt::format("label.samples must be sample numbers >= 0, got {}", sample));
    }
  }
  if (label.samples.empty()) {
    throw std::invalid_argument(
        "label.samples must name the sample of each sequence, got none; to end a label, clear_label");
  }
  recording_->this_thread().label = std::move(label);
}

void Session::clear_label() {
  recording_->this_thread().label.reset();
}

void Session::log(std::string_view layer, std::string_view name, CustomValue value) {
  if (!is_layer_id(layer)) {
    throw std::invalid_argument(
        fmt::format("layer must be decimal digits or mm_projector, got \"{}\"", std::string(layer)));
  }
  if (name.empty()) {
    throw std::invalid_argument("name must not be empty");
  }
  HostThread& thread = recording_->this_thread();
  if (thread.last_forward) {
    recording_->log_value(*thread.last_forward, std::string(layer), std::string(name), value);
  } else {
    thread.early_values[{"", std::string(layer)}].insert_or_assign(std::string(name), value);
  }
}

void Session::flush() {
  recording_->flush();
}

void Session::close() {
  if (!recording_->in_own_process()) {
    return;
  }
  ModelRegistry::get().unbind(*recording_);
  recording_->close();
  if (config().strict && write_error()) {
    throw std::runtime_error(*write_error());
  }
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
