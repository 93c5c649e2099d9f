#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "analysis/studies/partial_bytes.h"
#include "analysis/studies/study_options.h"
#include "analysis/studies/table.h"
#include "analysis/studies/token_batch.h"

namespace moetap::analysis::studies {

/// A MoE layer of a component. Plain data.
struct LayerShape {
  std::string id;    // as the dump names it; arrays: "0", "1", ...
  std::string name;  // path of the module; arrays: ""
  int64_t num_experts = 0;
  int64_t null_experts = 0;
  int64_t top_k = 0;
  std::string scoring;  // "softmax", "sigmoid_bias", ...; "" unknown
};

/// What the studies know of a component before its tokens come.
struct ComponentShape {
  std::string name;
  std::vector<LayerShape> layers;
  std::vector<std::string> groups;  // names of --group-by's groups, sorted
  int64_t padded_length = 0;        // S of the arrays; 0: not an array
};

/// What sentences call the layers, [L]: those of arrays by number, from 1, those of a run by its ids.
std::vector<std::string> layer_names(const ComponentShape& shape);

/// How a study must see its tokens. In each, a worker's batches are any subset.
enum class Order {
  kTokens,   // any pieces
  kSamples,  // whole samples (source, sample), ascending, each by step; then, in any pieces, tokens of sample −1
  kForwards  // whole forwards (source, forward); tokens of forward −1 (arrays) are not given
};

/// What a study needs of its input, as bits.
enum Needs : uint32_t {
  kNeedsTokens = 1 << 0,  // ids of experts
  kNeedsWeights = 1 << 1,
  kNeedsGates = 1 << 2,
  kNeedsScores = 1 << 3,
  kNeedsLogits = 1 << 4,
  kNeedsTokenIds = 1 << 5,
  kNeedsPadding = 1 << 6,    // padded tokens too, `valid` 0; only arrays have them
  kNeedsAttention = 1 << 7,  // AttentionRows
  kNeedsStats = 1 << 8,      // AttentionStats; with kNeedsAttention: one of the two
  kNeedsGroups = 1 << 9,
  kNeedsSequences = 1 << 10,  // FASTA
  kNeedsLog = 1 << 11,        // LibMoE's <task>.json
  kNeedsModel = 1 << 12,      // weights of a model file
  kNeedsSamples = 1 << 13,    // tokens whose samples are known
  kNeedsForwards = 1 << 14,   // tokens whose forwards are known
  kNeedsTwoRuns = 1 << 15,
  kNeedsTwoModels = 1 << 16  // weights of two model files
};

// Note [Studies that merge]
// A study is an accumulator: what is observed in any pieces, by any number of objects, and merged in any order gives
// the same bits. So its state is integers, exact sums (analysis/numbers/exact_sum.h), or values keyed by their unit
// (sample, forward) that `finalize` sorts; never a floating-point sum. It does not grow with tokens. Where it grows
// with samples or forwards its header says how many bytes a unit, and why.
//
// Passes. A study that must know sums of the whole run before it can score (predictability) has two passes.
// `begin_pass` is called on the object that holds all of the pass before; `fork` gives each worker an object that knows
// what was fixed there, with empty sums of the new pass; `merge` then adds the sums of the present pass alone. A shard
// reads all of the input in the passes before the last, and its own share in the last.

/// One study of one component. Used by one thread.
class Study {
 public:
  virtual ~Study() = default;
  Study() = default;
  Study(const Study&) = delete;
  Study& operator=(const Study&) = delete;

  // A study observes what its `needs` name; the rest does nothing.
  virtual void observe(const TokenBatch&) {}
  virtual void observe(const AttentionRows&) {}
  virtual void observe(const AttentionStats&) {}
  virtual void observe(const AttentionTotals&) {}
  virtual void observe(const SequenceRecord&) {}
  virtual void observe(const LoggedEntry&) {}
  virtual void observe(const WeightMatrix&) {}

  virtual int num_passes() const { return 1; }
  virtual void begin_pass(int /*pass*/) {}
  /// See the note. A study of one pass needs none.
  virtual std::unique_ptr<Study> fork() const;

  /// True: it must see every batch, in order, in one object (a cache that stays warm). No shard can have a part of it:
  /// shard 0 observes everything, the others nothing.
  virtual bool is_sequential() const { return false; }

  /// `other` has the same type, shape and options.
  virtual void merge(const Study& other) = 0;
  virtual void save(ByteSink& sink) const = 0;
  /// Replaces the state. Throws std::runtime_error with one line if the bytes are not those of this study and shape.
  virtual void load(ByteSource& source) = 0;
  virtual Result finalize() const = 0;
};

struct PairShape {
  ComponentShape a, b;       // the same layers (ids) in the same order: those that both runs have
  std::string run_a, run_b;  // paths as given
};

/// A study of the same tokens in two runs; sees batches in Order::kSamples.
class PairStudy {
 public:
  virtual ~PairStudy() = default;
  PairStudy() = default;
  PairStudy(const PairStudy&) = delete;
  PairStudy& operator=(const PairStudy&) = delete;

  virtual void observe(const PairBatch&) {}
  virtual void observe(const WeightMatrix&) {}  // of `--model A B`: model 0 and 1
  virtual void merge(const PairStudy& other) = 0;
  virtual void save(ByteSink& sink) const = 0;
  virtual void load(ByteSource& source) = 0;
  virtual Result finalize() const = 0;
};

}  // namespace moetap::analysis::studies
