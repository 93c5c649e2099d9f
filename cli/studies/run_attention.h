#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "cli/studies/token_source.h"

namespace moetap::cli {

class RunSource;

/// What a run recorded of attention beside its routers: matrices (`--attention full`), or a row's values
/// (`--attention stats`). An attention layer goes with the router layer of the same id, as in `export --to npy`. Lists
/// the matrices, some 60 bytes each. Const functions are thread-safe.
class RunAttention {
 public:
  enum class Mode { kNone, kFull, kStats };

  explicit RunAttention(const RunSource& source);

  Mode mode() const { return mode_; }
  std::vector<AttentionPiece> pieces() const;
  std::unique_ptr<AttentionReader> open(uint32_t needs) const;
  /// Of a run of one rank with statistics: what its summary has of the experts' attention. A summary weighs by the
  /// weights as the model applied them: where the studies' gates are others (scores, or --gate topk), there is none.
  void read_totals(const std::function<void(const studies::AttentionTotals&)>& use) const;
  const std::vector<std::string>& notices() const { return notices_; }

 private:
  class Matrices;
  class Statistics;
  struct Matrix {
    size_t shard = 0;
    int64_t begin = 0;  // bytes in the file
    int64_t queries = 0, keys = 0, first_query = 0;
    int64_t layer = 0;
    int64_t sample = 0;  // place in the index's samples
  };

  void compare_gates();
  void find_matrices();
  void find_statistics();
  /// Leaves out the statistics of layers whose heads may have sinks of different sizes.
  void leave_out_sinks();
  /// What the summary of the run's first rank has of the attention of a layer; null: nothing.
  const nlohmann::json* summary_of(size_t layer) const;

  const RunSource& source_;
  Mode mode_ = Mode::kNone;
  std::vector<std::string> shards_;  // paths
  std::vector<Matrix> matrices_;
  std::vector<std::vector<std::string>> columns_;  // [L] names of the values; empty: the layer has none
  std::vector<uint8_t> gates_are_weights_;         // [L] of statistics: in the layer's first tokens they agree
  std::shared_ptr<const nlohmann::json> summary_;  // of statistics: the run's summary
  std::vector<uint8_t> has_sinks_;                 // [L] of statistics: left out
  std::vector<std::string> notices_;
};

}  // namespace moetap::cli
