#pragma once

#include "analysis/attention/attention_kernel_values.cuh"

// Before the passes: what the tokens of a call are. A block owns 64 queries and 64 keys of a sequence, and counts all
// tokens of the sequence itself, so that no block waits for another.
namespace moetap::analysis::attention_kernel {

/// Of the tokens of a sequence.
struct SequenceCounts {
  enum Count { kKeys, kQueries, kRows, kRowsBefore, kLength, kNumCounts };
  int32_t of[kNumCounts];
};

class TokenPreparation {
 public:
  MOETAP_DEVICE explicit TokenPreparation(const AttentionKernelArguments& call)
      : call_(call),
        sequence_(static_cast<int32_t>(warp::block()) / call.token_tiles),
        tile_(static_cast<int32_t>(warp::block()) % call.token_tiles),
        counts_(reinterpret_cast<int32_t*>(warp::shared_memory())),
        masks_(reinterpret_cast<uint64_t*>(warp::shared_memory() + kWordsOfCounts)) {}

  static constexpr int32_t kWordsOfCounts = kThreadsOfTokens / 32 * SequenceCounts::kNumCounts;
  static constexpr int32_t kSharedBytes = 8 * (kWordsOfCounts + kKeysOfTile);

  MOETAP_DEVICE void run() {
    count();
    write_lines();
    if (tile_ == 0) write_sequence();
    if (tile_ >= call_.key_tiles) return;
    write_keys();
    warp::wait_for_block();
    write_columns();
  }

 private:
  MOETAP_DEVICE bool is_row(int32_t query) const {
    return call_.query_position.at(sequence_, query) >= 0 &&
           (call_.sampled.data == nullptr || call_.sampled.at(sequence_, query));
  }

  MOETAP_DEVICE void count() {
    SequenceCounts mine{};
    const int32_t begin = tile_ * kKeysOfTile;
    for (int32_t i = warp::thread_of_block(); i < call_.num_keys; i += warp::threads_of_block()) {
      mine.of[SequenceCounts::kKeys] += call_.key_position.at(sequence_, i) >= 0;
    }
    for (int32_t i = warp::thread_of_block(); i < call_.num_queries; i += warp::threads_of_block()) {
      const int32_t position = call_.query_position.at(sequence_, i);
      const bool row = is_row(i);
      mine.of[SequenceCounts::kQueries] += position >= 0;
      mine.of[SequenceCounts::kRows] += row;
      mine.of[SequenceCounts::kRowsBefore] += row && i < begin;
      int32_t& length = mine.of[SequenceCounts::kLength];
      length = position + 1 > length ? position + 1 : length;
    }
    MOETAP_UNROLL
    for (int c = 0; c < SequenceCounts::kNumCounts; ++c) {
      for (int mask = 16; mask > 0; mask /= 2)
        mine.of[c] = joined(c, mine.of[c], warp::from_lane_xor(mine.of[c], mask));
      if (warp::lane() == 0) counts_[warp::warp_of_block() * SequenceCounts::kNumCounts + c] = mine.of[c];
    }
    warp::wait_for_block();
    MOETAP_UNROLL
    for (int c = 0; c < SequenceCounts::kNumCounts; ++c) {
      all_.of[c] = 0;
      for (int w = 0; w < warp::threads_of_block() / 32; ++w) {
        all_.of[c] = joined(c, all_.of[c], counts_[w * SequenceCounts::kNumCounts + c]);
      }
    }
    if (call_.self) all_.of[SequenceCounts::kLength] = num_keys();
  }
  MOETAP_DEVICE static int32_t joined(int count, int32_t a, int32_t b) {
    return count == SequenceCounts::kLength ? (a > b ? a : b) : a + b;
  }

  MOETAP_DEVICE int32_t num_keys() const { return all_.of[SequenceCounts::kKeys]; }
  MOETAP_DEVICE int32_t length() const { return all_.of[SequenceCounts::kLength]; }

  /// As `part_of_position`; a length is at most 2^24, so that 32 bits are enough.
  MOETAP_DEVICE int32_t part_of(int32_t position, int32_t of_length) const {
    if (position < 0) return 0;
    if (position >= of_length) return call_.num_regions - 1;
    return (position * call_.num_regions + call_.num_regions - 1) / of_length;
  }

  MOETAP_DEVICE void write_lines() const {
    const int32_t begin = tile_ * kKeysOfTile;
    const int32_t end = begin + kKeysOfTile < call_.num_queries ? begin + kKeysOfTile : call_.num_queries;
    const int64_t first_line = sequence_ * call_.num_queries;
    for (int32_t i = begin * kNumRowWords + warp::thread_of_block(); i < end * kNumRowWords;
         i += warp::threads_of_block()) {
      call_.row_words[first_line * kNumRowWords + i] = 0;
    }
    for (int32_t query = begin + warp::thread_of_block(); query < end; query += warp::threads_of_block()) {
      const int64_t line = first_line + query;
      const int32_t position = call_.query_position.at(sequence_, query);
      call_.line[line] = is_row(query) ? kRow : position >= 0 ? kNotSampledRow : kNoRow;
      call_.rows_num_keys[line] = num_keys();
      call_.length[line] = length();
      int32_t region = part_of(position, length());
      if (call_.query_region.data != nullptr) region = call_.query_region.at(sequence_, query);
      call_.region[line] = static_cast<uint8_t>(region < call_.num_regions ? region : call_.num_regions - 1);
      call_.state[line] = 0;
    }
    if (warp::warp_of_block() != 0) return;
    int32_t slot = all_.of[SequenceCounts::kRowsBefore];
    for (int32_t first = begin; first < end; first += 32) {
      const int32_t query = first + warp::lane();
      const bool row = query < end && is_row(query);
      const unsigned rows = warp::ballot(row);
      const unsigned before = rows & ((1U << warp::lane()) - 1);
      if (row) call_.rows[first_line + slot + warp::count_bits(before)] = query;
      slot += warp::count_bits(rows);
    }
  }

  MOETAP_DEVICE void write_sequence() const {
    for (int32_t head = warp::thread_of_block(); head < call_.num_heads; head += warp::threads_of_block()) {
      const int64_t of_head = sequence_ * call_.num_heads + head;
      call_.head_max_score[of_head] = 0;
      for (int64_t sum = of_head * kNumHeadSums; sum < (of_head + 1) * kNumHeadSums; ++sum) {
        call_.head_high[sum] = call_.head_low[sum] = 0;
      }
    }
    if (warp::thread_of_block() != 0) return;
    const int32_t rows = all_.of[SequenceCounts::kRows];
    call_.num_rows[sequence_] = rows;
    call_.weight[sequence_] =
        rows > 0 ? static_cast<double>(all_.of[SequenceCounts::kQueries]) / static_cast<double>(rows) : 1;
  }

  /// One bit for each column of a valid key.
  MOETAP_DEVICE uint64_t columns_of(int32_t key, int32_t position) const {
    const int32_t n = num_keys();
    int32_t region = part_of(position, n);
    if (call_.key_region.data != nullptr) region = call_.key_region.at(sequence_, key);
    if (region >= call_.num_regions) region = call_.num_regions - 1;
    const int32_t bin = position < n ? static_cast<int32_t>(kPatternBins) * position / n : kPatternBins - 1;
    uint64_t columns = uint64_t{1} << (kRegionColumns + region);
    columns |= uint64_t{1} << (kBinColumns + bin);
    columns |= uint64_t{position < n / 4} << kFirstQuarterColumn;
    columns |= uint64_t{position >= n * 3 / 4} << kLastQuarterColumn;
    columns |= uint64_t{position < kEndKeys} << kFirstColumn;
    columns |= uint64_t{position >= n - kEndKeys} << kLastColumn;
    return columns;
  }

  /// The first warp.
  MOETAP_DEVICE void write_keys() const {
    if (warp::warp_of_block() != 0) return;
    const int64_t tile = sequence_ * call_.key_tiles + tile_;
    AttentionKeyTile of_tile{std::numeric_limits<int32_t>::max(), -1, 0, 0, 0};
    for (int32_t i = warp::lane(); i < kKeysOfTile; i += 32) {
      const int32_t key = tile_ * kKeysOfTile + i;
      const bool exists = key < call_.num_keys;
      const int32_t position = exists ? call_.key_position.at(sequence_, key) : -1;
      float bias = exists ? 0 : -kInfinity;
      if (exists && call_.mask_is_of_keys) {
        bias = bias_of(element(call_.mask, place_of(call_.mask, sequence_, 0, 0, key)));
      }
      call_.keys[tile * kKeysOfTile + i] = {static_cast<float>(position), bias};
      masks_[i] = position >= 0 ? columns_of(key, position) : 0;
      if (exists) call_.received[sequence_ * call_.num_keys + key] = 0;
      const bool open = bias != -kInfinity;
      of_tile.num_valid += position >= 0;
      of_tile.open_valid += position >= 0 && open;
      of_tile.open_padding += position < 0 && open;
      if (position < 0) continue;
      of_tile.first = position < of_tile.first ? position : of_tile.first;
      of_tile.last = position > of_tile.last ? position : of_tile.last;
    }
    for (int mask = 16; mask > 0; mask /= 2) {
      const int32_t first = warp::from_lane_xor(of_tile.first, mask), last = warp::from_lane_xor(of_tile.last, mask);
      of_tile.first = first < of_tile.first ? first : of_tile.first;
      of_tile.last = last > of_tile.last ? last : of_tile.last;
      of_tile.num_valid += warp::from_lane_xor(of_tile.num_valid, mask);
      of_tile.open_valid += warp::from_lane_xor(of_tile.open_valid, mask);
      of_tile.open_padding += warp::from_lane_xor(of_tile.open_padding, mask);
    }
    if (warp::lane() == 0) call_.tiles[tile] = of_tile;
  }

  /// The columns as halves of 0 and 1, so that a lane reads what it gives to four products at once: words
  /// [kNumKeyColumns / 8][2][lane][4], of the second operand of Note [Tiles of a product].
  MOETAP_DEVICE void write_columns() const {
    constexpr uint32_t kOne = 0x3c00;  // half 1
    uint32_t* to = call_.columns + (sequence_ * call_.key_tiles + tile_) * kWordsOfColumns;
    for (int32_t i = warp::thread_of_block(); i < kWordsOfColumns; i += warp::threads_of_block()) {
      const int32_t word = i % 4, lane = i / 4 % 32, pair = i / 128 % 2, group = i / 256;
      const int32_t column = 8 * group + lane / 4;
      const int32_t key = 32 * pair + 16 * (word / 2) + 8 * (word % 2) + 2 * (lane % 4);
      const uint32_t low = (masks_[key] >> column & 1) != 0 ? kOne : 0;
      const uint32_t high = (masks_[key + 1] >> column & 1) != 0 ? kOne << 16 : 0;
      to[i] = low | high;
    }
  }

  const AttentionKernelArguments& call_;
  const int64_t sequence_;
  const int32_t tile_;
  int32_t* counts_;  // [warps, kNumCounts]
  uint64_t* masks_;  // [kKeysOfTile]: a bit a column
  SequenceCounts all_{};
};

}  // namespace moetap::analysis::attention_kernel
