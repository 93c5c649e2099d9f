#pragma once

#include "analysis/attention/attention_rows.h"
#include "analysis/attention/attention_sums.h"

namespace moetap::analysis {

// Note [Standard errors]
// Of each sequence s, n_s of N_s rows were measured, chosen at random. The total of a column over all rows is estimated
// by sum_s N_s mean_s, whose variance is sum_s N_s^2 (1 - n_s / N_s) v_s / n_s, with v_s the variance of the column
// among the rows measured (Cochran, "Sampling Techniques", stratified sampling). Each call adds its sequences' terms;
// the error of the mean is the root of the sum over the number of rows. Of `received`, whose values are estimates
// themselves, it is the scatter over the rows only.

/// The rows that sequences have where `row` is undefined; else `row`.
at::Tensor row_of_sequences(const AttentionSums& sums, const AttentionRows& rows, const at::Tensor& row);

// The paths of `add_rows` and `add_experts`: on the CPU loops, elsewhere kernels (attention_device.h), else LibTorch
// operations. They give the same sums where the terms are the same (the operations round products in another order).
// Arguments are checked already; `row` is defined.

void add_rows_on_cpu(AttentionSums& sums, const AttentionRows& rows, const at::Tensor& row);
void add_experts_on_cpu(AttentionSums& sums, const AttentionRows& rows, const at::Tensor& row,
                        const at::Tensor& selected, const at::Tensor& weights);

/// Any device; no synchronisation, no shape that depends on data.
void add_rows_with_operations(AttentionSums& sums, const AttentionRows& rows, const at::Tensor& row);
void add_experts_with_operations(AttentionSums& sums, const AttentionRows& rows, const at::Tensor& row,
                                 const at::Tensor& selected, const at::Tensor& weights);

}  // namespace moetap::analysis
