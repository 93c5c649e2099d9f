#include "tests/support/counting_allocator.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace moetap {
namespace {

/// Where a block goes that is only taken to be counted: the compiler must not leave it out.
void* volatile taken = nullptr;

void take(void* block) {
  taken = block;
  std::free(taken);
}

#ifdef __SANITIZE_THREAD__
constexpr bool kAlignedBlocksAreCounted = false;
#else
constexpr bool kAlignedBlocksAreCounted = true;
#endif

struct Way {
  const char* name;
  std::function<void()> allocate;  // one block of 128 bytes
  bool counted = true;
};

TEST(CountAllocations, CountsEveryWayToTakeABlock) {
  struct alignas(64) Aligned {
    char bytes[128];
  };
  const Way ways[] = {
      {"malloc", [] { take(std::malloc(128)); }},
      {"calloc", [] { take(std::calloc(4, 32)); }},
      {"aligned_alloc", [] { take(std::aligned_alloc(64, 128)); }, kAlignedBlocksAreCounted},
      {"posix_memalign",
       [] {
         void* block = nullptr;
         ASSERT_EQ(::posix_memalign(&block, 64, 128), 0);
         ASSERT_EQ(reinterpret_cast<uintptr_t>(block) % 64, 0u);
         take(block);
       },
       kAlignedBlocksAreCounted},
      {"new",
       [] {
         char* block = new char[128];
         taken = block;
         delete[] block;
       }},
      {"aligned new",
       [] {
         auto* block = new Aligned;
         taken = block;
         delete block;
       }},
      {"std::string", [] { taken = std::string(127, 'x').data(); }},
  };
  for (const Way& way : ways) {
    if (!way.counted) continue;
    const CountAllocations counted;
    way.allocate();
    const int64_t number = counted.number(), bytes = counted.bytes();  // before a message takes memory
    EXPECT_EQ(number, 1) << way.name;
    EXPECT_EQ(bytes, 128) << way.name;
  }
}

TEST(CountAllocations, CountsAReallocationOnce) {
  void* block = std::malloc(16);
  const CountAllocations counted;
  block = std::realloc(block, 4096);
  EXPECT_EQ(counted.number(), 1);
  EXPECT_EQ(counted.bytes(), 4096);
  take(block);
}

TEST(CountAllocations, CountsWhatLibTorchAllocates) {
  if (!kAlignedBlocksAreCounted) GTEST_SKIP();
  at::empty({1000});  // what is made once
  const CountAllocations counted;
  const at::Tensor tensor = at::empty({1000});
  EXPECT_GE(counted.number(), 1);
  EXPECT_GE(counted.bytes(), 4000);
}

TEST(CountAllocations, CountsNothingWhereNothingIsAllocated) {
  std::vector<int> numbers(100);
  const CountAllocations counted;
  numbers.resize(50);
  numbers.resize(100);
  EXPECT_EQ(counted.number(), 0);
  EXPECT_EQ(counted.bytes(), 0);
}

TEST(CountAllocations, CountsNoOtherThread) {
  int64_t of_thread = -1;
  const CountAllocations counted;
  std::thread thread([&of_thread] {
    take(std::malloc(1 << 20));  // not counted: the counter belongs to another thread
    const CountAllocations own;
    take(std::malloc(128));
    of_thread = own.number();
  });
  thread.join();
  EXPECT_EQ(of_thread, 1);
  EXPECT_LT(counted.bytes(), 1 << 20);
}

TEST(CountAllocations, MayBeNested) {
  const CountAllocations outer;
  take(std::malloc(128));
  {
    const CountAllocations inner;
    take(std::malloc(128));
    EXPECT_EQ(inner.number(), 1);
  }
  take(std::malloc(128));
  EXPECT_EQ(outer.number(), 3);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // a sanitizer ends the program instead
TEST(CountAllocations, RefusesAnAlignmentThatIsNone) {
  void* block = &block;
  EXPECT_EQ(::posix_memalign(&block, 24, 128), EINVAL);
  EXPECT_EQ(block, &block);
}
#endif

}  // namespace
}  // namespace moetap
