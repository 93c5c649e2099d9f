#include "analysis/studies/alignment.h"
#include "analysis/studies/expert_cache.h"
#include "analysis/studies/groups.h"
#include "analysis/studies/imbalance.h"
#include "analysis/studies/layer_activation.h"
#include "analysis/studies/logged_metrics.h"
#include "analysis/studies/matching.h"
#include "analysis/studies/placement.h"
#include "analysis/studies/predictability.h"
#include "analysis/studies/study_registry.h"
#include "analysis/studies/switch_fraction.h"
#include "analysis/studies/token_expert_enrichment.h"
#include "analysis/studies/usage.h"
#include "analysis/studies/usage_comparison.h"
#include "analysis/studies/weight_similarity.h"

namespace moetap::analysis::studies {

std::vector<StudyEntry> routing_studies() {
  constexpr uint32_t kPair = kNeedsTokens | kNeedsTwoRuns | kNeedsSamples;
  return {
      {.name = "usage",
       .question = "How often is each expert used, and is the load balanced?",
       .order = Order::kTokens,
       .needs = kNeedsTokens,
       .wants = kNeedsWeights,
       .fill = "a run with a dump, or arrays with topk_idx",
       .make = make_usage},
      {.name = "imbalance",
       .question = "How unevenly are experts loaded in single forwards, which a run's mean hides?",
       .order = Order::kForwards,
       .needs = kNeedsTokens | kNeedsForwards,
       .wants = kNeedsWeights,
       .fill = "a run with a dump",
       .make = make_imbalance},
      {.name = "placement",
       .question = "How evenly would GPUs be loaded under expert parallelism?",
       .order = Order::kForwards,
       .needs = kNeedsTokens | kNeedsForwards,
       .wants = kNeedsWeights,
       .fill = "a run with a dump",
       .make = make_placement},
      {.name = "expert_cache",
       .question = "How many experts must stay in memory: what would a cache of C experts a layer hit?",
       .order = Order::kSamples,
       .needs = kNeedsTokens | kNeedsSamples,
       .wants = kNeedsWeights,
       .fill = "a run with a dump whose samples are numbered",
       .make = make_expert_cache},
      {.name = "predictability",
       .question = "Do the experts of one layer tell those of the next, for prefetching?",
       .order = Order::kSamples,
       .needs = kNeedsTokens | kNeedsSamples,
       .wants = kNeedsWeights | kNeedsTokenIds,
       .fill = "a run with a dump whose samples are numbered",
       .make = make_predictability},
      {.name = "token_expert_enrichment",
       .question = "What is an expert for: which token ids does it see more often than chance?",
       .order = Order::kTokens,
       .needs = kNeedsTokens | kNeedsTokenIds,
       .wants = kNeedsWeights,
       .fill = "a run with a dump that has token ids",
       .make = make_token_expert_enrichment},
      {.name = "groups",
       .question = "Do groups of samples use different experts?",
       .order = Order::kSamples,
       .needs = kNeedsTokens | kNeedsSamples | kNeedsGroups,
       .wants = kNeedsWeights,
       .fill = "a run with a dump, and --group-by with a field of the samples' doc, or phase",
       .make = make_groups},
      {.name = "layer_activation",
       .question = "Which layers are alike in their mean router scores, and is there a period?",
       .order = Order::kTokens,
       .needs = kNeedsTokens | kNeedsScores,
       .wants = kNeedsWeights,
       .fill = "a run with --dump full, or arrays with gate_scores",
       .make = make_layer_activation},
      {.name = "weight_similarity",
       .question = "Which layers of a model have similar routers and experts?",
       .needs = kNeedsModel,
       .fill = "--model MODEL.pt",
       .make = make_weight_similarity},
      {.name = "logged_metrics",
       .question = "How sure is the router by layer, task and category, and how diverse are experts (LibMoE's log)?",
       .needs = kNeedsLog,
       .fill = "LibMoE's <task>.json",
       .make = make_logged_metrics},
      {.name = "logged_switch_fraction",
       .question = "How much did routing change between checkpoints (LibMoE's logs)?",
       .needs = kNeedsLog | kNeedsTwoRuns,
       .fill = "LibMoE's <task>.json of two checkpoints or more, in their order",
       .make = make_logged_switch_fraction},
      {.name = "alignment",
       .question = "Do the same tokens take the same experts in two runs (quantised or not, two engines)?",
       .order = Order::kSamples,
       .needs = kPair,
       .wants = kNeedsWeights | kNeedsScores | kNeedsLogits,
       .fill = "two runs with dumps of the same tokens",
       .make_pair = make_alignment},
      {.name = "matching",
       .question = "Which expert of one checkpoint is which of another?",
       .order = Order::kSamples,
       .needs = kPair,
       .wants = kNeedsWeights | kNeedsModel,
       .instead = kNeedsTwoModels,
       .fill = "two runs with dumps of the same tokens, or --model A.pt B.pt",
       .make_pair = make_matching},
      {.name = "usage_comparison",
       .question = "Which experts does one run use more than another?",
       .order = Order::kSamples,
       .needs = kNeedsTokens | kNeedsTwoRuns,
       .wants = kNeedsWeights,
       .fill = "two runs with dumps",
       .make_pair = make_usage_comparison},
      {.name = "switch_fraction",
       .question = "How many slots hold another expert in another checkpoint?",
       .order = Order::kSamples,
       .needs = kPair,
       .fill = "two runs with dumps of the same tokens",
       .make_pair = make_switch_fraction},
  };
}

}  // namespace moetap::analysis::studies
