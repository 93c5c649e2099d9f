#pragma once

#include "analysis/numbers/fixed_point.h"
#include "analysis/numbers/lane_math.h"
#include "analysis/numbers/lanes.h"
#include "analysis/numbers/share_entropies.h"
#include "analysis/numbers/token_kernels.h"

// The kernels of one instruction set that work on slots, a token a lane: see token_kernels_of_set.h.
namespace moetap::analysis {
namespace {

/// What a bit pattern of an integer, added to that of 1.5 * 2^52, makes a double of. The patterns are those of doubles
/// one unit apart, so no other integer gives a number of [0, 2^51).
MOETAP_ALWAYS_INLINE Lanes to_reals(const LanesBits& integers) {
  return from_bits(integers + kRounderBits) - kRounder;
}

// Transposing a block of 8 x 8 is to exchange, for each bit of a place, what lies on the wrong side of the diagonal: of
// a the lanes with that bit, for those of b without it.
template <int kDistance>
MOETAP_ALWAYS_INLINE void exchange(Vector& a, Vector& b) {
  const VectorReals x = a.v, y = b.v;
#if MOETAP_VECTOR_BYTES == 64
  if constexpr (kDistance == 4) {
    a.v = __builtin_shufflevector(x, y, 0, 1, 2, 3, 8, 9, 10, 11);
    b.v = __builtin_shufflevector(x, y, 4, 5, 6, 7, 12, 13, 14, 15);
  } else if constexpr (kDistance == 2) {
    a.v = __builtin_shufflevector(x, y, 0, 1, 8, 9, 4, 5, 12, 13);
    b.v = __builtin_shufflevector(x, y, 2, 3, 10, 11, 6, 7, 14, 15);
  } else {
    a.v = __builtin_shufflevector(x, y, 0, 8, 2, 10, 4, 12, 6, 14);
    b.v = __builtin_shufflevector(x, y, 1, 9, 3, 11, 5, 13, 7, 15);
  }
#elif MOETAP_VECTOR_BYTES == 32
  if constexpr (kDistance == 2) {
    a.v = __builtin_shufflevector(x, y, 0, 1, 4, 5);
    b.v = __builtin_shufflevector(x, y, 2, 3, 6, 7);
  } else {
    a.v = __builtin_shufflevector(x, y, 0, 4, 2, 6);
    b.v = __builtin_shufflevector(x, y, 1, 5, 3, 7);
  }
#else
  a.v = __builtin_shufflevector(x, y, 0, 2);
  b.v = __builtin_shufflevector(x, y, 1, 3);
#endif
}
template <int kDistance, typename Part>
MOETAP_ALWAYS_INLINE void exchange(Pair<Part, Beside::kLanes>& a, Pair<Part, Beside::kLanes>& b) {
  if constexpr (kDistance * sizeof(double) == sizeof(Part)) {
    const Part upper = a.b;
    a.b = b.a;
    b.a = upper;
  } else {
    exchange<kDistance>(a.a, b.a);
    exchange<kDistance>(a.b, b.b);
  }
}

template <int kDistance>
MOETAP_ALWAYS_INLINE void exchange_all(Lanes* rows) {
  for (int i = 0; i < kLanes; ++i) {
    if ((i & kDistance) == 0) exchange<kDistance>(rows[i], rows[i + kDistance]);
  }
}

MOETAP_ALWAYS_INLINE void transpose(Lanes* rows) {
  exchange_all<4>(rows);
  exchange_all<2>(rows);
  exchange_all<1>(rows);
}

struct SlotKernels {
  /// Slots [begin, end) of each token, at most kLanes, as bits of a double: a token a row.
  template <typename Id>
  MOETAP_ALWAYS_INLINE static void load_ids(const SlotRows& rows, int64_t begin, int64_t end, Lanes* out) {
    for (int64_t token = 0; token < kMaxGroup; ++token) {
      const Id* ids = static_cast<const Id*>(rows.ids[token]) + begin;
      if constexpr (sizeof(Id) == sizeof(double)) {
        load_part(reinterpret_cast<const double*>(ids), end - begin, out[token]);
      } else {
        int64_t wide[kLanes] = {};
        for (int64_t slot = 0; slot < end - begin; ++slot) wide[slot] = ids[slot];
        load(reinterpret_cast<const double*>(wide), 0, out[token]);
      }
    }
  }

  template <typename Id>
  MOETAP_ALWAYS_INLINE static void read_each(const SlotRows& rows, int64_t n, int64_t num_experts, double limit,
                                             ReadSlots& slots) {
    const int64_t size = padded_size(n);
    const double last = static_cast<double>(num_experts) - 1;
    const Lanes none(0.0);
    Lanes plain(1.0), block[kLanes];
    for (int64_t begin = 0; begin < n; begin += kLanes) {
      const int64_t end = begin + kLanes < n ? begin + kLanes : n;
      load_ids<Id>(rows, begin, end, block);
      transpose(block);
      for (int64_t slot = begin; slot < end; ++slot) {
        const Lanes expert = to_reals(to_bits(block[slot - begin]));
        plain = select((expert >= 0.0) & (expert <= last), plain, none);
        store(block[slot - begin], reinterpret_cast<double*>(slots.ids + slot * kMaxGroup), 0);
        if (rows.weights != nullptr) store(expert, slots.experts + slot * kMaxGroup, 0);
      }
      if (rows.weights == nullptr) continue;
      for (int64_t token = 0; token < kMaxGroup; ++token) load(rows.weights + token * size + begin, 0, block[token]);
      transpose(block);
      for (int64_t slot = begin; slot < end; ++slot) {
        const Lanes weight = block[slot - begin];
        plain = select((weight >= -limit) & (weight <= limit), select(weight == 0.0, none, plain), none);
        store(weight, slots.weights + slot * kMaxGroup, 0);
      }
    }
    double are_plain[kLanes];
    store(plain, are_plain, 0);
    for (int64_t token = 0; token < kMaxGroup; ++token) slots.are_plain[token] = are_plain[token] > 0;
  }

  static void read(const SlotRows& rows, int64_t n, int64_t num_experts, double limit, ReadSlots& slots) {
    if (rows.ids_are_long) return read_each<int64_t>(rows, n, num_experts, limit, slots);
    read_each<int32_t>(rows, n, num_experts, limit, slots);
  }

  static void rank(const double* weights, const double* experts, int64_t n, int64_t* units, RankTerms& terms) {
    Lanes largest(-kInfinity), second(-kInfinity), first(kInfinity), total(0.0), misfits(0.0), products(0.0), x;
    for (int64_t slot = 0; slot < n; ++slot) {
      Lanes expert;
      load(weights + slot * kLanes, 0, x);
      load(experts + slot * kLanes, 0, expert);
      const Lanes weight = select((expert < kInfinity) & (x == x), x, Lanes(-kInfinity));
      const auto is_first = (largest < weight) | ((weight == largest) & (expert < first));
      second = select(is_first, largest, larger(weight, second));
      largest = larger(weight, largest);
      first = select(is_first, expert, first);
      total = total + x;
      misfits = unfit(x, kInfinity, misfits);
      const LanesBits rounded = to_bits(fused(x, Lanes(kFixedPointScale), Lanes(kRounder))) - kRounderBits;
      store(from_bits(rounded), reinterpret_cast<double*>(units + slot * kLanes), 0);
    }
    const ShareScale share(total);
    for (int64_t slot = 0; slot < n; ++slot) {
      load(weights + slot * kLanes, 0, x);
      products = entropy_product(x, share.enlargement, share.scale, products);
    }
    store(first, terms.first, 0);
    store(largest, terms.largest, 0);
    store(second, terms.second, 0);
    finish_entropies(total, misfits, products, terms.entropies);
  }

  static void add_common(const uint64_t* sets, int64_t n, int64_t* sums) {
    for (int64_t i = 0; i < n; ++i) {
      const uint64_t set = sets[i];
#pragma GCC unroll 8
      for (int64_t j = i + 1; j < n; ++j) *sums++ += __builtin_popcountll(set & sets[j]);
    }
  }
};

}  // namespace
}  // namespace moetap::analysis
