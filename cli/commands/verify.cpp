#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "cli/commands/commands.h"
#include "cli/inputs/device.h"
#include "cli/inputs/input_file.h"
#include "cli/inputs/model_file.h"
#include "cli/terminal/command_error.h"
#include "plugin/verify/attention_proof.h"
#include "plugin/verify/hook_proof.h"
#include "plugin/verify/router_proof.h"
#include "plugin/verify/token_proof.h"

namespace moetap::cli {
namespace {

/// The check that stands for a hook as long as no forward has come to it.
constexpr const char* kForward = "forward";

struct VerifyOptions {
  std::string model;
  std::vector<std::string> inputs;
  std::string hooks;
  std::string method = "forward";
  std::string device = "cpu";
  uint64_t seed = 0;
  bool json = false;
};

struct ModelProof {
  std::optional<std::string> difference;  // the first input whose output the twin changes, or why the twin failed on it
  std::vector<plugin::HookProof> hooks;

  bool refuted() const {
    return difference || std::any_of(hooks.begin(), hooks.end(), [](const plugin::HookProof& proof) {
             return proof.verdict() == plugin::Verdict::kRefuted;
           });
  }
};

plugin::TwinRun run_plain(const torch::jit::Method& method, const std::vector<c10::IValue>& arguments, uint64_t seed,
                          const std::string& file) {
  plugin::TwinRun run = plugin::run_twin(method, arguments, seed);
  if (!run.ran())
    throw CommandError(fmt::format("{}: the model's {} failed on it: {}", file, method.name(), run.error));
  if (!run.output) throw CommandError(fmt::format("{}: the model's output holds no tensor to compare", file));
  return run;
}

bool same_outputs(const plugin::TwinRun& a, const plugin::TwinRun& b) {
  return std::equal(a.outputs.begin(), a.outputs.end(), b.outputs.begin(), b.outputs.end(), plugin::same_bits);
}

/// Adds what one forward shows to the proofs of the hooks. `base`: the twin's forward without interventions.
void prove_forward(const ModelToProve& model, const VerifyOptions& options, const torch::jit::Method& twin,
                   const std::vector<c10::IValue>& arguments, uint64_t seed, const plugin::TwinRun& base,
                   ModelProof& proof) {
  plugin::TokenProver tokens(model.description, options.method, twin, arguments, seed, base);
  std::set<int64_t> done;  // a hook whose arms of a branch report has several
  // The proof of a hook that ran; null: there is nothing to be done.
  const auto proof_of = [&](const auto& probed) -> plugin::HookProof* {
    const auto hook = std::find_if(proof.hooks.begin(), proof.hooks.end(),
                                   [&](const plugin::HookProof& each) { return each.hook.id == probed.hook.id; });
    if (hook == proof.hooks.end() || !plugin::ran_in(probed, base) || !done.insert(probed.hook.id).second) {
      return nullptr;
    }
    std::erase_if(hook->checks, [](const plugin::Check& check) { return check.what == kForward; });
    return &*hook;
  };
  // An input that could not show something is no reason to give up.
  for (const hooks::ProbedRouter& router : model.probed.routers) {
    plugin::HookProof* hook = proof_of(router);
    if (hook == nullptr) continue;
    if (hook->is_open_in(plugin::kRouterChecks)) hook->add(plugin::prove_router(router, twin, arguments, seed, base));
    if (hook->is_open_in(plugin::kTokenChecks)) hook->add(tokens.prove(router));
  }
  for (const hooks::ProbedAttention& attention : model.probed.attentions) {
    plugin::HookProof* hook = proof_of(attention);
    if (hook == nullptr) continue;
    if (hook->is_open_in(plugin::kAttentionChecks)) {
      hook->add(plugin::prove_attention(attention, twin, arguments, seed, base));
    }
    if (hook->is_open_in(plugin::kAttentionTokenChecks)) hook->add(tokens.prove(attention));
  }
}

ModelProof prove(const VerifyOptions& options, const ModelFile& file, const ModelToProve& model,
                 const std::vector<std::string>& files, c10::Device device) {
  const auto plain = find_method(file, options.method);
  const auto twin = find_method({model.probed.module, file.path, {}}, options.method);
  ModelProof proof;
  for (const hooks::HookPoint& hook : model.description.hooks) {
    if (hook.method != options.method) continue;
    proof.hooks.push_back({hook, {{kForward, plugin::Verdict::kNotShown, "no input reaches it"}}});
  }
  for (size_t i = 0; i < files.size(); ++i) {
    const auto arguments = read_input_file(files[i], plain.function().getSchema(), device);
    const uint64_t seed = options.seed + i;
    const auto expected = run_plain(plain, arguments, seed, files[i]);
    const auto base = plugin::run_twin(twin, arguments, seed);
    if (!proof.difference && !base.ran()) proof.difference = fmt::format("{}: {}", files[i], base.error);
    if (!proof.difference && !same_outputs(expected, base)) proof.difference = files[i];
    if (base.ran()) prove_forward(model, options, twin, arguments, seed, base, proof);
  }
  return proof;
}

nlohmann::ordered_json to_json(const VerifyOptions& options, const ModelProof& proof) {
  auto hooks = nlohmann::ordered_json::array();
  for (const plugin::HookProof& hook : proof.hooks) {
    auto checks = nlohmann::ordered_json::array();
    for (const plugin::Check& check : hook.checks) {
      checks.push_back({{"what", check.what}, {"verdict", plugin::to_string(check.verdict)}, {"why", check.why}});
    }
    hooks.push_back({{"id", hook.hook.id},
                     {"kind", hooks::to_string(hook.hook.kind)},
                     {"layer", hook.hook.layer},
                     {"name", hook.hook.name},
                     {"component", hook.hook.component},
                     {"verdict", plugin::to_string(hook.verdict())},
                     {"checks", std::move(checks)}});
  }
  return {{"schema_version", 1},
          {"model", options.model},
          {"method", options.method},
          {"output_identical", !proof.difference},
          {"hooks", std::move(hooks)}};
}

void print_lines(const ModelProof& proof) {
  size_t width = 4;
  for (const auto& hook : proof.hooks) width = std::max(width, hook.hook.name.size());
  fmt::print("output without interventions: {}\n",
             proof.difference ? "differs for " + *proof.difference : "the same bits");
  for (const auto& hook : proof.hooks)
    fmt::print("{:>4}  {:<{}}  {}\n", hook.hook.id, hook.hook.name, width, hook.line());
}

int verify(const VerifyOptions& options) {
  const c10::Device device = open_device(options.device);
  const auto files = list_input_files(options.inputs);
  const hooks::HookSpec spec = load_hook_spec(options.hooks);
  ModelFile model = load_model_file(options.model, device);
  set_eval_mode(model.module);
  find_method(model, options.method);  // before anything else is said about it
  plugin::register_probe_operator();
  const ModelToProve to_prove = probe_model(model, {options.method}, spec);
  const ModelProof proof = prove(options, model, to_prove, files, device);
  if (proof.hooks.empty()) {
    throw CommandError(fmt::format("{}: no router and no attention in method {}", model.path, options.method),
                       kExitUsage);
  }
  if (options.json) {
    fmt::print("{}\n", to_json(options, proof).dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
  } else {
    print_lines(proof);
  }
  std::fflush(stdout);
  return proof.refuted() ? kExitFailed : 0;
}

}  // namespace

Command add_verify(CLI::App& program) {
  auto options = std::make_shared<VerifyOptions>();
  CLI::App* app = program.add_subcommand(
      "verify", "Prove by intervention that hooks report what the model uses; exit status 1 if one is refuted");
  app->add_option("MODEL", options->model, "TorchScript file, not instrumented")->required();
  app->add_option("--inputs", options->inputs, "Inputs, one forward a file, as for moetap run")
      ->required()
      ->type_name("FILE_OR_DIR");
  app->add_option("--hooks", options->hooks, "Hook spec (JSON file) that names routers and attention by hand")
      ->type_name("FILE");
  app->add_option("--method", options->method, "Method that is called")->capture_default_str();
  app->add_option("--device", options->device, "cpu, cuda or cuda:N")->capture_default_str();
  app->add_option("--seed", options->seed, "Forward N begins with the random numbers of seed + N")
      ->capture_default_str();
  app->add_flag("--json", options->json, "Print JSON");
  return {app, [options] { return verify(*options); }};
}

}  // namespace moetap::cli
