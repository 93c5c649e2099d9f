#include "analysis/attention/attention_keys.h"

#include <algorithm>

#include "analysis/attention/attention_columns.h"
#include "analysis/attention/attention_paths.h"

namespace moetap::analysis {
namespace {

KeyTile& tile_with_room(std::vector<KeyTile>& tiles) {
  if (tiles.empty() || tiles.back().places.size() == kTileKeys) tiles.emplace_back();
  return tiles.back();
}

}  // namespace

SequenceKeys::SequenceKeys(const int32_t* positions, const uint8_t* regions, int64_t num_keys, int64_t num_regions) {
  for (int64_t key = 0; key < num_keys; ++key) {
    if (positions[key] >= 0) sorted_.push_back({positions[key], num_valid()});
  }
  const int64_t n = num_valid();
  for (int64_t key = 0; key < num_keys; ++key) {
    const int64_t position = positions[key];
    if (position < 0) {
      tile_with_room(padding_).places.push_back(key);
      continue;
    }
    KeyTile& tile = tile_with_room(valid_);
    const auto place = static_cast<int64_t>(tile.places.size());
    const KeyRun run{place,
                     place + 1,
                     regions == nullptr ? part_of_position(position, n, num_regions)
                                        : std::min<int64_t>(num_regions - 1, regions[key]),
                     std::min(kPatternBins - 1, kPatternBins * position / n),
                     position < kEndKeys,
                     position >= n - kEndKeys,
                     position < n / 4,
                     position >= 3 * n / 4};
    tile.places.push_back(key);
    tile.positions.push_back(static_cast<float>(position));
    if (!tile.runs.empty() && tile.runs.back().counts_as(run)) {
      tile.runs.back().end = run.end;
    } else {
      tile.runs.push_back(run);
    }
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

}  // namespace moetap::analysis
