#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "analysis/attention/attention_call.h"
#include "hooks/points/hook_point.h"
#include "plugin/capture/cached_regions.h"
#include "plugin/capture/forward_tokens.h"
#include "plugin/records/attention_regions.h"

namespace moetap::plugin {

/// The tokens of an attention call: B sequences of Sq queries and Sk keys.
struct AttentionPlaces {
  analysis::AttentionTokens tokens;           // as the call is measured; regions where they are not parts
  std::shared_ptr<const TokenGroup> queries;  // in the order b, q
};

/// What a call shows of its tokens.
struct AttentionSizes {
  int64_t batch = 0, queries = 0, keys = 0;  // B, Sq, Sk
  c10::Device device = c10::kCPU;

  bool operator==(const AttentionSizes&) const = default;
};

/// Which regions the tokens of a forward belong to.
struct RegionsOfForward {
  const AttentionRegions& names;
  const at::Tensor& argument;           // int64 [B, S], the region of each token; undefined: no argument gives them
  CachedRegions& cached;                // of earlier forwards of the samples
  const std::vector<int64_t>& samples;  // the numbers of the forward's samples
};

/// How the tokens of one hook are found; the same for all forwards.
struct AttentionHook {
  explicit AttentionHook(const hooks::HookPoint& hook) : point(hook) {}

  const hooks::HookPoint& point;
  /// The layouts with the batch first, as the tokens of a canonical call lie.
  hooks::TokenLayout queries() const;
  hooks::TokenLayout keys() const;
};

/// Finds which tokens of which samples the queries and keys of a call are, which of them are padding, and their
/// positions: the rank of a token among those of its sample that are not padding, over all that a cache holds. A call
/// whose keys are more than its queries and of the same text has a cache before them.
AttentionPlaces place_attention(ForwardTokens& tokens, const AttentionHook& hook, const AttentionSizes& sizes,
                                const RegionsOfForward& regions, HostCopies* copies);

/// int32, the shape of `valid` [B, S]: the rank of each token among the valid ones of its row; -1: it is not valid.
at::Tensor rank_among_valid(const at::Tensor& valid);

}  // namespace moetap::plugin
