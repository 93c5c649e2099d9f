#include "analysis/attention/attention_scores.h"

#include <algorithm>

namespace moetap::analysis {
namespace {

at::Tensor with_contiguous_rows(const at::Tensor& tensor) {
  return !tensor.defined() || tensor.stride(-1) == 1 ? tensor : tensor.contiguous();
}

}  // namespace

HostAttentionCall::HostAttentionCall(const AttentionCall& call, const AttentionShape& call_shape)
    : shape(call_shape),
      probabilities(call.probabilities),
      scores(call.scores),
      depth(call.query.defined() ? call.query.size(3) : 0),
      scale(static_cast<float>(call.scale)),
      causal(call.causal) {
  query_ = with_contiguous_rows(call.query);
  key_ = with_contiguous_rows(call.key);
  query = AttentionPlane(query_);
  key = AttentionPlane(key_);
  if (call.mask.defined()) {
    mask_ = call.mask.expand({shape.num_sequences, shape.num_heads, shape.num_queries, shape.num_keys});
    mask = AttentionPlane(mask_);
    if (shape.num_heads == 1) mask.strides[1] = 0;
  }
  if (call.log_sum_exp.defined()) {
    log_sum_exp_ = call.log_sum_exp.unsqueeze(3);
    log_sum_exp = AttentionPlane(log_sum_exp_);
  }
}

void TileScores::begin(const HostAttentionCall& call) {
  call_ = &call;
  masks_.begin(call.mask, call.causal);
  row_.resize(static_cast<size_t>(call.depth));
}

int64_t TileScores::bytes() const {
  return static_cast<int64_t>((query_.capacity() + key_tile_.capacity()) * sizeof(float)) + masks_.bytes();
}

void TileScores::start(const BlockRows& rows, const SequenceKeys& keys) {
  rows_ = &rows;
  keys_ = &keys;
  loaded_ = nullptr;
  query_.resize(static_cast<size_t>(call_->shape.num_heads * call_->depth * rows.pitch()));
  is_packed_.assign(static_cast<size_t>(call_->shape.num_heads), 0);
  masks_.prepare(rows.sequence, 0, rows.places(), rows.pitch(), keys);
}

void TileScores::start_head(int64_t head) {
  if (head > 0 && !masks_.is_shared()) {
    masks_.prepare(rows_->sequence, head, rows_->places(), rows_->pitch(), *keys_);
  }
}

const float* TileScores::packed_query(int64_t head) {
  const int64_t pitch = rows_->pitch();
  float* packed = query_.data() + head * call_->depth * pitch;
  if (is_packed_[head] != 0) return packed;
  is_packed_[head] = 1;
  for (int64_t r = 0; r < pitch; ++r) {
    if (r < rows_->size) {
      const char* from = call_->query.at(rows_->sequence, head, rows_->place[r], 0);
      kernels_.widen(from, call_->query.format(), call_->depth, row_.data());
    } else {
      std::fill(row_.begin(), row_.end(), 0.0F);
    }
    for (int64_t d = 0; d < call_->depth; ++d) packed[d * pitch + r] = row_[d] * call_->scale;
  }
  return packed;
}

TileScores::KeyValues TileScores::load_keys(int64_t key_head, const KeyTile& keys, int64_t begin, int64_t count) {
  const auto num_keys = static_cast<int64_t>(keys.places.size());
  const bool follow = keys.are_consecutive() && call_->key.strides[2] == call_->depth;
  if (follow && call_->key.type == at::kFloat && num_keys % kKeyGroup == 0) {
    const char* first = call_->key.at(rows_->sequence, key_head, keys.places.front(), begin);
    return {reinterpret_cast<const float*>(first), call_->depth};
  }
  key_tile_.resize(static_cast<size_t>(kTileKeys * kKeyPitch));
  const KeyValues copied{key_tile_.data(), kKeyPitch};
  if (loaded_ == &keys && loaded_head_ == key_head && loaded_begin_ == begin) return copied;
  loaded_ = &keys;
  loaded_head_ = key_head;
  loaded_begin_ = begin;
  for (int64_t j = 0; j < num_keys; ++j) {
    const char* from = call_->key.at(rows_->sequence, key_head, keys.places[j], begin);
    kernels_.widen(from, call_->key.format(), count, key_tile_.data() + j * kKeyPitch);
  }
  return copied;
}

void TileScores::multiply(int64_t head, const KeyTile& keys, int64_t first_lane, float* scores) {
  const int64_t pitch = rows_->pitch(), key_head = head / (call_->shape.num_heads / call_->shape.num_key_heads);
  const AttentionTile tile{pitch, pitch - first_lane, static_cast<int64_t>(keys.places.size())};
  const float* query = packed_query(head) + first_lane;
  for (int64_t begin = 0; begin < call_->depth; begin += kDepthAtOnce) {
    const int64_t count = std::min(kDepthAtOnce, call_->depth - begin);
    const KeyValues values = load_keys(key_head, keys, begin, count);
    kernels_.scores(tile, query + begin * pitch, values.values, values.pitch, count, begin > 0, scores + first_lane);
  }
  if (call_->depth == 0) std::fill_n(scores, kTileKeys * pitch, 0.0F);
}

void TileScores::read(const AttentionPlane& plane, int64_t head, const KeyTile& keys, float* tile) const {
  const int64_t pitch = rows_->pitch();
  const auto num_keys = static_cast<int64_t>(keys.places.size());
  gather_tile(plane, rows_->sequence, head, {rows_->place, rows_->size, keys.places.data(), num_keys}, pitch, tile);
  for (int64_t j = 0; j < num_keys; ++j) std::fill_n(tile + j * pitch + rows_->size, pitch - rows_->size, 0.0F);
}

void TileScores::make(int64_t head, const KeyTile& keys, const MaskedTile& mask, float* scores) {
  const int64_t pitch = rows_->pitch();
  const AttentionTile tile{pitch, pitch - mask.first_lane, static_cast<int64_t>(keys.places.size())};
  if (call_->probabilities.data != nullptr) {
    read(call_->probabilities, head, keys, scores);
    kernels_.logarithms(tile, scores);
    return;
  }
  multiply(head, keys, mask.first_lane, scores);
  if (mask.mask != nullptr) kernels_.add(tile, mask.mask + mask.first_lane, scores + mask.first_lane);
}

}  // namespace moetap::analysis
