#include "plugin/process/recycled_memory.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

namespace moetap::plugin {
namespace {

TEST(RecycledMemory, WhatWasGivenBackIsTakenNext) {
  for (const size_t bytes : {1, 64, 65, 1000, 16 << 10}) {
    void* first = take_memory(bytes);
    void* second = take_memory(bytes);
    EXPECT_NE(first, second);
    give_memory(first, bytes);
    EXPECT_EQ(take_memory(bytes), first) << bytes;
    give_memory(first, bytes);
    give_memory(second, bytes);
  }
}

TEST(RecycledMemory, ABlockServesNoLargerSize) {
  for (size_t bytes = 1; bytes <= 4096; bytes = bytes * 3 / 2 + 1) {
    void* small = take_memory(bytes);
    give_memory(small, bytes);
    void* large = take_memory(4 * bytes + 64);
    EXPECT_NE(large, small) << bytes;
    std::memset(large, 1, 4 * bytes + 64);  // AddressSanitizer sees whether it is that large
    give_memory(large, 4 * bytes + 64);
  }
}

TEST(RecycledMemory, MoreThanIsKeptAndLargeBlocksGoToTheHeap) {
  std::vector<void*> blocks;
  for (int i = 0; i < 1000; ++i) blocks.push_back(take_memory(200));
  for (void* block : blocks) give_memory(block, 200);
  constexpr size_t kLarge = size_t{1} << 20;
  give_memory(take_memory(kLarge), kLarge);  // a leak checker sees the rest
}

struct Base {
  virtual ~Base() = default;
};
struct Derived final : Base, Recycled {
  std::array<int64_t, 50> numbers{};
};

TEST(RecycledMemory, ObjectsAndTheirBasesUseIt) {
  std::unique_ptr<Base> object = std::make_unique<Derived>();
  const void* place = object.get();
  object.reset();
  object = std::make_unique<Derived>();
  EXPECT_EQ(object.get(), place);

  const auto make = [] { return std::allocate_shared<std::array<char, 3000>>(RecyclingAllocator<char>()); };
  auto shared = make();
  const void* shared_place = shared.get();
  shared.reset();
  shared = make();
  EXPECT_EQ(shared.get(), shared_place);

  std::vector<int64_t, RecyclingAllocator<int64_t>> numbers;
  for (int64_t i = 0; i < 5000; ++i) numbers.push_back(i);
  for (int64_t i = 0; i < 5000; ++i) ASSERT_EQ(numbers[static_cast<size_t>(i)], i);
}

TEST(RecycledMemory, NoTwoThreadsHoldABlock) {
  std::vector<std::thread> threads;
  std::atomic<int> errors = 0;
  for (int64_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      for (int round = 0; round < 5000; ++round) {
        auto* one = static_cast<int64_t*>(take_memory(256));
        auto* two = static_cast<int64_t*>(take_memory(256));
        *one = thread;
        *two = thread + 100;
        if (round % 500 == 0) std::this_thread::yield();
        if (*one != thread || *two != thread + 100) ++errors;
        give_memory(one, 256);
        give_memory(two, 256);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(errors, 0);
}

// Another thread of the parent may have held a lock, which nobody releases in the child.
TEST(RecycledMemory, AForkedChildHasItsOwn) {
  std::atomic<bool> stops = false;
  std::thread busy([&] {
    while (!stops) give_memory(take_memory(128), 128);
  });
  void* of_parent = take_memory(128);
  for (int i = 0; i < 20; ++i) {
    const pid_t child = ::fork();
    if (child == 0) {
      ::alarm(60);
      give_memory(of_parent, 128);
      ::_exit(take_memory(128) == of_parent ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  }
  stops = true;
  busy.join();
  give_memory(of_parent, 128);
}

}  // namespace
}  // namespace moetap::plugin
