#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <limits>
#include <mutex>
#include <vector>

#include "analysis/numbers/fixed_point.h"
#include "analysis/numbers/token_ranges.h"
#include "analysis/routers/host_call.h"
#include "analysis/routers/host_planes.h"
#include "analysis/routers/observe_paths.h"
#include "analysis/routers/router_sums.h"
#include "analysis/routers/token_meter.h"

// Note [The CPU path]
// A call is measured in plain memory: tensors are read where they lie, unless their columns are no neighbours. A thread
// takes neighbouring tokens and adds them, one after the other. A short call is added to the sums by its own thread. Of
// a long one each thread fills a block of rows in the layout of the sums, and the blocks are added to the sums at the
// end. Only integers are added, so it does not matter which thread had which token. Each token is measured in double
// precision in memory that stays in the first-level cache: the logits are read once, and the bits of a token do not
// depend on its neighbours. A block is short enough for its sums of probabilities and weights: see kMaxShortWeight.
namespace moetap::analysis {
namespace {

/// Memory of a thread that grows to the largest call and is used again.
struct ThreadMemory {
  MeterMemory meter;
  std::vector<int32_t> first_slot;  // of each token, where the caller does not want them
  std::vector<int32_t> previous;    // of each row: see `add_repeats`
  std::vector<int64_t> block;       // sums: see `add_block`
};

ThreadMemory& thread_memory() {
  thread_local ThreadMemory memory;
  return memory;
}

/// A call with its rows and outputs.
class HostTokens {
 public:
  HostTokens(const HostRouterCall& call, const HostTokenOutputs& outputs)
      : call_(call), outputs_(outputs), tokens_of_row_(std::max<int64_t>(1, call.num_tokens / call.num_rows)) {
    if (!call.weights.defined()) outputs_.weights = nullptr;
    if (!call.has_margins()) outputs_.margins = nullptr;
    if (outputs_.first_slot != nullptr) return;
    std::vector<int32_t>& first_slot = thread_memory().first_slot;
    if (static_cast<int64_t>(first_slot.size()) < call.num_tokens) first_slot.resize(call.num_tokens);
    outputs_.first_slot = first_slot.data();
  }

  const int32_t* first_slots() const { return outputs_.first_slot; }

  /// The rows of tokens that follow each other; not in [0, num_rows): the token is masked. No division for each token.
  class Rows {
   public:
    Rows(const HostTokens& tokens, int64_t begin)
        : tokens_(tokens), is_given_(tokens.call_.row != nullptr), token_(begin) {
      const HostRouterCall& call = tokens.call_;
      const bool interleaved = call.order == RowOrder::kInterleaved;
      size_ = interleaved ? 1 : tokens.tokens_of_row_;
      wrap_ = interleaved ? call.num_rows : std::numeric_limits<int64_t>::max();
      row_ = interleaved ? begin % call.num_rows : begin / size_;
      left_ = size_ - (interleaved ? 0 : begin % size_);
    }

    int64_t next() {
      const int64_t token = token_++;
      if (is_given_) return tokens_.call_.row[token];
      if (left_ == 0) {
        left_ = size_;
        if (++row_ == wrap_) row_ = 0;
      }
      --left_;
      const bool* valid = tokens_.call_.valid;
      return valid == nullptr || valid[token] ? row_ : kMaskedRow;
    }

   private:
    const HostTokens& tokens_;
    const bool is_given_;
    int64_t token_, row_, left_, size_, wrap_;
  };

  bool is_row(int64_t row) const { return row >= 0 && row < call_.num_rows; }

  /// Adds tokens to the rows from `first_row` on, and to the pairs if there are any.
  void add(int64_t begin, int64_t end, const RouterSumsLayout& layout, int64_t first_row, int64_t* rows,
           int64_t* pairs) const {
    write_slots(call_, begin, end, outputs_);
    TokenMeter meter(call_, outputs_, layout, pairs, end - begin, thread_memory().meter);
    MeteredToken group[kMaxGroup];
    int64_t count = 0;
    Rows rows_of_tokens(*this, begin);
    for (int64_t token = begin; token < end; ++token) {
      const int64_t row = rows_of_tokens.next();
      if (!is_row(row)) {
        write_masked(token);
        continue;
      }
      group[count++] = {token, rows + (row - first_row) * layout.row_words()};
      if (count < kMaxGroup) continue;
      meter.add(group, count);
      count = 0;
    }
    if (count > 0) meter.add(group, count);
    meter.finish();
  }

 private:
  void write_masked(int64_t token) const {
    outputs_.first_slot[token] = kNoSlot;
    if (outputs_.margins != nullptr) outputs_.margins[token] = 0;
  }

  const HostRouterCall& call_;
  HostTokenOutputs outputs_;
  int64_t tokens_of_row_;
};

/// Counts neighbours among the valid tokens of each row. In order, so after the threads are done.
void add_repeats(const HostTokens& tokens, int64_t num_tokens, const HostSums& sums) {
  constexpr int32_t kNoToken = -2;
  std::vector<int32_t>& previous = thread_memory().previous;
  previous.assign(sums.layout.num_rows, kNoToken);
  HostTokens::Rows rows(tokens, 0);
  for (int64_t token = 0; token < num_tokens; ++token) {
    const int64_t row = rows.next();
    if (!tokens.is_row(row)) continue;
    const int32_t first = tokens.first_slots()[token];
    if (first != kNoSlot && previous[row] >= 0) {
      int64_t* counters = sums.words + row * sums.layout.row_words();
      ++counters[RouterSumsLayout::counter(kRepeatPairs)];
      counters[RouterSumsLayout::counter(kRepeatHits)] += first == previous[row];
    }
    previous[row] = first;
  }
}

/// `first_slot`: kNoSlot for masked tokens.
void add_transitions(const int32_t* first_slot, int64_t num_tokens, int64_t num_experts,
                     const HostTransition& transition) {
  const int32_t* before = transition.first_slot;
  for (int64_t token = 0; token < num_tokens; ++token) {
    const bool counted = first_slot[token] >= 0 && before[token] >= 0 && before[token] < transition.num_experts_before;
    if (counted) ++transition.counts[before[token] * num_experts + first_slot[token]];
  }
}

/// Adds the tokens of a range that is one of several: other threads add to the same sums.
void add_block(const HostTokens& tokens, int64_t begin, int64_t end, const HostSums& sums, std::mutex& merging) {
  // The rows that the block touches: neighbouring tokens mostly lie in few.
  const RouterSumsLayout& layout = sums.layout;
  int64_t first_row = layout.num_rows, last_row = -1;
  HostTokens::Rows rows(tokens, begin);
  for (int64_t token = begin; token < end; ++token) {
    const int64_t row = rows.next();
    if (!tokens.is_row(row)) continue;
    first_row = std::min(first_row, row);
    last_row = std::max(last_row, row);
  }
  const int64_t row_words = std::max<int64_t>(0, last_row + 1 - first_row) * layout.row_words();
  std::vector<int64_t>& block = thread_memory().block;
  block.assign(row_words + (sums.has_pairs ? layout.pair_words() : 0), 0);
  int64_t* pairs = sums.has_pairs ? block.data() + row_words : nullptr;
  tokens.add(begin, end, layout, first_row, block.data(), pairs);
  if (row_words == 0) return;

  const std::lock_guard<std::mutex> lock(merging);
  int64_t* first_word = sums.words + first_row * layout.row_words();
  for (int64_t i = 0; i < row_words; ++i) first_word[i] += block[i];
  for (int64_t i = 0; pairs && i < layout.pair_words(); ++i) sums.words[layout.pairs_begin() + i] += pairs[i];
  // Probabilities are added to low limbs without being split: see kMaxTokensInBlock.
  normalize_words(layout, sums.words);
}

int64_t* pairs_of(const HostSums& sums) {
  return sums.has_pairs ? sums.words + sums.layout.pairs_begin() : nullptr;
}

/// Tokens of a block: see kMaxShortWeight.
int64_t tokens_of_block(const RouterSumsLayout& layout) {
  return std::max<int64_t>(1, kMaxTokensInBlock / std::max<int64_t>(1, layout.top_k));
}

void add_to_sums(const HostTokens& tokens, int64_t begin, int64_t end, const HostSums& sums) {
  const int64_t size = tokens_of_block(sums.layout);
  for (int64_t from = begin; from < end; from += size) {
    tokens.add(from, std::min(end, from + size), sums.layout, 0, sums.words, pairs_of(sums));
    normalize_words(sums.layout, sums.words);
  }
}

void add_sequences(const HostTokens& tokens, const HostRouterCall& call, const HostSums& sums,
                   const HostTransition& transition) {
  add_repeats(tokens, call.num_tokens, sums);
  if (transition.first_slot == nullptr) return;
  add_transitions(tokens.first_slots(), call.num_tokens, call.num_experts, transition);
}

/// The memory of a call's tensors; those that it cannot read in place are copied.
class HostTensors {
 public:
  HostPlane reals(const at::Tensor& tensor) {
    if (!tensor.defined()) return {};
    return plane(real_format(tensor.scalar_type()) ? tensor : keep(tensor.detach().to(at::kFloat)));
  }

  /// tensor: [num_tokens, n]
  HostPlane plane(const at::Tensor& tensor) {
    const bool is_read = tensor.stride(1) == 1 || tensor.size(1) <= 1;
    const at::Tensor& readable = is_read ? tensor : keep(tensor.detach().contiguous());
    static constexpr char kNothing = 0;  // the address of a tensor without elements, which is there all the same
    return {readable.numel() > 0 ? readable.const_data_ptr() : &kNothing, readable.scalar_type(), readable.stride(0)};
  }

  /// tensor: [num_tokens]
  template <typename Element>
  const Element* line(const at::Tensor& tensor) {
    if (!tensor.defined()) return nullptr;
    return (tensor.is_contiguous() ? tensor : keep(tensor.contiguous())).const_data_ptr<Element>();
  }

 private:
  const at::Tensor& keep(at::Tensor copy) { return copies_[num_copies_++] = std::move(copy); }

  at::Tensor copies_[12];  // a plane may be copied twice
  int64_t num_copies_ = 0;
};

HostRouterCall host_call(const RouterCall& call, const TokenRows& rows, HostTensors& tensors) {
  HostRouterCall host;
  host.num_tokens = call.selected.size(0);
  host.num_experts = call.num_experts;
  host.top_k = call.selected.size(1);
  host.logits = tensors.reals(call.logits);
  host.probabilities = tensors.reals(call.probabilities);
  if (call.sigmoid_scores) host.scores = tensors.reals(call.scores);
  host.selected = tensors.plane(call.selected);
  host.weights = tensors.reals(call.weights);
  host.sigmoid_scores = call.sigmoid_scores;
  host.num_rows = rows.num_rows;
  host.order = rows.order;
  host.row = tensors.line<int64_t>(rows.row);
  host.valid = tensors.line<bool>(rows.valid);
  return host;
}

template <typename Element>
Element* address(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.mutable_data_ptr<Element>() : nullptr;
}

}  // namespace

void observe_host(const HostRouterCall& call, const HostSums& sums, const HostTokenOutputs& outputs,
                  const HostTransition& transition) {
  const HostTokens tokens(call, outputs);
  add_to_sums(tokens, 0, call.num_tokens, sums);
  add_sequences(tokens, call, sums, transition);
}

void observe_on_cpu(RouterSums& sums, const RouterCall& call, const TokenRows& rows, const TokenOutputs& outputs,
                    const TransitionFrom& transition) {
  HostTensors tensors;
  const HostRouterCall host = host_call(call, rows, tensors);
  const HostSums host_words = host_sums(sums);
  const HostTokenOutputs addresses{address<int32_t>(outputs.selected), address<float>(outputs.weights),
                                   address<int32_t>(outputs.first_slot), address<float>(outputs.margins)};
  HostTransition host_transition;
  if (transition.first_slot.defined()) {
    host_transition = {transition.first_slot.const_data_ptr<int32_t>(), transition.counts.size(0),
                       transition.counts.mutable_data_ptr<int64_t>()};
  }
  // A thread is worth its start for some ten thousand elements.
  const int64_t grain = std::max<int64_t>(1, 16384 / (host.num_experts + 16 * host.top_k + 1));
  if (host.num_tokens <= grain) {
    observe_host(host, host_words, addresses, host_transition);
  } else {
    const HostTokens tokens(host, addresses);
    std::mutex merging;
    for_token_ranges(host.num_tokens, grain, [&](int64_t begin, int64_t end) {
      if (begin == 0 && end == host.num_tokens) return add_to_sums(tokens, begin, end, host_words);
      const int64_t size = tokens_of_block(host_words.layout);
      for (int64_t from = begin; from < end; from += size) {
        add_block(tokens, from, std::min(end, from + size), host_words, merging);
      }
    });
    add_sequences(tokens, host, host_words, host_transition);
  }
  if (host.num_tokens > 0) sums.pending_terms = 0;  // normalized
}

}  // namespace moetap::analysis
