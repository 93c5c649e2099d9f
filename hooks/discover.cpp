#include "hooks/instrument.h"
#include "hooks/router_sites.h"

namespace moetap::hooks {

Discovery discover(const torch::jit::Module& module) {
  return find_router_sites(module).discovery;
}

}  // namespace moetap::hooks
