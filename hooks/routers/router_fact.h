#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/jit/ir/ir.h>

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "hooks/routers/unused_slots.h"

namespace moetap::hooks {

/// What a value means that is computed from a followed projection.
enum class Role {
  kScore,   // one number for each expert: logits, scores; gate weights, once they depend on a pick
  kIds,     // expert ids, one for each slot
  kSlot,    // one number for each slot: gate weights
  kMask,    // zeros and ones made of ids, over experts or slots
  kStat,    // reduced over experts or slots: sums to divide by, group scores, counts, places in an expert's queue
  kOrder,   // tokens in an order made of ids: nonzero, argsort
  kChosen,  // parameters picked by ids
  kRouted,  // dense weights spread over the places of experts, [.., experts, places]
};

/// What is known of a value. Pointers are to values of the followed graph.
struct Fact {
  Role role = Role::kScore;
  // The earliest value with the same elements in the same order; null if there is none.
  torch::jit::Value* base = nullptr;
  bool aligned = true;  // elements are still in the order of tokens and slots (or experts)
  std::set<int> picks;  // that it depends on: places in RouterFlow::picks

  // Scores, and the weights that were taken from them.
  // The input of the scoring function; before there is one, the value itself.
  torch::jit::Value* logits = nullptr;
  torch::jit::Value* score = nullptr;  // the output of the scoring function; null before there is one
  std::string scoring;                 // name of the scoring function; "" before there is one
  std::string slot_scoring;            // scoring function over the slots, after the pick
  bool biased = false;                 // something was added after the scoring: it serves the selection only
  bool masked = false;                 // a mask was applied before scoring
  bool grouped = false;                // the expert axis is cut into groups
  int64_t expert_dim = -1;             // where the experts lie; from the end where that is known
  std::optional<int64_t> rank;         // number of dimensions, where the operators tell it
  int64_t logits_dim = -1;             // expert_dim of `logits`
  int64_t score_dim = -1;              // expert_dim of `score`
  std::optional<int64_t> num_experts;
  int64_t null_columns = 0;  // of `num_experts`, those that come from no projection

  // Ids that were computed with: see Note [Ids that are computed with].
  bool index = false;            // not `aligned`: other numbers than ids stand at the slots of `ids`
  bool strided = false;          // the numbers of two experts are further than 1 from each other
  bool unknown_numbers = false;  // the graph does not tell what the ids have become
  bool looked_up = false;        // places of experts, which a table of the model gives for each of `ids`
  // int64: what each expert's id has become, and behind them what is written over ids. Undefined: they are the ids.
  at::Tensor numbers;
  // int64 [.., 2]: the first and the last row of each, once places were added to the numbers and these are not known.
  at::Tensor rows;

  // See Note [Slots without an expert].
  bool strays = false;              // slots without an expert have numbers that may be taken for one's
  KeptBy unused;                    // of ids: what has left those slots out
  at::Tensor says;                  // of a mask of ids alone, bool: what it says of each of their `numbers`
  std::vector<KeptBy> zero_unless;  // of weights: those that none of these keeps are 0

  // Slots, ids, masks.
  bool nested = false;              // picked from picked values (product keys)
  bool per_expert = false;          // concerns one expert: a comparison of ids with one number
  bool own = false;                 // chosen: rows of the projection's own parameter
  bool vectors = false;             // chosen: one vector an expert
  bool numbers_of_experts = false;  // chosen: one number an expert
  bool filled = false;              // weights: experts that were not picked have been given some
  bool relative = false;            // scores that were computed with those that were picked, and masks made of them
  bool joined = false;              // ids that were put together with those of another router
  bool column = false;              // of one expert
  bool sorted = false;              // an order by ids that were sorted, not by masks of them
  bool cut = false;                 // an order of which only the first places are used
  bool threshold = false;           // zero at the experts that are not chosen, by their scores: there are no ids
  bool by_sign = false;             // a threshold of zero (`relu`): activations of hidden states have it, too
  bool dropped = false;             // zero where a capacity leaves a token out
  bool rewritten = false;           // ids or weights were changed in a way that is not followed
  bool ordinal = false;             // a mask of ids that are larger or smaller than a number: it tells of no expert
  bool pairs = false;               // scores of pairs (token, expert), which were chosen one by one
  bool merged = false;              // scores whose experts share their axis with tokens
  bool turned = false;              // scores whose tokens are some of the projection's, or in another order
  // Weights that were picked from those over tokens: the tokens of each expert, [.., experts, tokens].
  torch::jit::Value* tokens_of_experts = nullptr;
  int place = -1;                                   // of a piece of the slots, which one
  const torch::jit::Value* place_in_run = nullptr;  // the same where only the run tells the number; null: unknown
  // Of a mask that says which tokens an expert sees within its capacity: the mask over all experts.
  torch::jit::Value* kept = nullptr;
  bool one_hot = false;  // mask [..., slot, expert] with one place set
  bool placed = false;   // mask over the places in an expert's queue
  bool flat = false;     // tokens and slots share one dimension
  bool changed = false;  // changed after it was put into another order: `weights` are not what is applied
  // Of flat weights that were sorted by expert: all of them in that order, as they are now, and the order. `changed` on
  // the way, they are still told apart by it. See Note [Weights in another order].
  torch::jit::Value* permuted = nullptr;
  torch::jit::Value* order = nullptr;
  bool in_pieces = false;     // some of them
  bool unsure_slots = false;  // the arms of a branch pick different numbers
  int part = 0;               // of a projection that is cut in parts, which one; 0: the whole or the first
  int mixed_at = -1;          // concatenated with other values: place of the slots among the parts
  std::optional<int64_t> num_slots;
  // Put beside numbers that are none of its slots: the slots alone, and whether they stand behind the others.
  torch::jit::Value* slots_alone = nullptr;
  bool slots_behind = false;
  torch::jit::Value* parent = nullptr;      // the value that it is a part or a masked copy of
  std::vector<torch::jit::Value*> ids;      // aligned ids that it was computed from, in order of execution
  std::vector<torch::jit::Value*> weights;  // aligned weights that it was computed from
};

/// Adds the picks, ids and weights of `from`.
void merge(Fact& into, const Fact& from);

/// Forgets which slot the value is, if it is another one's, too.
void join_places(Fact& into, const Fact& from);

/// True for gate weights: over slots, or over experts if they depend on a pick.
bool carries_weights(const Fact& fact);

/// Says that the value is no longer in the order of tokens and slots. The value that still was is kept in `ids` or
/// `weights`.
void lose_alignment(Fact& fact);

/// Notes that the value has been computed with in another order than that of tokens and slots. `now` is what it is
/// then.
void change_in_order(Fact& fact, torch::jit::Value* now);

/// Of chosen vectors that a hidden state was multiplied by: weights of the slots, which are none of the scores.
Fact weights_of_vectors(Fact chosen);

/// Dense weights or those of slots times a mask over the places in the experts' queues, which gave `value`:
/// [.., experts, places].
Fact spread_over_places(const Fact& weights, const Fact& mask, torch::jit::Value* value);

/// The fact as an event or a mask keeps it: an aligned value itself stands in `ids` or `weights`.
Fact remembered(Fact fact);

}  // namespace moetap::hooks
