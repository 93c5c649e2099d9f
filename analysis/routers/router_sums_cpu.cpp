#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
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
// sums; the blocks are added to the sums at the end. Only integers are added, so it does not matter which thread had
// which token. Each token is measured in double precision in a buffer that stays in the first-level cache: the logits
// are read once, and the bits of a token do not depend on its neighbours.
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

  template <typename Real>
  void read(int64_t row, Real* out) const {
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
  bool scores_are_logits = false;  // the router's scores are the sigmoid of the logits
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

/// The first two slots of a token: see Note [Slots are ranked by gate weight].
struct TokenSlots {
  int32_t first = kNoSlot;         // expert of the first slot
  double largest = 0, second = 0;  // w[0] and w[1]; 0: there is no such slot, or the call has no weights

  double margin() const { return largest - second; }
  /// Of the weights as they are recorded, in float32.
  float recorded_margin() const { return static_cast<float>(largest) - static_cast<float>(second); }
};

/// Where the outputs of single tokens are written; null: not asked for.
struct OutputAddresses {
  int32_t* selected = nullptr;
  float* weights = nullptr;
  int32_t* first_slot = nullptr;
  float* margins = nullptr;

  OutputAddresses(const TokenOutputs& outputs, bool has_weights, int64_t top_k)
      : selected(address<int32_t>(outputs.selected)),
        weights(has_weights ? address<float>(outputs.weights) : nullptr),
        first_slot(address<int32_t>(outputs.first_slot)),
        margins(has_weights && top_k > 1 ? address<float>(outputs.margins) : nullptr) {}

  void write_slots(const Planes& planes, const RouterSumsLayout& layout, int64_t token) const {
    const int64_t begin = token * layout.top_k;
    if (selected != nullptr) {
      const int64_t* ids = planes.selected.const_data_ptr<int64_t>() + begin;
      for (int64_t slot = 0; slot < layout.top_k; ++slot) {
        const bool used = ids[slot] >= 0 && ids[slot] < layout.num_experts;
        selected[begin + slot] = used ? static_cast<int32_t>(ids[slot]) : -1;
      }
    }
    if (weights != nullptr) planes.weights.read(token, weights + begin);
  }

  void write_ranked(const TokenSlots& slots, int64_t token) const {
    if (first_slot != nullptr) first_slot[token] = slots.first;
    if (margins != nullptr) margins[token] = slots.recorded_margin();
  }

 private:
  template <typename Element>
  static Element* address(const at::Tensor& tensor) {
    return tensor.defined() ? tensor.mutable_data_ptr<Element>() : nullptr;
  }
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

  /// Adds a token to the row and pairs at these addresses; returns its first slots. `pairs` is null where there is no
  /// table.
  TokenSlots add(int64_t token, int64_t* row, int64_t* pairs) {
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

  TokenSlots add_slots(int64_t token, int64_t* pairs) {
    const int64_t top_k = layout_.top_k;
    const int64_t* ids = planes_.selected.const_data_ptr<int64_t>() + token * top_k;
    const bool weighted = planes_.weights.defined();
    if (weighted) planes_.weights.read(token, weights_.data());

    int64_t num_used = 0;
    TokenSlots slots;
    chosen_.clear();
    for (int64_t slot = 0; slot < top_k; ++slot) {
      const int64_t id = ids[slot];
      if (id < 0 || id >= layout_.num_experts) {
        if (id != -1) ++row_[RouterSumsLayout::counter(kInvalidIds)];
        continue;
      }
      if (!weighted) {
        if (slots.first == kNoSlot) slots.first = static_cast<int32_t>(id);
        ++vector(kSelected)[id];
        chosen_.push_back(id);
        continue;
      }
      const double weight = weights_[slot];
      const double rank = std::isnan(weight) ? -std::numeric_limits<double>::infinity() : weight;
      // The second weight is the largest of all other slots, whether they hold the same expert or not.
      if (slots.first == kNoSlot || rank > slots.largest || (rank == slots.largest && id < slots.first)) {
        slots.second = slots.largest;
        slots.largest = rank;
        slots.first = static_cast<int32_t>(id);
      } else if (num_used == 1 || rank > slots.second) {
        slots.second = rank;
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
    if (slots.first != kNoSlot) ++vector(kFirstSlot)[slots.first];
    if (chosen_.empty()) ++row_[RouterSumsLayout::counter(kDroppedTokens)];
    if (weighted) {
      const EntropyTerms terms = kernels_.entropy(used_weights_.data(), num_used);
      add_term(kEntropyTopk, terms.in_range, terms.entropy);
      if (top_k > 1) add_term(kMargin, true, slots.margin());
    }
    if (pairs) add_pairs(pairs);
    return slots;
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
void add_repeats(const int32_t* first_slot, int64_t num_tokens, const int64_t* row_of, RouterSums& sums) {
  const RouterSumsLayout layout = sums.layout();
  int64_t* words = sums.words.mutable_data_ptr<int64_t>();
  constexpr int32_t kNoToken = -2;
  std::vector<int32_t> previous(sums.num_rows, kNoToken);
  for (int64_t token = 0; token < num_tokens; ++token) {
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

/// `first_slot`: kNoSlot for masked tokens.
void add_transitions(const int32_t* first_slot, const TransitionFrom& transition) {
  const int32_t* before = transition.first_slot.const_data_ptr<int32_t>();
  const int64_t num_experts_before = transition.counts.size(0), num_experts = transition.counts.size(1);
  int64_t* counts = transition.counts.mutable_data_ptr<int64_t>();
  for (int64_t token = 0; token < transition.first_slot.size(0); ++token) {
    const bool counted = first_slot[token] >= 0 && before[token] >= 0 && before[token] < num_experts_before;
    if (counted) ++counts[before[token] * num_experts + first_slot[token]];
  }
}

}  // namespace

void observe_on_cpu(RouterSums& sums, const RouterCall& call, const TokenRows& rows, const TokenOutputs& outputs,
                    const TransitionFrom& transition) {
  const int64_t num_tokens = call.selected.size(0);
  const RouterSumsLayout layout = sums.layout();
  const Planes planes(call, rows);
  const int64_t* row_of = planes.row.const_data_ptr<int64_t>();
  const auto is_valid = [&](int64_t token) { return row_of[token] >= 0 && row_of[token] < layout.num_rows; };
  TokenOutputs asked = outputs;
  if (!asked.first_slot.defined()) asked.first_slot = at::empty({num_tokens}, at::kInt);  // repeats are counted of them
  const OutputAddresses out(asked, call.weights.defined(), layout.top_k);
  int64_t* words = sums.words.mutable_data_ptr<int64_t>();
  std::mutex merging;

  const auto add_tokens = [&](int64_t begin, int64_t end, int64_t first_row, int64_t* rows_begin, int64_t* pairs) {
    TokenMeter meter(planes, layout);
    for (int64_t token = begin; token < end; ++token) {
      if (!is_valid(token)) continue;
      int64_t* row = rows_begin + (row_of[token] - first_row) * layout.row_words();
      out.write_ranked(meter.add(token, row, pairs), token);
    }
  };
  const auto add_chunk = [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      out.write_slots(planes, layout, token);
      out.write_ranked(TokenSlots{}, token);  // for a masked token it stays
    }
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
  add_repeats(out.first_slot, num_tokens, row_of, sums);
  if (transition.first_slot.defined()) add_transitions(out.first_slot, transition);
}

}  // namespace moetap::analysis
