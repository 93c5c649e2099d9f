#include "analysis/attention/attention_sums.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include <algorithm>

#include "analysis/attention/attention_device.h"
#include "analysis/attention/attention_sums_paths.h"
#include "analysis/numbers/fixed_point.h"

namespace moetap::analysis {
namespace {

void check_fit(const char* function, const AttentionSums& sums, const AttentionRows& rows, const at::Tensor& row,
               int64_t terms) {
  TORCH_CHECK(sums.defined() && sums.has_shared && sums.num_heads == rows.num_heads &&
                  sums.num_regions == rows.num_regions && sums.self == rows.self,
              function, ": sums of ", sums.num_heads, " heads, ", sums.num_regions, " regions do not fit rows of ",
              rows.num_heads, " heads, ", rows.num_regions, " regions, or only one is of self attention");
  const at::Device device = rows.line.device();
  TORCH_CHECK(sums.words.device() == device, function, ": sums must be on the device of the rows, ", device, ", got ",
              sums.words.device());
  TORCH_CHECK(row.defined() || sums.num_rows == 1 || sums.num_rows == rows.num_sequences, function,
              ": without row the sums must have one row, or one of each of ", rows.num_sequences, " sequences, got ",
              sums.num_rows);
  TORCH_CHECK(!row.defined() || (row.dim() == 1 && row.scalar_type() == at::kLong && row.device() == device &&
                                 (row.size(0) == rows.num_sequences || row.size(0) == rows.num_lines())),
              function, ": row must be int64 [B] = [", rows.num_sequences, "] or [B * Sq] = [", rows.num_lines(),
              "] on the device of the rows, got ", row.defined() ? row.sizes() : at::IntArrayRef{});
  TORCH_CHECK(sums.pending_terms + terms <= kMaxTermsPerCall, function, ": at most ", kMaxTermsPerCall,
              " terms fit into sums on a device, they hold ", sums.pending_terms, " and the call adds ", terms,
              "; copy them to the host and reset them");
}

}  // namespace

at::Tensor row_of_sequences(const AttentionSums& sums, const AttentionRows& rows, const at::Tensor& row) {
  if (row.defined()) return row;
  const at::TensorOptions options = rows.line.options().dtype(at::kLong);
  return sums.num_rows == 1 ? at::zeros({rows.num_sequences}, options) : at::arange(rows.num_sequences, options);
}

int64_t AttentionSums::counter(int64_t row, AttentionCounter which) const {
  TORCH_CHECK(words.is_cpu(), "attention sums must be on the host to be read, got ", words.device());
  TORCH_CHECK(row >= 0 && row < num_rows, "attention sums: row must be in [0, ", num_rows, "), got ", row);
  return words.const_data_ptr<int64_t>()[row * layout().row_words() + which];
}

int64_t AttentionSums::counter(AttentionCounter which) const {
  int64_t total = 0;
  for (int64_t row = 0; defined() && row < num_rows; ++row) total += counter(row, which);
  return total;
}

AttentionSums empty_attention_sums(int64_t num_heads, int64_t num_regions, bool self, int64_t num_experts,
                                   int64_t num_rows, at::Device device) {
  TORCH_CHECK(
      num_heads > 0 && num_regions > 0 && num_regions <= kMaxAttentionRegions && num_experts >= 0 && num_rows > 0,
      "attention sums: heads and rows must be positive, regions in [1, ", kMaxAttentionRegions,
      "], experts not negative, got ", num_heads, ", ", num_rows, ", ", num_regions, " and ", num_experts);
  AttentionSums sums{num_heads, num_regions, num_experts, num_rows, self, /*has_shared=*/true};
  sums.words = at::zeros({sums.layout().words()}, at::TensorOptions().dtype(at::kLong).device(device));
  return sums;
}

void add_rows(AttentionSums& sums, const AttentionRows& rows, const at::Tensor& row) {
  check_fit("add_rows", sums, rows, row, rows.num_lines());
  if (rows.num_lines() == 0) return;
  if (rows.line.is_cpu()) {
    add_rows_on_cpu(sums, rows, row_of_sequences(sums, rows, row));
    normalize(sums);
  } else {
    add_rows_on_device(sums, rows, row);
    sums.pending_terms += rows.num_lines();
  }
}

void add_experts(AttentionSums& sums, const AttentionRows& rows, const at::Tensor& row, const at::Tensor& selected,
                 const at::Tensor& weights) {
  TORCH_CHECK(selected.defined() && selected.dim() == 2 &&
                  (selected.scalar_type() == at::kLong || selected.scalar_type() == at::kInt) &&
                  selected.size(0) == rows.num_lines() && selected.device() == rows.line.device(),
              "add_experts: selected must be int64 or int32 [B * Sq, K] with B * Sq = ", rows.num_lines(),
              " on the device of the rows, got ", selected.defined() ? selected.sizes() : at::IntArrayRef{});
  if (weights.defined()) {
    TORCH_CHECK(weights.sizes() == selected.sizes() && at::isFloatingType(weights.scalar_type()) &&
                    weights.device() == selected.device(),
                "add_experts: weights must be floating [B * Sq, K] = ", selected.sizes(),
                " on the device of the rows, got ", weights.sizes());
  }
  TORCH_CHECK(sums.num_experts > 0, "add_experts: the sums are without experts");
  check_fit("add_experts", sums, rows, row, selected.numel());
  if (selected.numel() == 0) return;
  if (rows.line.is_cpu()) {
    add_experts_on_cpu(sums, rows, row_of_sequences(sums, rows, row), selected.to(at::kLong), weights);
    normalize(sums);
  } else {
    add_experts_on_device(sums, rows, row, selected, weights);
    sums.pending_terms += selected.numel();
  }
}

}  // namespace moetap::analysis
