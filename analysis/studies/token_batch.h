#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moetap::analysis::studies {

class RowScratch;
class UsageScratch;
class UsedRowsOfBatch;

// Note [Gates and weights]
// `weights` are what the model multiplied the experts' outputs with. `gates` are what the notebook's studies call g:
// the router's score of the chosen expert, as it is, not renormalised over the K slots. Arrays hold gates only: there
// both are the same. A run has the scores with --dump full; with --dump topk its weights stand in for them, which the
// program says. `--gate topk` divides a token's gates by their sum over the K slots; the reader of the input does that.

/// What one layer did with the T tokens of a batch. Views; valid during the call.
struct LayerTokens {
  int64_t num_experts = 0;          // E
  int64_t top_k = 0;                // K, the number of slots; a token may use fewer
  std::span<const int32_t> ids;     // [T, K]; in [0, E), or −1: no expert (unused slot, outside [0, E), null expert)
  std::span<const double> weights;  // [T, K]; empty: the input has none, or no chosen study needs them
  std::span<const double> gates;    // [T, K]; see the note; empty as `weights`
  std::span<const double> scores;   // [T, E] after the scoring function; empty unless asked for and there
  std::span<const double> logits;   // [T, E]; likewise
  std::span<const uint8_t> seen;    // [T] 0: the layer has no row of this token; empty: it has all

  int64_t foreign_ids = 0;  // slots whose id was neither −1 nor in [0, E + null experts); they are −1 here

  bool has_seen(int64_t t) const { return seen.empty() || seen[static_cast<size_t>(t)] != 0; }
  std::span<const int32_t> ids_of(int64_t t) const { return row(ids, t, top_k); }
  std::span<const double> weights_of(int64_t t) const { return row(weights, t, top_k); }
  std::span<const double> gates_of(int64_t t) const { return row(gates, t, top_k); }
  std::span<const double> scores_of(int64_t t) const { return row(scores, t, num_experts); }
  std::span<const double> logits_of(int64_t t) const { return row(logits, t, num_experts); }

 private:
  template <typename Value>
  static std::span<const Value> row(std::span<const Value> values, int64_t t, int64_t width) {
    return values.empty() ? values : values.subspan(static_cast<size_t>(t * width), static_cast<size_t>(width));
  }
};

/// Tokens of one component and what each of its layers did with them. Views; valid during the call. Everything is [T].
struct TokenBatch {
  int64_t first_token = 0;            // place of the first one in the study's order
  int64_t num_tokens = 0;             // T
  std::span<const int64_t> sample;    // −1 unknown
  std::span<const int32_t> source;    // which rank of which run: a sample is a pair (sample, source)
  std::span<const int64_t> forward;   // −1 unknown (arrays); numbers of one source
  std::span<const int32_t> position;  // as in the dump: the column in its forward; arrays: the column
  std::span<const int32_t> step;      // rank among the tokens of its sample; only in Order::kSamples, else −1
  std::span<const int32_t> token_id;  // −1 unknown
  std::span<const uint8_t> phase;     // 0 prompt, 1 generation
  std::span<const uint8_t> valid;   // 0 padding; empty: all are valid. Padding comes only where a study needs kPadding
  std::span<const int32_t> group;   // of --group-by: place in ComponentShape::groups, −1 none; empty: no groups
  std::vector<LayerTokens> layers;  // as ComponentShape::layers

  UsageScratch* usage = nullptr;    // of the worker: what its studies count once for all of them; null: each its own
  UsedRowsOfBatch* used = nullptr;  // likewise: the experts that its tokens used

  bool is_valid(int64_t t) const { return valid.empty() || valid[static_cast<size_t>(t)] != 0; }
};

/// The same tokens in two runs: row t of `a` and row t of `b` are one token. A token that only one run has is there
/// too; in the other every layer has not seen it, and its labels are those of the run that has it. Where both have the
/// place, but another token there, it is a token of each: the token of `a` has in `b` the id that `b` has there.
struct PairBatch {
  TokenBatch a, b;
};

/// What queries of one sample attend to in one layer, of valid tokens only. Views; valid during the call. The rows of
/// a sample may come in several pieces (blocks of queries, forwards of a generation), and the pieces of a layer go to
/// as few workers as possible: a study allocates what it keeps of a layer when its first piece comes.
struct AttentionRows {
  int64_t layer = 0;  // place in ComponentShape::layers
  int64_t sample = -1;
  int32_t source = 0;
  int64_t first_query = 0;    // position of the first query among the valid tokens of its sample
  int64_t num_queries = 0;    // Q
  int64_t num_keys = 0;       // N: n of the formulas, the valid tokens that the sample has at this forward
  int64_t padded_length = 0;  // S of the arrays; a run: the longest sample
  // Probabilities A[i, j], query i attends to key j: one of the two, row i at i * row_stride, [Q, N].
  const float* f32 = nullptr;
  const double* f64 = nullptr;
  int64_t row_stride = 0;
  int64_t readable_keys = 0;          // of a row, from N on those of padding (arrays); 0: N
  std::span<const int32_t> token_id;  // [Q], of the queries
  LayerTokens tokens;                 // [Q], of the queries
  RowScratch* values = nullptr;       // of the worker: what its studies read of a row once for all of them
};

/// The values of attention.md of queries of one sample in one layer (`--attention stats`).
struct AttentionStats {
  int64_t layer = 0;
  int64_t sample = -1;
  int32_t source = 0;
  int64_t num_queries = 0;               // Q
  std::span<const int64_t> position;     // [Q] among the valid tokens of the sample
  std::span<const int64_t> num_keys;     // [Q] n at that row's forward
  std::span<const std::string> columns;  // [V] names of the values: "entropy", ..., "region.0", ...
  std::span<const float> values;         // [Q, V]
  std::span<const int32_t> token_id;     // [Q]
  LayerTokens tokens;                    // [Q]
};

/// What a run's summary has of the experts of one layer (attention.md: attention → layer → experts), from which the
/// tables of the notebook follow without another look at the rows. One call a layer. NaN: undefined.
struct AttentionTotals {
  int64_t layer = 0;  // place in ComponentShape::layers
  int64_t num_experts = 0;
  int64_t num_regions = 0;                 // R, floor-boundary parts
  std::span<const double> gate_mass;       // [E]
  std::span<const double> mean_distance;   // [E]
  std::span<const double> flow;            // [E, R, R]
  std::span<const double> flow_weight;     // [E, R]
  std::span<const double> specialization;  // [E, 6]
};

/// A protein of a FASTA file.
struct SequenceRecord {
  bool is_positive = true;   // of the positive set, or of the negative one
  std::string_view letters;  // lines joined and stripped, case as in the file; may be empty
};

/// One layer of one entry of LibMoE's <task>.json.
struct LoggedLayer {
  std::string layer;        // its key
  double entropy_topk = 0;  // NaN: the key is missing
  double entropy_all = 0;
  double diver_loss = 0;
  std::vector<int64_t> dist_top1, dist_top2;  // [E]
  std::vector<double> margins;                // router_magine
  std::vector<int32_t> selected_experts;      // flat, N * K
};
struct LoggedEntry {
  int32_t run = 0;    // place of the run among the inputs (checkpoints in their order)
  int32_t log = 0;    // place of the log among those of its run: one a rank
  int64_t place = 0;  // of the entry in its log
  int64_t doc_id = 0;
  std::string task, component, category;
  std::vector<LoggedLayer> layers;
};

/// A weight of a model file.
struct WeightMatrix {
  enum class Kind { kRouter, kExpert };
  Kind kind = Kind::kRouter;
  int32_t model = 0;              // place among the models given
  int64_t layer = 0;              // place in ComponentShape::layers
  int64_t expert = -1;            // kExpert: which one
  std::string name;               // of the parameter
  int64_t rows = 0, columns = 0;  // a router's: [E, hidden]
  std::span<const float> values;
};

}  // namespace moetap::analysis::studies
