#include "cli/studies/array_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace moetap::cli {
namespace {

using studies::Order;

constexpr uint32_t kGateNeeds = studies::kNeedsWeights | studies::kNeedsGates;

}  // namespace

ArraySource::ArraySource(ArrayFiles files, GateOption gate, bool with_padding)
    : files_(std::move(files)), gate_(gate), with_padding_(with_padding) {
  shape_.name = "arrays";
  shape_.padded_length = files_.length;
  for (int64_t l = 0; l < files_.num_layers; ++l) {
    studies::LayerShape layer;
    layer.id = std::to_string(l);
    layer.num_experts = files_.num_experts;
    layer.top_k = files_.top_k;
    shape_.layers.push_back(std::move(layer));
  }
  cuts_.push_back(0);
  for (const int64_t valid : files_.valid_tokens)
    cuts_.push_back(cuts_.back() + (with_padding_ ? files_.length : valid));
}

uint32_t ArraySource::has() const {
  uint32_t has = studies::kNeedsTokens | studies::kNeedsTokenIds | studies::kNeedsSamples;
  if (files_.gates) has |= kGateNeeds | studies::kNeedsScores;
  if (files_.attention) has |= studies::kNeedsAttention;
  if (with_padding_) has |= studies::kNeedsPadding;
  return has;
}

int64_t ArraySource::num_tokens(Order order) const {
  return order == Order::kForwards ? 0 : cuts_.back();
}

const std::vector<int64_t>& ArraySource::cuts(Order order) const {
  return order == Order::kForwards ? none_ : cuts_;
}

int64_t ArraySource::bytes_per_token(uint32_t needs) const {
  int64_t bytes = files_.top_k * 4;
  if ((needs & kGateNeeds) != 0) bytes += files_.top_k * 8;
  if ((needs & studies::kNeedsScores) != 0) bytes += files_.num_experts * 8;
  return bytes * files_.num_layers;
}

void ArraySource::append(int64_t layer, int64_t sample, int64_t first, int64_t n, uint32_t needs,
                         LayerBuffer& buffer) const {
  const NpyArray& topk = files_.topk;
  const auto K = files_.top_k, E = files_.num_experts;
  const std::array<int64_t, 4> begin{layer, sample, first, 0};
  const int64_t first_id = topk.element(begin);
  std::vector<int64_t> ids(static_cast<size_t>(n * K));
  if (topk.stride(3) == 1 && topk.stride(2) == K) {
    topk.read_integers(first_id, 1, n * K, ids.data());
  } else {
    for (int64_t t = 0; t < n; ++t) {
      topk.read_integers(first_id + t * topk.stride(2), topk.stride(3), K, ids.data() + t * K);
    }
  }
  const size_t old = buffer.ids.size();
  for (size_t i = 0; i < ids.size(); ++i) {
    const bool known = ids[i] >= 0 && ids[i] < E;
    const bool valid = files_.is_valid(sample, first + static_cast<int64_t>(i) / K);
    if (!known && ids[i] != -1 && valid) ++buffer.foreign_ids;
    buffer.ids.push_back(known ? static_cast<int32_t>(ids[i]) : -1);
  }
  if (!files_.gates) return;
  const NpyArray& gates = *files_.gates;
  const int64_t first_gate = gates.element(begin);
  if ((needs & kGateNeeds) != 0) {
    const float* f32 = gates.as_f32();
    for (int64_t t = 0; t < n; ++t) {
      for (int64_t k = 0; k < K; ++k) {
        const int32_t id = buffer.ids[old + static_cast<size_t>(t * K + k)];
        double gate = 0;
        const int64_t element = first_gate + t * gates.stride(2) + id * gates.stride(3);
        if (id >= 0 && f32 != nullptr) {
          gate = f32[element];
        } else if (id >= 0) {
          gates.read_reals(element, 1, 1, &gate);
        }
        buffer.gates.push_back(gate);
      }
    }
  }
  if ((needs & studies::kNeedsScores) != 0) {
    const size_t place = buffer.scores.size();
    buffer.scores.resize(place + static_cast<size_t>(n * E));
    double* to = buffer.scores.data() + place;
    if (gates.stride(3) == 1 && gates.stride(2) == E) {
      gates.read_reals(first_gate, 1, n * E, to);
    } else {
      for (int64_t t = 0; t < n; ++t) {
        gates.read_reals(first_gate + t * gates.stride(2), gates.stride(3), E, to + t * E);
      }
    }
  }
}

class ArraySource::Reader : public TokenReader {
 public:
  Reader(const ArraySource& source, uint32_t needs) : source_(source), needs_(needs) {
    buffer_.layers.resize(source.shape_.layers.size());
  }

  studies::TokenBatch& read(Order /*order*/, int64_t first, int64_t n) override {
    const ArrayFiles& files = source_.files_;
    buffer_.resize_labels(static_cast<size_t>(n));
    std::fill(buffer_.source.begin(), buffer_.source.end(), 0);
    std::fill(buffer_.forward.begin(), buffer_.forward.end(), -1);
    std::fill(buffer_.phase.begin(), buffer_.phase.end(), uint8_t{0});
    buffer_.valid.assign(source_.with_padding_ ? static_cast<size_t>(n) : 0, 1);
    for (LayerBuffer& layer : buffer_.layers) layer.clear();
    int64_t sample = std::upper_bound(source_.cuts_.begin(), source_.cuts_.end(), first) - source_.cuts_.begin() - 1;
    for (int64_t done = 0; done < n; ++sample) {
      const int64_t place = first + done - source_.begin_of(sample);
      const int64_t size = std::min(n - done, source_.begin_of(sample + 1) - source_.begin_of(sample) - place);
      if (size <= 0) continue;  // a sample without tokens
      label(sample, place, size, static_cast<size_t>(done));
      for (size_t l = 0; l < buffer_.layers.size(); ++l) {
        source_.append(static_cast<int64_t>(l), sample, place, size, needs_, buffer_.layers[l]);
      }
      done += size;
    }
    for (LayerBuffer& layer : buffer_.layers) {
      if (source_.gate_ == GateOption::kTopK) divide_by_sum_of_slots(layer.gates, layer.ids, files.top_k);
    }
    studies::TokenBatch& batch = buffer_.view(source_.shape_, first, n);
    for (studies::LayerTokens& layer : batch.layers) layer.weights = layer.gates;
    return batch;
  }

 private:
  void label(int64_t sample, int64_t place, int64_t size, size_t at) {
    const ArrayFiles& files = source_.files_;
    types_.resize(static_cast<size_t>(size));
    const std::array<int64_t, 2> begin{sample, place};
    files.types.read_integers(files.types.element(begin), files.types.stride(1), size, types_.data());
    for (int64_t i = 0; i < size; ++i) {
      const size_t t = at + static_cast<size_t>(i);
      buffer_.sample[t] = sample;
      buffer_.position[t] = buffer_.step[t] = static_cast<int32_t>(place + i);
      buffer_.token_id[t] = static_cast<int32_t>(types_[static_cast<size_t>(i)]);
      if (!buffer_.valid.empty()) buffer_.valid[t] = files.is_valid(sample, place + i) ? 1 : 0;
    }
  }

  const ArraySource& source_;
  uint32_t needs_;
  BatchBuffer buffer_;
  std::vector<int64_t> types_;
};

std::unique_ptr<TokenReader> ArraySource::open(uint32_t needs) const {
  return std::make_unique<Reader>(*this, needs);
}

std::vector<SourceSample> ArraySource::samples() const {
  std::vector<SourceSample> samples;
  for (int64_t b = 0; b < files_.num_samples; ++b) samples.push_back({b, 0});
  return samples;
}

std::vector<AttentionPiece> ArraySource::attention() const {
  std::vector<AttentionPiece> pieces;
  if (!files_.attention) return pieces;
  for (int64_t l = 0; l < files_.num_layers; ++l) {
    for (int64_t b = 0; b < files_.num_samples; ++b) {
      const int64_t valid = files_.valid_tokens[static_cast<size_t>(b)];
      if (valid == 0) continue;
      pieces.push_back({l, b, valid * valid * files_.attention->header().element_bytes, b});
    }
  }
  return pieces;
}

class ArraySource::Attention : public AttentionReader {
 public:
  Attention(const ArraySource& source, uint32_t needs) : source_(source), needs_(needs) {}

  void read(const AttentionPiece& piece, const std::function<void(studies::AttentionRows&)>& rows,
            const std::function<void(studies::AttentionStats&)>& /*stats*/) override {
    const ArrayFiles& files = source_.files_;
    const NpyArray& attention = *files.attention;
    const int64_t sample = piece.place, n = files.valid_tokens[static_cast<size_t>(sample)];
    layer_.clear();
    source_.append(piece.layer, sample, 0, n, needs_, layer_);
    if (source_.gate_ == GateOption::kTopK) divide_by_sum_of_slots(layer_.gates, layer_.ids, files.top_k);
    const std::array<int64_t, 2> labels{sample, 0};
    types_.resize(static_cast<size_t>(n));
    files.types.read_integers(files.types.element(labels), files.types.stride(1), n, types_.data());
    token_ids_.assign(types_.begin(), types_.end());

    studies::AttentionRows view;
    view.layer = piece.layer;
    view.sample = sample;
    view.num_queries = view.num_keys = n;
    view.padded_length = files.length;
    view.token_id = token_ids_;
    view.tokens = layer_.view(source_.shape_.layers[static_cast<size_t>(piece.layer)]);
    view.tokens.weights = view.tokens.gates;
    const std::array<int64_t, 4> first{piece.layer, sample, 0, 0};
    const int64_t begin = attention.element(first);
    view.row_stride = attention.stride(2);
    if (attention.stride(3) == 1 && attention.as_f32() != nullptr) {
      view.f32 = attention.as_f32() + begin;
      view.readable_keys = files.length;
    } else if (attention.stride(3) == 1 && attention.as_f64() != nullptr) {
      view.f64 = attention.as_f64() + begin;
      view.readable_keys = files.length;
    } else {
      values_.resize(static_cast<size_t>(n * files.length));
      for (int64_t i = 0; i < n; ++i) {
        attention.read_reals(begin + i * attention.stride(2), attention.stride(3), files.length,
                             values_.data() + i * files.length);
      }
      view.f64 = values_.data();
      view.row_stride = view.readable_keys = files.length;
    }
    rows(view);
  }

 private:
  const ArraySource& source_;
  uint32_t needs_;
  LayerBuffer layer_;
  std::vector<int64_t> types_;
  std::vector<int32_t> token_ids_;
  std::vector<double> values_;
};

std::unique_ptr<AttentionReader> ArraySource::open_attention(uint32_t needs) const {
  return std::make_unique<Attention>(*this, needs);
}

}  // namespace moetap::cli
