#pragma once

#include <cstdint>

namespace moetap {

/// Counts the heap blocks that the calling thread takes while the object lives: by `malloc` and its kin, so also by
/// `new` and by LibTorch's tensors on the CPU, in every library of the process. Objects may be nested. Use it on the
/// thread that made it.
///
/// A program that uses it has a `malloc` of its own, which hands on to that of glibc. With a sanitizer, the
/// sanitizer reports blocks; ThreadSanitizer leaves out aligned ones, and so LibTorch's tensors. To see who takes a
/// block, stop a debugger at `moetap::count_allocation`.
class CountAllocations {
 public:
  CountAllocations();
  ~CountAllocations();
  CountAllocations(const CountAllocations&) = delete;
  CountAllocations& operator=(const CountAllocations&) = delete;

  /// Blocks since the object was made. A `realloc` counts as one.
  int64_t number() const;
  /// The bytes that were asked for.
  int64_t bytes() const;

 private:
  int64_t number_before_, bytes_before_;
};

}  // namespace moetap
