#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "analysis/numbers/host_device.h"

// Note [Emulated warps]
// Kernels are compiled for the host here, with other definitions of the functions of analysis/numbers/warp.cuh: each
// thread of a block is a fiber, and the threads that may go on run in a random order. A function that all lanes call
// together makes a fiber wait until the other lanes have called it too. So tests without a GPU find missing barriers,
// lanes that diverge, and results that depend on the order of threads. They do not find wrong orders of plain memory
// accesses, and measure no speed.
namespace moetap::analysis::warp {

inline constexpr int kLanes = 32;

/// One block of threads at a time.
class EmulatedBlock {
 public:
  /// Runs `thread` once for each thread of each block, blocks in a random order. Throws std::runtime_error if threads
  /// wait for each other for ever or lanes of a warp call different functions together.
  static void launch(int64_t num_blocks, int num_threads, int64_t shared_bytes, uint64_t seed,
                     const std::function<void()>& thread);

  static EmulatedBlock& current();

  int thread() const { return running_; }
  int num_threads() const { return static_cast<int>(fibers_.size()); }
  int64_t block() const { return block_; }
  int64_t* shared_memory() { return shared_.data(); }

  /// Waits until all lanes of the warp have called it with the same `function` (compared by address). Returns the value
  /// of each lane, valid until this lane's next exchange.
  const uint64_t* exchange(const char* function, uint64_t value);
  void wait_for_block();

 private:
  enum class State { kReady, kWaitsForWarp, kWaitsForBlock, kDone };
  struct Fiber {
    ucontext_t context;
    jmp_buf place;
    State state = State::kReady;
    bool started = false;
  };
  struct Warp {
    const char* function = nullptr;
    int arrived = 0;
    int turn = 0;  // lanes that are slow still read the values of the turn before
    uint64_t values[2][kLanes];
  };

  EmulatedBlock(int64_t block, int num_threads, int64_t shared_bytes, uint64_t seed,
                const std::function<void()>& thread);
  void run();
  void resume(int thread);
  void yield(State state);
  static void enter();

  const int64_t block_;
  const std::function<void()>& body_;
  std::mt19937_64 random_;
  const bool unfair_;  // in the order in which warps run
  int favoured_ = 0;
  std::vector<int64_t> shared_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Warp> warps_;
  jmp_buf scheduler_;
  int running_ = 0;
  int waiting_for_block_ = 0;
  std::string error_;
};

inline int lane() {
  return EmulatedBlock::current().thread() % kLanes;
}
inline int warp_of_block() {
  return EmulatedBlock::current().thread() / kLanes;
}
inline int thread_of_block() {
  return EmulatedBlock::current().thread();
}
inline int threads_of_block() {
  return EmulatedBlock::current().num_threads();
}
inline int64_t block() {
  return EmulatedBlock::current().block();
}
inline int64_t* shared_memory() {
  return EmulatedBlock::current().shared_memory();
}
inline void wait_for_block() {
  EmulatedBlock::current().wait_for_block();
}

template <typename Value>
uint64_t to_bits(Value value) {
  static_assert(std::is_trivially_copyable_v<Value> && sizeof(Value) <= sizeof(uint64_t));
  uint64_t bits = 0;
  __builtin_memcpy(&bits, &value, sizeof(value));
  return bits;
}
template <typename Value>
Value from_bits(uint64_t bits) {
  Value value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

template <typename Value>
Value from_lane(Value value, int lane) {
  return from_bits<Value>(EmulatedBlock::current().exchange("from_lane", to_bits(value))[lane % kLanes]);
}
template <typename Value>
Value from_lane_xor(Value value, int mask) {
  const int from = lane() ^ mask;
  return from_bits<Value>(EmulatedBlock::current().exchange("from_lane_xor", to_bits(value))[from]);
}
inline unsigned ballot(bool vote) {
  const uint64_t* values = EmulatedBlock::current().exchange("ballot", vote);
  unsigned bits = 0;
  for (int l = 0; l < kLanes; ++l) bits |= static_cast<unsigned>(values[l]) << l;
  return bits;
}

inline void add(int64_t* sum, int64_t value) {
  *sum = static_cast<int64_t>(static_cast<uint64_t>(*sum) + static_cast<uint64_t>(value));
}
inline void add(int32_t* sum, int32_t value) {
  *sum += value;
}
inline int count_bits(unsigned bits) {
  return __builtin_popcount(bits);
}
inline int lowest_bit(unsigned bits) {
  return __builtin_ctz(bits);
}

}  // namespace moetap::analysis::warp
