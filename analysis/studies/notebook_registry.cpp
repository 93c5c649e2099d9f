#include "analysis/studies/attention_study.h"
#include "analysis/studies/expert_cooperation.h"
#include "analysis/studies/expert_transitions.h"
#include "analysis/studies/residues.h"
#include "analysis/studies/sample_queries.h"
#include "analysis/studies/sankey_evolution.h"
#include "analysis/studies/study_registry.h"
#include "analysis/studies/usage_study.h"

namespace moetap::analysis::studies {
namespace {

constexpr const char* kFasta = "FASTA files of sequences (--positive, --negative)";
constexpr const char* kArrays = "a run with --dump topk or full, or the arrays topk_idx.npy and gate_scores.npy";
constexpr const char* kMatrices = "a run with --attention full and a dump, or the array attn_weights.npy";
constexpr const char* kAttention = "a run with --attention stats or full and a dump, or the array attn_weights.npy";

/// Ids and gates; padding with the notebook's definitions.
StudyEntry of_usage(const char* name, const char* question,
                    std::unique_ptr<Study> (*make)(const ComponentShape&, const StudyOptions&)) {
  return {.name = name,
          .question = question,
          .needs = kNeedsTokens | kNeedsGates,
          .wants = kNeedsPadding,
          .fill = kArrays,
          .make = make};
}

StudyEntry of_attention(const char* name, const char* question,
                        std::unique_ptr<Study> (*make)(const ComponentShape&, const StudyOptions&)) {
  return {.name = name,
          .question = question,
          .needs = kNeedsGates | kNeedsAttention | kNeedsStats,
          .fill = kAttention,
          .make = make};
}

StudyEntry of_matrices(const char* name, const char* question,
                       std::unique_ptr<Study> (*make)(const ComponentShape&, const StudyOptions&)) {
  return {.name = name,
          .question = question,
          .needs = kNeedsGates | kNeedsAttention,
          .wants = kNeedsTokenIds,
          .fill = kMatrices,
          .make = make};
}

StudyEntry of_sequences(const char* name, const char* question,
                        std::unique_ptr<Study> (*make)(const ComponentShape&, const StudyOptions&)) {
  return {.name = name, .question = question, .needs = kNeedsSequences, .fill = kFasta, .make = make};
}

}  // namespace

std::vector<StudyEntry> notebook_studies() {
  std::vector<StudyEntry> entries = {
      of_sequences("aa_composition", "Which residues do positive and negative sequences have?", make_aa_composition),
      of_sequences("aa_correlation", "Which residues go together over sequences?", make_aa_correlation),
      of_matrices("sankey_token_expert", "Do an expert's tokens receive much attention?", make_sankey_token_expert),
      of_matrices("sankey_expert_region", "Where do the experts used most in a sample look?",
                  make_sankey_expert_region),
      of_matrices("sankey_group_expert_region", "Which part of a sample uses which experts, and where do they look?",
                  make_sankey_group_expert_region),
      of_attention("expert_attention_patterns", "How far do an expert's tokens look?", make_expert_attention_patterns),
      of_attention("information_flow", "From which part of the sequence to which do an expert's tokens attend?",
                   make_information_flow),
      of_usage("expert_cooperation", "Which experts work on the same tokens?", make_expert_cooperation),
      of_attention("region_specialization", "Which experts look nearby, far away, or at the ends?",
                   make_region_specialization),
      of_usage("layer_statistics", "Is routing balanced in each layer?", make_layer_statistics),
      of_usage("expert_usage", "How much is each expert used, and how much does it weigh?", make_expert_usage),
      of_usage("layer_changes", "How much do the shares of experts change from layer to layer?", make_layer_changes),
      of_usage("top_experts", "How few experts hold 80 % of a layer's importance?", make_top_experts),
      of_usage("expert_stability", "Which experts keep their importance over the layers?", make_expert_stability),
      of_usage("expert_transitions", "Where do an expert's tokens go in the next layer?", make_expert_transitions),
      of_usage("expert_evolution_stats", "How do the shares of each expert develop over the layers?",
               make_expert_evolution_stats),
      of_usage("sankey_evolution", "How do tokens flow between the important experts of the layers?",
               make_sankey_evolution),
      of_usage("evolution_report", "What are the most important and the most stable experts?", make_evolution_report),
  };
  for (StudyEntry& entry : entries) {
    if (entry.make == make_expert_cooperation) entry.wants = 0;  // valid tokens in both definitions
    if (entry.make == make_layer_statistics) entry.needs = kNeedsTokens;
    if (entry.make == make_sankey_evolution) entry.wants |= kNeedsTokenIds;
  }
  return entries;
}

}  // namespace moetap::analysis::studies
