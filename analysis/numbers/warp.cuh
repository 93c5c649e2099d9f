#pragma once

#include <cstdint>

// How the threads of a kernel exchange values. All 32 lanes of a warp call each function together. Tests define these
// functions differently, so that a kernel runs on the CPU: see tests/analysis/emulated_warp.h.
#ifdef __CUDACC__

namespace moetap::analysis::warp {

inline constexpr unsigned kAllLanes = 0xffffffffu;

__device__ inline int lane() {
  return static_cast<int>(threadIdx.x % 32);
}
__device__ inline int warp_of_block() {
  return static_cast<int>(threadIdx.x / 32);
}
__device__ inline int thread_of_block() {
  return static_cast<int>(threadIdx.x);
}
__device__ inline int threads_of_block() {
  return static_cast<int>(blockDim.x);
}
__device__ inline int64_t block() {
  return static_cast<int64_t>(blockIdx.x);
}

template <typename Value>
__device__ inline Value from_lane(Value value, int lane) {
  return __shfl_sync(kAllLanes, value, lane);
}
template <typename Value>
__device__ inline Value from_lane_xor(Value value, int mask) {
  return __shfl_xor_sync(kAllLanes, value, mask);
}
/// Bit l: lane l's `vote`.
__device__ inline unsigned ballot(bool vote) {
  return __ballot_sync(kAllLanes, vote);
}
__device__ inline void wait_for_block() {
  __syncthreads();
}

/// Shared memory of the block, of the size that it was launched with.
__device__ inline int64_t* shared_memory() {
  extern __shared__ int64_t memory[];
  return memory;
}

__device__ inline void add(int64_t* sum, int64_t value) {
  atomicAdd(reinterpret_cast<unsigned long long*>(sum), static_cast<unsigned long long>(value));
}
__device__ inline void add(int32_t* sum, int32_t value) {
  atomicAdd(sum, value);
}

__device__ inline int count_bits(unsigned bits) {
  return __popc(bits);
}
/// Of bits != 0.
__device__ inline int lowest_bit(unsigned bits) {
  return __ffs(static_cast<int>(bits)) - 1;
}

}  // namespace moetap::analysis::warp

#endif
