#pragma once

#include "analysis/attention/attention_kernel_values.cuh"

// The scores of a block of rows and a tile of keys, as both passes make them.
namespace moetap::analysis::attention_kernel {

/// What scores are made of: queries and keys of a dtype, or probabilities that are given.
enum class ScoreSource { kHalf, kBFloat16, kFloat, kGiven };

/// sums += query key of 64 bytes of each: `low` of row g, `high` of row g + 8, `key` of key g, each lane a quarter. The
/// order of the values in a row does not matter to the product, so a lane takes what lies side by side.
template <ScoreSource kSource>
MOETAP_DEVICE void multiply_bytes(float (&sums)[4], const Words& low, const Words& high, const Words& key) {
  MOETAP_UNROLL
  for (int i = 0; i < 4; i += 2) {
    const uint32_t a[4] = {low.of[i], high.of[i], low.of[i + 1], high.of[i + 1]}, b[2] = {key.of[i], key.of[i + 1]};
    if constexpr (kSource == ScoreSource::kHalf) {
      warp::multiply_halves(sums, a[0], a[1], a[2], a[3], b[0], b[1]);
    } else if constexpr (kSource == ScoreSource::kBFloat16) {
      warp::multiply_bfloats(sums, a[0], a[1], a[2], a[3], b[0], b[1]);
    } else {
      // A float is the sum of two short ones, to 2^-22 of itself; the product of the two rests is left out.
      constexpr uint32_t kUpper = 0xffffe000;
      const auto rest = [](uint32_t word) {
        return std::bit_cast<uint32_t>(std::bit_cast<float>(word) - std::bit_cast<float>(word & kUpper));
      };
      const uint32_t r[4] = {rest(a[0]), rest(a[1]), rest(a[2]), rest(a[3])}, s[2] = {rest(b[0]), rest(b[1])};
      const uint32_t u[4] = {a[0] & kUpper, a[1] & kUpper, a[2] & kUpper, a[3] & kUpper};
      const uint32_t v[2] = {b[0] & kUpper, b[1] & kUpper};
      warp::multiply_short_floats(sums, r[0], r[1], r[2], r[3], v[0], v[1]);
      warp::multiply_short_floats(sums, u[0], u[1], u[2], u[3], s[0], s[1]);
      warp::multiply_short_floats(sums, u[0], u[1], u[2], u[3], v[0], v[1]);
    }
  }
}

template <ScoreSource kSource>
class TileScores {
 public:
  static constexpr int kGroups = kKeysOfTile / 8;

  /// Units of ln 2; [n][0], [1]: row g, keys 8n + 2t and the next; [2], [3]: row g + 8.
  float of[kGroups][4];

  /// padding_is_closed: keys that are no tokens have scores of -inf.
  MOETAP_DEVICE TileScores(const AttentionKernelArguments& call, const BlockPlace& place, bool padding_is_closed)
      : call_(call),
        place_(place),
        padding_is_closed_(padding_is_closed),
        memory_{call.row_pitch, call.warps_of_block},
        shared_(reinterpret_cast<char*>(warp::shared_memory())),
        num_rows_(call.num_rows[place.sequence]),
        first_slot_(place.row_block * call.warps_of_block * kRowsOfWarp) {
    MOETAP_UNROLL
    for (int half = 0; half < 2; ++half) query_[half] = query_of(slot(half));
    const int32_t begin = first_slot_ + warp::warp_of_block() * kRowsOfWarp;
    first_query_ = query_of(begin);
    last_query_ = begin < num_rows_ ? query_of(last(begin + kRowsOfWarp)) : -1;
  }

  /// From now on the scores of this head are made. All threads of the block call it together, and have passed a barrier
  /// since they used scores.
  MOETAP_DEVICE void take_head(int32_t head) {
    place_.head = head;
    queries_are_staged_ = false;
  }

  MOETAP_DEVICE bool block_has_rows() const { return first_slot_ < num_rows_; }
  MOETAP_DEVICE bool warp_has_rows() const { return first_query_ >= 0; }
  /// The number of this lane's row among those that are measured; at or beyond num_rows: there is none.
  MOETAP_DEVICE int32_t slot(int half) const {
    return first_slot_ + warp::warp_of_block() * kRowsOfWarp + 8 * half + group_of_lane();
  }
  /// The place of this lane's row in the tensor; -1: there is none.
  MOETAP_DEVICE int32_t query(int half) const { return query_[half]; }

  /// The tile behind the last that a row of the block may see, by causality.
  MOETAP_DEVICE int32_t end_of_tiles() const {
    if (!call_.causal) return call_.key_tiles;
    const int32_t last_query = query_of(last(first_slot_ + call_.warps_of_block * kRowsOfWarp));
    const int32_t end = last_query / kKeysOfTile + 1;
    return end < call_.key_tiles ? end : call_.key_tiles;
  }

  MOETAP_DEVICE const AttentionKeyTile& tile(int32_t tile) const {
    return call_.tiles[int64_t{place_.sequence} * call_.key_tiles + tile];
  }

  /// Keys 8n + 2t and the next, of the tile that was made last.
  MOETAP_DEVICE void read_keys(int n, AttentionKey (&keys)[2]) const {
    const auto* from = reinterpret_cast<const AttentionKey*>(shared_ + memory_.keys()) + 8 * n + 2 * place_in_group();
    keys[0] = from[0];
    keys[1] = from[1];
  }

  /// Makes the scores of a tile. All threads of the block call it together, and have passed a barrier since they used
  /// those of the tile before. False: no row of this warp sees a key, and `of` is not made.
  MOETAP_DEVICE bool make(int32_t tile) {
    const int32_t first_key = tile * kKeysOfTile;
    stage_keys(tile);
    const bool hidden = !warp_has_rows() || (call_.causal && first_key > last_query_);
    if constexpr (kSource == ScoreSource::kGiven) {
      warp::wait_for_block();
      if (!hidden) read_probabilities(first_key);
    } else {
      make_products(tile, hidden);
      if (!hidden) add_masks(first_key);
    }
    return !hidden;
  }

 private:
  static constexpr int kBytesOfValue = kSource == ScoreSource::kFloat ? 4 : 2;

  MOETAP_DEVICE int32_t query_of(int32_t slot) const {
    return slot < num_rows_ ? call_.rows[int64_t{place_.sequence} * call_.num_queries + slot] : -1;
  }
  /// The last slot before `end` that has a row.
  MOETAP_DEVICE int32_t last(int32_t end) const { return (end < num_rows_ ? end : num_rows_) - 1; }

  MOETAP_DEVICE const AttentionKey& key_of(int32_t tile, int32_t i) const {
    return call_.keys[(int64_t{place_.sequence} * call_.key_tiles + tile) * kKeysOfTile + i];
  }
  /// Keys that no row sees need not be read: what is there may be anything, as behind the end of a cache.
  MOETAP_DEVICE bool key_is_staged(int32_t tile, int32_t i) const {
    const AttentionKey& key = key_of(tile, i);
    return key.bias != -kInfinity && !(padding_is_closed_ && key.position < 0);
  }

  MOETAP_DEVICE void stage_keys(int32_t tile) const {
    auto* to = reinterpret_cast<AttentionKey*>(shared_ + memory_.keys());
    for (int32_t i = warp::thread_of_block(); i < kKeysOfTile; i += warp::threads_of_block()) {
      AttentionKey key = key_of(tile, i);
      if (padding_is_closed_ && key.position < 0) key.bias = -kInfinity;
      to[i] = key;
    }
  }

  /// Copies rows to shared memory, from the `depth`-th value on; zeros where there are none. row_of(i): the place of
  /// the i-th in the tensor, -1: none.
  template <typename RowOf>
  MOETAP_DEVICE void stage(const AttentionTensor& from, int32_t head, int32_t rows, int32_t depth, char* to,
                           const RowOf& row_of) const {
    const int32_t shift = call_.pieces_shift, pieces = call_.row_bytes / 16;
    const int64_t begin = place_of(from, place_.sequence, head, 0, depth);
    for (int32_t i = warp::thread_of_block(); i < rows << shift; i += warp::threads_of_block()) {
      const int32_t row = i >> shift, piece = i & ((1 << shift) - 1);
      if (piece >= pieces) continue;
      const int32_t place = row_of(row), value = piece * (16 / kBytesOfValue);
      Words words{};
      if (place >= 0 && depth + value < call_.depth) {
        const int64_t first = begin + place * from.strides[2] + value * from.strides[3];
        if (from.in_pieces) {
          words = load_words(static_cast<const char*>(from.data) + first * kBytesOfValue);
        } else {
          words = read_piece(from, first, call_.depth - depth - value);
        }
      }
      *reinterpret_cast<Words*>(to + row * call_.row_pitch + piece * 16) = words;
    }
  }

  /// Up to `count` values that may lie apart.
  MOETAP_DEVICE Words read_piece(const AttentionTensor& from, int64_t first, int32_t count) const {
    Words words{};
    if constexpr (kBytesOfValue == 4) {
      const auto* data = static_cast<const uint32_t*>(from.data);
      for (int i = 0; i < 4 && i < count; ++i) words.of[i] = data[first + i * from.strides[3]];
    } else {
      const auto* data = static_cast<const uint16_t*>(from.data);
      MOETAP_UNROLL
      for (int i = 0; i < 8; ++i) {
        if (i < count) words.of[i / 2] |= uint32_t{data[first + i * from.strides[3]]} << 16 * (i % 2);
      }
    }
    return words;
  }

  /// All threads of the block copy, warps of which `hidden` holds do not multiply.
  MOETAP_DEVICE void make_products(int32_t tile, bool hidden) {
    constexpr int32_t kValuesOfStage = kBytesOfStage / kBytesOfValue;
    MOETAP_UNROLL
    for (int n = 0; n < kGroups; ++n) of[n][0] = of[n][1] = of[n][2] = of[n][3] = 0;
    for (int32_t depth = 0; depth < call_.depth; depth += kValuesOfStage) {
      if (depth > 0) warp::wait_for_block();
      stage(call_.key, place_.head / call_.heads_of_key, kKeysOfTile, depth, shared_ + memory_.key_rows(),
            [&](int32_t i) { return key_is_staged(tile, i) ? tile * kKeysOfTile + i : -1; });
      if (call_.depth > kValuesOfStage || !queries_are_staged_) {
        stage(call_.query, place_.head, call_.warps_of_block * kRowsOfWarp, depth, shared_ + memory_.queries(),
              [&](int32_t i) { return query_of(first_slot_ + i); });
      }
      warp::wait_for_block();
      if (!hidden) multiply();
    }
    queries_are_staged_ = true;
  }

  MOETAP_DEVICE void multiply() {
    const int32_t own = warp::warp_of_block() * kRowsOfWarp + group_of_lane();
    const char* query = shared_ + memory_.queries() + own * call_.row_pitch + 16 * place_in_group();
    const char* key = shared_ + memory_.key_rows() + group_of_lane() * call_.row_pitch + 16 * place_in_group();
    for (int32_t byte = 0; byte < call_.row_bytes; byte += 64) {
      const Words low = load_words(query + byte);
      const Words high = load_words(query + byte + 8 * call_.row_pitch);
      MOETAP_UNROLL
      for (int n = 0; n < kGroups; ++n) {
        multiply_bytes<kSource>(of[n], low, high, load_words(key + byte + 8 * n * call_.row_pitch));
      }
    }
  }

  MOETAP_DEVICE int32_t key_of_value(int32_t first_key, int n, int i) const {
    return first_key + 8 * n + 2 * place_in_group() + i % 2;
  }

  /// Makes scores of products.
  MOETAP_DEVICE void add_masks(int32_t first_key) {
    MOETAP_UNROLL
    for (int n = 0; n < kGroups; ++n) {
      AttentionKey keys[2];
      read_keys(n, keys);
      MOETAP_UNROLL
      for (int i = 0; i < 4; ++i) of[n][i] = of[n][i] * call_.scale + keys[i % 2].bias;
    }
    if (call_.mask.data != nullptr && !call_.mask_is_of_keys) add_mask(first_key);
    if (!call_.causal || first_key + kKeysOfTile - 1 <= first_query_) return;
    MOETAP_UNROLL
    for (int n = 0; n < kGroups; ++n) {
      MOETAP_UNROLL
      for (int i = 0; i < 4; ++i) {
        if (key_of_value(first_key, n, i) > query_[i / 2]) of[n][i] = -kInfinity;
      }
    }
  }

  MOETAP_DEVICE void add_mask(int32_t first_key) {
    MOETAP_UNROLL
    for (int n = 0; n < kGroups; ++n) {
      MOETAP_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int32_t key = key_of_value(first_key, n, i), query = query_[i / 2];
        if (key >= call_.num_keys || query < 0) continue;
        const float bias = bias_of(element(call_.mask, place_of(call_.mask, place_.sequence, place_.head, query, key)));
        of[n][i] = bias == -kInfinity ? bias : of[n][i] + bias;
      }
    }
  }

  MOETAP_DEVICE void read_probabilities(int32_t first_key) {
    MOETAP_UNROLL
    for (int n = 0; n < kGroups; ++n) {
      AttentionKey keys[2];
      read_keys(n, keys);
      MOETAP_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int32_t key = key_of_value(first_key, n, i), query = query_[i / 2];
        of[n][i] = -kInfinity;
        if (keys[i % 2].position < 0 || query < 0) continue;
        of[n][i] = warp::approximate_log2(
            element(call_.probabilities, place_of(call_.probabilities, place_.sequence, place_.head, query, key)));
      }
    }
  }

  const AttentionKernelArguments& call_;
  BlockPlace place_;
  const bool padding_is_closed_;
  const AttentionBlockMemory memory_;
  char* shared_;
  const int32_t num_rows_, first_slot_;
  int32_t query_[2];                  // of this lane
  int32_t first_query_, last_query_;  // of this warp
  bool queries_are_staged_ = false;
};

}  // namespace moetap::analysis::attention_kernel
