#include "analysis/studies/token_id_counts.h"

#include <algorithm>
#include <stdexcept>

namespace moetap::analysis::studies {

size_t TokenIdCounts::row_of(int32_t id) {
  int32_t* row = nullptr;
  if (id < kNear) {
    if (static_cast<size_t>(id) >= near_.size()) near_.resize(static_cast<size_t>(id) + 1, -1);
    row = &near_[static_cast<size_t>(id)];
  } else {
    row = &far_.try_emplace(id, -1).first->second;
  }
  if (*row < 0) {
    *row = static_cast<int32_t>(id_of_row_.size());
    id_of_row_.push_back(id);
    wide_row_.push_back(-1);
    small_.resize(small_.size() + width_);
  }
  return static_cast<size_t>(*row);
}

/// The wide counters of a row, made of its small ones the first time.
uint32_t* TokenIdCounts::widen(size_t row) {
  if (wide_row_[row] < 0) {
    wide_row_[row] = static_cast<int32_t>(wide_.size() / width_);
    const auto small = small_.begin() + static_cast<std::ptrdiff_t>(row * width_);
    wide_.insert(wide_.end(), small, small + static_cast<std::ptrdiff_t>(width_));
  }
  return wide_.data() + static_cast<size_t>(wide_row_[row]) * width_;
}

void TokenIdCounts::add(int32_t id, std::span<const int32_t> counters) {
  const size_t row = row_of(id);
  if (wide_row_[row] < 0) {
    uint8_t* const small = small_.data() + row * width_;
    bool is_full = false;
    for (const int32_t counter : counters) is_full |= small[counter] == UINT8_MAX;
    if (!is_full) {
      for (const int32_t counter : counters) ++small[counter];
      return;
    }
  }
  uint32_t* const wide = widen(row);
  for (const int32_t counter : counters) ++wide[counter];
}

int64_t TokenIdCounts::place_of(int32_t id) const {
  if (id >= 0 && id < kNear) return static_cast<size_t>(id) < near_.size() ? near_[static_cast<size_t>(id)] : -1;
  const auto found = far_.find(id);
  return found == far_.end() ? -1 : found->second;
}

void TokenIdCounts::read(int64_t place, std::vector<uint32_t>& counts) const {
  const auto row = static_cast<size_t>(place);
  if (wide_row_[row] < 0) {
    const auto small = small_.begin() + static_cast<std::ptrdiff_t>(row * width_);
    counts.assign(small, small + static_cast<std::ptrdiff_t>(width_));
  } else {
    const auto wide = wide_.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(wide_row_[row]) * width_);
    counts.assign(wide, wide + static_cast<std::ptrdiff_t>(width_));
  }
}

/// Adds counts to an id's row.
void TokenIdCounts::add_row(int32_t id, const std::vector<uint32_t>& counts) {
  const size_t row = row_of(id);
  if (wide_row_[row] < 0) {
    uint8_t* const small = small_.data() + row * width_;
    bool fits = true;
    for (size_t i = 0; i < width_; ++i) fits &= counts[i] <= UINT8_MAX && small[i] + counts[i] <= UINT8_MAX;
    if (fits) {
      for (size_t i = 0; i < width_; ++i) small[i] = static_cast<uint8_t>(small[i] + counts[i]);
      return;
    }
  }
  uint32_t* const wide = widen(row);
  for (size_t i = 0; i < width_; ++i) wide[i] += counts[i];
}

std::vector<int32_t> TokenIdCounts::ids() const {
  std::vector<int32_t> ids = id_of_row_;
  std::sort(ids.begin(), ids.end());
  return ids;
}

void TokenIdCounts::check_room(int64_t num_tokens) {
  if (__builtin_add_overflow(tokens_, num_tokens, &tokens_) || tokens_ > int64_t{UINT32_MAX}) {
    throw std::runtime_error("counts by token id hold at most 4294967295 tokens");
  }
}

void TokenIdCounts::merge(const TokenIdCounts& other) {
  check_room(other.tokens_);
  std::vector<uint32_t> counts;
  for (int64_t place = 0; place < other.num_ids(); ++place) {
    other.read(place, counts);
    add_row(other.id_of_row_[static_cast<size_t>(place)], counts);
  }
}

void TokenIdCounts::save(ByteSink& sink) const {
  const std::vector<int32_t> ids = this->ids();
  sink.integer(tokens_);
  sink.values(ids);
  std::vector<uint32_t> row;
  for (const int32_t id : ids) {
    read(place_of(id), row);
    sink.values(row);
  }
}

void TokenIdCounts::load(ByteSource& source) {
  *this = TokenIdCounts(static_cast<int64_t>(width_));
  const int64_t tokens = source.integer();
  if (tokens < 0) ByteSource::refuse();
  check_room(tokens);
  for (const int32_t id : source.values<int32_t>()) {
    if (id < 0) ByteSource::refuse();
    add_row(id, source.values<uint32_t>(width_));
  }
}

}  // namespace moetap::analysis::studies
