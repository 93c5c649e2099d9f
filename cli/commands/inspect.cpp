#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/commands/commands.h"
#include "cli/inputs/model_file.h"
#include "cli/terminal/command_error.h"
#include "hooks/instrument.h"
#include "plugin/records/model_description_json.h"

namespace moetap::cli {
namespace {

struct InspectOptions {
  std::string model;
  std::string hooks;
  bool json = false;
};

std::string count(const std::optional<int64_t>& value) {
  return value ? std::to_string(*value) : "?";
}

void print_table(const hooks::Discovery& discovery) {
  size_t name_width = 4;
  size_t component_width = 9;
  for (const auto& hook : discovery.hooks) {
    name_width = std::max(name_width, hook.name.size());
    component_width = std::max(component_width, hook.component.size());
  }
  fmt::print("{:>4}  {:>12}  {:<9}  {:<{}}  {:>7}  {:>5}  {:<12}  {:<{}}  {}\n", "id", "layer", "kind", "component",
             component_width, "experts", "top-k", "scoring", "name", name_width, "method");
  for (const auto& hook : discovery.hooks) {
    const bool router = hook.kind == hooks::HookKind::kRouter;
    fmt::print("{:>4}  {:>12}  {:<9}  {:<{}}  {:>7}  {:>5}  {:<12}  {:<{}}  {}\n", hook.id, hook.layer,
               hooks::to_string(hook.kind), hook.component, component_width, router ? count(hook.num_experts) : "-",
               router ? count(hook.top_k) : "-", router ? hook.scoring : hook.implementation, hook.name, name_width,
               hook.method);
  }
  for (const auto& site : discovery.skipped) {
    fmt::print("skipped: {} ({})\n", site.node, site.reason);
  }
}

int inspect(const InspectOptions& options) {
  const hooks::HookSpec spec = load_hook_spec(options.hooks);
  const ModelFile model = load_model_file(options.model, c10::Device(c10::kCPU));
  const hooks::Discovery discovery = find_hooks(model, {}, spec, hooks::HookKinds::kRoutersAndAttention);
  if (options.json) {
    // Names may be invalid UTF-8.
    fmt::print("{}\n", plugin::inspect_json(discovery, options.model)
                           .dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
  } else if (!discovery.hooks.empty()) {
    print_table(discovery);
  }
  const bool has_router = std::any_of(discovery.hooks.begin(), discovery.hooks.end(),
                                      [](const auto& hook) { return hook.kind == hooks::HookKind::kRouter; });
  if (!has_router) {
    std::fflush(stdout);
    throw CommandError(no_router_line(model, discovery));
  }
  return 0;
}

}  // namespace

Command add_inspect(CLI::App& program) {
  auto options = std::make_shared<InspectOptions>();
  CLI::App* app =
      program.add_subcommand("inspect", "List the routers and the attention of a model, and what was skipped and why");
  app->add_option("MODEL", options->model, "TorchScript file")->required();
  app->add_flag("--json", options->json, "Print JSON");
  app->add_option("--hooks", options->hooks, "Hook spec (JSON file) that names routers by hand")->type_name("FILE");
  return {app, [options] { return inspect(*options); }};
}

}  // namespace moetap::cli
