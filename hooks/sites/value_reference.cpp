#include "hooks/sites/value_reference.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>
#include <regex>
#include <vector>

#include "hooks/graph/near_misses.h"
#include "hooks/graph/op_traits.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

constexpr size_t kMostShown = 5;

// The one that `occurrence` chooses of several that fit: values, calls or nodes.
template <typename T>
const T& chosen(const std::vector<T>& found, const std::optional<int64_t>& occurrence, const std::string& what,
                const std::vector<std::string>& printed_ones) {
  const int64_t size = static_cast<int64_t>(found.size());
  if (!occurrence.has_value() && size == 1) return found[0];
  std::string shown;
  for (size_t i = 0; i < printed_ones.size() && i < kMostShown; ++i) {
    shown += fmt::format("{}{}: {}", i == 0 ? "" : "; ", i, printed_ones[i]);
  }
  if (printed_ones.size() > kMostShown) shown += fmt::format("; and {} more", printed_ones.size() - kMostShown);
  if (!occurrence.has_value()) {
    throw HookSpecError(fmt::format("{}: there are {}, say which by \"occurrence\" ({})", what, size, shown));
  }
  const int64_t place = *occurrence < 0 ? *occurrence + size : *occurrence;
  if (place < 0 || place >= size) {
    throw HookSpecError(
        fmt::format("{}: occurrence {} does not exist, there are {} ({})", what, *occurrence, size, shown));
  }
  return found[static_cast<size_t>(place)];
}

std::vector<jit::Node*> nodes_in(const MethodGraph& graph, const ModuleCall& scope) {
  const auto& nodes = graph.nodes();
  return {nodes.begin() + scope.first, nodes.begin() + scope.last};
}

std::string in_module(const ModuleCall& scope, const MethodGraph& graph) {
  const std::string path = graph.path_from_model(scope.path);
  return path.empty() ? "the model" : path;
}

// The path of a call from the matched module; std::nullopt for a call outside of it.
std::optional<std::string> relative_path(const ModuleCall& call, const ModuleCall& scope) {
  if (call.first < scope.first || call.last > scope.last) return std::nullopt;
  if (scope.path.empty()) return call.path;
  if (call.path == scope.path) return "";
  if (!call.path.starts_with(scope.path + ".")) return std::nullopt;
  return call.path.substr(scope.path.size() + 1);
}

std::string signature(const ModuleCall& call) {
  return fmt::format("{}({}) -> {} output{}", call.method, fmt::join(call.argument_names, ", "), call.outputs.size(),
                     call.outputs.size() == 1 ? "" : "s");
}

const ModuleCall& find_call(const ValueReference& reference, const MethodGraph& graph, const ModuleCall& scope,
                            const std::string& where) {
  if (reference.target.empty() && reference.method.empty()) return scope;
  const std::regex pattern = checked_regex(reference.target, where);
  std::vector<const ModuleCall*> found;
  std::vector<std::string> printed_ones, others;
  for (const ModuleCall& call : graph.calls()) {
    const auto path = relative_path(call, scope);
    if (&call == &scope || !path.has_value()) continue;
    // A module's own methods that it calls itself are part of that call.
    const bool part_of_last = !found.empty() && found.back()->path == call.path && call.last <= found.back()->last;
    if (part_of_last) continue;
    const bool fits = std::regex_match(*path, pattern) && (reference.method.empty() || call.method == reference.method);
    if (fits) {
      found.push_back(&call);
      printed_ones.push_back(*path + "." + signature(call));
    } else if (!path->empty()) {
      others.push_back(*path);
    }
  }
  if (found.empty()) {
    std::string there;
    if (graph.calls().size() <= 1) {
      there = fmt::format(
          "method {} calls no submodules (a frozen model, or one traced as a function): name values by "
          "\"op\" or \"variable\"",
          graph.entry());
    } else if (others.empty()) {
      there = "it calls no submodule";
    } else {
      there =
          fmt::format("the nearest that it calls: {}", fmt::join(nearest(reference.target, others, kMostShown), ", "));
    }
    const std::string method = reference.method.empty() ? "" : fmt::format(" by method {}", reference.method);
    throw HookSpecError(fmt::format("{}: {} makes no call of \"{}\"{}; {}", where, in_module(scope, graph),
                                    reference.target, method, there));
  }
  return *chosen(found, reference.occurrence, fmt::format("{}: calls of \"{}\"", where, reference.target),
                 printed_ones);
}

jit::Value* output_of(const ValueReference& reference, const ModuleCall& call, const std::string& where) {
  const int64_t size = static_cast<int64_t>(call.outputs.size());
  if (!reference.output.has_value() && size == 1) return call.outputs[0];
  if (!reference.output.has_value() || *reference.output < 0 || *reference.output >= size) {
    const std::string said = reference.output.has_value() ? fmt::format("output {} does not exist", *reference.output)
                                                          : std::string("say which by \"output\"");
    throw HookSpecError(fmt::format("{}: {}; \"{}\" is {}", where, said, reference.target, signature(call)));
  }
  return call.outputs[static_cast<size_t>(*reference.output)];
}

jit::Value* input_of(const ValueReference& reference, const ModuleCall& call, const std::string& where) {
  const int64_t size = static_cast<int64_t>(call.arguments.size());
  for (int64_t i = 0; i < size; ++i) {
    if (call.argument_names[static_cast<size_t>(i)] == reference.argument_name) {
      return call.arguments[static_cast<size_t>(i)];
    }
  }
  if (reference.argument_name.empty()) {
    if (!reference.argument.has_value() && size == 1) return call.arguments[0];
    if (reference.argument.has_value() && *reference.argument >= 0 && *reference.argument < size) {
      return call.arguments[static_cast<size_t>(*reference.argument)];
    }
  }
  const std::string said =
      !reference.argument_name.empty() ? fmt::format("there is no argument \"{}\"", reference.argument_name)
      : reference.argument.has_value() ? fmt::format("there is no argument {}", *reference.argument)
                                       : std::string("say which by \"argument\"");
  throw HookSpecError(fmt::format("{}: {}; \"{}\" is {}", where, said, reference.target, signature(call)));
}

jit::Value* of_operator(const ValueReference& reference, const MethodGraph& graph, const ModuleCall& scope,
                        const std::string& where) {
  const std::string kind =
      reference.target.find("::") == std::string::npos ? "aten::" + reference.target : reference.target;
  std::vector<jit::Node*> found;
  std::vector<std::string> printed_ones, others;
  std::map<std::string, int> counts;
  for (jit::Node* node : nodes_in(graph, scope)) {
    const std::string other = node->kind().toQualString();
    if (other == kind) {
      found.push_back(node);
      printed_ones.push_back(printed(node));
    } else if (!node->outputs().empty() && is_tensor(node->output(0)) && other != "prim::GetAttr" &&
               other != "prim::Constant") {
      if (counts[other]++ == 0) others.push_back(other);
    }
  }
  if (found.empty()) {
    std::vector<std::string> near = nearest(kind, others, kMostShown);
    for (std::string& name : near) name += fmt::format(" ({})", counts[name]);
    throw HookSpecError(fmt::format(
        "{}: there is no {} in {}; {}", where, kind, in_module(scope, graph),
        near.empty() ? "it computes no tensor" : fmt::format("the nearest that it has: {}", fmt::join(near, ", "))));
  }
  jit::Node* node = chosen(found, reference.occurrence,
                           fmt::format("{}: {} in {}", where, kind, in_module(scope, graph)), printed_ones);
  const bool wants_input = reference.argument.has_value() || !reference.argument_name.empty();
  const int64_t size = static_cast<int64_t>(wants_input ? node->inputs().size() : node->outputs().size());
  int64_t place = wants_input ? reference.argument.value_or(-1) : reference.output.value_or(size == 1 ? 0 : -1);
  if (const auto* schema = node->maybeSchema(); schema != nullptr && !reference.argument_name.empty()) {
    place = schema->argumentIndexWithName(reference.argument_name).value_or(-1);
  }
  if (place < 0 || place >= size) {
    throw HookSpecError(fmt::format("{}: it must be one of the {} {}s of: {}", where, size,
                                    wants_input ? "argument" : "output", printed(node)));
  }
  return wants_input ? node->input(place) : node->output(place);
}

jit::Value* variable(const ValueReference& reference, const MethodGraph& graph, const ModuleCall& scope,
                     const std::string& where) {
  const std::regex pattern = checked_regex(reference.target, where);
  std::vector<jit::Value*> found;
  std::vector<std::string> printed_ones, others;
  for (jit::Node* node : nodes_in(graph, scope)) {
    const bool parameter = node->kind() == jit::prim::GetAttr || node->kind() == jit::prim::Constant;
    for (jit::Value* value : node->outputs()) {
      if (!value->hasDebugName() || parameter || !is_tensor(value)) continue;
      const std::string name = value->debugNameBase();  // "weights.5" is the fifth value that the code calls `weights`
      if (std::regex_match(name, pattern)) {
        found.push_back(value);
        printed_ones.push_back(printed(node));
      } else {
        others.push_back(name);
      }
    }
  }
  if (found.empty()) {
    const auto near = nearest(reference.target, others, kMostShown);
    throw HookSpecError(fmt::format("{}: no variable \"{}\" in {}; {}", where, reference.target,
                                    in_module(scope, graph),
                                    near.empty() ? "its variables have no names"
                                                 : fmt::format("the nearest that it has: {}", fmt::join(near, ", "))));
  }
  return chosen(found, reference.occurrence, fmt::format("{}: variables \"{}\"", where, reference.target),
                printed_ones);
}

}  // namespace

std::regex checked_regex(const std::string& pattern, const std::string& where) {
  try {
    return std::regex(pattern);
  } catch (const std::regex_error&) {
    throw HookSpecError(fmt::format("{}: \"{}\" is no regular expression", where, pattern));
  }
}

jit::Value* resolve(const ValueReference& reference, const MethodGraph& graph, const ModuleCall& scope,
                    const std::string& where, ValueType type) {
  jit::Value* value = nullptr;
  switch (reference.kind) {
    case ValueReference::Kind::kOutputOf:
      value = output_of(reference, find_call(reference, graph, scope, where), where);
      break;
    case ValueReference::Kind::kInputOf:
      value = input_of(reference, find_call(reference, graph, scope, where), where);
      break;
    case ValueReference::Kind::kOperator:
      value = of_operator(reference, graph, scope, where);
      break;
    case ValueReference::Kind::kVariable:
      value = variable(reference, graph, scope, where);
      break;
  }
  const bool may_be_none = type == ValueType::kOptionalTensor;
  const bool fits = is_tensor(value) || (may_be_none && value->type()->isSubtypeOf(*c10::OptionalType::ofTensor()));
  if (!fits) {
    throw HookSpecError(fmt::format("{}: it must be a tensor{}, got {} %{} of: {}", where,
                                    may_be_none ? " or none" : "", value->type()->str(), value->debugName(),
                                    printed(value->node())));
  }
  return value;
}

}  // namespace moetap::hooks
