#include "emulated_kernels.h"

#include <stdexcept>

#include "emulated_warp.h"
// The functions of warp.cuh must be there already.
#include "analysis/routers/router_kernel.cuh"

namespace moetap::analysis {
namespace {

template <int kExperts>
void launch(const RouterKernelLaunch& launch, uint64_t seed) {
  warp::EmulatedBlock::launch(launch.num_blocks, launch.threads_of_block, launch.shared_bytes, seed,
                              [&] { router_kernel::RouterMeter<kExperts>(launch.arguments).run(); });
}

}  // namespace

void observe_with_emulated_kernel(const RouterSums& sums, const RouterCall& call, const TokenRows& rows,
                                  const TokenOutputs& outputs, const TransitionFrom& transition,
                                  const EmulatedLaunch& how) {
  const RouterKernelLaunch planned = router_kernel_launch(sums, call, rows, outputs, transition, how.num_processors);
  switch (planned.experts_of_lane) {
    case 1:
      return launch<1>(planned, how.seed);
    case 2:
      return launch<2>(planned, how.seed);
    case 4:
      return launch<4>(planned, how.seed);
    case 8:
      return launch<8>(planned, how.seed);
    case 16:
      return launch<16>(planned, how.seed);
    case 32:
      return launch<32>(planned, how.seed);
    default:
      throw std::logic_error("a lane holds 1 to 32 experts");
  }
}

}  // namespace moetap::analysis
