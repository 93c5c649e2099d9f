#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace moetap::plugin {

/// The regions of the tokens that a model's key-value caches hold, by sample and component: the forwards of a
/// generation show the ids of their own tokens only, and those of an encoder are not its decoder's. Thread-safe.
class CachedRegions {
 public:
  static constexpr size_t kMaxSamples = 4096;  // of others the regions are forgotten, the oldest numbers first

  /// uint8 [B, cached + S]: `regions` [B, S], of the forward's own tokens, behind those of earlier forwards of the
  /// samples. Empty: those are not known.
  std::optional<at::Tensor> behind_cache(const std::string& component, const std::vector<int64_t>& samples,
                                         int64_t cached, const at::Tensor& regions) const;

  /// Keeps the regions [B, S] of all tokens that the caches hold after a forward.
  void keep(const std::string& component, const std::vector<int64_t>& samples, const at::Tensor& regions);

 private:
  mutable std::mutex mutex_;
  std::map<int64_t, std::map<std::string, at::Tensor>> regions_;  // by sample, by component: uint8 [S]
};

}  // namespace moetap::plugin
