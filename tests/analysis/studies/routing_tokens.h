#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "analysis/studies/study.h"

namespace moetap::analysis::studies {

/// One layer's part of the tokens that a test makes.
struct RoutingLayer {
  int64_t num_experts = 0, top_k = 0;
  std::vector<int32_t> ids;                     // [T, K]
  std::vector<double> weights, scores, logits;  // [T, K], [T, E], [T, E]; may be empty
  std::vector<uint8_t> seen;                    // [T]; empty: all
};

/// Tokens that a test makes, and batches of them.
struct RoutingTokens {
  std::vector<int64_t> sample, forward;
  std::vector<int32_t> source, position, step, token_id, group;
  std::vector<uint8_t> phase;
  std::vector<RoutingLayer> layers;

  int64_t size() const { return static_cast<int64_t>(sample.size()); }
  /// A token of a sample and forward; its position is the next one of its sample. Layers are filled by the caller.
  void add_token(int64_t of_sample, int64_t of_forward = 0, uint8_t of_phase = 0, int32_t id = -1);
  TokenBatch batch(int64_t first, int64_t last) const;
  TokenBatch all() const { return batch(0, size()); }
  ComponentShape shape(const std::string& scoring = "softmax") const;
};

/// One layer, one token an entry: its ids, and weights if any are given.
RoutingTokens one_layer(int64_t num_experts, const std::vector<std::vector<int32_t>>& ids,
                        const std::vector<std::vector<double>>& weights = {});

struct RandomTokens {
  int num_samples = 12, max_tokens = 30, num_layers = 3, vocabulary = 6, num_groups = 2;
  int64_t num_experts = 6, top_k = 3;
  bool has_unknown_samples = true;  // some tokens of sample −1 at the end
};
/// Random tokens with everything that a dump may have: unused slots, zero weights, tokens that a layer did not see,
/// unknown ids, two phases, ranks. In the order of samples, or of forwards where `by_forward`.
RoutingTokens random_tokens(std::mt19937& random, const RandomTokens& with = {}, bool by_forward = false);

/// What a study makes of all tokens in one object.
Result analyse(Study& study, const RoutingTokens& tokens);

/// Fails the test unless cutting the tokens anyhow, in workers merged in any order, saved and loaded on the way, gives
/// the same tables and sentence, bit for bit.
void expect_same_for_any_split(const std::function<std::unique_ptr<Study>()>& make, const RoutingTokens& tokens,
                               Order order, std::mt19937& random);
void expect_same_for_any_split(const std::function<std::unique_ptr<PairStudy>()>& make, const RoutingTokens& a,
                               const RoutingTokens& b, std::mt19937& random);

void expect_same_result(const Result& expected, const Result& found);

/// Cells of a column. Throws if there is none of that name and type.
const std::vector<double>& reals(const Table& table, const std::string& column);
const std::vector<int64_t>& integers(const Table& table, const std::string& column);
const std::vector<std::string>& texts(const Table& table, const std::string& column);
std::vector<std::string> column_names(const Table& table);

}  // namespace moetap::analysis::studies
