#include "plugin/capture/cached_regions.h"

#include <ATen/ATen.h>

namespace moetap::plugin {

std::optional<at::Tensor> CachedRegions::behind_cache(const std::string& component, const std::vector<int64_t>& samples,
                                                      int64_t cached, const at::Tensor& regions) const {
  if (static_cast<int64_t>(samples.size()) != regions.size(0)) return std::nullopt;
  std::vector<at::Tensor> before;
  {
    const std::lock_guard lock(mutex_);
    for (const int64_t sample : samples) {
      const auto of_sample = regions_.find(sample);
      if (of_sample == regions_.end()) return std::nullopt;
      const auto known = of_sample->second.find(component);
      if (known == of_sample->second.end() || known->second.size(0) < cached) return std::nullopt;
      before.push_back(known->second.narrow(0, 0, cached));  // another layer may have kept those of this forward
    }
  }
  return at::cat({at::stack(before), regions}, 1);
}

void CachedRegions::keep(const std::string& component, const std::vector<int64_t>& samples, const at::Tensor& regions) {
  if (static_cast<int64_t>(samples.size()) != regions.size(0)) return;
  const std::lock_guard lock(mutex_);
  for (size_t i = 0; i < samples.size(); ++i) {
    regions_[samples[i]][component] = regions.select(0, static_cast<int64_t>(i)).clone();
  }
  while (regions_.size() > kMaxSamples) regions_.erase(regions_.begin());
}

}  // namespace moetap::plugin
