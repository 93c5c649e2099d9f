#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "analysis/studies/partial_bytes.h"

namespace moetap::analysis::studies {

// Note [Medians in bounded memory]
// An exact median of any number of values needs all of them. The digest keeps each different value with its count, and
// so is exact, while there are at most kMaxDistinct (2 MB). Beyond, it leaves out the fewest low bits of the mantissa
// with which at most so many are left: which bits these are depends on the values alone, not on their order or on how
// they were split, since a part never needs to leave out more than the whole.

/// A multiset of finite doubles; see the note. Equal multisets give equal bits.
class ValueDigest {
 public:
  static constexpr size_t kMaxDistinct = size_t{1} << 17;

  void add(double value);
  void merge(const ValueDigest& other);
  void save(ByteSink& sink) const;
  void load(ByteSource& source);

  int64_t count() const;
  /// The middle value, the mean of the middle two for an even number; kUndefined without values.
  double median() const;
  /// Bits of the mantissa that are left out: 0 while the digest is exact.
  int rounded_bits() const;

 private:
  struct Entry {
    uint64_t key = 0;  // in the order of the values
    uint64_t count = 0;
  };

  void compact();
  ValueDigest compacted() const;
  void leave_out_bits(int bits);
  double value_at(uint64_t place) const;

  std::vector<Entry> entries_;     // ascending keys, each once
  std::vector<uint64_t> pending_;  // keys to be sorted in
  int rounded_bits_ = 0;
};

}  // namespace moetap::analysis::studies
