#include "hooks/graph/entry_methods.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/csrc/jit/api/function_impl.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <unordered_map>
#include <utility>

#include "hooks/graph/method_graph.h"
#include "hooks/graph/module_path.h"
#include "hooks/graph/near_misses.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

/// A call in the graph of a function, before anything is inlined.
struct OwnCall {
  std::optional<std::vector<std::string>> path;  // attribute chain from self; empty where the graph does not tell
  c10::TypePtr type;                             // of the module that is called
  std::string method;
};

void collect_calls(jit::Block* block, const jit::Graph& graph, ForkNodes& forks, std::vector<OwnCall>& calls) {
  for (jit::Node* node : block->nodes()) {
    if (node->kind() == jit::prim::CallMethod) {
      calls.push_back(
          {attribute_chain(node->input(0), graph, forks), node->input(0)->type(), node->s(jit::attr::name)});
    }
    for (jit::Block* nested : node->blocks()) collect_calls(nested, graph, forks, calls);
    if (auto subgraph = fork_subgraph(node)) {
      forks[subgraph.get()] = node;
      collect_calls(subgraph->block(), graph, forks, calls);
    }
  }
}

/// Which methods of a model's modules call which.
class CallTree {
 public:
  using Key = std::pair<const c10::ivalue::Object*, std::string>;  // a module and a method of it

  explicit CallTree(const jit::Module& model) {
    for (const auto& found : model.named_modules()) {
      const auto* object = found.value._ivalue().get();
      if (!seen_.insert(object).second) continue;  // the same module under a second name
      modules_.push_back({found.name, found.value});
    }
  }

  const std::vector<std::pair<std::string, jit::Module>>& modules() const { return modules_; }

  static const jit::GraphFunction* graph_function(const jit::Method& method) {
    return dynamic_cast<const jit::GraphFunction*>(&method.function());
  }

  static Key key(const jit::Module& module, const std::string& method) { return {module._ivalue().get(), method}; }

  // Adds the methods that a method calls, directly or through others.
  void reach(const jit::Module& module, const std::string& method, std::set<Key>& reached) {
    for (const auto& [callee, name] : callees(module, method)) {
      if (reached.insert(key(callee, name)).second) reach(callee, name, reached);
    }
  }

 private:
  std::vector<std::pair<jit::Module, std::string>> callees(const jit::Module& module, const std::string& method) {
    std::vector<std::pair<jit::Module, std::string>> found;
    const auto own = module.find_method(method);
    const auto* function = own.has_value() ? graph_function(*own) : nullptr;
    if (function == nullptr) return found;
    for (const OwnCall& call : calls_of(*function)) {
      if (call.path.has_value()) {
        c10::IValue current = module._ivalue();
        for (const auto& name : *call.path) {
          const bool there = current.isObject() && current.toObjectRef().type()->hasAttribute(name);
          current = there ? current.toObjectRef().getAttr(name) : c10::IValue();
        }
        if (current.isModule()) {
          found.emplace_back(current.toModule(), call.method);
          continue;
        }
      }
      // The graph does not tell which module is called: it may be any of this type.
      for (const auto& [path, candidate] : modules_) {
        if (candidate.type()->isSubtypeOf(*call.type)) found.emplace_back(candidate, call.method);
      }
    }
    return found;
  }

  const std::vector<OwnCall>& calls_of(const jit::GraphFunction& function) {
    auto [place, fresh] = calls_.try_emplace(&function);
    if (fresh) {
      const auto graph = function.graph();
      ForkNodes forks;
      collect_calls(graph->block(), *graph, forks, place->second);
    }
    return place->second;
  }

  std::vector<std::pair<std::string, jit::Module>> modules_;  // parents before children
  std::set<const c10::ivalue::Object*> seen_;
  std::unordered_map<const jit::GraphFunction*, std::vector<OwnCall>> calls_;
};

std::vector<std::string> graph_methods(const jit::Module& module) {
  std::vector<std::string> names;
  for (const auto& method : module.get_methods()) {
    if (CallTree::graph_function(method) != nullptr) names.push_back(method.name());
  }
  std::stable_partition(names.begin(), names.end(), [](const std::string& name) { return name == "forward"; });
  return names;
}

}  // namespace

EntryMethod find_entry_method(const jit::Module& model, const std::string& name) {
  auto elements = path_elements(name);
  if (!elements.empty()) {
    const std::string method = elements.back();
    elements.pop_back();
    jit::Module module = model;
    bool there = true;
    for (const auto& element : elements) {
      there = there && module.hasattr(element) && module.attr(element).isModule();
      if (there) module = module.attr(element).toModule();
    }
    if (there && module.find_method(method).has_value()) return {join_path(elements), method, module, {}};
  }
  std::vector<std::string> names;
  for (const auto& found : model.named_modules()) {
    for (const auto& method : found.value.get_methods()) {
      names.push_back(found.name.empty() ? method.name() : found.name + "." + method.name());
    }
  }
  constexpr size_t kMostShown = 5;
  throw MethodError(
      fmt::format("no method \"{}\"; the nearest are: {}", name, fmt::join(nearest(name, names, kMostShown), ", ")));
}

std::vector<EntryMethod> entry_methods(const jit::Module& model, const std::vector<std::string>& wanted) {
  std::set<CallTree::Key> asked_for;
  for (const auto& name : wanted) {
    const EntryMethod entry = find_entry_method(model, name);
    asked_for.insert(CallTree::key(entry.module, entry.method));
  }
  CallTree tree(model);

  // Methods that the model's own methods reach are inlined into those.
  std::set<CallTree::Key> reached;
  const auto own_methods = graph_methods(model);
  for (const auto& method : own_methods) tree.reach(model, method, reached);
  // Of the other methods, those that one of them calls are no entries either.
  std::set<CallTree::Key> called;
  for (const auto& [path, module] : tree.modules()) {
    if (path.empty()) continue;
    for (const auto& method : graph_methods(module)) {
      if (!reached.count(CallTree::key(module, method))) tree.reach(module, method, called);
    }
  }

  std::map<const c10::Type*, std::vector<std::string>> by_type;
  for (const auto& [path, module] : tree.modules()) by_type[module.type().get()].push_back(path);
  std::vector<EntryMethod> entries;
  for (const auto& [path, module] : tree.modules()) {
    for (const auto& method : graph_methods(module)) {
      EntryMethod entry{path, method, module, {}};
      const auto key = CallTree::key(module, method);
      const bool by_default =
          path.empty() ? method == "forward" || !reached.count(key) : !reached.count(key) && !called.count(key);
      if (!by_default && !asked_for.count(key)) continue;
      for (const auto& other : by_type[module.type().get()]) {
        if (other != path) entry.class_sharers.push_back(other);
      }
      entries.push_back(std::move(entry));
    }
  }
  return entries;
}

}  // namespace moetap::hooks
