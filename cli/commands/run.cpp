#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "cli/commands/attention_bytes.h"
#include "cli/commands/commands.h"
#include "cli/commands/run_directory.h"
#include "cli/commands/run_inputs.h"
#include "cli/commands/run_options.h"
#include "cli/inputs/device.h"
#include "cli/inputs/input_file.h"
#include "cli/inputs/input_list.h"
#include "cli/inputs/model_file.h"
#include "cli/terminal/command_error.h"
#include "cli/terminal/held_notices.h"
#include "cli/terminal/routing_table.h"
#include "hooks/instrument.h"
#include "plugin/process/error_text.h"
#include "plugin/process/process_rank.h"
#include "plugin/records/counters.h"
#include "plugin/records/hook_spec_json.h"
#include "plugin/records/model_description.h"
#include "plugin/results/json_keys.h"
#include "plugin/results/samples_file.h"
#include "plugin/run/run_paths.h"
#include "plugin/run/run_replay.h"
#include "plugin/session.h"

namespace moetap::cli {
namespace {

namespace fs = std::filesystem;

void check_argument_name(const c10::FunctionSchema& schema, const char* option, const std::string& name) {
  if (name.empty() || schema.argumentIndexWithName(name).has_value()) {
    return;
  }
  std::string names;
  for (size_t i = 1; i < schema.arguments().size(); ++i) {
    names += (i == 1 ? "" : ", ") + schema.arguments()[i].name();
  }
  throw CommandError(fmt::format("{}: \"{}\" is no argument of {}; it has: {}", option, name, schema.name(), names),
                     kExitUsage);
}

void print_result(const plugin::Config& config, const plugin::Counters& counters) {
  const plugin::RunPaths paths(config.output_dir, plugin::process_rank_from_environment().rank);
  std::ifstream file(paths.about / "summary.json");
  const auto summary = nlohmann::ordered_json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (summary.is_object() && summary.contains(plugin::keys::kComponents.name)) {
    fmt::print("{}", routing_table(summary));
  }
  fmt::print("{} forward{}, {} tokens; {}, {} and {}\n", counters.forwards, counters.forwards == 1 ? "" : "s",
             counters.tokens, (paths.log / (config.task + ".json")).string(), (paths.log / "results.json").string(),
             (paths.inside / "").string());
  for (const plugin::CounterInfo& count : plugin::kCounters) {
    if (*count.loss != '\0' && counters.*count.member > 0) {
      fmt::print("{} {}\n", counters.*count.member, count.loss);
    }
  }
}

/// Returns the number of hooks that will report. Throws CommandError if there are none in the method or the component.
int64_t check_hooks(const ModelFile& model, const hooks::Discovery& discovery, const plugin::Config& config) {
  if (discovery.hooks.empty()) {
    throw CommandError(no_router_line(model, discovery));
  }
  std::set<std::string> methods, components;
  for (const auto& hook : discovery.hooks) {
    methods.insert(hook.method);
    components.insert(hook.component);
  }
  if (!methods.count(config.method)) {
    throw CommandError(fmt::format("{}: no router in method {}; there are routers in {}", model.path, config.method,
                                   fmt::join(methods, ", ")),
                       kExitUsage);
  }
  if (!config.log_component.empty() && !components.count(config.log_component)) {
    throw CommandError(fmt::format("--log-component: {} has no routers in \"{}\"; it has some in {}", model.path,
                                   config.log_component, fmt::join(components, ", ")),
                       kExitUsage);
  }
  return std::count_if(discovery.hooks.begin(), discovery.hooks.end(),
                       [&](const hooks::HookPoint& hook) { return hook.method == config.method; });
}

/// Says what `attention: full` will take, before the first forward. Throws CommandError above the limit.
void check_attention_bytes(const hooks::Discovery& discovery, const c10::FunctionSchema& schema,
                           const std::vector<c10::IValue>& first_input, const plugin::Config& config) {
  std::vector<hooks::HookPoint> hooks = discovery.hooks;
  std::erase_if(hooks, [&](const hooks::HookPoint& hook) { return hook.method != config.method; });
  const plugin::AttentionBytes needed = attention_bytes(hooks, schema, first_input);
  if (const auto why = needed.refusal(config.attention_limit_bytes); !why.empty()) throw CommandError(why);
  fmt::print(stderr, "{}\n", needed.text());
}

/// A run goes on only with the model and the inputs that it was begun with.
void check_same_run(const RunDirectory& directory, const ModelFile& model, const std::vector<std::string>& files) {
  const auto before = plugin::read_first_model(plugin::RunJournal::frames_path_in(directory.paths().journal.string()));
  if (before && before->sha256 != model.sha256) {
    throw CommandError(
        fmt::format("--resume: {} has SHA-256 {}, the run was begun with {} ({}); give that model, or name "
                    "another directory",
                    model.path, model.sha256, before->model_file, before->sha256));
  }
  check_same_inputs(directory.paths().journal, files);
}

int run(const RunOptions& options) {
  const plugin::Config config = resolve_config(options);
  const c10::Device device = open_device(config.device);
  const auto files = list_input_files(options.inputs);
  RunDirectory directory(config.output_dir, config.task,
                         config.resume       ? ExistingRun::kResume
                         : options.overwrite ? ExistingRun::kReplace
                                             : ExistingRun::kRefuse);

  // Everything that can be checked without running the model is checked before anything is written or replaced.
  ModelFile model = load_model_file(options.model, device);
  set_eval_mode(model.module);
  const auto& schema = find_method(model, config.method).function().getSchema();
  check_argument_name(schema, "--token-ids", config.token_ids);
  check_argument_name(schema, "--token-mask", config.token_mask);
  const auto kinds =
      config.attention == plugin::Attention::kOff ? hooks::HookKinds::kRouters : hooks::HookKinds::kRoutersAndAttention;
  const hooks::Discovery discovery =
      find_hooks(model, {config.method}, plugin::hook_spec_from_config(config.hooks), kinds);
  const int64_t num_hooks = check_hooks(model, discovery, config);
  const std::vector<c10::IValue> first_input = read_input_file(files.front(), schema, c10::Device(c10::kCPU));
  if (config.attention == plugin::Attention::kFull) check_attention_bytes(discovery, schema, first_input, config);
  if (directory.resumes()) {
    check_same_run(directory, model, files);
  } else if (options.overwrite) {
    const plugin::SamplesFile samples(config.samples);  // throws if the session could not read it
    directory.remove_existing_run();
  }

  HeldNotices notices;
  Outcome outcome;
  plugin::Counters counters;
  std::optional<std::string> write_error;
  std::optional<Session> session;
  try {
    session.emplace(config);
  } catch (const std::exception& error) {
    directory.remove_new_folders();
    const bool usage = dynamic_cast<const std::invalid_argument*>(&error) != nullptr;
    throw CommandError(plugin::one_line(error), usage ? kExitUsage : kExitFailed);
  }
  const auto first = std::min(files.size(), static_cast<size_t>(session->resumed().next_forward));
  // A run that did not get to its end must not get the marker that says it is done.
  const auto close_unfinished = [&] {
    try {
      session->close(RunEnd::kUnfinished);
    } catch (const std::exception&) {
      // A strict session throws what it could not write; the error that led here is the one to report.
    }
  };
  try {
    write_input_list(directory.paths().journal, files);
    const bool by_file = hooks::is_instrumented(model.module);
    const std::vector<std::string> methods = by_file ? std::vector<std::string>() : std::vector{config.method};
    auto attached = session->attach(model.module, {model.path, model.sha256, methods});
    const auto outputs = options.save_outputs ? std::optional(directory.paths().about / "outputs") : std::nullopt;
    const auto method = find_method({attached, model.path, {}}, config.method);
    outcome = run_inputs(
        *session, {method, num_hooks, files, first, device, static_cast<uint64_t>(config.seed), outputs}, notices);
    session->close(outcome.error ? RunEnd::kUnfinished : RunEnd::kDone);
    write_error = session->write_error();
    counters = session->counters();
  } catch (const std::invalid_argument& error) {
    close_unfinished();
    directory.discard();
    throw CommandError(plugin::one_line(error), kExitUsage);
  } catch (const std::exception& error) {  // before the first forward, or a strict session that could not write
    write_error = plugin::one_line(error);
    close_unfinished();
  }
  if (!outcome.error && !write_error) {
    print_result(config, counters);
    if (first > 0) {
      fmt::print("resumed: {} of {} forwards were recorded before and are in the same files\n", first, files.size());
    }
    notices.print();
    return 0;
  }
  const auto num_done = static_cast<int64_t>(first) + outcome.num_done;
  if (num_done == 0) {
    directory.discard();
  }
  std::string what = outcome.error ? *outcome.error : *write_error;
  if (!outcome.error && plugin::HookCalls::of(counters).all_stopped()) {
    what += "; the first: " + notices.first_that_begins("hook \"");
  }
  std::string done = "nothing was written";
  if (num_done > 0 && counters.unwritten > 0) {
    done = fmt::format("{} of {} forwards finished, {} of them could not be recorded, the others are in {}", num_done,
                       files.size(), counters.unwritten, config.output_dir);
  } else if (num_done > 0) {
    done = fmt::format("{} of {} forwards finished and are in {}", num_done, files.size(), config.output_dir);
  }
  throw CommandError(fmt::format("{}; {}", what, done), outcome.interrupted ? kExitInterrupted : kExitFailed);
}

}  // namespace

Command add_run(CLI::App& program) {
  auto options = std::make_shared<RunOptions>();
  CLI::App* app = program.add_subcommand("run", "Run a model over inputs and record what its routers do");
  add_run_options(*app, *options);
  return {app, [options] { return run(*options); }};
}

}  // namespace moetap::cli
