#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "analysis/studies/partial_bytes.h"

namespace moetap::analysis::studies {

/// Counts for each token id that was seen: a row of counters, in parts, one a layer. Grows with the vocabulary seen,
/// not with tokens. The parts of a row stand side by side, since a token counts in all of them. Most ids are rare, so a
/// counter is a byte until one of the row is full; the row then gets 4 bytes a counter more. A counter holds 2^32 − 1;
/// `check_room` refuses more tokens than that.
class TokenIdCounts {
 public:
  /// widths: of the parts.
  explicit TokenIdCounts(const std::vector<int64_t>& widths);

  size_t num_parts() const { return first_.size() - 1; }
  size_t width(size_t part) const { return first_[part + 1] - first_[part]; }
  size_t row_width() const { return first_.back(); }

  /// The row of an id, which is made if the id is new. Rows are 0, 1, ... in the order in which ids came.
  size_t row_of(int32_t id);
  /// Adds 1 to these counters of a part of a row. A counter may be named once a call.
  void add(size_t row, size_t part, std::span<const int32_t> counters) {
    if (!wide_[row]) {
      uint8_t* const small = small_of(row, part);
      bool is_full = false;
      for (const int32_t counter : counters) is_full |= small[counter] == UINT8_MAX;
      if (!is_full) {
        for (const int32_t counter : counters) ++small[counter];
        return;
      }
      widen(row);
    }
    uint32_t* const wide = wide_[row].get() + first_[part];
    for (const int32_t counter : counters) ++wide[counter];
  }
  void add_one(size_t row, size_t part, int32_t counter) { add(row, part, std::span(&counter, 1)); }
  /// Brings a part of a row into the caches of the core.
  void prefetch(size_t row, size_t part) const {
    constexpr size_t kLine = 64;
    const auto* const bytes =
        wide_[row] ? reinterpret_cast<const uint8_t*>(wide_[row].get() + first_[part]) : small_of(row, part);
    const size_t size = width(part) * (wide_[row] ? sizeof(uint32_t) : 1);
    for (size_t i = 0; i < size; i += kLine) __builtin_prefetch(bytes + i, 1);
  }

  /// −1: never seen.
  int64_t find(int32_t id) const;
  int64_t num_ids() const { return static_cast<int64_t>(id_of_row_.size()); }
  int32_t id_of(size_t row) const { return id_of_row_[row]; }
  /// The counters of a part of a row, [width].
  void read(size_t row, size_t part, std::vector<uint32_t>& counts) const;
  /// Ids seen, ascending.
  std::vector<int32_t> ids() const;

  /// Call with the number of tokens before they are counted. Throws std::runtime_error if counters could overflow.
  void check_room(int64_t num_tokens);

  void merge(const TokenIdCounts& other);
  void save(ByteSink& sink) const;
  void load(ByteSource& source);

 private:
  static constexpr int32_t kNear = 1 << 20;       // ids below have their row in a list, others in a hash map
  static constexpr size_t kBlockBytes = 1 << 20;  // about what rows are allocated by: they are never moved

  uint8_t* small_of(size_t row, size_t part) const {
    return blocks_[row / rows_a_block_].get() + row % rows_a_block_ * row_width() + first_[part];
  }
  void widen(size_t row);
  void add_counts(size_t row, size_t part, std::span<const uint32_t> counts);

  std::vector<size_t> first_;  // [parts + 1] place of the part's counters in a row
  size_t rows_a_block_ = 1;
  std::vector<int32_t> near_;                 // id -> row, −1 none
  std::unordered_map<int32_t, int32_t> far_;  // id -> row
  std::vector<int32_t> id_of_row_;
  std::vector<std::unique_ptr<uint8_t[]>> blocks_;  // [rows of a block, row_width]
  std::vector<std::unique_ptr<uint32_t[]>> wide_;   // [rows][row_width]; null: the counters are in blocks_
  int64_t tokens_ = 0;
};

}  // namespace moetap::analysis::studies
