#pragma once

#include "analysis/numbers/warp.cuh"
#include "analysis/routers/router_kernel_arguments.h"
#include "analysis/routers/router_kernel_experts.cuh"

// How one warp ranks the slots of one token: lane k holds slot k. See Note [Slots are ranked by gate weight].
namespace moetap::analysis::router_kernel {

inline constexpr int32_t kTokenWithoutSlot = -1;

/// One slot, or none: lanes from top_k on.
struct Slot {
  int64_t id = -1;
  bool used = false;  // it holds an expert
  double weight = 0;  // 0 without weights

  MOETAP_DEVICE double rank() const { return weight == weight ? weight : -kInfinity; }
};

MOETAP_DEVICE inline Slot slot_of_lane(const RouterKernelArguments& call, int64_t token) {
  Slot slot;
  const int lane = warp::lane();
  if (lane >= call.top_k) return slot;
  slot.id = call.selected[token * call.selected_token_stride + lane * call.selected_slot_stride];
  slot.used = slot.id >= 0 && slot.id < call.num_experts;
  if (call.weights.data != nullptr) slot.weight = element(call.weights, token, lane);
  return slot;
}

/// The lanes that the slots of a token need, a power of two.
MOETAP_DEVICE inline int slot_width(int top_k) {
  int width = 1;
  while (width < top_k) width *= 2;
  return width;
}

struct RankedSlots {
  int32_t first = kTokenWithoutSlot;  // expert of the first slot
  double largest = 0;                 // w[0]
  double second = 0;                  // w[1]

  MOETAP_DEVICE double margin() const { return largest - second; }
  /// Of the weights as they are recorded, in float32.
  MOETAP_DEVICE float recorded_margin() const { return static_cast<float>(largest) - static_cast<float>(second); }
};

/// The same in every lane.
MOETAP_DEVICE inline RankedSlots rank_slots(const RouterKernelArguments& call, const Slot& slot) {
  const unsigned used = warp::ballot(slot.used);
  if (used == 0) return {};
  if (call.weights.data == nullptr) {
    return {static_cast<int32_t>(warp::from_lane(slot.id, warp::lowest_bit(used))), 0, 0};
  }
  struct Candidate {
    int used;
    double rank;
    int32_t id;
    int32_t lane;
  };
  const auto better = [](const Candidate& a, const Candidate& b) {
    if (a.used != b.used) return a.used > b.used;
    if (a.rank != b.rank) return a.rank > b.rank;
    return a.id != b.id ? a.id < b.id : a.lane < b.lane;
  };
  const int width = slot_width(call.top_k);
  const Candidate mine{slot.used, slot.rank(), static_cast<int32_t>(slot.id), warp::lane()};
  Candidate best = mine;
  for (int mask = width / 2; mask > 0; mask /= 2) {
    const Candidate other{warp::from_lane_xor(best.used, mask), warp::from_lane_xor(best.rank, mask),
                          warp::from_lane_xor(best.id, mask), warp::from_lane_xor(best.lane, mask)};
    if (better(other, best)) best = other;
  }
  const int winner = warp::from_lane(best.lane, 0);
  const double largest = warp::from_lane(best.rank, 0);
  double second = slot.used && warp::lane() != winner ? slot.rank() : -kInfinity;
  for (int mask = width / 2; mask > 0; mask /= 2) {
    const double other = warp::from_lane_xor(second, mask);
    if (other > second) second = other;
  }
  second = warp::count_bits(used) > 1 ? warp::from_lane(second, 0) : 0;
  return {warp::from_lane(best.id, 0), largest, second};
}

/// Calls add(i, j), i < j, in one of the lanes for each pair of different experts that a token chose.
template <typename Add>
MOETAP_DEVICE void for_each_pair(int top_k, int64_t id, bool chosen, const Add& add) {
  const int lane = warp::lane();
  const unsigned holders = warp::ballot(chosen);
  bool repeats = false;  // an earlier slot chose the same
  for (int k = 0; k < top_k; ++k) {
    const int64_t other = warp::from_lane(id, k);
    repeats = repeats || (k < lane && (holders >> k & 1u) != 0 && other == id);
  }
  const unsigned distinct = warp::ballot(chosen && !repeats);
  for (int k = 1; k < top_k; ++k) {
    const int64_t other = warp::from_lane(id, k);
    const bool pairs = lane < k && (distinct >> lane & 1u) != 0 && (distinct >> k & 1u) != 0;
    if (pairs) add(other < id ? other : id, other < id ? id : other);
  }
}

}  // namespace moetap::analysis::router_kernel
