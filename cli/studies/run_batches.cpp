#include "cli/studies/run_batches.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "cli/exports/export_format.h"

namespace moetap::cli {
namespace {

using studies::Order;

constexpr int64_t kCloseTokens = 64;  // reading that many in vain costs less than another read
constexpr double kMissing = std::numeric_limits<double>::quiet_NaN();

bool wants(uint32_t needs, uint32_t bits) {
  return (needs & bits) != 0;
}

}  // namespace

RunBatches::RunBatches(const RunSource& source, uint32_t needs) : source_(source), needs_(needs) {
  buffer_.layers.resize(source.shape().layers.size());
  for (size_t i = 0; i < source.dumps().size(); ++i) {
    const RunDump& dump = source.dumps()[i];
    OwnDump& own = dumps_.emplace_back();
    if (dump.reader->is_joined()) {
      own.reader = dump.reader.get();
      own.mutex = dump.mutex.get();
    } else {
      own.own = source.open_dump(*source.runs()[i]);
      own.reader = own.own.get();
    }
  }
}

studies::TokenBatch& RunBatches::read(Order order, int64_t first, int64_t n) {
  tokens_.resize(static_cast<size_t>(n));
  if (order == Order::kSamples) {
    source_.index().read_sample_order(first, n, tokens_.data());
  } else {
    std::iota(tokens_.begin(), tokens_.end(), first);
  }
  studies::TokenBatch& batch = read_tokens(tokens_);
  batch.first_token = first;
  if (order != Order::kSamples) {
    std::fill(buffer_.step.begin(), buffer_.step.end(), -1);
    return batch;
  }
  const std::vector<int64_t>& cuts = source_.index().sample_cuts();
  auto cut = std::upper_bound(cuts.begin(), cuts.end(), first) - 1;
  for (int64_t i = 0; i < n; ++i) {
    while (*(cut + 1) <= first + i) ++cut;
    const bool known = first + i < source_.index().num_known();
    buffer_.step[static_cast<size_t>(i)] = known ? static_cast<int32_t>(first + i - *cut) : -1;
  }
  return batch;
}

studies::TokenBatch& RunBatches::read_tokens(const std::vector<int64_t>& tokens) {
  return fill(tokens, 0, buffer_.layers.size());
}

studies::TokenBatch& RunBatches::read_layer_of(const std::vector<int64_t>& tokens, size_t layer) {
  return fill(tokens, layer, layer + 1);
}

void RunBatches::read_column_of(const std::vector<int64_t>& tokens, size_t layer, const char* what, int64_t width,
                                std::vector<float>& out) {
  find_segments(tokens);
  out.resize(tokens.size() * static_cast<size_t>(width));
  for (const Segment& segment : segments_) {
    read_reals(segment, layer, what, width, logits_);
    place<float, float>(segment, logits_.data(), width, width, std::numeric_limits<float>::quiet_NaN(), out.data());
  }
}

/// Of the layers [first_layer, end_layer).
studies::TokenBatch& RunBatches::fill(const std::vector<int64_t>& tokens, size_t first_layer, size_t end_layer) {
  find_segments(tokens);
  const size_t n = tokens.size();
  buffer_.resize_labels(n);
  buffer_.group.resize(source_.shape().groups.empty() ? 0 : n);
  for (size_t l = first_layer; l < end_layer; ++l) {
    const studies::LayerShape& shape = source_.shape().layers[l];
    LayerBuffer& layer = buffer_.layers[l];
    const size_t slots = n * static_cast<size_t>(shape.top_k), experts = n * static_cast<size_t>(shape.num_experts);
    layer.ids.resize(slots);
    layer.weights.resize(wants(needs_ & source_.has(), studies::kNeedsWeights) ? slots : 0);
    layer.gates.resize(wants(needs_ & source_.has(), studies::kNeedsGates) ? slots : 0);
    layer.scores.resize(wants(needs_ & source_.has(), studies::kNeedsScores) ? experts : 0);
    layer.logits.resize(wants(needs_ & source_.has(), studies::kNeedsLogits) ? experts : 0);
    layer.seen.assign(source_.columns().may_miss_rows ? n : 0, 1);
    layer.foreign_ids = 0;
  }
  for (const Segment& segment : segments_) {
    read_labels(segment);
    for (size_t l = first_layer; l < end_layer; ++l) read_layer(segment, l);
  }
  for (size_t l = first_layer; l < end_layer; ++l) {
    LayerBuffer& layer = buffer_.layers[l];
    layer.foreign_ids = drop_foreign_ids(source_.shape().layers[l], layer.ids);
    if (source_.options().gate == GateOption::kTopK) {
      divide_by_sum_of_slots(layer.gates, layer.ids, source_.shape().layers[l].top_k);
    }
  }
  return buffer_.view(source_.shape(), 0, static_cast<int64_t>(n));
}

void RunBatches::find_segments(const std::vector<int64_t>& tokens) {
  segments_.clear();
  bool consecutive = true;
  for (size_t i = 1; i < tokens.size() && consecutive; ++i) consecutive = tokens[i] == tokens[i - 1] + 1;
  if (consecutive) {
    size_t place = 0;
    for (int64_t first = tokens.empty() ? 0 : tokens[0], left = static_cast<int64_t>(tokens.size()); left > 0;) {
      add_segment(first, left);
      segments_.back().place = place;
      place += static_cast<size_t>(segments_.back().n);
      first += segments_.back().n;
      left -= segments_.back().n;
    }
    return;
  }
  std::vector<size_t> sorted(tokens.size());
  std::iota(sorted.begin(), sorted.end(), size_t{0});
  std::sort(sorted.begin(), sorted.end(), [&](size_t a, size_t b) { return tokens[a] < tokens[b]; });
  for (size_t begin = 0; begin < sorted.size();) {
    size_t end = begin + 1;
    while (end < sorted.size() && tokens[sorted[end]] - tokens[sorted[end - 1]] <= kCloseTokens) ++end;
    for (size_t i = begin; i < end;) {
      const int64_t first = tokens[sorted[i]];
      add_segment(first, tokens[sorted[end - 1]] + 1 - first);
      Segment& segment = segments_.back();
      for (; i < end && tokens[sorted[i]] < first + segment.n; ++i) {
        segment.wanted.push_back(tokens[sorted[i]] - first);
        segment.places.push_back(sorted[i]);
      }
    }
    begin = end;
  }
}

/// A segment from `first` on, in one dump, of at most n tokens.
void RunBatches::add_segment(int64_t first, int64_t n) {
  const std::vector<RunDump>& dumps = source_.dumps();
  size_t dump = dumps.size() - 1;
  while (dumps[dump].first_token > first) --dump;
  Segment& segment = segments_.emplace_back();
  segment.dump = dump;
  segment.first = first - dumps[dump].first_token;
  segment.n = std::min(n, dumps[dump].reader->num_tokens() - segment.first);
}

void RunBatches::read_labels(const Segment& segment) {
  const RunDump& dump = source_.dumps()[segment.dump];
  labels_.resize(static_cast<size_t>(segment.n));
  {
    const OwnDump& own = dumps_[segment.dump];
    const auto lock = own.mutex != nullptr ? std::unique_lock(*own.mutex) : std::unique_lock<std::mutex>();
    own.reader->read_labels(segment.first, segment.n, labels_.data());
  }
  const auto set = [&](size_t t, const plugin::TokenLabel& label) {
    const bool missing = label.phase < 0;
    buffer_.sample[t] = missing ? -1 : label.sample;
    buffer_.source[t] = dump.source_of(label.rank);
    buffer_.forward[t] = label.forward;
    buffer_.position[t] = label.position;
    buffer_.token_id[t] = label.token_id;
    buffer_.phase[t] = static_cast<uint8_t>(missing ? 0 : label.phase);
    if (buffer_.group.empty()) return;
    const RunSourceOptions& options = source_.options();
    buffer_.group[t] = missing                  ? -1
                       : options.group_by_phase ? (label.phase == 0 ? 1 : 0)
                                                : options.groups->group_of(segment.dump, label.sample);
  };
  if (segment.wanted.empty()) {
    for (size_t i = 0; i < labels_.size(); ++i) set(segment.place + i, labels_[i]);
  } else {
    for (size_t i = 0; i < segment.wanted.size(); ++i)
      set(segment.places[i], labels_[static_cast<size_t>(segment.wanted[i])]);
  }
}

template <typename From, typename To>
void RunBatches::place(const Segment& segment, const From* from, int64_t from_width, int64_t width, To missing,
                       To* to) {
  const auto copy = [&](int64_t row, size_t t) {
    const From* begin = from + row * from_width;
    To* out = to + static_cast<int64_t>(t) * width;
    const int64_t shared = std::min(from_width, width);
    for (int64_t i = 0; i < shared; ++i) out[i] = static_cast<To>(begin[i]);
    for (int64_t i = shared; i < width; ++i) out[i] = missing;
  };
  if (segment.wanted.empty()) {
    for (int64_t row = 0; row < segment.n; ++row) copy(row, segment.place + static_cast<size_t>(row));
  } else {
    for (size_t i = 0; i < segment.wanted.size(); ++i) copy(segment.wanted[i], segment.places[i]);
  }
}

void RunBatches::read_reals(const Segment& segment, size_t layer, const char* what, int64_t width,
                            std::vector<float>& out) {
  out.resize(static_cast<size_t>(segment.n * width));
  const OwnDump& own = dumps_[segment.dump];
  const auto lock = own.mutex != nullptr ? std::unique_lock(*own.mutex) : std::unique_lock<std::mutex>();
  own.reader->read_reals(source_.shape().layers[layer].id, what, segment.first, segment.n, width, out.data());
}

void RunBatches::read_layer(const Segment& segment, size_t l) {
  const studies::LayerShape& shape = source_.shape().layers[l];
  const RunColumns& columns = source_.columns();
  LayerBuffer& layer = buffer_.layers[l];
  const int64_t K = shape.top_k, E = shape.num_experts;
  const bool is_all = segment.wanted.empty();
  if (!is_all) ids_.resize(static_cast<size_t>(segment.n * K));
  int32_t* const ids = is_all ? layer.ids.data() + static_cast<int64_t>(segment.place) * K : ids_.data();
  {
    const OwnDump& own = dumps_[segment.dump];
    const auto lock = own.mutex != nullptr ? std::unique_lock(*own.mutex) : std::unique_lock<std::mutex>();
    own.reader->read_ids(shape.id, segment.first, segment.n, K, ids);
  }
  if (!is_all) place<int32_t, int32_t>(segment, ids, K, K, -1, layer.ids.data());
  const bool has_weights = wants(source_.has(), studies::kNeedsWeights);
  const bool gates_are_weights = !layer.gates.empty() && columns.gates_are_weights;
  if (has_weights && (!layer.weights.empty() || gates_are_weights || !layer.seen.empty())) {
    read_reals(segment, l, "weights", K, weights_);
    if (!layer.weights.empty()) place<float, double>(segment, weights_.data(), K, K, 0, layer.weights.data());
  }
  if (!layer.seen.empty()) {
    std::vector<uint8_t> seen(static_cast<size_t>(segment.n), 0);
    for (int64_t t = 0; t < segment.n; ++t) {
      const int32_t* row = ids + t * K;
      const bool chosen = std::any_of(row, row + K, [](int32_t id) { return id != -1; });
      seen[static_cast<size_t>(t)] =
          chosen || (has_weights && !std::isnan(weights_[static_cast<size_t>(t * K)])) ? 1 : 0;
    }
    place<uint8_t, uint8_t>(segment, seen.data(), 1, 1, 0, layer.seen.data());
  }
  const bool wants_scores = !layer.scores.empty() || (!layer.gates.empty() && !columns.gates_are_weights);
  if (!layer.logits.empty() || (wants_scores && columns.scores_from_logits[l] != 0)) {
    read_reals(segment, l, "logits", columns.logit_width[l], logits_);
    if (!layer.logits.empty()) {
      place<float, double>(segment, logits_.data(), columns.logit_width[l], E, kMissing, layer.logits.data());
    }
  }
  int64_t score_width = columns.score_width[l];
  if (wants_scores && columns.scores_from_logits[l] != 0) {
    score_width = columns.logit_width[l];
    scores_ = logits_;
    softmax_rows(scores_.data(), segment.n, score_width);
  } else if (wants_scores) {
    read_reals(segment, l, "scores", score_width, scores_);
  }
  if (!layer.scores.empty())
    place<float, double>(segment, scores_.data(), score_width, E, kMissing, layer.scores.data());
  if (layer.gates.empty()) return;
  if (columns.gates_are_weights) {
    place<float, double>(segment, weights_.data(), K, K, 0, layer.gates.data());
    return;
  }
  std::vector<float> gates(static_cast<size_t>(segment.n * K));
  for (int64_t t = 0; t < segment.n; ++t) {
    for (int64_t k = 0; k < K; ++k) {
      const int32_t id = ids[t * K + k];
      const bool known = id >= 0 && id < score_width;
      gates[static_cast<size_t>(t * K + k)] = known ? scores_[static_cast<size_t>(t * score_width + id)] : 0;
    }
  }
  place<float, double>(segment, gates.data(), K, K, 0, layer.gates.data());
}

}  // namespace moetap::cli
