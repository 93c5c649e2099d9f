#pragma once

#include <cstdint>
#include <vector>

namespace moetap::plugin {

/// Which samples a forward holds.
struct ForwardLabel {
  std::vector<int64_t> samples;  // the sample number of each sequence of the batch, all >= 0
  bool generation = false;       // phase of the forward's tokens: false prompt, true generation
};

}  // namespace moetap::plugin
