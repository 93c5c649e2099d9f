#include "plugin/process/recycled_memory.h"

#include <array>
#include <bit>
#include <mutex>
#include <new>
#include <optional>

#include "plugin/process/fork_local.h"

#ifdef __SANITIZE_ADDRESS__
// Declared in sanitizer/asan_interface.h, which GCC does not install.
extern "C" void __asan_poison_memory_region(const volatile void* memory, size_t size);
extern "C" void __asan_unpoison_memory_region(const volatile void* memory, size_t size);
#endif

namespace moetap::plugin {
namespace {

constexpr size_t kSmallest = 64, kLargest = size_t{16} << 10;  // bytes of a block, each twice the one before
constexpr size_t kNumSizes = std::bit_width(kLargest / kSmallest);
constexpr size_t kMostKept = 128;  // of each size

/// With AddressSanitizer, who uses a block that is free is reported.
void set_usable([[maybe_unused]] void* block, [[maybe_unused]] size_t bytes, [[maybe_unused]] bool usable) {
#ifdef __SANITIZE_ADDRESS__
  usable ? __asan_unpoison_memory_region(block, bytes) : __asan_poison_memory_region(block, bytes);
#endif
}

/// Freed blocks of one size.
struct FreeBlocks {
  std::mutex mutex;  // guards what follows
  size_t number = 0;
  std::array<void*, kMostKept> blocks{};
};

struct Store {
  std::array<FreeBlocks, kNumSizes> of_size;
};

FreeBlocks& blocks_of(size_t place) {
  return fork_local<Store>().of_size[place];
}

/// Empty: blocks of that size are not kept.
std::optional<size_t> place_of(size_t bytes) {
  if (bytes > kLargest) return std::nullopt;
  return bytes <= kSmallest ? 0 : std::bit_width((bytes - 1) / kSmallest);
}

}  // namespace

void* take_memory(size_t bytes) {
  const auto place = place_of(bytes);
  if (!place) return ::operator new(bytes);
  {
    FreeBlocks& free = blocks_of(*place);
    const std::lock_guard lock(free.mutex);
    if (free.number > 0) {
      void* block = free.blocks[--free.number];
      set_usable(block, kSmallest << *place, true);
      return block;
    }
  }
  return ::operator new(kSmallest << *place);
}

void give_memory(void* memory, size_t bytes) noexcept {
  if (memory == nullptr) return;
  if (const auto place = place_of(bytes)) {
    FreeBlocks& free = blocks_of(*place);
    const std::lock_guard lock(free.mutex);
    if (free.number < kMostKept) {
      set_usable(memory, kSmallest << *place, false);
      free.blocks[free.number++] = memory;
      return;
    }
  }
  ::operator delete(memory);
}

}  // namespace moetap::plugin
