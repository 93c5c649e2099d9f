#include "cli/studies/model_weights.h"

#include <ATen/core/Tensor.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>

#include "cli/inputs/model_file.h"
#include "cli/terminal/command_error.h"
#include "plugin/records/layer_table.h"

namespace moetap::cli {
namespace {

using analysis::studies::ComponentShape;
using analysis::studies::LayerShape;
using analysis::studies::WeightMatrix;

using Parameters = std::map<std::string, at::Tensor>;

struct LoadedModel {
  std::vector<hooks::HookPoint> routers;
  Parameters parameters;
};

LoadedModel load(const std::string& path) {
  const ModelFile file = load_model_file(path, c10::Device(c10::kCPU));
  LoadedModel model;
  const hooks::Discovery found = find_hooks(file, {}, {});
  for (const hooks::HookPoint& hook : found.hooks) {
    if (hook.kind == hooks::HookKind::kRouter) model.routers.push_back(hook);
  }
  if (model.routers.empty()) throw CommandError(no_router_line(file, found));
  for (const auto& parameter : file.module.named_parameters(/*recurse=*/true)) {
    model.parameters.emplace(parameter.name, parameter.value);
  }
  if (model.parameters.empty()) {
    throw CommandError(
        fmt::format("{}: has no parameters; a frozen model keeps them as constants: name the one before", path));
  }
  return model;
}

/// The path of a hook's module: a second call of it is named PATH#1.
std::string module_of(const hooks::HookPoint& hook) {
  return hook.name.substr(0, hook.name.find('#'));
}

/// The router's matrix [E, hidden] among the parameters of its module; undefined: none has a size E.
at::Tensor router_matrix(const Parameters& parameters, const std::string& module, int64_t num_experts) {
  const auto fits = [&](const at::Tensor& tensor) {
    return tensor.dim() == 2 && (tensor.size(0) == num_experts || tensor.size(1) == num_experts);
  };
  const auto oriented = [&](const at::Tensor& tensor) {
    return tensor.size(0) == num_experts ? tensor : tensor.transpose(0, 1);
  };
  const auto weight = parameters.find(module + ".weight");
  if (weight != parameters.end() && fits(weight->second)) return oriented(weight->second);
  const std::string prefix = module + ".";
  for (auto at = parameters.lower_bound(prefix); at != parameters.end() && at->first.starts_with(prefix); ++at) {
    const bool is_own = at->first.find('.', prefix.size()) == std::string::npos;
    if (is_own && fits(at->second)) return oriented(at->second);
  }
  return {};
}

void give(const at::Tensor& tensor, WeightMatrix weight, const std::function<void(const WeightMatrix&)>& use) {
  const at::Tensor values = tensor.detach().to(at::kCPU, at::kFloat).contiguous();
  weight.rows = values.dim() > 0 ? values.size(0) : 1;
  weight.columns = weight.rows > 0 ? values.numel() / weight.rows : 0;
  weight.values = {values.const_data_ptr<float>(), static_cast<size_t>(values.numel())};
  use(weight);
}

void give_experts(const Parameters& parameters, const std::string& module, int64_t num_experts, WeightMatrix weight,
                  const std::function<void(const WeightMatrix&)>& use) {
  const size_t dot = module.rfind('.');
  const std::string experts = (dot == std::string::npos ? "" : module.substr(0, dot + 1)) + "experts";
  weight.kind = WeightMatrix::Kind::kExpert;
  for (auto at = parameters.lower_bound(experts); at != parameters.end() && at->first.starts_with(experts); ++at) {
    const std::string rest = at->first.substr(experts.size());  // "", ".3.up.weight" or ".up"
    if (!rest.empty() && rest.front() != '.') continue;
    const char* end = rest.data() + rest.size();
    int64_t expert = -1;
    const auto read = std::from_chars(rest.data() + (rest.empty() ? 0 : 1), end, expert);
    if (read.ec == std::errc{} && read.ptr != end && *read.ptr == '.') {
      if (expert < 0 || expert >= num_experts) continue;
      weight.expert = expert;
      weight.name = at->first;
      give(at->second, weight, use);
    } else if (at->second.dim() >= 2 && at->second.size(0) == num_experts) {
      for (weight.expert = 0; weight.expert < num_experts; ++weight.expert) {
        weight.name = fmt::format("{}.{}{}", experts, weight.expert, rest);
        give(at->second[weight.expert], weight, use);
      }
    }
  }
}

}  // namespace

std::map<std::string, ComponentShape> ModelWeights::shapes() const {
  std::map<std::string, ComponentShape> shapes;
  for (const hooks::HookPoint& hook : load(path_).routers) {
    if (!hook.num_experts) continue;
    ComponentShape& shape = shapes[hook.component];
    shape.name = hook.component;
    const bool known = std::any_of(shape.layers.begin(), shape.layers.end(),
                                   [&](const LayerShape& layer) { return layer.id == hook.layer; });
    if (known) continue;
    shape.layers.push_back(
        {hook.layer, hook.name, *hook.num_experts, hook.null_experts, hook.top_k.value_or(0), hook.scoring});
  }
  for (auto& [name, shape] : shapes) {
    std::sort(shape.layers.begin(), shape.layers.end(),
              [](const LayerShape& a, const LayerShape& b) { return plugin::layer_id_less(a.id, b.id); });
  }
  return shapes;
}

void ModelWeights::read(const ComponentShape& shape, int32_t model,
                        const std::function<void(const WeightMatrix&)>& use) const {
  const LoadedModel loaded = load(path_);
  bool any = false;
  for (size_t l = 0; l < shape.layers.size(); ++l) {
    const LayerShape& layer = shape.layers[l];
    const auto hook = std::find_if(loaded.routers.begin(), loaded.routers.end(), [&](const hooks::HookPoint& of) {
      return of.component == shape.name && of.layer == layer.id;
    });
    if (hook == loaded.routers.end()) continue;
    WeightMatrix weight;
    weight.model = model;
    weight.layer = static_cast<int64_t>(l);
    weight.name = module_of(*hook) + ".weight";
    const at::Tensor router = router_matrix(loaded.parameters, module_of(*hook), layer.num_experts);
    if (router.defined()) {
      give(router, weight, use);
      any = true;
    }
    give_experts(loaded.parameters, module_of(*hook), layer.num_experts, weight, use);
  }
  if (any) return;
  throw CommandError(fmt::format(
      "{}: no router of {} has a parameter with as many rows or columns as the layer's experts", path_, shape.name));
}

}  // namespace moetap::cli
