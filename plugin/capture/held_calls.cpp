#include "plugin/capture/held_calls.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <tuple>
#include <utility>

namespace moetap::plugin {
namespace {

constexpr size_t kChunkBytes = size_t{16} << 10;  // or what does not fit into one
constexpr size_t kMostIdle = 16;                  // that a pool keeps, when it has more than are in use
constexpr size_t kAlignment = 16;

/// Rows that are one after the other or interleaved, each with as many tokens.
bool has_even_rows(const TokenGroup& tokens) {
  const analysis::TokenRows& rows = tokens.rows;
  return tokens.attribution.attributed && !rows.row.defined() && rows.num_rows > 0 &&
         tokens.num_tokens % rows.num_rows == 0;
}

}  // namespace

int64_t HeldCalls::bytes() const {
  size_t bytes = calls_.size() * sizeof(Call);
  for (const Chunk& chunk : chunks_) bytes += chunk.size;
  return static_cast<int64_t>(bytes);
}

std::optional<size_t> HeldCalls::find_tokens(const TokenKey& key) const {
  for (size_t place = 0; place < tokens_.size(); ++place) {
    const Tokens& known = tokens_[place];
    if (known.text == key.text && known.layout == key.layout && key.sizes == at::IntArrayRef(known.sizes)) return place;
  }
  return std::nullopt;
}

size_t HeldCalls::add_tokens(const TokenKey& key, std::shared_ptr<const TokenGroup> tokens) {
  Tokens added{key.text, key.layout, at::DimVector(key.sizes), std::move(tokens), nullptr, false};
  added.can_be_held = has_even_rows(*added.group);
  const at::Tensor& valid = added.group->rows.valid;
  if (added.can_be_held && valid.defined()) {
    const at::Tensor in_one_piece = valid.contiguous();
    void* copied = allocate(in_one_piece.nbytes());
    std::memcpy(copied, in_one_piece.const_data_ptr(), in_one_piece.nbytes());
    added.valid = static_cast<const bool*>(copied);
  }
  tokens_.push_back(std::move(added));
  return tokens_.size() - 1;
}

bool HeldCalls::add(int64_t hook, int64_t call, size_t tokens, const analysis::HostRouterCall& reported) {
  const Tokens& seen = tokens_.at(tokens);
  if (!seen.can_be_held || seen.group->num_tokens != reported.num_tokens) return false;
  const int64_t num_ids = reported.num_tokens * reported.top_k;
  const auto* ids = static_cast<const int64_t*>(reported.selected.data);
  if (std::any_of(ids, ids + num_ids, [&](int64_t id) { return id < -1 || id >= reported.num_experts; })) return false;
  Call held{hook, call, seen.group, reported};
  auto* copied = static_cast<int32_t*>(allocate(static_cast<size_t>(num_ids) * sizeof(int32_t)));
  std::copy(ids, ids + num_ids, copied);
  analysis::HostRouterCall& values = held.values;
  values.selected = {copied, c10::ScalarType::Int, reported.top_k};
  values.logits = copy(reported.logits, reported.num_tokens, reported.num_experts);
  values.scores = copy(reported.scores, reported.num_tokens, reported.num_experts);
  values.weights = copy(reported.weights, reported.num_tokens, reported.top_k);
  values.num_rows = seen.group->rows.num_rows;
  values.order = seen.group->rows.order;
  values.valid = seen.valid;
  calls_.push_back(std::move(held));
  return true;
}

analysis::HostPlane HeldCalls::copy(const analysis::HostPlane& plane, int64_t num_tokens, int64_t columns) {
  if (!plane.defined()) return plane;
  const size_t bytes = static_cast<size_t>(num_tokens * columns) * c10::elementSize(plane.dtype);
  void* copied = allocate(bytes);
  std::memcpy(copied, plane.data, bytes);
  return {copied, plane.dtype, columns};
}

void* HeldCalls::allocate(size_t bytes) {
  bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  while (chunk_ < chunks_.size() && used_ + bytes > chunks_[chunk_].size) {
    ++chunk_;
    used_ = 0;
  }
  if (chunk_ == chunks_.size()) {
    const size_t size = std::max(kChunkBytes, bytes);
    chunks_.push_back({std::make_unique_for_overwrite<std::byte[]>(size), size});
  }
  return chunks_[chunk_].memory.get() + std::exchange(used_, used_ + bytes);
}

void HeldCalls::sort() {
  const auto stands_before = [](const Call& a, const Call& b) {
    return std::tie(a.hook, a.call) < std::tie(b.hook, b.call);
  };
  if (!std::is_sorted(calls_.begin(), calls_.end(), stands_before)) {
    std::sort(calls_.begin(), calls_.end(), stands_before);
  }
}

void HeldCalls::clear() {
  calls_.clear();
  tokens_.clear();
  chunk_ = used_ = 0;
}

std::shared_ptr<HeldCalls> HeldCallsPool::take() {
  const std::lock_guard lock(mutex_);
  const auto is_idle = [](const auto& calls) { return calls.use_count() == 1; };
  const auto found = std::find_if(all_.begin(), all_.end(), is_idle);
  if (found == all_.end()) {
    all_.push_back(std::make_shared<HeldCalls>());
    return all_.back();
  }
  // What the last user did with it happened before it let go.
  std::atomic_thread_fence(std::memory_order_acquire);
  const std::shared_ptr<HeldCalls> taken = *found;
  taken->clear();
  // After a time in which many waited to be written.
  if (all_.size() > kMostIdle) {
    size_t idle = 0;
    std::erase_if(all_, [&](const auto& calls) { return is_idle(calls) && ++idle > kMostIdle; });
  }
  return taken;
}

}  // namespace moetap::plugin
