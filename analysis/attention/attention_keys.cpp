#include "analysis/attention/attention_keys.h"

#include <ATen/core/Tensor.h>

#include <algorithm>

#include "analysis/attention/attention_call.h"
#include "analysis/attention/attention_columns.h"
#include "analysis/attention/attention_paths.h"

namespace moetap::analysis {
namespace {

int64_t tiles_of(int64_t keys) {
  return (keys + kTileKeys - 1) / kTileKeys;
}

}  // namespace

SequenceKeys::SequenceKeys(const int32_t* positions, const uint8_t* regions, int64_t num_keys, int64_t num_regions) {
  const int64_t n = std::count_if(positions, positions + num_keys, [](int32_t position) { return position >= 0; });
  sorted_.reserve(static_cast<size_t>(n));
  places_.resize(static_cast<size_t>(num_keys));
  positions_.resize(static_cast<size_t>((n + kLaneGroup - 1) / kLaneGroup * kLaneGroup));
  num_valid_tiles_ = static_cast<size_t>(tiles_of(n));
  tiles_.resize(static_cast<size_t>(tiles_of(n) + tiles_of(num_keys - n)));
  runs_.reserve(2 * num_valid_tiles_ + 32);
  std::vector<size_t> first_runs;  // of each tile
  first_runs.reserve(num_valid_tiles_ + 1);
  int64_t valid = 0, padding = n;
  for (int64_t key = 0; key < num_keys; ++key) {
    const int64_t position = positions[key];
    if (position < 0) {
      places_[padding++] = key;
      continue;
    }
    const int64_t number = valid++, place = number % kTileKeys;
    const KeyRun run{place,
                     place + 1,
                     regions == nullptr ? part_of_position(position, n, num_regions)
                                        : std::min<int64_t>(num_regions - 1, regions[key]),
                     std::min(kPatternBins - 1, kPatternBins * position / n),
                     position < kEndKeys,
                     position >= n - kEndKeys,
                     position < n / 4,
                     position >= 3 * n / 4};
    places_[number] = key;
    positions_[number] = static_cast<float>(position);
    sorted_.push_back({position, number});
    if (place == 0) first_runs.push_back(runs_.size());
    if (place != 0 && runs_.back().counts_as(run)) {
      runs_.back().end = run.end;
    } else {
      runs_.push_back(run);
    }
  }
  first_runs.push_back(runs_.size());
  for (size_t tile = 0; tile < tiles_.size(); ++tile) {
    const bool is_valid = tile < num_valid_tiles_;
    const int64_t in_kind = static_cast<int64_t>(is_valid ? tile : tile - num_valid_tiles_) * kTileKeys;
    const int64_t begin = is_valid ? in_kind : n + in_kind;
    const int64_t end = std::min(begin + kTileKeys, is_valid ? n : num_keys);
    tiles_[tile].places = std::span(places_).subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
    if (!is_valid) continue;
    tiles_[tile].positions = positions_.data() + begin;
    tiles_[tile].runs = std::span(runs_).subspan(first_runs[tile], first_runs[tile + 1] - first_runs[tile]);
  }
  const auto by_position = [](const Key& a, const Key& b) { return a.position < b.position; };
  if (!std::is_sorted(sorted_.begin(), sorted_.end(), by_position)) {
    std::stable_sort(sorted_.begin(), sorted_.end(), by_position);
  }
}

int64_t SequenceKeys::lower_bound(int64_t position) const {
  const auto found = std::lower_bound(sorted_.begin(), sorted_.end(), position,
                                      [](const Key& key, int64_t value) { return key.position < value; });
  return found - sorted_.begin();
}

int64_t SequenceKeys::count(int64_t first, int64_t last) const {
  return std::max<int64_t>(0, lower_bound(last + 1) - lower_bound(first));
}

std::shared_ptr<const std::vector<SequenceKeys>> sequence_keys(const AttentionTokens& tokens) {
  auto sequences = std::make_shared<std::vector<SequenceKeys>>();
  const int64_t num_sequences = tokens.key_position.size(0), num_keys = tokens.key_position.size(1);
  sequences->reserve(static_cast<size_t>(num_sequences));
  const at::Tensor positions = tokens.key_position.contiguous();
  const at::Tensor regions = tokens.key_region.defined() ? tokens.key_region.contiguous() : at::Tensor();
  for (int64_t first = 0; first < num_sequences * num_keys; first += num_keys) {
    sequences->emplace_back(positions.const_data_ptr<int32_t>() + first,
                            regions.defined() ? regions.const_data_ptr<uint8_t>() + first : nullptr, num_keys,
                            tokens.num_regions);
  }
  // Of sequences without keys.
  while (static_cast<int64_t>(sequences->size()) < num_sequences) {
    sequences->emplace_back(nullptr, nullptr, 0, tokens.num_regions);
  }
  return sequences;
}

}  // namespace moetap::analysis
