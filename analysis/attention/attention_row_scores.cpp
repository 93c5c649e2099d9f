#include "analysis/attention/attention_row_scores.h"

#include <algorithm>
#include <limits>

namespace moetap::analysis {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

int64_t whole_groups(int64_t count) {
  return (count + kLaneGroup - 1) / kLaneGroup * kLaneGroup;
}

int64_t num_keys_of(const KeyTile& keys) {
  return static_cast<int64_t>(keys.places.size());
}

}  // namespace

template <typename Function>
void RowScores::each_tile(const Function& function) const {
  int64_t offset = 0;
  for (const KeyTile& tile : keys_->valid()) {
    function(tile, offset);
    offset += kTileKeys;
  }
  if (num_padding_ == 0) return;
  offset = begin_of_padding_;
  for (const KeyTile& tile : keys_->padding()) {
    function(tile, offset);
    offset += kTileKeys;
  }
}

void RowScores::start(int64_t sequence, int64_t place, const SequenceKeys& keys) {
  keys_ = &keys;
  sequence_ = sequence;
  place_ = place;
  num_valid_ = whole_groups(keys.num_valid());
  begin_of_padding_ = static_cast<int64_t>(keys.valid().size()) * kTileKeys;
  num_padding_ = 0;
  const bool is_given = call_->probabilities.data != nullptr;
  for (const KeyTile& tile : keys.padding()) num_padding_ += is_given ? 0 : num_keys_of(tile);
  num_padding_ = whole_groups(num_padding_);
  pitch_ = begin_of_padding_ + (num_padding_ + kTileKeys - 1) / kTileKeys * kTileKeys;
  depth_ = whole_groups(call_->depth);
  masked_head_ = -1;
  scores_.resize(static_cast<size_t>(kHeadsAtOnce * pitch_));
  query_.assign(static_cast<size_t>(kHeadsAtOnce * depth_), 0.0F);
}

void RowScores::read(const AttentionPlane& plane, int64_t head, const KeyTile& keys, float* to) const {
  if (plane.type != at::kBool && plane.strides[3] == 1 && keys.are_consecutive()) {
    kernels_.widen(plane.at(sequence_, head, place_, keys.places.front()), plane.format(), num_keys_of(keys), to);
  } else {
    gather_tile(plane, sequence_, head, {&place_, 1, keys.places.data(), num_keys_of(keys)}, 1, to);
  }
}

const float* RowScores::read(const AttentionPlane& plane, int64_t head) {
  each_tile([&](const KeyTile& tile, int64_t offset) { read(plane, head, tile, valid(0) + offset); });
  close_ends(1);
  return valid(0);
}

/// -inf behind the keys.
void RowScores::close_ends(int64_t num_heads) {
  int64_t keys_of_padding = 0;
  for (const KeyTile& tile : keys_->padding()) keys_of_padding += num_keys_of(tile);
  for (int64_t i = 0; i < num_heads; ++i) {
    std::fill(valid(i) + keys_->num_valid(), valid(i) + num_valid_, kMinusInfinity);
    if (num_padding_ > 0) std::fill(padding(i) + keys_of_padding, padding(i) + num_padding_, kMinusInfinity);
  }
}

int64_t RowScores::make(int64_t head) {
  if (call_->probabilities.data != nullptr) {
    read(call_->probabilities, head);
    kernels_.logarithms({num_valid_, num_valid_, 1}, valid(0));
    close_ends(1);
    return 1;
  }
  const int64_t group = call_->shape.num_heads / call_->shape.num_key_heads;
  const int64_t num_heads = std::min(kHeadsAtOnce, (head / group + 1) * group - head);
  multiply(head, num_heads);
  close_ends(num_heads);
  for (int64_t i = 0; i < num_heads; ++i) {
    const float* mask = mask_of(head + i);
    if (mask == nullptr) continue;
    kernels_.add({num_valid_, num_valid_, 1}, mask, valid(i));
    if (num_padding_ > 0) kernels_.add({num_padding_, num_padding_, 1}, mask + begin_of_padding_, padding(i));
  }
  return num_heads;
}

void RowScores::multiply(int64_t head, int64_t num_heads) {
  for (int64_t i = 0; i < num_heads; ++i) {
    float* query = query_.data() + i * depth_;
    kernels_.widen(call_->query.at(sequence_, head + i, place_, 0), call_->query.format(), call_->depth, query);
    for (int64_t d = 0; d < call_->depth; ++d) query[d] *= call_->scale;
  }
  const int64_t key_head = head / (call_->shape.num_heads / call_->shape.num_key_heads);
  each_tile([&](const KeyTile& tile, int64_t offset) {
    const KeyValues keys = load_keys(key_head, tile);
    kernels_.of_row.scores(num_heads, query_.data(), num_keys_of(tile), keys.values, keys.pitch, depth_,
                           valid(0) + offset, pitch_);
  });
}

RowScores::KeyValues RowScores::load_keys(int64_t key_head, const KeyTile& keys) {
  const AttentionPlane& plane = call_->key;
  if (plane.type == at::kFloat && call_->depth == depth_ && keys.are_consecutive()) {
    const char* first = plane.at(sequence_, key_head, keys.places.front(), 0);
    return {reinterpret_cast<const float*>(first), plane.strides[2]};
  }
  key_tile_.resize(static_cast<size_t>(kTileKeys * depth_));
  for (size_t j = 0; j < keys.places.size(); ++j) {
    float* to = key_tile_.data() + static_cast<int64_t>(j) * depth_;
    kernels_.widen(plane.at(sequence_, key_head, keys.places[j], 0), plane.format(), call_->depth, to);
    std::fill(to + call_->depth, to + depth_, 0.0F);
  }
  return {key_tile_.data(), depth_};
}

const float* RowScores::mask_of(int64_t head) {
  const AttentionPlane& plane = call_->mask;
  const bool is_shared = plane.data == nullptr || plane.strides[1] == 0;
  if (masked_head_ == head || (masked_head_ >= 0 && is_shared)) return has_mask_ ? mask_.data() : nullptr;
  masked_head_ = head;
  has_mask_ = false;
  if (plane.data == nullptr && !call_->causal) return nullptr;
  mask_.assign(static_cast<size_t>(pitch_), 0.0F);
  each_tile([&](const KeyTile& tile, int64_t offset) {
    float* mask = mask_.data() + offset;
    if (plane.data != nullptr) read(plane, head, tile, mask);
    for (int64_t j = 0; j < num_keys_of(tile); ++j) {
      if (call_->causal && tile.places[j] > place_) mask[j] = kMinusInfinity;
      has_mask_ |= mask[j] != 0;
    }
  });
  return has_mask_ ? mask_.data() : nullptr;
}

int64_t RowScores::bytes() const {
  return static_cast<int64_t>((scores_.capacity() + query_.capacity() + key_tile_.capacity() + mask_.capacity()) *
                              sizeof(float));
}

}  // namespace moetap::analysis
