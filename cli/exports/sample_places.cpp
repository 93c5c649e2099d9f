#include "cli/exports/sample_places.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>

namespace moetap::cli {
namespace {

constexpr int64_t kBatchTokens = 1 << 15;
constexpr auto kPlaceBytes = static_cast<int64_t>(sizeof(SamplePlaces::Place));

}  // namespace

SamplePlaces::SamplePlaces(const plugin::ComponentReader& reader, const std::string& scratch_folder,
                           const std::function<void()>& check)
    : places_(std::make_unique<plugin::ScratchFile>(scratch_folder)) {
  std::map<std::pair<int64_t, int32_t>, int32_t> known;  // (sample, rank) -> by first appearance
  std::vector<Sample> found;
  std::vector<plugin::TokenLabel> labels(kBatchTokens);
  std::vector<Place> places(kBatchTokens);
  for (int64_t first = 0; first < reader.num_tokens(); first += kBatchTokens) {
    check();
    const int64_t n = std::min(kBatchTokens, reader.num_tokens() - first);
    reader.read_labels(first, n, labels.data());
    for (int64_t i = 0; i < n; ++i) {
      const plugin::TokenLabel& label = labels[static_cast<size_t>(i)];
      Place& place = places[static_cast<size_t>(i)];
      place = {};
      if (label.phase < 0) continue;
      if (label.sample < 0) {
        ++num_unknown_;
        continue;
      }
      const auto [entry, is_new] = known.try_emplace({label.sample, label.rank}, static_cast<int32_t>(found.size()));
      if (is_new) found.push_back({label.sample, label.rank, 0});
      Sample& sample = found[static_cast<size_t>(entry->second)];
      place = {entry->second, static_cast<int32_t>(sample.num_tokens++)};
    }
    places_->write(first * kPlaceBytes, places.data(), n * kPlaceBytes);
  }
  std::vector<int32_t> sorted(found.size());
  std::iota(sorted.begin(), sorted.end(), 0);
  const auto at = [&](int32_t i) -> const Sample& { return found[static_cast<size_t>(i)]; };
  std::sort(sorted.begin(), sorted.end(), [&](int32_t a, int32_t b) {
    return std::pair(at(a).sample, at(a).rank) < std::pair(at(b).sample, at(b).rank);
  });
  order_.resize(found.size());
  for (size_t i = 0; i < sorted.size(); ++i) {
    order_[static_cast<size_t>(sorted[i])] = static_cast<int32_t>(i);
    samples_.push_back(at(sorted[i]));
    longest_ = std::max(longest_, samples_.back().num_tokens);
  }
}

void SamplePlaces::read(int64_t first, int64_t n, Place* out) const {
  places_->read(first * kPlaceBytes, out, n * kPlaceBytes);
  for (int64_t i = 0; i < n; ++i) {
    if (out[i].sample >= 0) out[i].sample = order_[static_cast<size_t>(out[i].sample)];
  }
}

}  // namespace moetap::cli
