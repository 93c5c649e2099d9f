#pragma once

#include <map>
#include <queue>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "hooks/graph/known_numbers.h"
#include "hooks/graph/known_shapes.h"
#include "hooks/graph/method_graph.h"
#include "hooks/graph/op_traits.h"
#include "hooks/graph/value_origins.h"
#include "hooks/routers/hash_ids.h"
#include "hooks/routers/router_fact.h"
#include "hooks/routers/tensor_lists.h"

namespace moetap::hooks {

// Note [Following a projection]
// A sequence of operators does not tell what a router is: a top-k over a vocabulary and a top-k over experts are the
// same nodes. The use of the result does. So every projection by a parameter is followed forward, and each value that
// is computed from it gets a role: scores over the projected axis, ids picked from them, weights of the picked experts,
// masks made of ids, and so on. Where such a value is combined with something else (a hidden state, a parameter), that
// is an event. Along the way logits stay what selection reads (Note [Logits are what selection reads]), weights stay
// weights until they meet something wider, ids are followed through what is done to them. The decision
// (router_decision.h) reads the events: a router's ids choose parameters, rows or outputs of experts, and its weights
// multiply hidden states.

enum class EventKind {
  kAppliesWeights,     // weights multiply a hidden state
  kChoosesParameters,  // ids pick parameters that a hidden state is then multiplied by
  kDispatches,         // ids choose the rows of a hidden state that an expert sees, or mask its output
  kChoosesOutputs,     // ids pick among outputs that were computed for all experts
  kChoosesTokens,      // ids pick rows of a hidden state from before the projection
  kSamples,            // weights are sampled from
  kLooksUp,            // picked parameters are themselves weighted and summed
  kDenseWeights,       // scores without any pick multiply a hidden state
};

struct Event {
  EventKind kind;
  torch::jit::Node* node;
  Fact what;                                  // that met something else
  bool on_input = false;                      // it met a hidden state from before the projection
  bool unsure = false;                        // it may have met a factor instead: see Note [A factor or a hidden state]
  const torch::jit::Value* hidden = nullptr;  // that weights or ids met
};

/// A pick among the followed scores.
struct Pick {
  torch::jit::Node* node;
  Fact source;               // of the tensor that is picked from
  std::optional<int64_t> k;  // picks a token, where the graph fixes it
  std::optional<int64_t> dim;
  torch::jit::Value* indices = nullptr;
  bool over_all = false;  // orders all experts (`sort`)
  bool foreign = false;   // no pick: the ids come from the method's arguments (hash routing)
};

/// True if the pick is known to be along another axis than the experts'.
bool picks_other_axis(const Pick& pick);

/// What products of a hidden state with the vectors that ids choose are taken for: see Note [Weights of chosen
/// vectors].
enum class ChosenVectors { kExperts, kWeights };

/// All values that are computed from one projection, or from ids that come without one.
class RouterFlow {
 public:
  /// `shapes` remembers what it has found, so that the flows of a graph share one. All must outlive the flow.
  RouterFlow(const MethodGraph& graph, const ValueOrigins& origins, KnownShapes& shapes, const Projection& projection,
             std::optional<int64_t> num_experts, ChosenVectors vectors = ChosenVectors::kExperts);
  RouterFlow(const MethodGraph& graph, const ValueOrigins& origins, KnownShapes& shapes, const HashIds& hash);

  const Projection& projection() const { return projection_; }
  const ValueOrigins& origins() const { return origins_; }
  const std::vector<Pick>& picks() const { return picks_; }
  const std::vector<Event>& events() const { return events_; }
  const Fact* fact(const torch::jit::Value* value) const;

  /// True if ids choose vectors, one an expert, whose product with a hidden state may be a weight.
  bool multiplies_chosen_vectors() const { return multiplies_chosen_vectors_; }

  /// True if the flow ended where scores meet what was computed from picks of them, in a way that is not followed.
  bool ends_at_own_picks() const { return ends_at_own_picks_; }

  /// How many ids stand for no routed expert, where experts are picked from `scores`: see Note [Ids beyond the
  /// experts].
  int64_t count_null_experts(const Fact& scores) const;

  /// True if a mask keeps the slots that hold an expert and no others: see Note [Slots without an expert].
  bool keeps_experts_only(const KeptBy& by, const Fact& ids) const;

  /// True if the weights of the slots of `selected` that hold no expert are 0, or what they weigh is.
  bool weighs_experts_only(const std::vector<torch::jit::Value*>& selected) const;

  /// The value outside that a value of a fork's subgraph is returned as; null if it is not returned.
  torch::jit::Value* returned_as(const torch::jit::Value* value) const;

 private:
  void follow(torch::jit::Value* seed, Fact fact);
  void follow_foreign_ids(torch::jit::Node* node, const Fact& scores, torch::jit::Value* ids);
  void visit(torch::jit::Node* node);
  void visit_structure(torch::jit::Node* node);
  void visit_return(torch::jit::Node* node);
  void wake_users(const torch::jit::Value* value);
  Fact leaving(Fact outside, torch::jit::Node* owner, torch::jit::Value* output) const;
  void pass(const torch::jit::Value* from, torch::jit::Value* to);
  bool spread(torch::jit::Value* tuple, size_t place, torch::jit::Value* to);
  void set(torch::jit::Value* value, Fact fact);
  void event(EventKind kind, torch::jit::Node* node, const Fact& fact);

  // One for each kind of operator. `node` has at least one input with a fact.
  void follow_same(torch::jit::Node* node, OpKind kind);
  void follow_part(torch::jit::Node* node, OpKind kind);
  void follow_scoring(torch::jit::Node* node);
  void follow_norm(torch::jit::Node* node);
  void follow_elementwise(torch::jit::Node* node, OpKind kind);
  void follow_reduce(torch::jit::Node* node, OpKind kind);
  void follow_pick(torch::jit::Node* node);
  void follow_draw(torch::jit::Node* node);
  void follow_contract(torch::jit::Node* node);
  void follow_gather(torch::jit::Node* node, torch::jit::Value* source, const std::vector<torch::jit::Value*>& indices);
  void follow_scatter(torch::jit::Node* node, torch::jit::Value* target, const Fact* index, torch::jit::Value* source);
  void follow_mask(torch::jit::Node* node, OpKind kind);
  void follow_move(torch::jit::Node* node, Fact result);
  void follow_reorder(torch::jit::Node* node, const Fact& own);
  bool follow_slots_in_order(torch::jit::Node* node, const Fact& own, const std::vector<torch::jit::Value*>& indices);
  bool follow_sorted_ids(torch::jit::Node* node, const Fact& own);
  bool joins_slots_in_order(torch::jit::Node* node, const std::vector<torch::jit::Value*>& parts, Fact& result);
  std::optional<int64_t> slot_dim(const torch::jit::Value* value, const Fact& slots);
  bool is_along_slots(const torch::jit::Value* value, const Fact& slots, const torch::jit::Value* dim);
  void follow_numbers(torch::jit::Node* node, const Fact& own, torch::jit::Value* value);
  void name_numbers(Fact& result, const Fact& own, torch::jit::Node* node) const;
  at::Tensor computed(const torch::jit::Node& node, const torch::jit::Value* value, const at::Tensor& numbers);
  at::Tensor says_of_numbers(const torch::jit::Node& comparison, const torch::jit::Value* ids, const Fact& own);
  void write_over_numbers(Fact& result, const Fact& own, const torch::jit::Value* written, torch::jit::Node* node,
                          const KeptBy& kept);
  at::Tensor kept_of_numbers(const KeptBy& kept, const Fact& own, const at::Tensor& numbers);
  void replace_unused(Fact& result, const Fact& own, std::optional<int64_t> number) const;
  void join_numbers(Fact& into, const Fact& from) const;
  bool may_stray(const Fact& index) const;
  void add_places(Fact& result, const Fact& own) const;
  bool keeps_rows(const torch::jit::Node& node, const torch::jit::Value* value, const Fact& own, Fact& result);
  bool take_as_ids(torch::jit::Value* value, std::optional<int64_t> among);
  bool keeps_slots(const torch::jit::Node& node, const torch::jit::Value* value);
  bool is_table_of_ids(const torch::jit::Value* source) const;
  std::optional<int64_t> rows_of(const torch::jit::Value* source, const torch::jit::Node& node) const;
  at::Tensor numbers_of(const Fact& ids) const;
  std::optional<c10::IValue> fixed_number(const torch::jit::Value* value);
  bool puts_in_order(const torch::jit::Value* source, const Fact& slots, const torch::jit::Value* index);
  bool pools_tokens(const torch::jit::Node& node, Fact& fact);
  bool is_only_piece(const torch::jit::Node* node) const;
  bool is_own_parameter(const torch::jit::Value* value) const;
  bool weighs_by_vectors(const Fact& chosen, const torch::jit::Node& node);
  void follow_concatenate(torch::jit::Node* node);
  void follow_pad(torch::jit::Node* node);
  void note_written_ids(const torch::jit::Value* numbers);
  bool are_shared(const std::vector<torch::jit::Value*>& parts, const Fact& ids) const;
  int64_t null_columns(const std::vector<torch::jit::Value*>& parts);

  void meet(torch::jit::Node* node, const Fact& fact, const torch::jit::Value* hidden);
  std::optional<Fact> combine(torch::jit::Node* node, const Fact& left, const Fact& right, OpKind kind);
  std::optional<Fact> contract_scores(torch::jit::Node* node, const Fact& left, const Fact& right);
  std::optional<Fact> contract(torch::jit::Node* node, const Fact& first, const Fact& second) const;
  Fact derived(const Fact& from, torch::jit::Node* node, Role role) const;
  Fact mask_of(const Fact& from, torch::jit::Node* node) const;
  void change_scores(Fact& result, const Fact& from, torch::jit::Value* output) const;
  bool ends_at(const torch::jit::Node* node, const Fact& own, const torch::jit::Value* partner);
  bool is_made_of_picks(const torch::jit::Value* value) const;
  enum class ProductWidth { kSame, kWider, kUnknown };
  ProductWidth product_width(const torch::jit::Value* value, const torch::jit::Value* partner);
  bool precedes_projection(const torch::jit::Value* value);
  bool computes_activation(const torch::jit::Value* value);

  const MethodGraph& graph_;
  const ValueOrigins& origins_;
  KnownShapes& shapes_;
  Projection projection_;
  std::unordered_map<const torch::jit::Value*, Fact> facts_;
  std::unordered_map<const torch::jit::Value*, torch::jit::Value*> returned_;  // out of a fork
  std::unordered_map<const torch::jit::Node*, int> visits_;
  std::map<int64_t, torch::jit::Node*> queue_;  // by order of execution
  std::vector<Pick> picks_;
  bool ends_at_own_picks_ = false;
  ChosenVectors vectors_ = ChosenVectors::kExperts;
  bool multiplies_chosen_vectors_ = false;
  std::vector<Event> events_;
  std::vector<NumberRange> written_ids_;                    // over those that were picked
  std::unordered_set<const torch::jit::Value*> ancestors_;  // of the projection's activation, as far as was looked
  std::priority_queue<std::pair<int64_t, const torch::jit::Value*>> unexplored_;  // of these, by place in the graph
};

}  // namespace moetap::hooks
