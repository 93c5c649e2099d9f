#include "analysis/studies/cache_stacks.h"

#include <algorithm>
#include <utility>

namespace moetap::analysis::studies {
namespace {

uint64_t entry(uint32_t next_use, int32_t expert) {
  return static_cast<uint64_t>(next_use) << 32 | static_cast<uint32_t>(expert);
}

}  // namespace

void LruStack::clear() {
  std::fill(last_access_.begin(), last_access_.end(), 0u);
  now_ = 0;
}

int64_t LruStack::access(int32_t expert) {
  if (now_ == UINT32_MAX) renumber();
  uint32_t& last = last_access_[static_cast<size_t>(expert)];
  const uint32_t before = last;
  last = ++now_;
  if (before == 0) return kMiss;
  // The expert itself is among them now.
  return loops_.count_larger(last_access_.data(), last_access_.size(), before);
}

void LruStack::renumber() {
  std::vector<uint32_t> accesses;
  for (const uint32_t access : last_access_) {
    if (access != 0) accesses.push_back(access);
  }
  std::sort(accesses.begin(), accesses.end());
  for (uint32_t& access : last_access_) {
    if (access == 0) continue;
    access = static_cast<uint32_t>(std::lower_bound(accesses.begin(), accesses.end(), access) - accesses.begin()) + 1;
  }
  now_ = static_cast<uint32_t>(accesses.size());
}

void OptimalStack::restart(const std::vector<uint32_t>& first_use) {
  for (uint64_t& held : stack_) {
    const auto expert = static_cast<int32_t>(held & UINT32_MAX);
    held = entry(first_use[static_cast<size_t>(expert)], expert);
  }
}

int64_t OptimalStack::access(int32_t expert, uint32_t now, uint32_t next_use) {
  const uint64_t accessed = entry(now, expert);  // as the list holds it, if it does
  const uint64_t first = entry(next_use, expert);
  if (stack_.empty() || stack_[0] == accessed) {
    const bool is_hit = !stack_.empty();
    stack_.resize(std::max<size_t>(stack_.size(), 1));
    stack_[0] = first;
    return is_hit ? 1 : kMiss;
  }
  // The accessed expert goes to the front whatever its next use. The one that was there moves back to where it meets
  // one whose next use is later still, which moves on in its place; few do, so few are written.
  uint64_t carried = std::exchange(stack_[0], first);
  uint64_t* const stack = stack_.data();
  const size_t size = stack_.size();
  for (size_t place = 1; place < size; ++place) {
    const uint64_t held = stack[place];
    if (held > carried) {
      stack[place] = carried;
      carried = held;
    } else if (held == accessed) {
      stack[place] = carried;
      return static_cast<int64_t>(place) + 1;
    }
  }
  stack_.push_back(carried);
  return kMiss;
}

}  // namespace moetap::analysis::studies
