#include <ATen/core/Tensor.h>
#include <ATen/ops/full.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <vector>

#include "analysis/numbers/fixed_point.h"
#include "analysis/numbers/token_kernels.h"
#include "analysis/numbers/token_ranges.h"
#include "analysis/routers/observe_paths.h"
#include "analysis/routers/router_sums.h"

// Note [The CPU path]
// A thread takes neighbouring tokens and adds them, one after the other, into a block of rows in the layout of the
// sums; the blocks are added to the sums at the end. All additions are of integers, so it does not matter which thread
// had which token. Each token is measured in double precision from a buffer of its own that stays in the first-level
// cache: the logits are read once, and the bits of a token do not depend on its neighbours.
namespace moetap::analysis {
namespace {

constexpr int32_t kNoSlot = -1;

/// A floating-point matrix, contiguous, as float or double (half precision is widened, which is exact).
class Plane {
 public:
  Plane() = default;
  explicit Plane(const at::Tensor& tensor) {
    if (!tensor.defined()) return;
    const auto dtype = tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    tensor_ = tensor.detach().to(dtype).contiguous();
    columns_ = tensor_.size(1);
    if (dtype == at::kDouble) {
      doubles_ = tensor_.const_data_ptr<double>();
    } else {
      floats_ = tensor_.const_data_ptr<float>();
    }
  }

  bool defined() const { return tensor_.defined(); }

  void read(int64_t row, double* out) const {
    if (doubles_) {
      std::copy_n(doubles_ + row * columns_, columns_, out);
    } else {
      std::copy_n(floats_ + row * columns_, columns_, out);
    }
  }

 private:
  at::Tensor tensor_;
  int64_t columns_ = 0;
  const float* floats_ = nullptr;
  const double* doubles_ = nullptr;
};

/// The tensors of a call in the layout that the threads read.
struct Planes {
  Plane logits, probabilities, scores, weights;
  bool scores_are_logits = false;  // their sigmoid is what the router scores with
  at::Tensor selected, row;        // int64, contiguous

  Planes(const RouterCall& call, const TokenRows& rows)
      : logits(call.logits),
        probabilities(call.probabilities),
        scores(call.sigmoid_scores ? call.scores : at::Tensor()),
        weights(call.weights),
        scores_are_logits(call.sigmoid_scores && !call.scores.defined() && call.logits.defined()),
        selected(call.selected.contiguous()),
        row(row_of_tokens(rows, call.selected.size(0), call.selected.device()).contiguous()) {}
};

/// Measures tokens and adds them to one block of rows.
class TokenMeter {
 public:
  TokenMeter(const Planes& planes, const RouterSumsLayout& layout)
      : planes_(planes),
        layout_(layout),
        kernels_(token_kernels()),
        experts_(padded_size(layout.num_experts)),
        weights_(padded_size(layout.top_k)),
        used_weights_(padded_size(layout.top_k)) {
    chosen_.reserve(layout.top_k);
  }

  /// Adds a token to the row and pairs at these addresses; returns its first slot. `pairs` is null where there is no
  /// table.
  int32_t add(int64_t token, int64_t* row, int64_t* pairs) {
    row_ = row;
    ++row_[RouterSumsLayout::counter(kTokens)];
    add_probabilities(token);
    add_scores(token);
    return add_slots(token, pairs);
  }

 private:
  int64_t* vector(RowVector which) const { return row_ + layout_.vector(which); }

  void count_term(RowScalarSum which, bool in_range) {
    ++row_[RouterSumsLayout::scalar_sum(which) + (in_range ? kTermsAdded : kTermsOutOfRange)];
  }

  void add_term(RowScalarSum which, bool in_range, double value) {
    in_range = in_range && analysis::in_range(value);
    count_term(which, in_range);
    if (!in_range) return;
    const FixedPoint term = to_fixed_point(value);
    row_[RouterSumsLayout::scalar_sum(which) + kHighLimb] += term.hi;
    row_[RouterSumsLayout::scalar_sum(which) + kLowLimb] += term.lo;
  }

  void add_probabilities(int64_t token) {
    double* values = experts_.data();
    const int64_t num_experts = layout_.num_experts;
    if (planes_.logits.defined()) {
      planes_.logits.read(token, values);
      const SoftmaxTerms softmax = kernels_.softmax(values, num_experts);
      add_term(kLseSquared, softmax.in_range, softmax.log_sum_exp * softmax.log_sum_exp);
      if (!planes_.probabilities.defined()) add_distribution(softmax.in_range, softmax.entropy, softmax.largest);
    }
    if (planes_.probabilities.defined()) {
      planes_.probabilities.read(token, values);
      const bool fit =
          std::all_of(values, values + num_experts, [](double p) { return p >= 0 && p <= kMaxProbability; });
      const EntropyTerms terms = fit ? kernels_.entropy(values, num_experts) : EntropyTerms{};
      if (terms.in_range) planes_.probabilities.read(token, values);  // the kernel may have scaled them
      add_distribution(terms.in_range, terms.entropy, terms.largest);
    }
  }

  void add_distribution(bool in_range, double entropy, int64_t top) {
    add_term(kEntropyAll, in_range, entropy);
    count_term(kProbability, in_range);
    if (!in_range) return;
    kernels_.add_fixed_point(experts_.data(), layout_.num_experts, vector(kProbabilityLow));
    ++vector(kTopProbability)[top];
  }

  void add_scores(int64_t token) {
    if (!planes_.scores.defined() && !planes_.scores_are_logits) return;
    if (planes_.scores.defined()) {
      planes_.scores.read(token, experts_.data());
    } else {
      planes_.logits.read(token, experts_.data());
      kernels_.sigmoid(experts_.data(), layout_.num_experts);
    }
    const EntropyTerms terms = kernels_.entropy(experts_.data(), layout_.num_experts);
    add_term(kScoreEntropy, terms.in_range, terms.entropy);
  }

  int32_t add_slots(int64_t token, int64_t* pairs) {
    const int64_t top_k = layout_.top_k;
    const int64_t* ids = planes_.selected.const_data_ptr<int64_t>() + token * top_k;
    const bool weighted = planes_.weights.defined();
    if (weighted) planes_.weights.read(token, weights_.data());

    int64_t num_used = 0;
    int32_t first = kNoSlot;
    double first_weight = 0, second_weight = 0;
    chosen_.clear();
    for (int64_t slot = 0; slot < top_k; ++slot) {
      const int64_t id = ids[slot];
      if (id < 0 || id >= layout_.num_experts) {
        if (id != -1) ++row_[RouterSumsLayout::counter(kInvalidIds)];
        continue;
      }
      if (!weighted) {
        if (first == kNoSlot) first = static_cast<int32_t>(id);
        ++vector(kSelected)[id];
        chosen_.push_back(id);
        continue;
      }
      const double weight = weights_[slot];
      const double rank = std::isnan(weight) ? -std::numeric_limits<double>::infinity() : weight;
      // Only ranks count for the margin, so the second weight is the largest of the other slots, of the same expert or
      // not.
      if (first == kNoSlot || rank > first_weight || (rank == first_weight && id < first)) {
        second_weight = first_weight;
        first_weight = rank;
        first = static_cast<int32_t>(id);
      } else if (num_used == 1 || rank > second_weight) {
        second_weight = rank;
      }
      used_weights_[num_used++] = weight;
      if (weight == 0) {
        ++vector(kZeroWeight)[id];
        continue;
      }
      ++vector(kSelected)[id];
      chosen_.push_back(id);
      add_weight(id, weight);
    }
    if (first != kNoSlot) ++vector(kFirstSlot)[first];
    if (chosen_.empty()) ++row_[RouterSumsLayout::counter(kDroppedTokens)];
    if (weighted) {
      const EntropyTerms terms = kernels_.entropy(used_weights_.data(), num_used);
      add_term(kEntropyTopk, terms.in_range, terms.entropy);
      if (top_k > 1) add_term(kMargin, true, first_weight - (num_used > 1 ? second_weight : 0));
    }
    if (pairs) add_pairs(pairs);
    return first;
  }

  void add_weight(int64_t id, double weight) {
    count_term(kWeight, analysis::in_range(weight));
    if (!analysis::in_range(weight)) return;
    const FixedPoint term = to_fixed_point(weight);
    vector(kWeightHigh)[id] += term.hi;
    vector(kWeightLow)[id] += term.lo;
  }

  void add_pairs(int64_t* pairs) {
    std::sort(chosen_.begin(), chosen_.end());
    chosen_.erase(std::unique(chosen_.begin(), chosen_.end()), chosen_.end());
    for (size_t i = 0; i < chosen_.size(); ++i) {
      for (size_t j = i + 1; j < chosen_.size(); ++j) ++pairs[layout_.pair_index(chosen_[i], chosen_[j])];
    }
  }

  const Planes& planes_;
  const RouterSumsLayout layout_;
  const TokenKernels& kernels_;
  std::vector<double> experts_;       // values of the token at hand, one an expert
  std::vector<double> weights_;       // its gate weights, one a slot
  std::vector<double> used_weights_;  // those of slots that hold an expert
  std::vector<int64_t> chosen_;       // experts with nonzero weight
  int64_t* row_ = nullptr;
};

/// Counts neighbours among the valid tokens of each row. In order, so after the threads are done.
void add_repeats(const at::Tensor& first_slots, const int64_t* row_of, RouterSums& sums) {
  const RouterSumsLayout layout = sums.layout();
  int64_t* words = sums.words.mutable_data_ptr<int64_t>();
  constexpr int32_t kNoToken = -2;
  std::vector<int32_t> previous(sums.num_rows, kNoToken);
  const int32_t* first_slot = first_slots.const_data_ptr<int32_t>();
  for (int64_t token = 0; token < first_slots.size(0); ++token) {
    const int64_t row = row_of[token];
    if (row < 0 || row >= sums.num_rows) continue;
    const int32_t first = first_slot[token];
    if (first != kNoSlot && previous[row] >= 0) {
      int64_t* counters = words + row * layout.row_words();
      ++counters[RouterSumsLayout::counter(kRepeatPairs)];
      counters[RouterSumsLayout::counter(kRepeatHits)] += first == previous[row];
    }
    previous[row] = first;
  }
}

}  // namespace

void observe_on_cpu(RouterSums& sums, const RouterCall& call, const TokenRows& rows) {
  const int64_t num_tokens = call.selected.size(0);
  const RouterSumsLayout layout = sums.layout();
  const Planes planes(call, rows);
  const int64_t* row_of = planes.row.const_data_ptr<int64_t>();
  const auto is_valid = [&](int64_t token) { return row_of[token] >= 0 && row_of[token] < layout.num_rows; };
  const at::Tensor first_slots = at::full({num_tokens}, kNoSlot, at::kInt);
  int32_t* first_slot = first_slots.mutable_data_ptr<int32_t>();
  int64_t* words = sums.words.mutable_data_ptr<int64_t>();
  std::mutex merging;

  const auto add_tokens = [&](int64_t begin, int64_t end, int64_t first_row, int64_t* rows_begin, int64_t* pairs) {
    TokenMeter meter(planes, layout);
    for (int64_t token = begin; token < end; ++token) {
      if (!is_valid(token)) continue;
      first_slot[token] = meter.add(token, rows_begin + (row_of[token] - first_row) * layout.row_words(), pairs);
    }
  };
  const auto add_chunk = [&](int64_t begin, int64_t end) {
    if (end - begin == num_tokens) {  // no other thread adds
      add_tokens(begin, end, 0, words, sums.has_pairs ? words + layout.pairs_begin() : nullptr);
      normalize(sums);
      return;
    }
    // The rows that the chunk touches: neighbouring tokens mostly lie in few.
    int64_t first_row = layout.num_rows, last_row = -1;
    for (int64_t token = begin; token < end; ++token) {
      if (!is_valid(token)) continue;
      first_row = std::min(first_row, row_of[token]);
      last_row = std::max(last_row, row_of[token]);
    }
    if (last_row < 0) return;
    const int64_t row_words = (last_row + 1 - first_row) * layout.row_words();
    std::vector<int64_t> block(row_words + (sums.has_pairs ? layout.pair_words() : 0), 0);
    int64_t* pairs = sums.has_pairs ? block.data() + row_words : nullptr;
    add_tokens(begin, end, first_row, block.data(), pairs);

    const std::lock_guard<std::mutex> lock(merging);
    int64_t* first_word = words + first_row * layout.row_words();
    for (int64_t i = 0; i < row_words; ++i) first_word[i] += block[i];
    for (int64_t i = 0; pairs && i < layout.pair_words(); ++i) words[layout.pairs_begin() + i] += pairs[i];
    // Probabilities are added to low limbs without being split: see kMaxTokensInBlock.
    normalize(sums);
  };

  // A thread is worth its start for some ten thousand elements.
  const int64_t grain = std::max<int64_t>(1, 16384 / (layout.num_experts + 16 * layout.top_k + 1));
  for_token_ranges(num_tokens, grain, [&](int64_t begin, int64_t end) {
    for (int64_t from = begin; from < end; from += kMaxTokensInBlock) {
      add_chunk(from, std::min(end, from + kMaxTokensInBlock));
    }
  });
  add_repeats(first_slots, row_of, sums);
}

}  // namespace moetap::analysis
