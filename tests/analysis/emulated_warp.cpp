#include "emulated_warp.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>

namespace moetap::analysis::warp {
namespace {

constexpr size_t kStackBytes = size_t{64} << 10;

/// Used by one block after the other and not cleared: fresh pages for each block would cost more than what its threads
/// compute.
char* stack_of(int thread) {
  static std::vector<std::unique_ptr<char[]>> stacks;
  while (stacks.size() <= static_cast<size_t>(thread)) stacks.emplace_back(new char[kStackBytes]);
  return stacks[static_cast<size_t>(thread)].get();
}

EmulatedBlock* running_block = nullptr;

}  // namespace

EmulatedBlock& EmulatedBlock::current() {
  return *running_block;
}

void EmulatedBlock::launch(int64_t num_blocks, int num_threads, int64_t shared_bytes, uint64_t seed,
                           const std::function<void()>& thread) {
  std::vector<int64_t> blocks(static_cast<size_t>(num_blocks));
  std::iota(blocks.begin(), blocks.end(), 0);
  std::mt19937_64 random(seed);
  std::shuffle(blocks.begin(), blocks.end(), random);
  for (const int64_t block : blocks) EmulatedBlock(block, num_threads, shared_bytes, random(), thread).run();
}

EmulatedBlock::EmulatedBlock(int64_t block, int num_threads, int64_t shared_bytes, uint64_t seed,
                             const std::function<void()>& thread)
    : block_(block),
      body_(thread),
      random_(seed),
      unfair_(seed % 2 == 0),
      // Not zero, so that reading words that were never written shows.
      shared_(static_cast<size_t>((shared_bytes + 7) / 8), 0x5a5a5a5a5a5a5a5a),
      warps_(static_cast<size_t>(num_threads / kLanes)) {
  for (int i = 0; i < num_threads; ++i) fibers_.push_back(std::make_unique<Fiber>());
}

void EmulatedBlock::run() {
  running_block = this;
  std::vector<int> ready;
  while (error_.empty()) {
    ready.clear();
    bool all_done = true;
    for (int i = 0; i < num_threads(); ++i) {
      all_done = all_done && fibers_[i]->state == State::kDone;
      if (fibers_[i]->state == State::kReady) ready.push_back(i);
    }
    if (all_done) break;
    if (ready.empty()) error_ = "threads of a block wait for each other for ever";
    std::shuffle(ready.begin(), ready.end(), random_);
    if (unfair_) {  // one warp runs as far as it can before another begins
      const int favoured = ready.front() / kLanes;
      const bool goes_on = std::any_of(ready.begin(), ready.end(), [&](int i) { return i / kLanes == favoured_; });
      if (!goes_on) favoured_ = favoured;
      std::erase_if(ready, [&](int i) { return i / kLanes != favoured_; });
    }
    for (const int thread : ready) {
      if (error_.empty()) resume(thread);
    }
  }
  running_block = nullptr;
  if (!error_.empty()) throw std::runtime_error("emulated kernel: " + error_);
}

void EmulatedBlock::enter() {
  EmulatedBlock& block = current();
  block.body_();
  block.yield(State::kDone);
}

void EmulatedBlock::resume(int thread) {
  running_ = thread;
  Fiber& fiber = *fibers_[thread];
  // Contexts begin a fiber; jumps, which make no system call, go on with it.
  if (_setjmp(scheduler_) != 0) return;
  if (fiber.started) _longjmp(fiber.place, 1);
  fiber.started = true;
  ::getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = stack_of(thread);
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  ::makecontext(&fiber.context, &EmulatedBlock::enter, 0);
  ::setcontext(&fiber.context);
}

void EmulatedBlock::yield(State state) {
  Fiber& fiber = *fibers_[running_];
  fiber.state = state;
  if (_setjmp(fiber.place) == 0) _longjmp(scheduler_, 1);
}

const uint64_t* EmulatedBlock::exchange(const char* function, uint64_t value) {
  const int own = running_;
  Warp& warp = warps_[own / kLanes];
  if (warp.arrived > 0 && warp.function != function) {
    error_ = std::string("lanes of a warp call ") + warp.function + " and " + function + " together";
    yield(State::kDone);
  }
  warp.function = function;
  const int turn = warp.turn;
  warp.values[turn][own % kLanes] = value;
  if (++warp.arrived < kLanes) {
    yield(State::kWaitsForWarp);
  } else {
    warp.arrived = 0;
    warp.turn = 1 - turn;
    for (int i = own / kLanes * kLanes; i < (own / kLanes + 1) * kLanes; ++i) {
      if (i != own) fibers_[i]->state = State::kReady;
    }
    // The last to come need not be the first to go on.
    yield(State::kReady);
  }
  return warp.values[turn];
}

void EmulatedBlock::wait_for_block() {
  if (++waiting_for_block_ < num_threads()) {
    yield(State::kWaitsForBlock);
    return;
  }
  waiting_for_block_ = 0;
  for (const auto& fiber : fibers_) {
    if (fiber->state == State::kWaitsForBlock) fiber->state = State::kReady;
  }
}

}  // namespace moetap::analysis::warp
