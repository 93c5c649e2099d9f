#pragma once

#include <cstddef>

namespace moetap::plugin {

// Note [Recycled memory]
// A forward makes a dozen objects that live until its record is written, on another thread as a rule. Their memory does
// not go back to the heap, but to the forwards after it: once a few have run, none takes anything from the heap.
// Objects themselves are not used again, so nothing of one forward can be left in another. What is kept is bounded, by
// the number of blocks of each size and by the size.

/// Memory for any object that needs no special alignment; that of a freed one, if there is one of about this size.
/// Thread-safe. Throws std::bad_alloc.
void* take_memory(size_t bytes);
/// Gives back what `take_memory` returned for as many bytes.
void give_memory(void* memory, size_t bytes) noexcept;

/// A base of classes whose objects `new` makes in recycled memory.
struct Recycled {
  static void* operator new(size_t bytes) { return take_memory(bytes); }
  static void operator delete(void* memory, size_t bytes) noexcept { give_memory(memory, bytes); }
};

/// For containers, and for `std::allocate_shared`.
template <typename T>
struct RecyclingAllocator {
  static_assert(alignof(T) <= alignof(std::max_align_t), "recycled memory has no special alignment");
  using value_type = T;

  RecyclingAllocator() = default;
  template <typename Other>
  RecyclingAllocator(const RecyclingAllocator<Other>&) noexcept {}

  T* allocate(size_t number) { return static_cast<T*>(take_memory(number * sizeof(T))); }
  void deallocate(T* memory, size_t number) noexcept { give_memory(memory, number * sizeof(T)); }

  template <typename Other>
  bool operator==(const RecyclingAllocator<Other>&) const noexcept {
    return true;
  }
};

}  // namespace moetap::plugin
