#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace moetap::analysis {

// Note [Values of an attention row]
// P[h, j]: the probability with which head h of the row's query attends to key j, as the model used it. p = P / sum_j P
// over valid keys; pm = mean of p over heads. i, j: positions; n: number of keys.

/// Columns of AttentionRows::values, in the order of the dump: these, then the R regions' sums of pm, then `received`.
enum AttentionValue : int64_t {
  kEntropy,           // mean over heads of -sum p ln p
  kMaxWeight,         // mean over heads of max p
  kKeyMass,           // mean over heads of sum P
  kDistance,          // sum pm |i - j|
  kSelf,              // pm at j = i; self attention only
  kDiagonal,          // sum pm over |i - j| <= kDiagonalWidth
  kDiagonalExpected,  // the share of the n keys there
  kFar,               // sum pm over |i - j| > n div 2
  kFarExpected,
  kFirst,  // sum pm over the first kEndKeys keys
  kLast,
  kFirstRegion,
};
inline constexpr int64_t kDiagonalWidth = 5;
inline constexpr int64_t kEndKeys = 4;

constexpr int64_t region_column(int64_t region) {
  return kFirstRegion + region;
}
/// Sum of pm over the rows of the same call, at j = this token; self attention only.
constexpr int64_t received_column(int64_t num_regions) {
  return kFirstRegion + num_regions;
}
constexpr int64_t num_attention_columns(int64_t num_regions) {
  return kFirstRegion + num_regions + 1;
}

/// Columns of AttentionRows::bins: sum of pm over the keys of relative position floor(16 j / n), then over those in the
/// first quarter (j < n div 4) and in the last (j >= 3 n div 4).
inline constexpr int64_t kPatternBins = 16;
inline constexpr int64_t kFirstQuarter = kPatternBins;
inline constexpr int64_t kLastQuarter = kFirstQuarter + 1;
inline constexpr int64_t kNumAttentionBins = kLastQuarter + 1;

struct AttentionColumn {
  std::string name;  // as files have it: "entropy", "region.0"
  int64_t column = 0;
};

/// The columns that files hold, in their order: without `self` and `received` where queries are no keys.
std::vector<AttentionColumn> attention_columns(int64_t num_regions, bool self);

/// The regions of the plane of queries and keys whose specialization is measured, in their order.
enum PlaneRegion : int64_t {
  kDiagonalRegion,
  kFarRegion,
  kNTerminal,  // i in the first quarter, j too
  kCTerminal,  // i in the last quarter, j too
  kNToC,       // i in the first, j in the last
  kCToN,
  kNumPlaneRegions,
};
inline constexpr const char* kPlaneRegionNames[kNumPlaneRegions] = {"diagonal",   "far",    "n_terminal",
                                                                    "c_terminal", "n_to_c", "c_to_n"};

}  // namespace moetap::analysis
