#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <vector>

#include "cli/studies/study_passes.h"

namespace moetap::cli {

/// Hands out a shard's tokens in pieces, in order. Thread-safe.
class PieceQueue {
 public:
  struct Plan {
    int64_t total = 0;
    std::vector<int64_t> cuts;  // ascending, 0 and total among them; empty: anywhere
    int64_t piece_tokens = 1;   // aimed at; a piece between two cuts may be longer
    Shard shard;
  };
  struct Piece {
    int64_t first = 0, n = 0;
  };
  explicit PieceQueue(Plan plan);

  int64_t begin() const { return begin_; }
  int64_t end() const { return end_; }
  int64_t longest() const { return longest_; }
  std::optional<Piece> next();

 private:
  int64_t cut_at_or_after(int64_t token) const;
  int64_t end_of_piece(int64_t first) const;

  Plan plan_;
  int64_t begin_ = 0, end_ = 0, longest_ = 0;
  std::mutex mutex_;
  int64_t next_ = 0;
};

/// Hands out pieces of attention: a thread stays in its layer as long as that has pieces left, then goes to the layer
/// that has most. Thread-safe.
class LayerQueue {
 public:
  LayerQueue(const std::vector<AttentionPiece>& pieces, const Shard& shard);

  int64_t num_bytes() const { return num_bytes_; }
  /// `layer`: that of the thread's last piece, −1 at first. Null: none is left. Valid as long as the queue.
  const AttentionPiece* next(int64_t layer);

 private:
  struct Layer {
    std::vector<AttentionPiece> pieces;
    size_t next = 0;
    int num_threads = 0;
    int64_t bytes_left = 0;
  };
  std::map<int64_t, Layer> layers_;
  int64_t num_bytes_ = 0;
  std::mutex mutex_;
};

}  // namespace moetap::cli
