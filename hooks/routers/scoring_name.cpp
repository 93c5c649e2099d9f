#include "hooks/routers/scoring_name.h"

namespace moetap::hooks {

std::string plain_scoring(const std::string& name) {
  if (name == "_softmax" || name == "special_softmax" || name == "log_softmax" || name == "_log_softmax" ||
      name == "special_log_softmax") {
    return "softmax";
  }
  return name == "special_expit" || name == "log_sigmoid" ? "sigmoid" : name;
}

std::string scoring_name(const Fact& source, const Pick& pick, size_t picks) {
  if (pick.foreign) return "hash";
  if (source.slot_scoring == "other") return "other";  // weights of another projection
  if (source.masked && !source.scoring.empty() && picks > 1 && plain_scoring(source.scoring) == "softmax" &&
      pick.source.scoring.empty()) {
    return "sparsemixer";
  }
  // Picked from logits, with scores as weights that were computed beside them.
  if (pick.source.scoring.empty() && source.score != nullptr && !source.masked) return plain_scoring(source.scoring);
  if (pick.source.scoring.empty()) {
    const std::string& later = source.slot_scoring.empty() ? source.scoring : source.slot_scoring;
    return later.empty() ? "none" : plain_scoring(later) + "_topk";
  }
  // The scores are those that the weights come from, whatever others are picked from.
  const bool plain_scores = source.score != nullptr && !source.masked && !source.scoring.empty();
  std::string name = plain_scoring(plain_scores ? source.scoring : pick.source.scoring);
  if (name == "sqrtsoftplus") return pick.source.biased ? "sqrtsoftplus_bias" : name;
  return pick.source.biased ? name + "_bias" : name;
}

}  // namespace moetap::hooks
