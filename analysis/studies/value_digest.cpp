#include "analysis/studies/value_digest.h"

#include <algorithm>
#include <bit>

#include "analysis/studies/table.h"

namespace moetap::analysis::studies {
namespace {

constexpr size_t kMaxPending = size_t{1} << 14;
constexpr uint64_t kSign = uint64_t{1} << 63;
constexpr int kMaxRoundedBits = 52;  // the mantissa: 2^12 values are left then, so no more are ever needed

uint64_t key_of(double value) {
  const auto bits = std::bit_cast<uint64_t>(value + 0.0);  // −0 is 0
  return (bits & kSign) != 0 ? ~bits : bits | kSign;
}

double value_of(uint64_t key) {
  return std::bit_cast<double>((key & kSign) != 0 ? key & ~kSign : ~key);
}

uint64_t without_bits(uint64_t key, int bits) {
  return key >> bits << bits;
}

}  // namespace

void ValueDigest::add(double value) {
  pending_.push_back(without_bits(key_of(value), rounded_bits_));
  if (pending_.size() >= kMaxPending) compact();
}

void ValueDigest::compact() {
  std::sort(pending_.begin(), pending_.end());
  std::vector<Entry> merged;
  merged.reserve(entries_.size() + pending_.size());
  const auto append = [&](uint64_t key, uint64_t count) {
    if (!merged.empty() && merged.back().key == key) {
      merged.back().count += count;
    } else {
      merged.push_back({key, count});
    }
  };
  size_t e = 0;
  for (const uint64_t key : pending_) {
    for (; e < entries_.size() && entries_[e].key <= key; ++e) append(entries_[e].key, entries_[e].count);
    append(key, 1);
  }
  for (; e < entries_.size(); ++e) append(entries_[e].key, entries_[e].count);
  entries_ = std::move(merged);
  pending_.clear();
  while (entries_.size() > kMaxDistinct && rounded_bits_ < kMaxRoundedBits) leave_out_bits(rounded_bits_ + 1);
}

void ValueDigest::leave_out_bits(int bits) {
  rounded_bits_ = bits;
  size_t kept = 0;
  for (size_t e = 0; e < entries_.size(); ++e) {
    const uint64_t key = without_bits(entries_[e].key, bits);
    if (kept > 0 && entries_[kept - 1].key == key) {
      entries_[kept - 1].count += entries_[e].count;
    } else {
      entries_[kept++] = {key, entries_[e].count};
    }
  }
  entries_.resize(kept);
}

ValueDigest ValueDigest::compacted() const {
  ValueDigest copy = *this;
  copy.compact();
  return copy;
}

void ValueDigest::merge(const ValueDigest& other) {
  compact();
  ValueDigest added = other.compacted();
  const int bits = std::max(rounded_bits_, added.rounded_bits_);
  leave_out_bits(bits);
  added.leave_out_bits(bits);
  std::vector<Entry> merged;
  merged.reserve(entries_.size() + added.entries_.size());
  size_t a = 0, b = 0;
  while (a < entries_.size() || b < added.entries_.size()) {
    if (b == added.entries_.size() || (a < entries_.size() && entries_[a].key < added.entries_[b].key)) {
      merged.push_back(entries_[a++]);
    } else if (a == entries_.size() || added.entries_[b].key < entries_[a].key) {
      merged.push_back(added.entries_[b++]);
    } else {
      merged.push_back({entries_[a].key, entries_[a].count + added.entries_[b].count});
      ++a, ++b;
    }
  }
  entries_ = std::move(merged);
  compact();
}

void ValueDigest::save(ByteSink& sink) const {
  const ValueDigest digest = compacted();
  sink.integer(digest.rounded_bits_);
  sink.values(digest.entries_);
}

void ValueDigest::load(ByteSource& source) {
  const int64_t bits = source.integer();
  if (bits < 0 || bits > kMaxRoundedBits) ByteSource::refuse();
  rounded_bits_ = static_cast<int>(bits);
  entries_ = source.values<Entry>();
  pending_.clear();
  uint64_t total = 0;
  for (size_t e = 0; e < entries_.size(); ++e) {
    if (e > 0 && entries_[e].key <= entries_[e - 1].key) ByteSource::refuse();
    if (entries_[e].count == 0 || __builtin_add_overflow(total, entries_[e].count, &total)) ByteSource::refuse();
  }
}

int64_t ValueDigest::count() const {
  uint64_t total = pending_.size();
  for (const Entry& entry : entries_) total += entry.count;
  return static_cast<int64_t>(total);
}

double ValueDigest::value_at(uint64_t place) const {
  for (const Entry& entry : entries_) {
    // The middle of the values that the key stands for.
    if (place < entry.count)
      return value_of(rounded_bits_ == 0 ? entry.key : entry.key | uint64_t{1} << (rounded_bits_ - 1));
    place -= entry.count;
  }
  return kUndefined;
}

double ValueDigest::median() const {
  const ValueDigest digest = compacted();
  const auto total = static_cast<uint64_t>(digest.count());
  if (total == 0) return kUndefined;
  const double upper = digest.value_at(total / 2);
  return total % 2 == 1 ? upper : (digest.value_at(total / 2 - 1) + upper) / 2;
}

int ValueDigest::rounded_bits() const {
  return compacted().rounded_bits_;
}

}  // namespace moetap::analysis::studies
