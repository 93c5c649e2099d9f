#include "emulated_attention.h"

#include "emulated_matrix_tiles.h"
#include "emulated_warp.h"
// The functions of warp.cuh and matrix_tiles.cuh must be there already.
#include "analysis/attention/attention_kernel.cuh"
#include "analysis/attention/attention_kernel_matrix.cuh"
#include "analysis/attention/attention_sums_kernel.cuh"

namespace moetap::analysis {

void EmulatedAttentionKernels::measure(const AttentionCall& call, const AttentionTokens& tokens,
                                       const AttentionRows& rows, const at::Tensor& scratch) const {
  using warp::EmulatedBlock;
  const AttentionKernelLaunch launch =
      attention_kernel_launch(call, tokens, check_attention(call, tokens), rows, scratch, enough_blocks_);
  const AttentionKernelArguments& arguments = launch.arguments;
  const int threads_of_rows = 32 * arguments.warps_of_block;
  EmulatedBlock::launch(launch.prepare_blocks, kThreadsOfTokens, attention_kernel::TokenPreparation::kSharedBytes,
                        seed_, [&] { attention_kernel::TokenPreparation(arguments).run(); });
  attention_kernel::for_source(arguments, [&](auto source) {
    EmulatedBlock::launch(launch.softmax_blocks, threads_of_rows, launch.softmax_bytes, seed_ + 1,
                          [&] { attention_kernel::SoftmaxPass<source.value>(arguments).run(); });
    EmulatedBlock::launch(launch.combine_blocks, kThreadsOfTokens, 0, seed_ + 2, [&] {
      attention_kernel::combine_softmax(arguments, arguments.probabilities.data != nullptr);
    });
    EmulatedBlock::launch(launch.value_blocks, threads_of_rows, launch.value_bytes, seed_ + 3,
                          [&] { attention_kernel::RowPass<source.value>(arguments).run(); });
    EmulatedBlock::launch(launch.matrix_blocks, threads_of_rows, launch.softmax_bytes, seed_ + 5,
                          [&] { attention_kernel::MatrixPass<source.value>(arguments).run(); });
  });
  EmulatedBlock::launch(launch.finish_blocks, kThreadsOfTokens, 0, seed_ + 4,
                        [&] { attention_kernel::LineFinish(arguments).run(); });
}

void EmulatedAttentionKernels::add_rows(const AttentionSums& sums, const AttentionRows& rows,
                                        const at::Tensor& row) const {
  const AttentionSumsLaunch launch = row_sums_launch(sums, rows, row);
  warp::EmulatedBlock::launch(launch.blocks, kThreadsOfSums, launch.shared_bytes, seed_,
                              [&] { attention_kernel::RowSumsAdder(launch.arguments).run(); });
}

void EmulatedAttentionKernels::add_experts(const AttentionSums& sums, const AttentionRows& rows, const at::Tensor& row,
                                           const at::Tensor& selected, const at::Tensor& weights) const {
  const AttentionSumsLaunch launch = expert_sums_launch(sums, rows, row, selected, weights);
  warp::EmulatedBlock::launch(launch.blocks, kThreadsOfSums, launch.shared_bytes, seed_,
                              [&] { attention_kernel::ExpertSumsAdder(launch.arguments).run(); });
}

}  // namespace moetap::analysis
