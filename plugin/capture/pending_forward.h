#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "plugin/capture/host_copies.h"
#include "plugin/capture/probed_tokens.h"
#include "plugin/capture/token_rows.h"
#include "plugin/records/forward_record.h"

namespace moetap::plugin {

/// The tokens of router calls that see the same tokens: their columns are made once. N = tokens of the call, padding
/// too.
struct TokenGroup {
  TextOfComponent text = TextOfComponent::kNone;
  c10::Device device = c10::kCPU;
  int64_t num_tokens = 0;  // N
  Attribution attribution;
  analysis::TokenRows rows;  // for `analysis::observe`
  at::Tensor valid;          // bool [N], false: padding; undefined: all valid
  at::Tensor token_ids;      // int64 [N]; undefined: unknown, or not kept
  at::Tensor probed;  // int64 [n] on `device`: the first n valid tokens, then padding; undefined: not asked for so far
};

/// One router call as the forward left it: `record` has rows for padding too and may be on a device.
struct PendingRouter {
  RouterRecord record;
  std::shared_ptr<TokenGroup> group;
  at::Tensor out_of_range;        // int64 []; undefined: the sums have counted them
  at::Tensor first_slot;          // int32 [N], the expert of the largest weight; -1: none
  bool first_slot_stays = false;  // on its device: the tokens' ways are counted there, being fewer numbers
  int64_t transition_from = -1;   // hook of the router before that `transition_counts` were counted from; -1: none
  at::Tensor transition_counts;   // int64 [E before, E]; undefined: none
};

/// Whether `known` stands before `router` in its component, in the same call, and saw the same tokens.
bool comes_before(const PendingRouter& known, const PendingRouter& router, const ModelDescription& model);

/// A value that the model logged as a tensor of one element.
struct PendingValue {
  std::pair<std::string, std::string> place;  // component, layer
  std::string name;
  at::Tensor value;
};

/// A forward that has ended, on its way to the writer thread.
class PendingForward {
 public:
  ForwardRecord record;                         // without samples, routers and tensor values
  int64_t num_samples = 1;                      // B
  std::shared_ptr<ProbedTokens> probed_tokens;  // of the model; null for values of the host alone
  std::vector<PendingRouter> routers;           // any order
  std::vector<PendingValue> values;
  at::Tensor text_tokens;  // int64 []: valid tokens of the text; undefined: the forward has no text
  std::shared_ptr<HostCopies> copies = std::make_shared<HostCopies>();

  /// In the forward: enqueues the copies to the host. Does not block.
  void start_copies();

  /// Memory that the forward holds on until it is written.
  int64_t bytes() const;

  /// On the writer thread: waits for the copies, drops the rows of padding and fills in the columns. Leaves this object
  /// empty.
  ForwardRecord finish();

 private:
  void add_transitions(ForwardRecord& finished);
  /// Calls visit(before, router) for each router and the one before it in its component, over the same tokens.
  template <typename Visit>
  void for_each_transition(const ModelDescription& model, const Visit& visit);
  void sort_routers();
};

/// A 0-dimensional tensor's value in the type that JSON has for it.
CustomValue custom_value(const at::Tensor& scalar);

}  // namespace moetap::plugin
