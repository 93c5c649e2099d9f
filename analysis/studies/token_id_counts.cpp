#include "analysis/studies/token_id_counts.h"

#include <algorithm>
#include <stdexcept>

namespace moetap::analysis::studies {

TokenIdCounts::TokenIdCounts(const std::vector<int64_t>& widths) : first_{0} {
  for (const int64_t width : widths) first_.push_back(first_.back() + static_cast<size_t>(width));
  rows_a_block_ = std::max<size_t>(kBlockBytes / std::max<size_t>(row_width(), 1), 1);
}

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
    if (id_of_row_.size() % rows_a_block_ == 0) {
      blocks_.push_back(std::make_unique<uint8_t[]>(rows_a_block_ * row_width()));  // zeros
    }
    id_of_row_.push_back(id);
    wide_.emplace_back();
  }
  return static_cast<size_t>(*row);
}

void TokenIdCounts::widen(size_t row) {
  wide_[row] = std::make_unique<uint32_t[]>(row_width());
  std::copy_n(small_of(row, 0), row_width(), wide_[row].get());
}

int64_t TokenIdCounts::find(int32_t id) const {
  if (id >= 0 && id < kNear) return static_cast<size_t>(id) < near_.size() ? near_[static_cast<size_t>(id)] : -1;
  const auto found = far_.find(id);
  return found == far_.end() ? -1 : found->second;
}

void TokenIdCounts::read(size_t row, size_t part, std::vector<uint32_t>& counts) const {
  if (wide_[row]) {
    const uint32_t* const wide = wide_[row].get() + first_[part];
    counts.assign(wide, wide + width(part));
    return;
  }
  const uint8_t* const small = small_of(row, part);
  counts.assign(small, small + width(part));
}

void TokenIdCounts::add_counts(size_t row, size_t part, std::span<const uint32_t> counts) {
  if (!wide_[row]) {
    uint8_t* const small = small_of(row, part);
    bool fits = true;
    for (size_t i = 0; i < counts.size(); ++i) fits &= counts[i] <= UINT8_MAX && small[i] + counts[i] <= UINT8_MAX;
    if (fits) {
      for (size_t i = 0; i < counts.size(); ++i) small[i] = static_cast<uint8_t>(small[i] + counts[i]);
      return;
    }
  }
  if (!wide_[row]) widen(row);
  uint32_t* const wide = wide_[row].get() + first_[part];
  for (size_t i = 0; i < counts.size(); ++i) wide[i] += counts[i];
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
  for (size_t from = 0; from < other.id_of_row_.size(); ++from) {
    const size_t row = row_of(other.id_of_row_[from]);
    for (size_t part = 0; part < num_parts(); ++part) {
      other.read(from, part, counts);
      add_counts(row, part, counts);
    }
  }
}

void TokenIdCounts::save(ByteSink& sink) const {
  const std::vector<int32_t> ids = this->ids();
  sink.integer(tokens_);
  sink.values(ids);
  std::vector<uint32_t> counts;
  for (const int32_t id : ids) {
    for (size_t part = 0; part < num_parts(); ++part) {
      read(static_cast<size_t>(find(id)), part, counts);
      sink.values(counts);
    }
  }
}

void TokenIdCounts::load(ByteSource& source) {
  std::vector<int64_t> widths;
  for (size_t part = 0; part < num_parts(); ++part) widths.push_back(static_cast<int64_t>(width(part)));
  *this = TokenIdCounts(widths);
  const int64_t tokens = source.integer();
  if (tokens < 0) ByteSource::refuse();
  check_room(tokens);
  for (const int32_t id : source.values<int32_t>()) {
    if (id < 0) ByteSource::refuse();
    const size_t row = row_of(id);
    for (size_t part = 0; part < num_parts(); ++part) add_counts(row, part, source.values<uint32_t>(width(part)));
  }
}

}  // namespace moetap::analysis::studies
