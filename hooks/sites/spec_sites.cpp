#include "hooks/sites/spec_sites.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <regex>
#include <set>

#include "hooks/graph/module_path.h"
#include "hooks/graph/near_misses.h"
#include "hooks/graph/op_traits.h"
#include "hooks/points/hook_names.h"
#include "hooks/points/layer_number.h"
#include "hooks/sites/value_reference.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

constexpr size_t kMostShown = 5;

/// Where an entry applies: a call of a module, or a hook by its name alone.
struct Place {
  MethodSites* sites;
  const ModuleCall* call;           // null: no call of a module has this path, but a hook has
  std::string path;                 // from the model
  std::vector<std::string> groups;  // what the groups of the regular expression matched, the whole first
  bool only_call = true;            // the module is called once in the method

  const MethodGraph& graph() const { return *sites->graph; }
};

std::string without_call_number(const std::string& name) {
  return name.substr(0, name.find('#'));
}

bool holds(const Place& place, const FoundRouter& router) {
  if (place.call == nullptr) return without_call_number(router.owner) == place.path;
  const int64_t order = place.graph().order(router.anchor());
  if (place.call->first <= order && order < place.call->last) return true;
  const std::string& owner = router.owner;
  return place.only_call && (owner == place.path || owner.starts_with(place.path + "."));
}

/// Applies one entry of a spec.
class EntryApplication {
 public:
  EntryApplication(const HookSpec& spec, size_t place, std::vector<MethodSites>& methods)
      : entry_(spec.entries[place]),
        where_(fmt::format("{}: entry {}", spec.source, place)),
        methods_(methods),
        pattern_(checked_regex(entry_.module, where_ + ": module")) {}

  void apply() {
    const auto places = find_places();
    size_t num_routers = 0;
    for (const Place& place : places) {
      if (entry_.skip)
        num_routers += skip(place);
      else if (entry_.names_values())
        num_routers += name_values(place);
      else
        num_routers += change(place);
    }
    if (num_routers > 0) return;
    std::vector<std::string> owners;
    for (const auto& sites : methods_) {
      for (const auto& router : sites.routers) owners.push_back(router.owner);
    }
    const std::string there = owners.empty() ? "none was found in the model"
                                             : fmt::format("routers were found at: {}",
                                                           fmt::join(nearest(entry_.module, owners, kMostShown), ", "));
    fail(fmt::format("module \"{}\" matches {}, where no router was found; {}{}", entry_.module,
                     printed_path(places[0]), there, entry_.skip ? "" : "; to name one by hand, say what is selected"));
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { throw HookSpecError(where_ + ": " + what); }

  static std::string printed_path(const Place& place) { return place.path.empty() ? "the model itself" : place.path; }

  std::vector<Place> find_places() {
    std::vector<Place> places;
    std::vector<std::string> paths, methods;
    for (MethodSites& sites : methods_) {
      methods.push_back(sites.graph->entry());
      if (entry_.method.has_value() && *entry_.method != sites.graph->entry()) continue;
      std::map<std::string, std::vector<Place>> by_path;
      std::vector<std::string> in_order;
      for (const ModuleCall& call : sites.graph->calls()) {
        const std::string path = sites.graph->path_from_model(call.path);
        paths.push_back(path);
        auto& calls = by_path[path];
        // A module's own methods that it calls itself are part of that call.
        if (!calls.empty() && call.last <= calls.back().call->last) continue;
        if (calls.empty()) in_order.push_back(path);
        calls.push_back({&sites, &call, path, {}});
      }
      for (const auto& router : sites.routers) {
        const std::string path = without_call_number(router.owner);
        paths.push_back(path);
        if (by_path.count(path)) continue;
        by_path[path].push_back({&sites, nullptr, path, {}});
        in_order.push_back(path);
      }
      for (const auto& path : in_order) match(path, by_path[path], places);
    }
    if (entry_.method.has_value() && std::find(methods.begin(), methods.end(), *entry_.method) == methods.end()) {
      fail(
          fmt::format("method \"{}\" is not recorded; it must be one of {}", *entry_.method, fmt::join(methods, ", ")));
    }
    if (!places.empty()) return places;
    std::erase(paths, "");
    fail(fmt::format("module \"{}\" matches the whole path of nothing that is called; {}", entry_.module,
                     paths.empty()
                         ? "no submodule is (a frozen model, or one traced as a function): \"\" is the model itself"
                         : fmt::format("the nearest: {}", fmt::join(nearest(entry_.module, paths, kMostShown), ", "))));
  }

  void match(const std::string& path, std::vector<Place>& calls, std::vector<Place>& places) const {
    std::smatch match;
    if (!std::regex_match(path, match, pattern_)) return;
    size_t first = 0, last = calls.size();
    if (entry_.call.has_value()) {
      const int64_t size = static_cast<int64_t>(calls.size());
      const int64_t call = *entry_.call < 0 ? *entry_.call + size : *entry_.call;
      if (call < 0 || call >= size) {
        fail(fmt::format("call {} of {} does not exist: method {} calls it {} times", *entry_.call,
                         printed_path(calls[0]), calls[0].graph().entry(), size));
      }
      first = static_cast<size_t>(call);
      last = first + 1;
    }
    for (size_t i = first; i < last; ++i) {
      Place place = calls[i];
      place.only_call = calls.size() == 1;
      for (const auto& group : match) place.groups.push_back(group.str());
      places.push_back(std::move(place));
    }
  }

  // $1 is what the first group of `module` matched.
  std::string expanded(const std::string& text, const Place& place) const {
    std::string result;
    for (size_t i = 0; i < text.size(); ++i) {
      const bool group = text[i] == '$' && i + 1 < text.size() && text[i + 1] >= '0' && text[i + 1] <= '9';
      if (!group) {
        result += text[i];
        continue;
      }
      const size_t number = static_cast<size_t>(text[++i] - '0');
      if (number >= place.groups.size()) {
        fail(fmt::format("\"{}\": module \"{}\" has no group {}", text, entry_.module, number));
      }
      result += place.groups[number];
    }
    return result;
  }

  ValueReference expanded(ValueReference reference, const Place& place) const {
    reference.target = expanded(reference.target, place);
    return reference;
  }

  jit::Value* value(const ValueReference& reference, const Place& place, const char* role) const {
    return resolve(expanded(reference, place), place.graph(), *place.call,
                   fmt::format("{}: {} in {}", where_, role, printed_path(place)));
  }

  size_t skip(const Place& place) {
    std::vector<SkippedNode>& skipped = place.sites->skipped;
    return std::erase_if(place.sites->routers, [&](const FoundRouter& router) {
      if (!holds(place, router)) return false;
      const jit::Node* pick = router.picks.empty() ? router.anchor() : router.picks.back();
      skipped.push_back({pick, router.anchor(), SkipReason::kSkippedByHookSpec});
      return true;
    });
  }

  size_t change(const Place& place) {
    size_t num_routers = 0;
    for (FoundRouter& router : place.sites->routers) {
      if (!holds(place, router)) continue;
      describe(router, place);
      ++num_routers;
    }
    return num_routers;
  }

  void describe(FoundRouter& router, const Place& place) const {
    if (entry_.name.has_value()) {
      router.owner = expanded(*entry_.name, place);
      if (router.owner.empty()) fail("name must not be empty");
    }
    if (entry_.component.has_value()) {
      router.component = expanded(*entry_.component, place);
      if (!is_component_name(router.component)) {
        fail(fmt::format("component must be letters, digits, _ and - (it names files), got \"{}\"", router.component));
      }
    }
    if (entry_.layer.has_value()) {
      router.layer = layer_id(expanded(*entry_.layer, place));
    }
    if (entry_.scoring.has_value()) router.scoring = *entry_.scoring;
    if (entry_.num_experts.has_value()) router.num_experts = entry_.num_experts;
    if (entry_.top_k.has_value()) router.top_k = entry_.top_k;
    if (entry_.form.has_value()) router.form = *entry_.form;
    if (entry_.expert_dim.has_value()) {
      router.expert_dim = router.logits_dim = router.scores_dim = *entry_.expert_dim;
    }
  }

  std::string layer_id(const std::string& text) const {
    if (!is_layer_id(text)) {
      fail(fmt::format("layer must be decimal digits or mm_projector, got \"{}\"", text));
    }
    return is_number(text) ? without_leading_zeros(text) : text;
  }

  size_t name_values(const Place& place) {
    if (place.call == nullptr) {
      fail(fmt::format(
          "{} is the name of a hook, and no module of this path is called: to name values, match the module "
          "that computes them",
          printed_path(place)));
    }
    std::vector<FoundRouter>& routers = place.sites->routers;
    std::vector<std::string> owners;
    FoundRouter* found = nullptr;
    for (FoundRouter& router : routers) {
      if (!holds(place, router)) continue;
      found = &router;
      owners.push_back(router.owner);
    }
    if (owners.size() > 1) {
      fail(fmt::format("{} holds {} routers ({}): match the module of one to name its values", printed_path(place),
                       owners.size(), fmt::join(owners, ", ")));
    }
    FoundRouter router = found != nullptr ? *found : FoundRouter();
    if (found == nullptr) {
      router.owner = place.path;
      router.form = entry_.selects_all ? "dense" : "slots";
    }
    fill(router, place);
    describe(router, place);
    check(router, place);
    if (found == nullptr) complete(router, place.graph());
    drop_explained(router, *place.sites);
    if (found != nullptr)
      *found = std::move(router);
    else
      routers.push_back(std::move(router));
    std::stable_sort(routers.begin(), routers.end(), [&](const FoundRouter& a, const FoundRouter& b) {
      return place.graph().order(a.anchor()) < place.graph().order(b.anchor());
    });
    return 1;
  }

  void fill(FoundRouter& router, const Place& place) const {
    if (entry_.logits.has_value()) {
      router.logits = value(*entry_.logits, place, "logits");
      router.logits_dim = router.expert_dim;
    }
    if (entry_.scores.has_value()) {
      router.scores = value(*entry_.scores, place, "scores");
      router.scores_dim = router.expert_dim;
    }
    if (!entry_.selected.empty() || entry_.selects_all) {
      router.selected.clear();
      router.choice = nullptr;
      router.add_slot_dim = false;
      router.selects_all = entry_.selects_all;
      for (const auto& reference : entry_.selected) router.selected.push_back(value(reference, place, "selected"));
    }
    if (!entry_.weights.empty()) {
      router.weights.clear();
      for (const auto& reference : entry_.weights) router.weights.push_back(value(reference, place, "weights"));
    }
  }

  void check(const FoundRouter& router, const Place& place) const {
    const std::string in = printed_path(place);
    if (router.owner.empty()) fail("module \"\" is the model itself, which has no path: say name");
    if (router.selected.empty() && !router.selects_all) {
      fail(fmt::format("no router was found in {}: to name one by hand, say what is selected", in));
    }
    if (router.selects_all && (router.weights.size() != 1 || router.form != "dense")) {
      fail(fmt::format("selected \"all\" in {} takes one tensor of weights over all experts, in the form dense", in));
    }
    const bool shows_experts =
        router.logits != nullptr || router.scores != nullptr || (router.form != "slots" && !router.weights.empty());
    if (!shows_experts && !router.num_experts.has_value()) {
      fail(
          fmt::format("the router in {} must have logits, scores or num_experts: nothing else tells how many experts "
                      "there are",
                      in));
    }
    // The hook is inserted behind the ids and weights, and sees the values of its block and of the blocks around it.
    std::vector<jit::Value*> values = router.selected;
    values.insert(values.end(), router.weights.begin(), router.weights.end());
    const auto last = *std::max_element(values.begin(), values.end(), [&](const jit::Value* a, const jit::Value* b) {
      return place.graph().order(a->node()) < place.graph().order(b->node());
    });
    if (router.logits != nullptr) values.push_back(router.logits);
    if (router.scores != nullptr) values.push_back(router.scores);
    for (const jit::Value* value : values) {
      if (visible_from(value, last->node())) continue;
      fail(fmt::format("in {}, %{} of \"{}\" is computed in a branch, loop or fork that \"{}\" does not see", in,
                       value->debugName(), printed(value->node()), printed(last->node())));
    }
  }

  // Fills what the entry does not say of an added router from its values.
  static void complete(FoundRouter& router, const MethodGraph& graph) {
    if (!router.num_experts.has_value() && router.logits != nullptr) {
      const jit::Value* value = router.logits;
      while (op_kind(*value->node()) == OpKind::kCopy || op_kind(*value->node()) == OpKind::kReshape) {
        value = value->node()->input(0);
      }
      if (value->node()->kind() == jit::aten::linear) {
        const auto weight = graph.constant(value->node()->input(1));
        if (weight.has_value() && weight->isTensor()) router.num_experts = weight->toTensor().size(0);
      }
    }
    if (!router.top_k.has_value() && router.selects_all) router.top_k = router.num_experts;
    if (!router.top_k.has_value() && router.selected.size() == 1) {
      const jit::Node* pick = router.selected[0]->node();
      if (pick->kind() == jit::aten::topk) router.top_k = graph.constant_int(pick->input(1));
    }
    if (router.scoring.empty()) router.scoring = scoring_of(router);
  }

  static std::string scoring_of(const FoundRouter& router) {
    if (router.scores == nullptr && router.weights.empty()) return "none";
    const jit::Value* value = router.weights.empty() ? router.scores : router.weights[0];
    std::string name;
    bool picked = false;
    while (true) {
      const jit::Node* node = value->node();
      const OpKind kind = op_kind(*node);
      if (kind == OpKind::kScoring) {
        if (name.empty()) name = base_name(*node);
        if (picked) break;  // of what is picked from
      } else if (kind == OpKind::kPick || kind == OpKind::kGather) {
        picked = true;
        if (!name.empty()) return name + "_topk";
      } else if (kind == OpKind::kContract || node->inputs().empty() || kind == OpKind::kOther) {
        break;
      }
      value = node->input(0);
    }
    return name.empty() ? "none" : name;
  }

  // Removes the skipped nodes that the router's values come from: they are part of a router now.
  static void drop_explained(const FoundRouter& router, MethodSites& sites) {
    std::set<const jit::Node*> before;
    std::vector<const jit::Value*> stack(router.selected.begin(), router.selected.end());
    stack.insert(stack.end(), router.weights.begin(), router.weights.end());
    if (router.logits != nullptr) stack.push_back(router.logits);
    std::set<const jit::Node*> sources;
    for (const auto& skipped : sites.skipped) sources.insert(skipped.source);
    while (!stack.empty()) {
      const jit::Node* node = stack.back()->node();
      stack.pop_back();
      const OpKind kind = op_kind(*node);
      const bool hidden = kind == OpKind::kContract || kind == OpKind::kMixOther;  // before it are other layers
      if (!before.insert(node).second || sources.count(node) || hidden) continue;
      stack.insert(stack.end(), node->inputs().begin(), node->inputs().end());
    }
    std::erase_if(sites.skipped, [&](const SkippedNode& skipped) {
      const bool explained = before.count(skipped.node) || before.count(skipped.source);
      return explained && skipped.reason != SkipReason::kSkippedByHookSpec;
    });
  }

  const HookSpecEntry& entry_;
  std::string where_;
  std::vector<MethodSites>& methods_;
  std::regex pattern_;
};

}  // namespace

void apply_hook_spec(const HookSpec& spec, std::vector<MethodSites>& methods) {
  for (size_t i = 0; i < spec.entries.size(); ++i) EntryApplication(spec, i, methods).apply();
}

}  // namespace moetap::hooks
