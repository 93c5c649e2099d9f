#pragma once

#include <ATen/core/DimVector.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "analysis/routers/host_call.h"
#include "plugin/capture/forward_tokens.h"

namespace moetap::plugin {

/// The held router calls of one forward (Note [Held calls]) and their memory, which is used again for later forwards.
/// For one thread at a time.
class HeldCalls {
 public:
  struct Call {
    int64_t hook = 0, call = 0;  // as in RouterRecord
    std::shared_ptr<const TokenGroup> tokens;
    analysis::HostRouterCall values;  // in this object's memory; ids are int32
  };

  bool empty() const { return calls_.empty(); }
  const std::vector<Call>& calls() const { return calls_; }
  /// Bytes of memory, used or not.
  int64_t bytes() const;

  /// Which tokens a call sees: calls that have all of this in common see the same.
  struct TokenKey {
    TextOfComponent text = TextOfComponent::kNone;
    int64_t layout = 0;  // HeldForms::layout_number
    c10::IntArrayRef sizes;
  };
  /// The place of a group that `add_tokens` was given for such calls; empty: none was.
  std::optional<size_t> find_tokens(const TokenKey& key) const;
  size_t add_tokens(const TokenKey& key, std::shared_ptr<const TokenGroup> tokens);

  /// Copies a call, which `view` of HeldForms gave, that sees the tokens at a place. False, and nothing changes: its
  /// rows cannot be held, or an id is no expert.
  bool add(int64_t hook, int64_t call, size_t tokens, const analysis::HostRouterCall& reported);

  /// In the order of hooks, then of calls.
  void sort();
  void clear();

 private:
  struct Tokens {
    TextOfComponent text;
    int64_t layout;
    at::DimVector sizes;
    std::shared_ptr<const TokenGroup> group;
    const bool* valid;  // null: all
    bool can_be_held;
  };

  void* allocate(size_t bytes);
  analysis::HostPlane copy(const analysis::HostPlane& plane, int64_t num_tokens, int64_t columns);

  std::vector<Call> calls_;
  std::vector<Tokens> tokens_;
  struct Chunk {
    std::unique_ptr<std::byte[]> memory;
    size_t size = 0;
  };
  std::vector<Chunk> chunks_;
  size_t chunk_ = 0, used_ = 0;  // what was allocated last: its chunk, its end there
};

/// The HeldCalls of a model's forwards. Thread-safe.
class HeldCallsPool {
 public:
  /// An empty one that nobody else holds.
  std::shared_ptr<HeldCalls> take();

 private:
  std::mutex mutex_;
  std::vector<std::shared_ptr<HeldCalls>> all_;
};

}  // namespace moetap::plugin
