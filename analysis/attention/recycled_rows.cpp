#include "analysis/attention/recycled_rows.h"

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <mutex>
#include <utility>
#include <vector>

namespace moetap::analysis {
namespace {

constexpr int64_t kMostLines = 64;   // of rows that are kept: some 12 KiB
constexpr size_t kMostCalls = 1024;  // a few forwards of many layers

struct KeptRows {
  std::mutex mutex;
  std::vector<AttentionRows> rows;
};

// Never destroyed: the writer thread of a host that just exits may still give rows back.
KeptRows& kept() {
  static auto* const kept = new KeptRows;
  return *kept;
}

bool is_alone(const at::Tensor& tensor) {
  return tensor.defined() && tensor.is_cpu() && tensor.use_count() == 1 && tensor.storage().use_count() == 1;
}

void fill_with_zeros(const at::Tensor& tensor) {
  std::memset(tensor.mutable_data_ptr(), 0, static_cast<size_t>(tensor.nbytes()));
}

}  // namespace

void recycle(AttentionRows rows) {
  if (rows.num_lines() == 0 || rows.num_lines() > kMostLines) return;
  rows.matrix.reset();
  for (const at::Tensor* tensor : {&rows.line, &rows.values, &rows.bins, &rows.region, &rows.position, &rows.num_keys,
                                   &rows.length, &rows.weight, &rows.head_high, &rows.head_low, &rows.head_max_score}) {
    if (!is_alone(*tensor)) return;
  }
  KeptRows& all = kept();
  const std::lock_guard lock(all.mutex);
  if (all.rows.size() < kMostCalls) all.rows.push_back(std::move(rows));
}

AttentionRows recycled_rows(const AttentionShape& shape, int64_t num_regions) {
  AttentionRows rows;
  {
    KeptRows& all = kept();
    const std::lock_guard lock(all.mutex);
    const auto found = std::find_if(all.rows.rbegin(), all.rows.rend(), [&](const AttentionRows& each) {
      return each.num_sequences == shape.num_sequences && each.num_queries == shape.num_queries &&
             each.num_heads == shape.num_heads && each.num_regions == num_regions;
    });
    if (found == all.rows.rend()) return rows;
    rows = std::move(*found);
    *found = std::move(all.rows.back());
    all.rows.pop_back();
  }
  for (const at::Tensor* tensor : {&rows.values, &rows.bins, &rows.head_high, &rows.head_low, &rows.head_max_score}) {
    fill_with_zeros(*tensor);
  }
  return rows;
}

}  // namespace moetap::analysis
