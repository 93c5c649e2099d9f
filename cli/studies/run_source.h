#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cli/studies/batch_buffer.h"
#include "cli/studies/run_attention.h"
#include "cli/studies/sample_groups.h"
#include "cli/studies/token_index.h"
#include "cli/studies/token_source.h"
#include "plugin/dump/component_reader.h"
#include "plugin/run/run_reader.h"

namespace moetap::cli {

/// How a run is read.
struct RunSourceOptions {
  GateOption gate = GateOption::kRaw;
  bool group_by_phase = false;
  const SampleGroups* groups = nullptr;  // null: none
  bool may_miss_rows = false;            // rows of ids −1 are tokens that the layer did not see
  TokenIndex::SampleOrder sample_order = TokenIndex::SampleOrder::kBySource;
  std::string scratch_folder;
  std::function<void()> check = [] {};  // called now and then; may throw
};

/// The dump of one run.
struct RunDump {
  std::unique_ptr<plugin::ComponentReader> reader;
  std::unique_ptr<std::mutex> mutex;  // for threads that share the reader
  int64_t first_token = 0;
  std::vector<std::pair<int64_t, int32_t>> sources;  // rank, source

  int32_t source_of(int64_t rank) const;
};

/// What the dumps have of each layer, in the order of the shape.
struct RunColumns {
  std::vector<int64_t> score_width, logit_width;  // [L] 0: none
  std::vector<uint8_t> scores_from_logits;        // [L] scores are softmax(logits), as `export --to npy` writes them
  bool may_miss_rows = false;                     // a layer may not have seen a token
  bool gates_are_weights = false;
};

/// One component of one run, or of several as one: a sample is a pair of its number and its source. Note [Gates and
/// weights] says what its gates are.
class RunSource : public TokenSource {
 public:
  /// `runs` must outlive it. Throws CommandError with one line: no dump, no tokens, layers of other sizes in another
  /// run.
  RunSource(std::vector<const plugin::RunReader*> runs, std::string component, RunSourceOptions options);
  ~RunSource() override;

  const studies::ComponentShape& shape() const override { return shape_; }
  uint32_t has() const override { return has_; }
  int64_t num_tokens(studies::Order order) const override;
  const std::vector<int64_t>& cuts(studies::Order order) const override;
  bool is_token_order(studies::Order order) const override;
  std::unique_ptr<TokenReader> open(uint32_t needs) const override;
  int64_t bytes_per_token(uint32_t needs) const override;
  std::vector<SourceSample> samples() const override;
  std::vector<AttentionPiece> attention() const override { return attention_->pieces(); }
  std::unique_ptr<AttentionReader> open_attention(uint32_t needs) const override { return attention_->open(needs); }
  void read_totals(const std::function<void(const studies::AttentionTotals&)>& use) const override {
    attention_->read_totals(use);
  }
  std::vector<std::string> notices() const override { return notices_; }

  const TokenIndex& index() const { return *index_; }
  const std::vector<const plugin::RunReader*>& runs() const { return runs_; }
  const RunSourceOptions& options() const { return options_; }

  const RunColumns& columns() const { return columns_; }
  const std::vector<RunDump>& dumps() const { return dumps_; }
  /// Opens the dump of a run once more.
  std::unique_ptr<plugin::ComponentReader> open_dump(const plugin::RunReader& run) const;

 private:
  void read_shape();
  void read_columns();

  std::vector<const plugin::RunReader*> runs_;
  std::string component_;
  RunSourceOptions options_;
  std::vector<RunDump> dumps_;
  std::unique_ptr<TokenIndex> index_;
  studies::ComponentShape shape_;
  std::unique_ptr<RunAttention> attention_;
  RunColumns columns_;
  uint32_t has_ = 0;
  std::vector<int64_t> no_cuts_;
  std::vector<std::string> notices_;
};

}  // namespace moetap::cli
