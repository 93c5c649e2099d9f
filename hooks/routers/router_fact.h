#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace moetap::hooks {

/// What a value means that derives from a followed projection.
enum class Role {
  kScore,   // real, one place an expert: logits, scores, and dense gate weights once they depend on a pick
  kIds,     // expert ids, one place a slot
  kSlot,    // real, one place a slot: gate weights on their way
  kMask,    // zeros and ones made of ids, over experts or slots
  kStat,    // reduced over experts or slots: normalisers, group scores, counts, places in an expert's queue
  kOrder,   // tokens in an order made of ids: nonzero, argsort
  kChosen,  // parameters picked by ids
  kRouted,  // dense weights spread over the places of experts, [tokens, experts, capacity]
};

/// What is known of a value. Pointers are to values of the followed graph.
struct Fact {
  Role role = Role::kScore;
  torch::jit::Value* base =
      nullptr;          // the earliest value with the same elements in the same order; null if there is none
  bool aligned = true;  // elements are still in the order of tokens and slots (or experts)
  std::set<int> picks;  // places in RouterFlow::picks that it depends on

  // Scores, and the weights that were taken from them.
  torch::jit::Value* logits =
      nullptr;                         // the tensor that enters the scoring function; the scores themselves before that
  torch::jit::Value* score = nullptr;  // the output of the scoring function; null before it
  std::string scoring;                 // name of the scoring function; "" before it
  std::string slot_scoring;            // scoring function applied over the slots, after the pick
  bool biased = false;                 // something was added after scoring: only for selection
  bool masked = false;                 // a mask was applied before scoring
  bool grouped = false;                // the expert axis is cut into groups
  int64_t expert_dim = -1;             // where the experts lie; from the end where that is known
  std::optional<int64_t> rank;         // number of dimensions, where the operators tell it
  int64_t logits_dim = -1;             // expert_dim of `logits`
  int64_t score_dim = -1;              // expert_dim of `score`
  std::optional<int64_t> num_experts;

  // Slots, ids, masks.
  bool nested = false;        // picked from picked values (product keys)
  bool per_expert = false;    // concerns one expert: a comparison of ids with one number
  bool one_hot = false;       // mask [..., slot, expert] with one place set
  bool placed = false;        // mask over the places in the queue of an expert
  bool flat = false;          // tokens and slots share one dimension
  bool changed = false;       // computed with after the alignment was lost: what it was made of is not what is applied
  bool unsure_slots = false;  // the arms of a branch pick different numbers
  int part = 0;               // which part of a projection that was cut in parts; 0: the whole or the first
  int mixed_at = -1;          // concatenated with something else: place of the slots among the parts
  std::optional<int64_t> num_slots;
  torch::jit::Value* parent = nullptr;      // what it is a part of, or a masked copy of
  std::vector<torch::jit::Value*> ids;      // aligned ids that it was made of, in order of execution
  std::vector<torch::jit::Value*> weights;  // aligned weights that it was made of
};

/// Adds what `from` knows of picks, ids and weights.
void merge(Fact& into, const Fact& from);

/// True for weights on their way: of slots, or over experts once they depend on a pick.
bool carries_weights(const Fact& fact);

/// Marks a value as being in another order than tokens and slots: what it was made of is remembered instead of the
/// value.
void lose_alignment(Fact& fact);

/// The fact as an event or a mask keeps it: the value itself stands under `ids` or `weights`.
Fact remembered(Fact fact);

}  // namespace moetap::hooks
