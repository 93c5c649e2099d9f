#pragma once

#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>
#include <c10/util/FunctionRef.h>
#include <c10/util/SmallVector.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "analysis/routers/router_call.h"
#include "plugin/capture/text_arguments.h"
#include "plugin/capture/token_rows.h"

namespace moetap::plugin {

class HostCopies;

/// The tokens of all router calls that see the same tokens, so that their columns are made once. Constant once calls
/// share it. N = tokens of a call, including padding.
struct TokenGroup {
  TextOfComponent text = TextOfComponent::kNone;
  c10::Device device = c10::kCPU;
  int64_t num_tokens = 0;    // N
  Attribution attribution;   // as far as the forward was known when the group was made
  analysis::TokenRows rows;  // for `analysis::observe_into`
  at::Tensor valid;          // bool [N] on `device`, false: padding; undefined: all valid
  at::Tensor token_ids;      // int64 [N]; undefined: unknown, or not kept
  at::Tensor places;         // int64 [N]: see packed_places; undefined: no tokens were taken out
};

/// What one call shows of its tokens.
struct CallTokens {
  TextOfComponent text = TextOfComponent::kNone;
  at::IntArrayRef sizes;  // of the model's tensor, in token order: see CanonicalRouter
  c10::Device device = c10::kCPU;
  HostCopies* columns = nullptr;               // copies the columns to the host; null: the host does not need them
  const hooks::TokenLayout* layout = nullptr;  // of the router; null: not known
};

/// The texts and samples of one forward, and which of them the tokens of its calls belong to. Thread-safe: forks report
/// on threads of their own. Does not wait for devices.
class ForwardTokens {
 public:
  using Notice = c10::function_ref<void(const std::string& what, const std::string& detail)>;

  /// Reads the texts among the arguments of the method. Called once, before all other functions. Marks the streams that
  /// it used in `copies`. `notice` is called for arguments that are not understood. `places` must outlive this object.
  void read(const TextArguments& places, const c10::List<std::optional<at::Tensor>>& arguments, bool keep_ids,
            HostCopies& copies, Notice notice);

  /// Which text the routers of a hook see.
  TextOfComponent text_of_hook(int64_t hook, const std::string& component) const;

  /// The group of a call; made if no earlier call has it. `copies`: the forward's, in which the stream that made the
  /// group is marked: before the caller reads the group's tensors it makes its stream wait for the marked ones. Null: a
  /// graph is being captured, and the caller's stream waits within the graph.
  std::shared_ptr<const TokenGroup> group_of(const CallTokens& call, HostCopies* copies);

  /// int64 [count] on the group's device: the indices of its first `count` valid tokens; if it has fewer, indices of
  /// padding follow. The caller waits as above.
  at::Tensor first_valid(const std::shared_ptr<const TokenGroup>& group, int64_t count, HostCopies& copies);

  /// The forward has ended: later calls of `group_of` do not change `batch` and the texts.
  void end();

  /// Samples of the forward; empty: nothing shows how many.
  std::optional<int64_t> batch() const;
  /// The text of the encoder, or the only text.
  TextTokens text() const;
  /// The text whose length is that of the forward itself: the decoder's if there is one.
  TextTokens query_text() const;
  /// True if no text of the forward lies on a device.
  bool texts_are_on_cpu() const;
  /// True if a graph is being captured on the current stream of a device that the forward's tokens are on.
  bool in_captured_graph(HostCopies& copies) const;

 private:
  struct KnownGroup {
    std::shared_ptr<const TokenGroup> group;
    at::Tensor first_valid = {};              // undefined: nobody asked so far
    std::optional<c10::Event> captured = {};  // behind the group in a graph; empty: no graph was being captured
  };

  // The caller holds mutex_.
  const TextTokens* text_of(TextOfComponent text) const;
  Attribution attribute(const CallTokens& call, int64_t num_tokens);
  at::Tensor places_of(const Attribution& attribution, const hooks::TokenLayout& layout, int64_t num_tokens) const;
  std::shared_ptr<const TokenGroup> new_group(const CallTokens& call, const Attribution& attribution,
                                              int64_t num_tokens) const;

  mutable std::mutex mutex_;  // guards what follows
  bool ended_ = false;
  std::optional<int64_t> batch_;
  const TextArguments* arguments_ = nullptr;  // null before `read`
  ArgumentSizes sizes_;                       // of the arguments
  TextTokens text_, decoder_text_;
  std::vector<std::pair<size_t, at::Tensor>> packings_;  // copies of the arguments that say which tokens are left
  c10::SmallVector<KnownGroup, 2> groups_;
};

}  // namespace moetap::plugin
