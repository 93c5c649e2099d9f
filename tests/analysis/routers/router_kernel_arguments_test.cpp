#include "analysis/routers/router_kernel_arguments.h"

#include <gtest/gtest.h>

#include "analysis/numbers/fixed_point.h"
#include "tests/analysis/routers/router_calls.h"

namespace moetap::analysis {
namespace {

RouterKernelLaunch launch_of(const RouterCall& call, const TokenOutputs& outputs, int64_t num_processors) {
  const RouterSums sums = empty_router_sums(call.num_experts, call.selected.size(1), 1);
  return router_kernel_launch(sums, call, {}, outputs, {}, num_processors);
}

/// A call without logits, whose tokens take no memory.
RouterCall call_of_size(const CallSize& size) {
  RouterCall call;
  call.num_experts = size.num_experts;
  call.selected = at::zeros({1, 1}, at::kLong).expand({size.num_tokens, size.top_k});
  return call;
}

TEST(RouterKernelArgumentsTest, TheKernelTakesUpTo1024ExpertsAnd32Slots) {
  EXPECT_TRUE(kernel_takes(call_of_size({1, 1024, 32})));
  EXPECT_FALSE(kernel_takes(call_of_size({1, 1025, 32})));
  EXPECT_FALSE(kernel_takes(call_of_size({1, 1024, 33})));
  RouterCall call = random_call({2, 4, 2}, 1);
  EXPECT_TRUE(kernel_takes(call));
  call.weights = call.weights.to(at::kFloat8_e4m3fn);
  EXPECT_FALSE(kernel_takes(call)) << "a type that the kernel does not read";
}

TEST(RouterKernelArgumentsTest, NoTokensLaunchNothing) {
  EXPECT_EQ(launch_of(call_of_size({0, 8, 2}), {}, 132).num_blocks, 0);
}

TEST(RouterKernelArgumentsTest, WarpsHaveAllTokensBetweenThem) {
  for (const int64_t num_tokens : {int64_t{1}, int64_t{131}, int64_t{133}, int64_t{5000}, int64_t{1} << 21}) {
    for (const int64_t num_experts : {8, 300, 1000}) {
      const RouterKernelLaunch launch = launch_of(call_of_size({num_tokens, num_experts, 1}), {}, 132);
      const int64_t warps = launch.threads_of_block / 32;
      const int64_t tokens_of_block = launch.arguments.tokens_of_warp * warps;
      EXPECT_GE(launch.num_blocks * tokens_of_block, num_tokens);
      EXPECT_LT((launch.num_blocks - 1) * tokens_of_block, num_tokens) << "a block without tokens";
      EXPECT_LE(warps, num_experts <= 256 ? 8 : num_experts <= 512 ? 4 : 2);
      EXPECT_LE(tokens_of_block, kMaxTokensInBlock);
      EXPECT_GE(launch.experts_of_lane * 32, num_experts);
    }
  }
}

TEST(RouterKernelArgumentsTest, OutputsThatACallCannotGiveAreNotAskedFor) {
  const auto outputs_of = [](const RouterCall& call) {
    const int64_t num_tokens = call.selected.size(0), top_k = call.selected.size(1);
    const TokenOutputs outputs{at::empty({num_tokens, top_k}, at::kInt), at::empty({num_tokens, top_k}),
                               at::empty({num_tokens}, at::kInt), at::empty({num_tokens})};
    return launch_of(call, outputs, 2).arguments;
  };
  RouterCall call = random_call({3, 4, 2}, 2);
  EXPECT_NE(outputs_of(call).weights_out, nullptr);
  EXPECT_NE(outputs_of(call).margins_out, nullptr);
  EXPECT_EQ(outputs_of(random_call({3, 4, 1}, 2)).margins_out, nullptr) << "one slot";
  call.weights = at::Tensor();
  EXPECT_EQ(outputs_of(call).weights_out, nullptr);
  EXPECT_EQ(outputs_of(call).margins_out, nullptr);
  EXPECT_NE(outputs_of(call).first_slot_out, nullptr);
  EXPECT_EQ(launch_of(call, {}, 2).arguments.first_slot_out, nullptr);
}

}  // namespace
}  // namespace moetap::analysis
