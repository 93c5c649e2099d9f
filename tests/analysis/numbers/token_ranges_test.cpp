#include "analysis/numbers/token_ranges.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

namespace moetap::analysis {
namespace {

/// LibTorch's number of threads while it lives.
class ThreadCount {
 public:
  explicit ThreadCount(int count) : before_(at::get_num_threads()) { at::set_num_threads(count); }
  ~ThreadCount() { at::set_num_threads(before_); }
  ThreadCount(const ThreadCount&) = delete;
  ThreadCount& operator=(const ThreadCount&) = delete;

 private:
  const int before_;
};

struct Calls {
  std::vector<int> visits;  // of each token
  std::set<std::thread::id> threads;
  int ranges = 0;
};

Calls calls_of(int64_t num_tokens, int64_t grain) {
  Calls calls{std::vector<int>(num_tokens, 0), {}, 0};
  std::mutex mutex;
  for_token_ranges(num_tokens, grain, [&](int64_t begin, int64_t end) {
    const std::lock_guard<std::mutex> lock(mutex);
    for (int64_t token = begin; token < end; ++token) ++calls.visits.at(token);
    calls.threads.insert(std::this_thread::get_id());
    ++calls.ranges;
  });
  return calls;
}

TEST(TokenRangesTest, EveryTokenIsInOneRange) {
  for (const int threads : {1, 2, 3, 5}) {
    const ThreadCount count(threads);
    for (const int64_t num_tokens : {1, 2, 7, 64, 1000}) {
      for (const int64_t grain : {1, 3, 100, 5000}) {
        EXPECT_EQ(calls_of(num_tokens, grain).visits, std::vector<int>(num_tokens, 1)) << threads << " " << num_tokens;
      }
    }
  }
  EXPECT_EQ(calls_of(0, 1).ranges, 0);
}

TEST(TokenRangesTest, UsesLibTorchsThreads) {
  const ThreadCount count(3);
  const Calls calls = calls_of(3000, 10);
  EXPECT_EQ(calls.ranges, 3);
  EXPECT_EQ(calls.threads.size(), 3U);
  EXPECT_EQ(calls_of(10, 10).ranges, 1);
}

TEST(TokenRangesTest, PassesExceptionsOn) {
  const ThreadCount count(2);
  EXPECT_THROW(for_token_ranges(100, 1, [](int64_t, int64_t) { throw std::runtime_error("no"); }), std::runtime_error);
}

}  // namespace
}  // namespace moetap::analysis
