#include "hooks/points/no_router.h"

#include <fmt/format.h>

namespace moetap::hooks {

std::string no_router_message(const torch::jit::Module& module, const Discovery& discovery) {
  std::string methods;
  for (const auto& method : module.get_methods()) {
    methods += (methods.empty() ? "" : ", ") + method.name();
  }
  const std::string line =
      fmt::format("no router was found in the methods {}; ", methods.empty() ? "(there are none)" : methods);
  if (discovery.skipped.empty()) {
    return line + "no selection of experts (topk, argmax, max, sort) was seen: is it a Mixture-of-Experts model?";
  }
  std::string skipped;
  constexpr size_t kMostShown = 3;
  for (size_t i = 0; i < discovery.skipped.size() && i < kMostShown; ++i) {
    skipped += fmt::format("{}{} ({})", i == 0 ? "" : "; ", discovery.skipped[i].node, discovery.skipped[i].reason);
  }
  const bool more = discovery.skipped.size() > kMostShown;
  return line + fmt::format("{} skipped: {}{}", discovery.skipped.size(), skipped,
                            more ? "; moetap inspect --json lists all" : "");
}

}  // namespace moetap::hooks
