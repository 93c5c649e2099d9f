#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "analysis/studies/exact_table.h"
#include "analysis/studies/row_scratch.h"
#include "analysis/studies/study.h"

namespace moetap::analysis::studies {

/// What a run's summary has of one layer; see AttentionTotals.
struct LayerTotals {
  int64_t num_experts = 0, num_regions = 0;
  std::vector<double> gate_mass, mean_distance, flow, flow_weight, specialization;

  explicit LayerTotals(const AttentionTotals& totals);
  LayerTotals() = default;
  bool operator==(const LayerTotals& other) const;  // NaN equals NaN
  void save(ByteSink& sink) const;
  /// Throws unless they are of `experts` experts.
  void load(ByteSource& source, int64_t experts);
};

// Note [Attention by expert]
// These studies add what a query's row holds to the experts that its token went to, times the gate. A row comes as
// AttentionRows (the matrix), as AttentionStats (its values in the dump), or not at all: then the layer's totals are in
// the summary. Where a layer has rows, totals are not used. Sums are kept from a layer's first row on.
//
// A run writes zeros for a query that was not measured (attention_sample) or sees no key: that is no row, and its gates
// are in no sum. A row of the matrix sums to its key mass, which is less than 1 where a sink takes the rest, while the
// dump's `distance` and `region.*` are of the row divided by that. A mean distance is of the matrix' rows, so that of
// the dump is multiplied by `key_mass`; flows and specialization divide by the row's sum, so they need nothing. The
// summary's `mean_distance` is of the divided rows.

/// What the attention studies share: exact sums by expert of each layer, [rows, width].
class AttentionStudy : public Study {
 public:
  AttentionStudy(const ComponentShape& shape, const StudyOptions& options);

  void observe(const AttentionRows& rows) override;
  void observe(const AttentionStats& stats) override;
  void observe(const AttentionTotals& totals) override;
  void merge(const Study& other) override;
  void save(ByteSink& sink) const override;
  void load(ByteSource& source) override;

 protected:
  struct LayerSums {
    ExactTable sums;
    int64_t padded_length = 0;  // S; of AttentionStats: the most keys of a row
  };

  /// Rows and columns of the table of a layer with E experts.
  virtual int64_t table_rows(int64_t num_experts) const = 0;
  virtual int64_t table_width() const = 0;
  /// Adds the rows of a block.
  virtual void add(const AttentionRows& rows, const RowValues& values, ExactTable& sums) = 0;
  virtual void add(const AttentionStats& stats, ExactTable& sums) = 0;

  bool is_notebook() const { return options_.definitions == Definitions::kNotebook; }
  const StudyOptions& options() const { return options_; }
  int64_t num_layers() const { return static_cast<int64_t>(layers_.size()); }
  int64_t num_experts(int64_t layer) const { return shape_.layers[static_cast<size_t>(layer)].num_experts; }
  const std::optional<LayerSums>& sums(int64_t layer) const { return layers_[static_cast<size_t>(layer)]; }
  const std::optional<LayerTotals>& totals(int64_t layer) const { return totals_[static_cast<size_t>(layer)]; }
  void note_stats(int64_t layer) { has_stats_[static_cast<size_t>(layer)] = 1; }
  bool is_run() const { return shape_.padded_length == 0; }
  const std::string& layer_name(int64_t layer) const { return names_[static_cast<size_t>(layer)]; }
  /// Says that statistics of attention know no regions but each sample's own, where others were asked for.
  void add_notice_of_regions(Result& result) const;
  /// The sentence of a study that has no value: whether attention was there at all.
  std::string no_attention() const;
  /// "layers 1, 3 have no attention" and what was left out.
  void add_notices(Result& result) const;

 private:
  LayerSums& layer_sums(int64_t layer);

  const ComponentShape shape_;
  const StudyOptions options_;
  const std::vector<std::string> names_;            // [L]
  std::vector<std::optional<LayerSums>> layers_;    // [L]
  std::vector<std::optional<LayerTotals>> totals_;  // [L]
  std::vector<uint8_t> has_stats_;                  // [L] 1: AttentionStats were observed
  RowScratch own_scratch_;
};

/// Column of a value of AttentionStats, −1: there is none.
int64_t stats_column(const AttentionStats& stats, const std::string& name);

std::unique_ptr<Study> make_expert_attention_patterns(const ComponentShape& shape, const StudyOptions& options);
std::unique_ptr<Study> make_information_flow(const ComponentShape& shape, const StudyOptions& options);
std::unique_ptr<Study> make_region_specialization(const ComponentShape& shape, const StudyOptions& options);

}  // namespace moetap::analysis::studies
