#include "plugin/run/silent_hooks.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <tuple>

#include "plugin/records/hook_notices.h"

namespace moetap::plugin {

std::string SilentHooks::notice() const {
  if (names.empty()) return "";
  constexpr size_t kMostNames = 8;
  std::string list;
  for (size_t i = 0; i < std::min(names.size(), kMostNames); ++i) {
    list += fmt::format("{}\"{}\"", i == 0 ? "" : ", ", names[i]);
  }
  if (names.size() > kMostNames) list += fmt::format(" and {} more", names.size() - kMostNames);
  // A hook of a method that ran is skipped only where a branch or a loop stands around it.
  return fmt::format(
      "{} of {} hooks never reported: {}: no recorded forward took the arm of a branch, or made a turn of "
      "the loop, that holds {}",
      names.size(), num_hooks, list, names.size() == 1 ? "it" : "them");
}

SilentHooks find_silent_hooks(const RunState& state, const Counters& counters) {
  using Key = std::tuple<std::string, std::string, std::string>;  // model, method, name
  std::vector<Key> order;
  std::map<Key, bool> reported;
  for (const auto& model : state.models) {
    for (const hooks::HookPoint& hook : model->hooks) {
      if (!state.methods_that_ran.contains({model->instance, hook.method}) || !state.records(hook.kind)) continue;
      Key key(model->identity, hook.method, hook.name);
      const auto [place, is_new] = reported.try_emplace(key, false);
      place->second = place->second || state.layers_of(hook.kind).find(model->instance, hook.id).has_value();
      if (is_new) order.push_back(std::move(key));
    }
  }
  SilentHooks silent;
  silent.num_hooks = static_cast<int64_t>(order.size());
  for (const Key& key : order) {
    const std::string& name = std::get<2>(key);
    if (reported.at(key)) {
      ++silent.num_reported;
    } else if (!counters.notices.contains(hook_failed_notice(name))) {
      silent.names.push_back(name);
    }
  }
  return silent;
}

}  // namespace moetap::plugin
