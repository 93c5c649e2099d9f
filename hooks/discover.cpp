#include "hooks/instrument.h"
#include "hooks/sites/model_sites.h"

namespace moetap::hooks {

Discovery discover(const torch::jit::Module& module, const std::vector<std::string>& methods, const HookSpec& spec,
                   HookKinds kinds) {
  return find_sites(module, methods, spec, kinds).discovery;
}

}  // namespace moetap::hooks
