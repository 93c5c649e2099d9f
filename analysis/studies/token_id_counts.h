#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "analysis/studies/partial_bytes.h"

namespace moetap::analysis::studies {

/// Counts for each token id that was seen: a row of `width` counters. Grows with the vocabulary seen, not with tokens.
/// Most ids are rare, so a row has a byte a counter until one of them is full, and then 4 bytes more. A counter holds
/// 2^32 − 1; `check_room` refuses more tokens than that.
class TokenIdCounts {
 public:
  explicit TokenIdCounts(int64_t width) : width_(static_cast<size_t>(width)) {}

  size_t width() const { return width_; }
  /// Adds 1 to these counters of an id, 0 or more. A counter may be named once a call.
  void add(int32_t id, std::span<const int32_t> counters);
  /// The ids seen have the places 0, 1, ... in some order; −1: never seen.
  int64_t place_of(int32_t id) const;
  int64_t num_ids() const { return static_cast<int64_t>(id_of_row_.size()); }
  /// The counters [width] of the id at a place.
  void read(int64_t place, std::vector<uint32_t>& counts) const;
  /// Ids seen, ascending.
  std::vector<int32_t> ids() const;

  /// Call with the number of tokens before they are counted. Throws std::runtime_error if counters could overflow.
  void check_room(int64_t num_tokens);

  void merge(const TokenIdCounts& other);
  void save(ByteSink& sink) const;
  void load(ByteSource& source);

 private:
  static constexpr int32_t kNear = 1 << 20;  // ids below have their row in a list, others in a hash map

  size_t row_of(int32_t id);
  uint32_t* widen(size_t row);
  void add_row(int32_t id, const std::vector<uint32_t>& counts);

  std::vector<int32_t> near_;                 // id -> row, −1 none
  std::unordered_map<int32_t, int32_t> far_;  // id -> row
  std::vector<int32_t> id_of_row_;
  std::vector<uint8_t> small_;     // [rows, width]
  std::vector<int32_t> wide_row_;  // [rows] −1: the counters are in small_
  std::vector<uint32_t> wide_;     // [wide rows, width]
  size_t width_ = 0;
  int64_t tokens_ = 0;
};

}  // namespace moetap::analysis::studies
