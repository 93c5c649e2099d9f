#pragma once

#include <ATen/core/Tensor.h>

#include <iosfwd>
#include <string>
#include <vector>

#include "moe_sources.h"

namespace moetap::hooks::testing {

/// A module that does what a router does, to something that is no expert.
struct LookAlike {
  std::string name;
  bool must_be_listed = true;  // `skipped` must name it and the reason; else it may
  ModuleSource source = {};
  std::vector<at::Tensor> inputs = {};
};

void PrintTo(const LookAlike& look_alike, std::ostream* stream);  // for GoogleTest

/// Look-alikes in models without any expert.
std::vector<LookAlike> look_alikes();

/// Expert layers that no hook describes rightly: product keys, dense and soft mixtures.
std::vector<LookAlike> unsupported_routers();

}  // namespace moetap::hooks::testing
