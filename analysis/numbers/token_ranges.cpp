#include "analysis/numbers/token_ranges.h"

#include <ATen/TensorIterator.h>
#include <ATen/ops/empty.h>

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

namespace moetap::analysis {
namespace {

// Note [ThreadSanitizer and LibTorch's threads]
// LibTorch and its OpenMP runtime are not built with the sanitizer, so it cannot see that a loop begins after what its
// caller did before and ends before what its caller does next. These marks tell it. Races between ranges are still
// reported.
#ifdef __SANITIZE_THREAD__
char loop_begins;
char loop_ends;

struct Loop {
  Loop() { __tsan_release(&loop_begins); }
  ~Loop() { __tsan_acquire(&loop_ends); }
};

struct Range {
  Range() { __tsan_acquire(&loop_begins); }
  ~Range() { __tsan_release(&loop_ends); }
};
#else
struct Loop {};
struct Range {};
#endif

}  // namespace

// Note [LibTorch's threads]
// at::parallel_for is a template that runs on one thread unless its user is compiled with OpenMP and linked with the
// copy of the runtime that LibTorch brings. TensorIterator::for_each is the same loop, compiled into LibTorch. It
// iterates over a tensor of bytes only for its addresses, which give the tokens' numbers; no byte is read or written.
void for_token_ranges(int64_t num_tokens, int64_t grain, c10::function_ref<void(int64_t begin, int64_t end)> function) {
  if (num_tokens <= 0) return;
  if (num_tokens <= grain) {
    function(0, num_tokens);
    return;
  }
  const at::Tensor places = at::empty({num_tokens}, at::kByte);
  const char* base = static_cast<const char*>(places.const_data_ptr());
  at::TensorIterator iterator = at::TensorIteratorConfig()
                                    .check_all_same_dtype(false)
                                    .resize_outputs(false)
                                    .declare_static_shape(places.sizes())
                                    .add_output(places)
                                    .build();
  const auto call = [&](char** data, const int64_t* strides, int64_t inner, int64_t outer) {
    [[maybe_unused]] const Range range;
    TORCH_INTERNAL_ASSERT(strides[0] == 1 && outer == 1, "one dimension of bytes is expected");
    const int64_t begin = data[0] - base;
    function(begin, begin + inner);
  };
  [[maybe_unused]] const Loop loop;  // last before the loop: what it reads has been written
  iterator.for_each(call, grain);
}

}  // namespace moetap::analysis
