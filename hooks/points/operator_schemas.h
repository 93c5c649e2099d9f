#pragma once

#include <cstdint>

// The operators that `hooks` inserts and `plugin` implements. `hooks` knows them by these names only.
//
// Note [Schemas of the operators]
// `begin` returns a handle: a new int64 tensor of one element that owns the recorder of its forward. Every operator of
// the forward takes it, also in forks, branches and loops, since one forward may run on several threads.
//
// The schemas say what is true (`FROM_SCHEMA`): `router` and `end` write to the handle and read the rest. `ended` keeps
// them alive: it has side effects (`CONSERVATIVE`) and takes the number that `end` returns. It must not take the handle
// itself. LibTorch's alias analysis would then let the handle alias every parameter of the model, and no operation
// could move past a `router`. In training, differentiable subgraphs would be cut in other places than in the plain
// model, which changes the last bits of gradients.
namespace moetap::hooks {

// description: the model's description (see DescribeModel). arguments: the method's Tensor and Tensor? arguments, in
// order, as named in the description under methods[method].arguments. Returns the handle.
inline constexpr const char* kBeginSchema = "moetap::begin(str description, str method, Tensor?[] arguments) -> Tensor";

// hook: HookPoint::id. logits, scores: experts lie along dimension `expert_dim` (negative: from the end).
// form, how `selected` and `weights` are to be read:
//   "slots"          one tensor with the slots along `expert_dim`, or one tensor a slot (no slot dimension, or size 1)
//   "dense"          as slots, but weights[0] is laid out as logits, and the weight of a slot is gathered by its id; or
//                    one such tensor for each tensor of selected
//   "variable"       as dense; a slot whose dense weight is 0 is not used (-1)
//   "kept"           as slots, and the last of `weights` is a mask [.., E] or [.., slots, E] of the experts that keep
//                    the token: a slot whose expert does not has the weight 0
//   "expert_choice"  selected[0] is [E, C]: the tokens that each expert chose; weights[0] [E, C]
// Weights may be empty where the model has none.
// choice: what the pick reads that gives `selected`, laid out as logits: its K best are `selected`. None: not known. It
// serves the hook's check of itself (docs/routers.md).
// input: what enters the projection, its features last, the tokens in the order of the logits'. None: `no_input` says
// why, in one line; empty where it was not asked for (RouterInputs).
// These three have defaults, so that models that were instrumented before they were there still load.
inline constexpr const char* kRouterSchema =
    "moetap::router(Tensor(a!) forward, int hook, Tensor? logits, Tensor? scores, Tensor[] selected, Tensor[] weights, "
    "int expert_dim, str form, Tensor? choice=None, Tensor? input=None, str no_input='') -> ()";

// The same for one tensor of ids and one or none of weights, which most routers have: no list is made for each call.
inline constexpr const char* kRouterOfOneSchema =
    "moetap::router.one(Tensor(a!) forward, int hook, Tensor? logits, Tensor? scores, Tensor selected, "
    "Tensor? weights, int expert_dim, str form, Tensor? choice=None, Tensor? input=None, str no_input='') -> ()";

// hook: HookPoint::id of an attention. Two forms:
//   probabilities are given (and scores, where the graph has them): what the softmax gives, as the model uses it,
//   before dropout and without columns of sinks, and what the softmax read, of the same shape. query, key and mask are
//   none.
//   query and key are given (and a mask): what a fused operator gets, as it gets it. A boolean mask keeps, another one
//   is added. scale: none is 1 / sqrt(size of a head). causal: query i sees keys j <= i. Fewer heads in key than in
//   query are shared in groups: query head h uses key head h / (heads of query / heads of key).
// num_heads: of queries, where they lie in one dimension with the batch (the batch varies slowest); else 0.
// layout: a letter for each dimension of the probabilities, or of query and key without their last: b batch, h heads,
// m batch and heads in one, g heads of keys, r the queries' heads of each of these (head g * R + r), q queries, k keys.
// For query and key q is their sequence, and k stands for the last dimension. What is missing has the size 1.
// output: what the attention gives, where a fused operator gives it. log_sum_exp: what that operator gives beside it,
// if the model calls one that does; it stands last, with a default, as `choice` of the router does.
inline constexpr const char* kAttentionSchema =
    "moetap::attention(Tensor(a!) forward, int hook, Tensor? query, Tensor? key, Tensor? mask, Tensor? probabilities, "
    "Tensor? scores, Tensor? output, float? scale, bool causal, int num_heads, str layout, Tensor? log_sum_exp=None) "
    "-> ()";

// Note [The operator of models without a handle]
// Eager, compiled and exported models report by one operator, since operators that return a handle or an integer do not
// survive functionalisation and AOTInductor. `observe` writes to `state`, a registered buffer of the model: so
// dead-code elimination keeps it, calls stay in order, and captured graphs replay it. What `state` holds means nothing.
//
// hook: `model << kObservedBits | number`. `model` is any number that tells the models of a process apart, the same in
// all calls of one. The forward is that of the calling thread: from the model's kObservedBegin to its kObservedEnd.
//   number kObservedBegin: `form` is the model's description (as for `begin`), `selected` are those tensors among the
//   arguments of its method `forward` that were given, and bit i of `expert_dim` says that argument i was
//   number kObservedEnd: the forward is complete; kObservedAbort: it has thrown
//   number kObservedHook + HookPoint::id: as for `router`
inline constexpr const char* kObserveSchema =
    "moetap::observe(Tensor(a!) state, int hook, Tensor? logits, Tensor? scores, Tensor[] selected, Tensor[] weights, "
    "int expert_dim, str form, Tensor? choice=None) -> ()";
inline constexpr int kObservedBits = 20;
inline constexpr int64_t kObservedBegin = 0;
inline constexpr int64_t kObservedEnd = 1;
inline constexpr int64_t kObservedAbort = 2;
inline constexpr int64_t kObservedHook = 16;

// A value that the model itself reports by `torch.ops.moetap.log(name, value)`, with the forward and the layer added.
inline constexpr const char* kLogInForwardSchema =
    "moetap::log_in_forward(Tensor(a!) forward, str component, str layer, str name, Any value) -> ()";

// What a model calls: torch.ops.moetap.log(name, value). Does nothing in a model that is not instrumented. There is one
// overload for each type instead of `Any`, since `torch.jit.trace` records calls with these types only. Python takes
// the first overload that its value converts to. Everything converts to bool, so bool comes last, and a traced True is
// logged as 1.
inline constexpr const char* kLogSchemas[] = {
    "moetap::log.Tensor(str name, Tensor value) -> ()", "moetap::log.int(str name, int value) -> ()",
    "moetap::log.float(str name, float value) -> ()", "moetap::log.bool(str name, bool value) -> ()"};

inline constexpr const char* kEndSchema = "moetap::end(Tensor(a!) forward) -> int";
inline constexpr const char* kEndedSchema = "moetap::ended(int end) -> ()";

}  // namespace moetap::hooks
