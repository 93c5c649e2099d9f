#pragma once

#include <memory>

#include "analysis/studies/study.h"

namespace moetap::analysis::studies {

/// `alignment`: do the same tokens take the same experts in two runs? S = the experts that a token used, each once.
/// Order::kSamples.
///   `alignment`: over tokens that both runs have: same_set, same_first (the first by rank; none is a choice too),
///     overlap = |S_A ∩ S_B| / max(|S_A|, |S_B|), 1 if both are empty; weight_l1 = sum over experts of |w_A − w_B|
///     (needs weights); kl = KL(p_A || p_B) in nats, p = softmax of the logits (needs logits); margin_same and
///     margin_changed: median over tokens whose S is the same, is not, of A's K-th minus (K + 1)-th best score (needs
///     scores), empty where a token of A did not take the K best, or the scoring adds a bias. Note [Medians in bounded
///     memory].
///   `alignment_samples`: a row a sample: changed_layers_mean = mean over its tokens of the number of layers whose S
///     differs; first_changed_position = position of the first token with such a layer.
/// State: 48 bytes a sample.
std::unique_ptr<PairStudy> make_alignment(const PairShape& shape, const StudyOptions& options);

}  // namespace moetap::analysis::studies
