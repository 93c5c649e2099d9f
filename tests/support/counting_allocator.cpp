#include "tests/support/counting_allocator.h"

#include <cerrno>
#include <cstddef>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MOETAP_SANITIZER_ALLOCATES 1
// Declared in sanitizer/allocator_interface.h, which GCC does not install.
extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*allocates)(const volatile void* block, size_t size),
                                                         void (*frees)(const volatile void* block));
#endif

namespace moetap {
namespace {

// Plain numbers without constructors: `malloc` runs before and after everything else in a thread.
thread_local int64_t counters_alive = 0;
thread_local int64_t number = 0, bytes = 0;  // while a counter was alive

}  // namespace

// Called for counted blocks only, so that a debugger can stop here.
[[gnu::noinline]] void count_allocation(size_t size) {
  ++number;
  bytes += static_cast<int64_t>(size);
}

namespace {

void allocates(size_t size) {
  if (counters_alive > 0) count_allocation(size);
}

#ifdef MOETAP_SANITIZER_ALLOCATES
[[maybe_unused]] const int installed = __sanitizer_install_malloc_and_free_hooks(
    [](const volatile void*, size_t size) { allocates(size); }, [](const volatile void*) {});
#endif

}  // namespace

CountAllocations::CountAllocations() : number_before_(moetap::number), bytes_before_(moetap::bytes) {
  ++counters_alive;
}

CountAllocations::~CountAllocations() {
  --counters_alive;
}

int64_t CountAllocations::number() const {
  return moetap::number - number_before_;
}

int64_t CountAllocations::bytes() const {
  return moetap::bytes - bytes_before_;
}

}  // namespace moetap

#ifndef MOETAP_SANITIZER_ALLOCATES
// The functions of a program come before those of its libraries, so every library calls these. What they return is from
// glibc's own heap: its `free` serves.
#define MOETAP_REPLACES extern "C" __attribute__((visibility("default")))

extern "C" {
void* __libc_malloc(size_t size);
void* __libc_calloc(size_t number, size_t size);
void* __libc_realloc(void* block, size_t size);
void* __libc_memalign(size_t alignment, size_t size);
}

MOETAP_REPLACES void* malloc(size_t size) {
  moetap::allocates(size);
  return __libc_malloc(size);
}

MOETAP_REPLACES void* calloc(size_t number, size_t size) {
  moetap::allocates(number * size);
  return __libc_calloc(number, size);
}

MOETAP_REPLACES void* realloc(void* block, size_t size) {
  moetap::allocates(size);
  return __libc_realloc(block, size);
}

MOETAP_REPLACES void* memalign(size_t alignment, size_t size) {
  moetap::allocates(size);
  return __libc_memalign(alignment, size);
}

MOETAP_REPLACES void* aligned_alloc(size_t alignment, size_t size) {
  moetap::allocates(size);
  return __libc_memalign(alignment, size);
}

MOETAP_REPLACES int posix_memalign(void** block, size_t alignment, size_t size) {
  if (alignment % sizeof(void*) != 0 || alignment == 0 || (alignment & (alignment - 1)) != 0) return EINVAL;
  moetap::allocates(size);
  void* taken = __libc_memalign(alignment, size);
  if (taken == nullptr) return ENOMEM;
  *block = taken;
  return 0;
}
#endif
