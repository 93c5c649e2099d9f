#include "plugin/records/model_description_json.h"

#include <ATen/ATen.h>
#include <c10/util/hash.h>
#include <fmt/format.h>
#include <torch/csrc/jit/api/module.h>

#include <random>
#include <stdexcept>

#include "hooks/graph/entry_methods.h"
#include "hooks/graph/module_path.h"
#include "hooks/points/hook_names.h"
#include "plugin/formats/json_text.h"
#include "plugin/records/description_keys.h"
#include "plugin/records/token_layout_json.h"

namespace moetap::plugin {
namespace {

constexpr int64_t kSchemaVersion = 1;
constexpr int64_t kDescriptionVersion = 2;  // of the text inside an instrumented model
constexpr std::string_view kInstancePrefix = "{\"instance\":\"";
constexpr size_t kInstanceDigits = 32;

nlohmann::ordered_json optional_count(const std::optional<int64_t>& count) {
  return count ? nlohmann::ordered_json(*count) : nlohmann::ordered_json(nullptr);
}

hooks::HookKind kind_from(const std::string& name) {
  for (const hooks::HookKind kind : {hooks::HookKind::kRouter, hooks::HookKind::kAttention}) {
    if (name == hooks::to_string(kind)) {
      return kind;
    }
  }
  throw std::invalid_argument(fmt::format("kind must be router or attention, got \"{}\"", name));
}

std::optional<int64_t> count_from(const nlohmann::json& value) {
  return value.is_null() ? std::nullopt : std::optional<int64_t>(value.get<int64_t>());
}

hooks::HookPoint hook_from(const nlohmann::json& json) {
  hooks::HookPoint hook;
  hook.id = json.at(keys::kId.name).get<int64_t>();
  hook.layer = json.at(keys::kLayer.name).get<std::string>();
  hook.name = json.at(keys::kName.name).get<std::string>();
  hook.kind = kind_from(json.at(keys::kKind.name).get<std::string>());
  hook.method = json.at(keys::kMethod.name).get<std::string>();
  hook.component = json.at(keys::kComponent.name).get<std::string>();
  // They become names of files, and the text may come from a model file that somebody else wrote.
  if (!hooks::is_component_name(hook.component) || !hooks::is_layer_id(hook.layer)) {
    throw std::invalid_argument(fmt::format("component and layer of {} must name files, got \"{}\" and \"{}\"",
                                            hook.name, hook.component, hook.layer));
  }
  if (hook.kind == hooks::HookKind::kRouter) {
    hook.num_experts = count_from(json.at(keys::kNumExperts.name));
    hook.null_experts = json.value(keys::kNullExperts.name, int64_t{0});
    hook.top_k = count_from(json.at(keys::kTopK.name));
    hook.scoring = json.at(keys::kScoring.name).get<std::string>();
    // Models that were instrumented before there were layouts have none.
    if (json.contains(keys::kTokens.name)) hook.tokens = token_layout_from_json(json.at(keys::kTokens.name));
    hook.scores_are_plain = json.value(keys::kScoresArePlain.name, false);
    hook.weights_are_scaled_scores = json.value(keys::kWeightsAreScaledScores.name, false);
    hook.weights_have_factors_of_experts = json.value(keys::kWeightsHaveFactorsOfExperts.name, false);
  } else {
    hook.implementation = json.value(keys::kImplementation.name, "");
    if (json.contains(keys::kNumHeads.name)) hook.num_heads = count_from(json.at(keys::kNumHeads.name));
    if (json.contains(keys::kNumKeyHeads.name)) hook.num_key_heads = count_from(json.at(keys::kNumKeyHeads.name));
    if (json.contains(keys::kTokens.name)) hook.tokens = token_layout_from_json(json.at(keys::kTokens.name));
    if (json.contains(keys::kKeyTokens.name)) hook.key_tokens = token_layout_from_json(json.at(keys::kKeyTokens.name));
    hook.self_attention = json.value(keys::kSelfAttention.name, false);
    hook.keys_in_buffer = json.value(keys::kKeysInBuffer.name, false);
  }
  return hook;
}

bool is_tensor(const c10::TypePtr& type) {
  if (type->kind() == c10::TypeKind::TensorType) {
    return true;
  }
  return type->kind() == c10::TypeKind::OptionalType &&
         type->castRaw<c10::OptionalType>()->getElementType()->kind() == c10::TypeKind::TensorType;
}

/// The parameters of the submodule at `path` (a hook's name), without those of its children. Empty if there is no such
/// submodule: in a frozen model, or for the second call of a module.
std::vector<at::Tensor> parameters_at(const torch::jit::Module& module, const std::string& path) {
  torch::jit::Module owner = module;
  for (const auto& element : hooks::path_elements(path)) {
    if (!owner.hasattr(element) || !owner.attr(element).isModule()) return {};
    owner = owner.attr(element).toModule();
  }
  std::vector<at::Tensor> parameters;
  for (const at::Tensor& parameter : owner.parameters(/*recurse=*/false)) parameters.push_back(parameter);
  return parameters;
}

/// The identity of a model that was built in memory: SHA-1 of the names of its hooks and of the first values of each
/// of their parameters.
std::string identity_of_routers(const torch::jit::Module& module, const hooks::Discovery& discovery) {
  constexpr int64_t kValuesOfAParameter = 64;
  std::string content;
  for (const auto& hook : discovery.hooks) {
    if (hook.kind != hooks::HookKind::kRouter) continue;  // the same model, whether attention is looked for or not
    content += hook.name + '\n';
    for (const at::Tensor& parameter : parameters_at(module, hook.name)) {
      const at::Tensor values =
          parameter.detach().reshape({-1}).slice(0, 0, kValuesOfAParameter).to(at::kDouble).to(at::kCPU).contiguous();
      content.append(static_cast<const char*>(values.const_data_ptr()), values.nbytes());
    }
  }
  return c10::sha1(content).str();
}

}  // namespace

nlohmann::ordered_json hook_to_json(const hooks::HookPoint& hook) {
  nlohmann::ordered_json json = {{keys::kId.name, hook.id},         {keys::kLayer.name, hook.layer},
                                 {keys::kName.name, hook.name},     {keys::kKind.name, hooks::to_string(hook.kind)},
                                 {keys::kMethod.name, hook.method}, {keys::kComponent.name, hook.component}};
  if (hook.kind == hooks::HookKind::kRouter) {
    json[keys::kNumExperts.name] = optional_count(hook.num_experts);
    if (hook.null_experts > 0) json[keys::kNullExperts.name] = hook.null_experts;
    json[keys::kTopK.name] = optional_count(hook.top_k);
    json[keys::kScoring.name] = hook.scoring;
  } else {
    json[keys::kImplementation.name] = hook.implementation;
    json[keys::kNumHeads.name] = optional_count(hook.num_heads);
    json[keys::kNumKeyHeads.name] = optional_count(hook.num_key_heads);
  }
  return json;
}

nlohmann::ordered_json hooks_to_json(const std::vector<hooks::HookPoint>& hooks) {
  auto array = nlohmann::ordered_json::array();
  for (const auto& hook : hooks) {
    array.push_back(hook_to_json(hook));
  }
  return array;
}

nlohmann::ordered_json skipped_to_json(const std::vector<hooks::SkippedSite>& skipped) {
  auto array = nlohmann::ordered_json::array();
  for (const auto& site : skipped) {
    array.push_back({{keys::kNode.name, site.node}, {keys::kReason.name, site.reason}});
    if (site.kind != hooks::HookKind::kRouter) array.back()[keys::kKind.name] = hooks::to_string(site.kind);
  }
  return array;
}

nlohmann::ordered_json inspect_json(const hooks::Discovery& discovery, const std::string& model) {
  return {{keys::kSchemaVersion.name, kSchemaVersion},
          {keys::kModel.name, model},
          {keys::kHooks.name, hooks_to_json(discovery.hooks)},
          {keys::kSkipped.name, skipped_to_json(discovery.skipped)}};
}

std::string random_instance() {
  std::random_device device;
  std::string digits;
  while (digits.size() < kInstanceDigits) {
    digits += fmt::format("{:08x}", device());
  }
  return digits;
}

ModelDescription describe_model(const torch::jit::Module& module, const hooks::Discovery& discovery,
                                const std::string& model_file, const std::string& sha256) {
  ModelDescription model{
      random_instance(), model_file,        sha256, sha256.empty() ? identity_of_routers(module, discovery) : sha256,
      discovery.hooks,   discovery.skipped, {}};
  const auto add_arguments = [&](const std::string& name, const torch::jit::Method& method) {
    auto& names = model.method_arguments[name];
    names.clear();
    const auto& arguments = method.function().getSchema().arguments();
    for (size_t i = 1; i < arguments.size(); ++i) {  // 0 is self
      if (is_tensor(arguments[i].type())) {
        names.push_back(arguments[i].name());
      }
    }
  };
  for (const auto& method : module.get_methods()) {
    add_arguments(method.name(), method);
  }
  for (const auto& hook : discovery.hooks) {  // those of submodules, as "encoder.forward"
    const auto entry = hooks::find_entry_method(module, hook.method);
    add_arguments(hook.method, entry.module.get_method(entry.method));
  }
  return model;
}

std::string to_text(const ModelDescription& model) {
  auto methods = nlohmann::ordered_json::object();
  for (const auto& [name, arguments] : model.method_arguments) {
    methods[name] = {{keys::kArguments.name, arguments}};
  }
  auto hooks = hooks_to_json(model.hooks);
  for (size_t i = 0; i < model.hooks.size(); ++i) {
    hooks[i][keys::kTokens.name] = token_layout_to_json(model.hooks[i].tokens);
    if (model.hooks[i].kind == hooks::HookKind::kAttention) {
      hooks[i][keys::kKeyTokens.name] = token_layout_to_json(model.hooks[i].key_tokens);
      hooks[i][keys::kSelfAttention.name] = model.hooks[i].self_attention;
      hooks[i][keys::kKeysInBuffer.name] = model.hooks[i].keys_in_buffer;
      continue;
    }
    hooks[i][keys::kScoresArePlain.name] = model.hooks[i].scores_are_plain;
    hooks[i][keys::kWeightsAreScaledScores.name] = model.hooks[i].weights_are_scaled_scores;
    hooks[i][keys::kWeightsHaveFactorsOfExperts.name] = model.hooks[i].weights_have_factors_of_experts;
  }
  const nlohmann::ordered_json json = {
      {keys::kInstance.name, model.instance}, {keys::kSchemaVersion.name, kDescriptionVersion},
      {keys::kModel.name, model.model_file},  {keys::kSha256.name, model.sha256},
      {keys::kIdentity.name, model.identity}, {keys::kHooks.name, hooks},
      {keys::kMethods.name, methods},         {keys::kSkipped.name, skipped_to_json(model.skipped)}};
  return ascii_text(json);
}

ModelDescription model_description_from_text(const std::string& text) {
  try {
    const auto json = nlohmann::json::parse(text);
    const auto version = json.at(keys::kSchemaVersion.name).get<int64_t>();
    if (version != kDescriptionVersion) {
      throw std::invalid_argument(fmt::format("schema_version must be {}, got {}", kDescriptionVersion, version));
    }
    ModelDescription model;
    model.instance = json.at(keys::kInstance.name).get<std::string>();
    model.model_file = json.at(keys::kModel.name).get<std::string>();
    model.sha256 = json.at(keys::kSha256.name).get<std::string>();
    model.identity = json.at(keys::kIdentity.name).get<std::string>();
    for (const auto& hook : json.at(keys::kHooks.name)) {
      model.hooks.push_back(hook_from(hook));
      const auto place = static_cast<int64_t>(model.hooks.size()) - 1;
      if (model.hooks.back().id != place) {
        throw std::invalid_argument(
            fmt::format("hook {} must have id {}, got {}", place, place, model.hooks.back().id));
      }
    }
    for (const auto& site : json.at(keys::kSkipped.name)) {
      model.skipped.push_back({site.at(keys::kNode.name).get<std::string>(),
                               site.at(keys::kReason.name).get<std::string>(),
                               kind_from(site.value(keys::kKind.name, hooks::to_string(hooks::HookKind::kRouter)))});
    }
    for (const auto& [name, method] : json.at(keys::kMethods.name).items()) {
      model.method_arguments[name] = method.at(keys::kArguments.name).get<std::vector<std::string>>();
    }
    return model;
  } catch (const std::exception& error) {
    throw std::invalid_argument(fmt::format(
        "the description inside the instrumented model cannot be read ({}); instrument the model again", error.what()));
  }
}

std::string_view instance_of(std::string_view text) {
  const size_t start = kInstancePrefix.size();
  if (!text.starts_with(kInstancePrefix) || text.size() <= start + kInstanceDigits ||
      text[start + kInstanceDigits] != '"') {
    return {};
  }
  return text.substr(start, kInstanceDigits);
}

}  // namespace moetap::plugin
