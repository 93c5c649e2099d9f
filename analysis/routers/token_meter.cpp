#include "analysis/routers/token_meter.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Exception.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "analysis/numbers/fixed_point.h"

namespace moetap::analysis {
namespace {

template <typename From, typename To>
void read_as(const HostPlane& plane, int64_t token, int64_t columns, To* out) {
  std::copy_n(static_cast<const From*>(plane.data) + token * plane.row_stride, columns, out);
}

/// The values of a token; float32 is exact for half precision.
template <typename Real>
void read(const HostPlane& plane, int64_t token, int64_t columns, Real* out) {
  switch (plane.dtype) {
    case c10::ScalarType::Float:
      return read_as<float>(plane, token, columns, out);
    case c10::ScalarType::Double:
      return read_as<double>(plane, token, columns, out);
    case c10::ScalarType::Half:
      return read_as<c10::Half>(plane, token, columns, out);
    case c10::ScalarType::BFloat16:
      return read_as<c10::BFloat16>(plane, token, columns, out);
    default:
      TORCH_INTERNAL_ASSERT(false, "a host plane of ", plane.dtype);
  }
}

void read_ids(const HostPlane& plane, int64_t token, int64_t columns, int64_t* out) {
  if (plane.dtype == c10::ScalarType::Int) return read_as<int32_t>(plane, token, columns, out);
  read_as<int64_t>(plane, token, columns, out);
}

}  // namespace

TokenMeter::TokenMeter(const HostRouterCall& call, const RouterSumsLayout& layout, MeterMemory& memory)
    : call_(call), layout_(layout), kernels_(token_kernels()), memory_(memory) {
  const auto grow = [](auto& values, int64_t size) {
    if (static_cast<int64_t>(values.size()) < size) values.resize(size);
  };
  grow(memory.experts, padded_size(layout.num_experts));
  grow(memory.weights, padded_size(layout.top_k));
  grow(memory.used_weights, padded_size(layout.top_k));
  grow(memory.ids, layout.top_k);
  memory.chosen.reserve(layout.top_k);
}

TokenSlots TokenMeter::add(int64_t token, int64_t* row, int64_t* pairs) {
  row_ = row;
  ++row_[RouterSumsLayout::counter(kTokens)];
  add_probabilities(token);
  add_scores(token);
  return add_slots(token, pairs);
}

void TokenMeter::count_term(RowScalarSum which, bool in_range) {
  ++row_[RouterSumsLayout::scalar_sum(which) + (in_range ? kTermsAdded : kTermsOutOfRange)];
}

void TokenMeter::add_term(RowScalarSum which, bool in_range, double value) {
  in_range = in_range && analysis::in_range(value);
  count_term(which, in_range);
  if (!in_range) return;
  const FixedPoint term = to_fixed_point(value);
  row_[RouterSumsLayout::scalar_sum(which) + kHighLimb] += term.hi;
  row_[RouterSumsLayout::scalar_sum(which) + kLowLimb] += term.lo;
}

void TokenMeter::add_probabilities(int64_t token) {
  double* values = memory_.experts.data();
  const int64_t num_experts = layout_.num_experts;
  if (call_.logits.defined()) {
    read(call_.logits, token, layout_.num_experts, values);
    const SoftmaxTerms softmax = kernels_.softmax(values, num_experts);
    add_term(kLseSquared, softmax.in_range, softmax.log_sum_exp * softmax.log_sum_exp);
    if (!call_.probabilities.defined()) add_distribution(softmax.in_range, softmax.entropy, softmax.largest);
  }
  if (call_.probabilities.defined()) {
    read(call_.probabilities, token, layout_.num_experts, values);
    const bool fit = std::all_of(values, values + num_experts, [](double p) { return p >= 0 && p <= kMaxProbability; });
    const EntropyTerms terms = fit ? kernels_.entropy(values, num_experts) : EntropyTerms{};
    if (terms.in_range)
      read(call_.probabilities, token, layout_.num_experts, values);  // the kernel may have scaled them
    add_distribution(terms.in_range, terms.entropy, terms.largest);
  }
}

void TokenMeter::add_distribution(bool in_range, double entropy, int64_t top) {
  add_term(kEntropyAll, in_range, entropy);
  count_term(kProbability, in_range);
  if (!in_range) return;
  kernels_.add_fixed_point(memory_.experts.data(), layout_.num_experts, vector(kProbabilityLow));
  ++vector(kTopProbability)[top];
}

void TokenMeter::add_scores(int64_t token) {
  if (!call_.sigmoid_scores || !(call_.scores.defined() || call_.logits.defined())) return;
  if (call_.scores.defined()) {
    read(call_.scores, token, layout_.num_experts, memory_.experts.data());
  } else {
    read(call_.logits, token, layout_.num_experts, memory_.experts.data());
    kernels_.sigmoid(memory_.experts.data(), layout_.num_experts);
  }
  const EntropyTerms terms = kernels_.entropy(memory_.experts.data(), layout_.num_experts);
  add_term(kScoreEntropy, terms.in_range, terms.entropy);
}

TokenSlots TokenMeter::add_slots(int64_t token, int64_t* pairs) {
  const int64_t top_k = layout_.top_k;
  int64_t* ids = memory_.ids.data();
  read_ids(call_.selected, token, top_k, ids);
  double* weights = memory_.weights.data();
  double* used_weights = memory_.used_weights.data();
  std::vector<int64_t>& chosen = memory_.chosen;
  const bool weighted = call_.weights.defined();
  if (weighted) read(call_.weights, token, top_k, weights);

  int64_t num_used = 0;
  TokenSlots slots;
  chosen.clear();
  for (int64_t slot = 0; slot < top_k; ++slot) {
    const int64_t id = ids[slot];
    if (id < 0 || id >= layout_.num_experts) {
      if (id != -1) ++row_[RouterSumsLayout::counter(kInvalidIds)];
      continue;
    }
    if (!weighted) {
      if (slots.first == kNoSlot) slots.first = static_cast<int32_t>(id);
      ++vector(kSelected)[id];
      chosen.push_back(id);
      continue;
    }
    const double weight = weights[slot];
    const double rank = std::isnan(weight) ? -std::numeric_limits<double>::infinity() : weight;
    // The second weight is the largest of all other slots, whether they hold the same expert or not.
    if (slots.first == kNoSlot || rank > slots.largest || (rank == slots.largest && id < slots.first)) {
      slots.second = slots.largest;
      slots.largest = rank;
      slots.first = static_cast<int32_t>(id);
    } else if (num_used == 1 || rank > slots.second) {
      slots.second = rank;
    }
    used_weights[num_used++] = weight;
    if (weight == 0) {
      ++vector(kZeroWeight)[id];
      continue;
    }
    ++vector(kSelected)[id];
    chosen.push_back(id);
    add_weight(id, weight);
  }
  if (slots.first != kNoSlot) ++vector(kFirstSlot)[slots.first];
  if (chosen.empty()) ++row_[RouterSumsLayout::counter(kDroppedTokens)];
  if (weighted) {
    const EntropyTerms terms = kernels_.entropy(used_weights, num_used);
    add_term(kEntropyTopk, terms.in_range, terms.entropy);
    if (top_k > 1) add_term(kMargin, true, slots.margin());
  }
  if (pairs) add_pairs(pairs);
  return slots;
}

void TokenMeter::add_weight(int64_t id, double weight) {
  count_term(kWeight, analysis::in_range(weight));
  if (!analysis::in_range(weight)) return;
  const FixedPoint term = to_fixed_point(weight);
  vector(kWeightHigh)[id] += term.hi;
  vector(kWeightLow)[id] += term.lo;
}

void TokenMeter::add_pairs(int64_t* pairs) {
  std::vector<int64_t>& chosen = memory_.chosen;
  std::sort(chosen.begin(), chosen.end());
  chosen.erase(std::unique(chosen.begin(), chosen.end()), chosen.end());
  for (size_t i = 0; i < chosen.size(); ++i) {
    for (size_t j = i + 1; j < chosen.size(); ++j) ++pairs[layout_.pair_index(chosen[i], chosen[j])];
  }
}

void write_slots(const HostRouterCall& call, int64_t token, const HostTokenOutputs& outputs) {
  const int64_t begin = token * call.top_k;
  if (outputs.selected != nullptr) {
    const auto write = [&](const auto* ids) {
      for (int64_t slot = 0; slot < call.top_k; ++slot) {
        const bool used = ids[slot] >= 0 && ids[slot] < call.num_experts;
        outputs.selected[begin + slot] = used ? static_cast<int32_t>(ids[slot]) : -1;
      }
    };
    const int64_t place = token * call.selected.row_stride;
    if (call.selected.dtype == c10::ScalarType::Int) {
      write(static_cast<const int32_t*>(call.selected.data) + place);
    } else {
      write(static_cast<const int64_t*>(call.selected.data) + place);
    }
  }
  if (outputs.weights != nullptr && call.weights.defined()) {
    read(call.weights, token, call.top_k, outputs.weights + begin);
  }
}

}  // namespace moetap::analysis
