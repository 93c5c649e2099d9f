#include "analysis/attention/sampled_rows.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include <limits>

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

/// FNV-1a (Fowler, Noll and Vo).
uint64_t hash_of(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

}  // namespace

at::Tensor sampled_rows(uint64_t seed, const at::Tensor& samples, std::string_view layer, const at::Tensor& positions,
                        int64_t count) {
  TORCH_CHECK(positions.defined() && positions.dim() == 2 && positions.scalar_type() == at::kInt,
              "sampled_rows: positions must be int32 [B, Sq]");
  TORCH_CHECK(samples.defined() && samples.dim() == 1 && samples.size(0) == positions.size(0) &&
                  samples.scalar_type() == at::kLong && samples.device() == positions.device(),
              "sampled_rows: samples must be int64 [B] for positions of ", positions.sizes(), " on their device");
  TORCH_CHECK(count >= 0, "sampled_rows: count must not be negative, got ", count);
  const at::Tensor is_query = positions >= 0;
  if (count >= positions.size(1)) return is_query;
  const at::Tensor of_sample = mixed(samples.bitwise_xor(at::Scalar(static_cast<int64_t>(seed ^ hash_of(layer)))));
  const at::Tensor hash = mixed(of_sample.unsqueeze(1).bitwise_xor(positions.to(at::kLong)))
                              .masked_fill(is_query.logical_not(), std::numeric_limits<int64_t>::max());
  const at::Tensor order = std::get<1>(at::sort(hash, /*stable=*/true, 1, /*descending=*/false));
  const at::Tensor chosen = order.narrow(1, 0, count);
  return at::zeros(positions.sizes(), is_query.options()).scatter_(1, chosen, true).bitwise_and(is_query);
}

}  // namespace moetap::analysis
