#include "analysis/routers/transition_sums.h"

#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include "analysis/routers/observe_paths.h"

namespace moetap::analysis {
namespace {

TransitionSums count_on_cpu(const at::Tensor& first_slot_from, const at::Tensor& first_slot_to, const TokenRows& rows,
                            int64_t num_experts_from, int64_t num_experts_to) {
  TransitionSums sums{num_experts_from, num_experts_to,
                      at::zeros({num_experts_from, num_experts_to}, first_slot_from.options())};
  const at::Tensor from = first_slot_from.contiguous(), to = first_slot_to.contiguous();
  const bool any_masked = rows.row.defined() || rows.valid.defined();
  const at::Tensor row = any_masked ? row_of_tokens(rows, from.size(0), at::kCPU).contiguous() : at::Tensor();
  const int64_t* from_ids = from.const_data_ptr<int64_t>();
  const int64_t* to_ids = to.const_data_ptr<int64_t>();
  const int64_t* row_of = row.defined() ? row.const_data_ptr<int64_t>() : nullptr;
  int64_t* counts = sums.counts.mutable_data_ptr<int64_t>();
  const auto in = [](int64_t value, int64_t size) { return value >= 0 && value < size; };
  for (int64_t token = 0; token < from.size(0); ++token) {
    const bool counted = (row_of == nullptr || in(row_of[token], rows.num_rows)) &&
                         in(from_ids[token], num_experts_from) && in(to_ids[token], num_experts_to);
    if (counted) ++counts[from_ids[token] * num_experts_to + to_ids[token]];
  }
  return sums;
}

}  // namespace

TransitionSums observe_transition(const at::Tensor& first_slot_from, const at::Tensor& first_slot_to,
                                  const TokenRows& rows, int64_t num_experts_from, int64_t num_experts_to) {
  TORCH_CHECK(num_experts_from > 0 && num_experts_to > 0, "transition: numbers of experts must be positive, got ",
              num_experts_from, " and ", num_experts_to);
  TORCH_CHECK(first_slot_from.dim() == 1 && first_slot_from.sizes() == first_slot_to.sizes(),
              "transition: first slots must be [num_tokens] of the same tokens, got ", first_slot_from.sizes(), " and ",
              first_slot_to.sizes());
  TORCH_CHECK(first_slot_from.scalar_type() == at::kLong && first_slot_to.scalar_type() == at::kLong,
              "transition: first slots must be int64, got ", first_slot_from.scalar_type(), " and ",
              first_slot_to.scalar_type());
  TORCH_CHECK(first_slot_from.device() == first_slot_to.device(), "transition: first slots must be on one device, got ",
              first_slot_from.device(), " and ", first_slot_to.device());
  check_rows(rows, first_slot_from.size(0), first_slot_from.device());

  if (first_slot_from.is_cpu())
    return count_on_cpu(first_slot_from, first_slot_to, rows, num_experts_from, num_experts_to);
  const at::Tensor row = row_of_tokens(rows, first_slot_from.size(0), first_slot_from.device());
  const at::Tensor counted = (row >= 0)
                                 .bitwise_and(row < rows.num_rows)
                                 .bitwise_and((first_slot_from >= 0).bitwise_and(first_slot_from < num_experts_from))
                                 .bitwise_and((first_slot_to >= 0).bitwise_and(first_slot_to < num_experts_to));
  const at::Tensor place = at::where(counted, first_slot_from * num_experts_to + first_slot_to, 0);
  const at::Tensor counts = at::zeros({num_experts_from * num_experts_to}, first_slot_from.options())
                                .scatter_add_(0, place, counted.to(at::kLong));
  return TransitionSums{num_experts_from, num_experts_to, counts.view({num_experts_from, num_experts_to})};
}

void add_transitions(TransitionSums& into, std::span<const int32_t> first_slot_from,
                     std::span<const int32_t> first_slot_to, int64_t num_experts_from, int64_t num_experts_to) {
  if (!into.counts.defined()) {
    into = TransitionSums{num_experts_from, num_experts_to, at::zeros({num_experts_from, num_experts_to}, at::kLong)};
  }
  TORCH_CHECK(into.num_experts_from == num_experts_from && into.num_experts_to == num_experts_to,
              "transition: counts between ", into.num_experts_from, " and ", into.num_experts_to,
              " experts do not fit layers of ", num_experts_from, " and ", num_experts_to);
  TORCH_CHECK(first_slot_from.size() == first_slot_to.size(),
              "transition: first slots must be of the same tokens, got ", first_slot_from.size(), " and ",
              first_slot_to.size());
  int64_t* counts = into.counts.mutable_data_ptr<int64_t>();
  for (size_t token = 0; token < first_slot_from.size(); ++token) {
    if (first_slot_from[token] < 0 || first_slot_to[token] < 0) continue;
    ++counts[first_slot_from[token] * num_experts_to + first_slot_to[token]];
  }
}

void merge(TransitionSums& into, const TransitionSums& from) {
  if (!from.counts.defined()) return;
  TORCH_CHECK(from.counts.is_cpu(), "merge: transitions must be on the host, got ", from.counts.device());
  if (!into.counts.defined()) {
    into = TransitionSums{from.num_experts_from, from.num_experts_to, from.counts.clone()};
    return;
  }
  TORCH_CHECK(into.counts.is_cpu(), "merge: transitions must be on the host, got ", into.counts.device());
  TORCH_CHECK(into.num_experts_from == from.num_experts_from && into.num_experts_to == from.num_experts_to,
              "merge: transitions between ", into.num_experts_from, " and ", into.num_experts_to,
              " experts, and between ", from.num_experts_from, " and ", from.num_experts_to,
              ", are of different layers");
  into.counts = into.counts + from.counts;
}

}  // namespace moetap::analysis
