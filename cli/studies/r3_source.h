#pragma once

#include <functional>
#include <string>
#include <vector>

#include "cli/studies/sample_source.h"

namespace moetap::cli {

/// Routed experts as R3 trainers exchange them (`export --to r3`; what vLLM and SGLang return): a .npy file a sample,
/// ids [S, L, K], −1 where a layer did not see the token. Layers are "0", "1", ...; files go by the number at the end
/// of their names, else by name. How many experts there are is the largest id + 1, unless `num_experts` says it.
class R3Source : public SampleSource {
 public:
  /// `files`: of one folder, or one file. Reads all ids once for the number of experts. Throws std::runtime_error or
  /// CommandError with one line that names the file.
  R3Source(std::vector<std::string> files, int64_t num_experts, const std::function<void()>& check);

  /// The .npy files of a folder if it holds nothing else of that kind than such samples; else empty.
  static std::vector<std::string> files_in(const std::string& folder);

 protected:
  std::unique_ptr<Cache> make_cache() const override;
  void append(int64_t sample, int64_t first, int64_t n, uint32_t needs, Cache& cache,
              std::vector<LayerBuffer>& layers) const override;

 private:
  struct OpenFile;

  std::vector<std::string> files_;
  int64_t num_layers_ = 0, top_k_ = 0;
};

}  // namespace moetap::cli
