#include "analysis/studies/cache_stacks.h"

#include <algorithm>
#include <numeric>

namespace moetap::analysis::studies {
namespace {

int64_t entry(uint32_t next_use, int32_t expert) {
  return (static_cast<int64_t>(next_use) + 1) << 32 | static_cast<uint32_t>(expert);
}

}  // namespace

LruStack::LruStack(int64_t num_experts) {
  constexpr int64_t kByteExperts = 256;
  const auto size = static_cast<size_t>(num_experts);
  if (num_experts <= kByteExperts) {
    byte_places_.resize(size);
    std::iota(byte_places_.begin(), byte_places_.end(), uint8_t{0});
  } else {
    places_.resize(size);
    std::iota(places_.begin(), places_.end(), 0U);
  }
}

int64_t LruStack::access(int32_t expert) {
  const auto e = static_cast<size_t>(expert);
  uint32_t place = 0;
  if (places_.empty()) {
    place = byte_places_[e];
    loops_.raise_smaller_bytes(byte_places_.data(), byte_places_.size(), byte_places_[e]);
    byte_places_[e] = 0;
  } else {
    place = places_[e];
    loops_.raise_smaller(places_.data(), places_.size(), place);
    places_[e] = 0;
  }
  if (place < num_held_) return static_cast<int64_t>(place) + 1;
  ++num_held_;
  return kMiss;
}

void OptimalStack::clear() {
  std::fill_n(stack_.begin(), size_, 0);
  size_ = 0;
}

void OptimalStack::restart(const std::vector<uint32_t>& first_use) {
  for (size_t i = 0; i < size_; ++i) {
    const auto expert = static_cast<int32_t>(stack_[i] & UINT32_MAX);
    stack_[i] = entry(first_use[static_cast<size_t>(expert)], expert);
  }
}

int64_t OptimalStack::access(int32_t expert, uint32_t now, uint32_t next_use) {
  const int64_t accessed = entry(now, expert);  // as the list holds it, if it does
  const int64_t first = stack_[0];
  stack_[0] = entry(next_use, expert);
  if (first == accessed) return 1;
  if (size_ == 0) {
    size_ = 1;
    stack_.resize(size_ + kListPadding);
    return kMiss;
  }
  // The accessed expert goes to the front whatever its next use. The one that was there moves back to where it meets
  // one whose next use is later still, which moves on in its place.
  const size_t place = 1 + loops_.settle(stack_.data() + 1, size_ - 1, accessed, first);
  if (place < size_) return static_cast<int64_t>(place) + 1;
  ++size_;
  stack_.resize(size_ + kListPadding);
  return kMiss;
}

}  // namespace moetap::analysis::studies
