#include "hooks/points/no_router.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

namespace moetap::hooks {

std::string no_router_message(const torch::jit::Module& module, const Discovery& discovery) {
  std::string methods;
  for (const auto& method : module.get_methods()) {
    methods += (methods.empty() ? "" : ", ") + method.name();
  }
  const std::string line =
      fmt::format("no router was found in the methods {}; ", methods.empty() ? "(there are none)" : methods);
  std::vector<SkippedSite> of_routers;
  std::copy_if(discovery.skipped.begin(), discovery.skipped.end(), std::back_inserter(of_routers),
               [](const SkippedSite& site) { return site.kind == HookKind::kRouter; });
  if (of_routers.empty()) {
    return line + "no selection of experts (topk, argmax, max, sort) was seen: is it a Mixture-of-Experts model?";
  }
  std::string skipped;
  constexpr size_t kMostShown = 3;
  for (size_t i = 0; i < of_routers.size() && i < kMostShown; ++i) {
    skipped += fmt::format("{}{} ({})", i == 0 ? "" : "; ", of_routers[i].node, of_routers[i].reason);
  }
  const bool more = of_routers.size() > kMostShown;
  return line +
         fmt::format("{} skipped: {}{}", of_routers.size(), skipped, more ? "; moetap inspect --json lists all" : "");
}

}  // namespace moetap::hooks
