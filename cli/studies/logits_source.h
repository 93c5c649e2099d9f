#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "cli/studies/sample_source.h"

namespace moetap::cli {

/// Captured router logits: a .safetensors file, or a .pt file that torch.save wrote, of a dict layer -> [T, E] or
/// [B, S, E] in any floating dtype (EasySteer's captures). Nothing in the file is executed. [T, E] is one sample, [B,
/// S, E] are B samples of S tokens. Scores are softmax(logits); a token's ids are its `top_k` largest, ties to the
/// lower id; its weights are their scores, not renormalised. Memory: the file's tensors.
class LogitsSource : public SampleSource {
 public:
  /// Throws CommandError with one line: no such file, tensors of other shapes, top_k < 1 or larger than E.
  LogitsSource(const std::string& path, int64_t top_k);

 protected:
  std::unique_ptr<Cache> make_cache() const override { return std::make_unique<Cache>(); }
  void append(int64_t sample, int64_t first, int64_t n, uint32_t needs, Cache& cache,
              std::vector<LayerBuffer>& layers) const override;

 private:
  std::vector<at::Tensor> logits_;  // [L] of [B, S, E], as in the file
  int64_t length_ = 0;              // S
};

}  // namespace moetap::cli
