#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "analysis/studies/study_registry.h"
#include "analysis/studies/vector_loops.h"

namespace moetap::analysis::studies {

/// Looks at every value that the other studies read, in the same pass (notebook.md, section 1): ids that are no
/// experts, gates that are no finite numbers or negative, whether a token's gates sum to 1, whether its ids are the K
/// largest of them, attention rows that do not sum to 1, attention on padding. input_check.csv has a row a layer:
/// component, layer, tokens, unassigned_slots, foreign_ids, not_finite_gates, negative_gates, gate_sum_error (largest
/// |Σ − 1|), largest_gates (share of tokens whose ids are the K largest gates), attention_rows, not_finite_rows,
/// row_sum_error (largest |Σ − 1| over the valid keys), padded_mass (share of the attention on padded keys, of every
/// 8th row). Cells are empty where the input has no such values.
class InputCheck : public Study {
 public:
  /// What is wrong, one line each. Errors: numbers would be wrong. Warnings: the rest.
  struct Verdict {
    std::vector<std::string> errors, warnings;
  };

  InputCheck(const ComponentShape& shape, bool is_arrays);

  void observe(const TokenBatch& batch) override;
  void observe(const AttentionRows& rows) override;
  void merge(const Study& other) override;
  void save(ByteSink& sink) const override;
  void load(ByteSource& source) override;
  Result finalize() const override;

  Verdict verdict() const;

 private:
  /// Integers and maxima: they merge exactly.
  struct Layer {
    int64_t tokens = 0, slots = 0, unassigned = 0, foreign = 0;
    int64_t gates = 0, not_finite_gates = 0, negative_gates = 0;
    int64_t scored_tokens = 0, largest = 0;
    int64_t rows = 0, not_finite_rows = 0, padded_rows = 0;
    double gate_sum_error = 0, row_sum_error = 0;
    ExactSum padded_mass;
  };
  void check_scores(const LayerTokens& tokens, int64_t t, Layer& layer);

  std::string component_;
  bool is_arrays_;
  std::vector<std::string> ids_;
  std::vector<Layer> layers_;
  const VectorLoops& loops_ = vector_loops();
};

/// The entry of the check, which every analysis makes. `is_arrays`: an error is one of the arrays' files.
StudyEntry input_check_entry(bool is_arrays);

}  // namespace moetap::analysis::studies
