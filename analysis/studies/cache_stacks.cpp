#include "analysis/studies/cache_stacks.h"

#include <algorithm>
#include <numeric>

namespace moetap::analysis::studies {
namespace {

constexpr uint32_t kNotAgain = uint32_t{1} << 31;  // the bit of an entry that is an id

}  // namespace

LruStack::LruStack(int64_t num_experts) {
  constexpr int64_t kByteExperts = 256;
  const auto size = static_cast<size_t>(num_experts);
  if (num_experts <= kByteExperts) {
    byte_places_.assign((size + kPlaceBlock - 1) / kPlaceBlock * kPlaceBlock, UINT8_MAX);
    std::iota(byte_places_.begin(), byte_places_.begin() + static_cast<std::ptrdiff_t>(size), uint8_t{0});
  } else {
    places_.resize(size);
    std::iota(places_.begin(), places_.end(), 0U);
  }
}

void LruStack::access(std::span<const int32_t> experts, std::vector<int32_t>& distances) {
  distances.resize(experts.size());
  if (places_.empty()) {
    cache_loops_.lru(byte_places_.data(), byte_places_.size() / kPlaceBlock, experts, num_held_, distances.data());
    return;
  }
  for (size_t i = 0; i < experts.size(); ++i) {
    uint32_t& own = places_[static_cast<size_t>(experts[i])];
    const uint32_t place = own;
    loops_.raise_smaller(places_.data(), places_.size(), place);
    own = 0;
    const bool is_held = place < num_held_;
    distances[i] = is_held ? static_cast<int32_t>(place) + 1 : kMiss;
    num_held_ += is_held ? 0 : 1;
  }
}

uint32_t OptimalStack::entry(uint32_t next_use, int32_t expert) {
  return next_use < kNever ? next_use + 1 : kNotAgain | static_cast<uint32_t>(expert);
}

void OptimalStack::clear() {
  std::fill_n(list(), size_, 0);
  size_ = 0;
}

void OptimalStack::restart(std::span<const uint32_t> first_use) {
  for (size_t i = 0; i < size_; ++i) {
    uint32_t& of = list()[i];
    const auto expert = static_cast<int32_t>(of & ~kNotAgain);
    of = entry(first_use[static_cast<size_t>(expert)], expert);
  }
}

void OptimalStack::access(std::span<const int32_t> experts, std::span<const uint32_t> next_use,
                          std::vector<int32_t>& distances) {
  entries_.resize(experts.size());
  for (size_t i = 0; i < experts.size(); ++i) entries_[i] = entry(next_use[i], experts[i]);
  distances.resize(experts.size());
  loops_.optimal(list(), size_, entries_, distances.data());
}

}  // namespace moetap::analysis::studies
