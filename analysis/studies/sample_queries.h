#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "analysis/numbers/exact_sum.h"
#include "analysis/studies/study.h"

namespace moetap::analysis::studies {

/// A token of the sample of a Sankey, in its layer.
struct SampleQuery {
  int32_t token_id = -1;
  std::vector<int32_t> ids;    // [K]; −1: no expert
  std::vector<double> gates;   // [K]
  std::vector<double> masses;  // what the study reads of the token's row of attention

  bool operator==(const SampleQuery&) const = default;
};

/// What is kept of one sample: some 12 K + 8 (K + masses) bytes a token, of one sample or two.
struct SampleRecord {
  int64_t num_keys = 0;                    // n: the most of its rows
  std::map<int64_t, SampleQuery> queries;  // by position
  std::vector<ExactSum> received;          // [n] what each key receives; only where the study asks for it
};

/// What the Sankeys of one sample share: they pick its rows in one layer. The sample is --sample, else the study's
/// default, else 0 if there is no such sample; the layer --layer, else the study's default or the last one before.
/// Samples are those of the first source.
class SampleStudy : public Study {
 public:
  SampleStudy(const ComponentShape& shape, const StudyOptions& options, int64_t default_sample, int64_t default_layer);

  void observe(const AttentionRows& rows) override;
  void merge(const Study& other) override;
  void save(ByteSink& sink) const override;
  void load(ByteSource& source) override;

 protected:
  /// How many masses a query has, if any.
  virtual size_t num_masses() const = 0;
  /// The row of a query as n doubles, of which the study keeps `masses` and adds to `received`.
  virtual void read_row(int64_t query, const std::vector<double>& row, SampleQuery& into,
                        SampleRecord& record) const = 0;

  /// The sample that is drawn; null: none was seen.
  const SampleRecord* record() const;
  int64_t sample() const;  // its number, −1
  /// What the sentence calls the layer.
  std::string layer_name() const { return names_.empty() ? "" : names_[static_cast<size_t>(layer_)]; }
  bool is_notebook() const { return options_.definitions == Definitions::kNotebook; }
  const StudyOptions& options() const { return options_; }
  int64_t num_experts() const { return num_experts_; }
  /// Says which sample and layer are drawn where that is not what was asked for.
  void add_notices(Result& result) const;

 private:
  const StudyOptions options_;
  const std::vector<std::string> names_;  // [L]
  int64_t asked_sample_ = 0, asked_layer_ = 0;
  int64_t layer_ = 0;
  int64_t num_experts_ = 0, top_k_ = 0;
  std::map<int64_t, SampleRecord> records_;  // by sample
};

/// usage[e]: sum of gates over the first `length` tokens, [E].
std::vector<double> gate_usage(const SampleRecord& record, int64_t length, int64_t num_experts);
/// The `count` experts of largest usage, in that order; without those that are not used unless `with_unused`.
std::vector<int64_t> top_of_usage(const std::vector<double>& usage, int64_t count, bool with_unused);

/// The links of a Sankey: a table of stage, source, target, value.
class SankeyLinks {
 public:
  void add(int64_t stage, const std::string& source, const std::string& target, double value);
  Table table(const std::string& name) const;
  size_t size() const { return values_.size(); }

 private:
  std::vector<int64_t> stages_;
  std::vector<std::string> sources_, targets_;
  std::vector<double> values_;
};

/// "(a-b)" of positions [begin, end), from 1, both included.
std::string position_range(int64_t begin, int64_t end);

std::unique_ptr<Study> make_sankey_token_expert(const ComponentShape& shape, const StudyOptions& options);
std::unique_ptr<Study> make_sankey_expert_region(const ComponentShape& shape, const StudyOptions& options);
std::unique_ptr<Study> make_sankey_group_expert_region(const ComponentShape& shape, const StudyOptions& options);

}  // namespace moetap::analysis::studies
