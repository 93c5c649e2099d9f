#include "analysis/attention/sampled_rows.h"

#include <ATen/ops/sort.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <limits>
#include <tuple>
#include <vector>

namespace moetap::analysis {
namespace {

// The finalizer of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
constexpr uint64_t kIncrement = 0x9e3779b97f4a7c15, kFirst64 = 0xbf58476d1ce4e5b9, kSecond64 = 0x94d049bb133111eb;

/// x ^ (x >> count) with a shift that brings in zeros; LibTorch's brings in the sign.
at::Tensor fold(const at::Tensor& x, int64_t count) {
  const int64_t kept = static_cast<int64_t>((uint64_t{1} << (64 - count)) - 1);
  return x.bitwise_xor(x.bitwise_right_shift(at::Scalar(count)).bitwise_and(at::Scalar(kept)));
}

/// int64; products wrap around.
at::Tensor mixed(const at::Tensor& value) {
  at::Tensor x = value + static_cast<int64_t>(kIncrement);
  x = fold(x, 30) * static_cast<int64_t>(kFirst64);
  x = fold(x, 27) * static_cast<int64_t>(kSecond64);
  return fold(x, 31);
}

uint64_t mixed(uint64_t value) {
  uint64_t x = value + kIncrement;
  x = (x ^ (x >> 30)) * kFirst64;
  x = (x ^ (x >> 27)) * kSecond64;
  return x ^ (x >> 31);
}

/// FNV-1a (Fowler, Noll and Vo).
uint64_t hash_of(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

void check(const at::Tensor& samples, const at::Tensor& positions, int64_t count) {
  TORCH_CHECK(positions.defined() && positions.dim() == 2 && positions.scalar_type() == at::kInt,
              "sampled_rows: positions must be int32 [B, Sq]");
  TORCH_CHECK(samples.defined() && samples.dim() == 1 && samples.size(0) == positions.size(0) &&
                  samples.scalar_type() == at::kLong && samples.device() == positions.device(),
              "sampled_rows: samples must be int64 [B] for positions of ", positions.sizes(), " on their device");
  TORCH_CHECK(count >= 0, "sampled_rows: count must not be negative, got ", count);
}

/// The choice in loops: `key` is of seed and layer.
at::Tensor sampled_on_cpu(uint64_t key, const at::Tensor& samples, const at::Tensor& positions, int64_t count) {
  struct Query {
    int64_t hash, place;
    bool operator<(const Query& other) const { return std::tie(hash, place) < std::tie(other.hash, other.place); }
  };
  const at::Tensor contiguous = positions.contiguous(), numbers = samples.contiguous();
  at::Tensor chosen = at::zeros(positions.sizes(), positions.options().dtype(at::kBool));
  std::vector<Query> queries;
  for (int64_t sequence = 0; sequence < positions.size(0); ++sequence) {
    const int64_t begin = sequence * positions.size(1);
    const auto sample = static_cast<uint64_t>(numbers.const_data_ptr<int64_t>()[sequence]);
    const uint64_t of_sample = mixed(sample ^ key);
    queries.clear();
    for (int64_t place = begin; place < begin + positions.size(1); ++place) {
      const int64_t position = contiguous.const_data_ptr<int32_t>()[place];
      if (position < 0) continue;
      queries.push_back({static_cast<int64_t>(mixed(of_sample ^ static_cast<uint64_t>(position))), place});
    }
    const auto end = queries.begin() + std::min(count, static_cast<int64_t>(queries.size()));
    std::nth_element(queries.begin(), end, queries.end());
    for (auto query = queries.begin(); query != end; ++query) chosen.mutable_data_ptr<bool>()[query->place] = true;
  }
  return chosen;
}

/// Any device.
at::Tensor sampled_with_operations(uint64_t key, const at::Tensor& samples, const at::Tensor& positions,
                                   int64_t count) {
  const at::Tensor is_query = positions >= 0;
  if (count >= positions.size(1)) return is_query;
  const at::Tensor of_sample = mixed(samples.bitwise_xor(at::Scalar(static_cast<int64_t>(key))));
  const at::Tensor hash = mixed(of_sample.unsqueeze(1).bitwise_xor(positions.to(at::kLong)))
                              .masked_fill(is_query.logical_not(), std::numeric_limits<int64_t>::max());
  const at::Tensor order = std::get<1>(at::sort(hash, /*stable=*/true, 1, /*descending=*/false));
  const at::Tensor chosen = order.narrow(1, 0, count);
  return at::zeros(positions.sizes(), is_query.options()).scatter_(1, chosen, true).bitwise_and(is_query);
}

}  // namespace

at::Tensor sampled_rows(uint64_t seed, const at::Tensor& samples, std::string_view layer, const at::Tensor& positions,
                        int64_t count) {
  check(samples, positions, count);
  if (!positions.is_cpu()) return sampled_with_operations(seed ^ hash_of(layer), samples, positions, count);
  return sampled_on_cpu(seed ^ hash_of(layer), samples, positions, count);
}

at::Tensor sampled_rows_with_operations(uint64_t seed, const at::Tensor& samples, std::string_view layer,
                                        const at::Tensor& positions, int64_t count) {
  check(samples, positions, count);
  return sampled_with_operations(seed ^ hash_of(layer), samples, positions, count);
}

}  // namespace moetap::analysis
