#include "cli/studies/piece_queue.h"

#include <algorithm>
#include <utility>

namespace moetap::cli {

PieceQueue::PieceQueue(Plan plan) : plan_(std::move(plan)) {
  // A share ends at the first cut at or behind its end, and the next one begins there.
  begin_ = next_ = cut_at_or_after(plan_.shard.begin(plan_.total));
  end_ = cut_at_or_after(plan_.shard.end(plan_.total));
  for (int64_t first = begin_; first < end_; first = end_of_piece(first)) {
    longest_ = std::max(longest_, end_of_piece(first) - first);
    if (plan_.cuts.empty()) break;  // all are of one size
  }
}

int64_t PieceQueue::cut_at_or_after(int64_t token) const {
  if (plan_.cuts.empty() || token >= plan_.total) return std::min(token, plan_.total);
  return *std::lower_bound(plan_.cuts.begin(), plan_.cuts.end(), token);
}

int64_t PieceQueue::end_of_piece(int64_t first) const {
  const int64_t aim = std::min(first + plan_.piece_tokens, end_);
  if (plan_.cuts.empty() || aim == end_) return aim;
  const auto after = std::upper_bound(plan_.cuts.begin(), plan_.cuts.end(), aim);
  const int64_t before = *(after - 1);
  return before > first ? before : *after;
}

std::optional<PieceQueue::Piece> PieceQueue::next() {
  const std::lock_guard lock(mutex_);
  if (next_ >= end_) return std::nullopt;
  const int64_t first = std::exchange(next_, end_of_piece(next_));
  return Piece{first, next_ - first};
}

LayerQueue::LayerQueue(const std::vector<AttentionPiece>& pieces, const Shard& shard) {
  std::map<int64_t, std::vector<AttentionPiece>> all;
  for (const AttentionPiece& piece : pieces) all[piece.layer].push_back(piece);
  for (auto& [layer, of] : all) {
    std::stable_sort(of.begin(), of.end(),
                     [](const AttentionPiece& a, const AttentionPiece& b) { return a.order < b.order; });
    Layer& into = layers_[layer];
    const auto n = static_cast<int64_t>(of.size());
    into.pieces.assign(of.begin() + shard.begin(n), of.begin() + shard.end(n));
    for (const AttentionPiece& piece : into.pieces) into.bytes_left += piece.bytes;
    num_bytes_ += into.bytes_left;
  }
}

const AttentionPiece* LayerQueue::next(int64_t layer) {
  const std::lock_guard lock(mutex_);
  const auto has_more = [](const Layer& of) { return of.next < of.pieces.size(); };
  auto found = layers_.find(layer);
  if (found == layers_.end() || !has_more(found->second)) {
    found = layers_.end();
    for (auto of = layers_.begin(); of != layers_.end(); ++of) {
      if (!has_more(of->second)) continue;
      const auto left = [](const Layer& l) { return l.bytes_left / (l.num_threads + 1); };
      if (found == layers_.end() || left(of->second) > left(found->second)) found = of;
    }
    if (found == layers_.end()) return nullptr;
    ++found->second.num_threads;
  }
  Layer& of = found->second;
  const AttentionPiece& piece = of.pieces[of.next++];
  of.bytes_left -= piece.bytes;
  return &piece;
}

}  // namespace moetap::cli
