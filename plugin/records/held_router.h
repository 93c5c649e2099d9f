#pragma once

#include <cstdint>

#include "analysis/routers/host_call.h"

namespace moetap::plugin {

// Note [Held calls]
// A router call of few tokens on the CPU is not measured in the forward: its ids, weights and logits are copied as they
// were reported, which takes a microsecond. Whoever needs its numbers measures it, and all get the same bits, since all
// use `analysis::observe_host`: the writer thread for the run's summary, whoever reads the journal for the log.
//
// A record holds all of its forward's router calls or none. The writer thread measures held calls at once where a call
// of the forward was measured in it, where the sink takes no held calls, or where a sample has more than
// kMaxHeldTokens: the sums of many tokens are shorter than the tokens.

/// Most tokens that a sample may have in a held call of a record, padding included.
inline constexpr int64_t kMaxHeldTokens = 2;

/// A router call that is held. All in memory that the record owns.
struct HeldRouter {
  int64_t hook = 0;     // HookPoint::id
  int64_t call = 0;     // as in RouterRecord
  int64_t before = -1;  // place in ForwardRecord::held of the router before (Note [The router before]); -1: none
  // Padding included. The rows are the forward's samples, one after the other or interleaved. The ids are int32,
  // experts or -1.
  analysis::HostRouterCall values;
};

}  // namespace moetap::plugin
