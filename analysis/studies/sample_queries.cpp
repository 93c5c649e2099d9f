#include "analysis/studies/sample_queries.h"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <stdexcept>
#include <utility>

#include "analysis/studies/expert_ranking.h"

namespace moetap::analysis::studies {
namespace {

constexpr int64_t kMaxKeys = int64_t{1} << 31;  // of a sample, in a partial

}  // namespace

SampleStudy::SampleStudy(const ComponentShape& shape, const StudyOptions& options, int64_t default_sample,
                         int64_t default_layer)
    : options_(options),
      names_(layer_names(shape)),
      asked_sample_(options.sample >= 0 ? options.sample : default_sample),
      asked_layer_(options.layer >= 0 ? options.layer : default_layer) {
  const auto num_layers = static_cast<int64_t>(shape.layers.size());
  if (options.layer >= num_layers) {
    throw std::runtime_error("there is no layer " + std::to_string(options.layer) + ": " + shape.name + " has " +
                             std::to_string(num_layers) + " layers, from 0");
  }
  layer_ = std::max<int64_t>(0, std::min(asked_layer_, num_layers - 1));
  if (num_layers == 0) return;
  num_experts_ = shape.layers[static_cast<size_t>(layer_)].num_experts;
  top_k_ = shape.layers[static_cast<size_t>(layer_)].top_k;
}

void SampleStudy::observe(const AttentionRows& rows) {
  const bool is_fallback = options_.sample < 0 && rows.sample == 0;
  if (rows.layer != layer_ || rows.source != 0 || (rows.sample != asked_sample_ && !is_fallback)) return;
  SampleRecord& record = records_[rows.sample];
  record.num_keys = std::max(record.num_keys, rows.num_keys);
  std::vector<double> values(static_cast<size_t>(rows.num_keys));
  for (int64_t row = 0; row < rows.num_queries; ++row) {
    const int64_t begin = row * rows.row_stride;
    for (size_t j = 0; j < values.size(); ++j) {
      values[j] = rows.f32 != nullptr ? static_cast<double>(rows.f32[begin + static_cast<int64_t>(j)])
                                      : rows.f64[begin + static_cast<int64_t>(j)];
    }
    SampleQuery query;
    if (!rows.token_id.empty()) query.token_id = rows.token_id[static_cast<size_t>(row)];
    const auto ids = rows.tokens.ids_of(row);
    const auto gates = rows.tokens.gates_of(row);
    query.ids.assign(ids.begin(), ids.end());
    query.gates.assign(gates.begin(), gates.end());
    query.gates.resize(query.ids.size());
    read_row(rows.first_query + row, values, query, record);
    record.queries[rows.first_query + row] = std::move(query);
  }
}

void SampleStudy::merge(const Study& other) {
  for (const auto& [sample, from] : dynamic_cast<const SampleStudy&>(other).records_) {
    SampleRecord& into = records_[sample];
    into.num_keys = std::max(into.num_keys, from.num_keys);
    into.queries.insert(from.queries.begin(), from.queries.end());
    if (into.received.size() < from.received.size()) into.received.resize(from.received.size());
    for (size_t j = 0; j < from.received.size(); ++j) into.received[j].merge(from.received[j]);
  }
}

void SampleStudy::save(ByteSink& sink) const {
  sink.integer(static_cast<int64_t>(records_.size()));
  for (const auto& [sample, record] : records_) {
    sink.integer(sample);
    sink.integer(record.num_keys);
    sink.sums(record.received);
    sink.integer(static_cast<int64_t>(record.queries.size()));
    for (const auto& [position, query] : record.queries) {
      sink.integer(position);
      sink.integer(query.token_id);
      sink.values(query.ids);
      sink.values(query.gates);
      sink.values(query.masses);
    }
  }
}

void SampleStudy::load(ByteSource& source) {
  records_.clear();
  for (int64_t count = source.integer(); count > 0; --count) {
    SampleRecord& record = records_[source.integer()];
    record.num_keys = source.integer();
    record.received = source.sums();
    const bool has_keys = record.num_keys >= 0 && record.num_keys <= kMaxKeys;
    if (!has_keys || record.received.size() > static_cast<size_t>(record.num_keys)) ByteSource::refuse();
    for (int64_t queries = source.integer(); queries > 0; --queries) {
      const int64_t position = source.integer();
      if (position < 0 || position >= record.num_keys) ByteSource::refuse();
      SampleQuery& query = record.queries[position];
      query.token_id = static_cast<int32_t>(source.integer());
      query.ids = source.values<int32_t>();
      query.gates = source.values<double>(query.ids.size());
      query.masses = source.values<double>();
      const bool fits = query.masses.empty() || query.masses.size() == num_masses();
      if (!fits || static_cast<int64_t>(query.ids.size()) > top_k_) ByteSource::refuse();
      for (const int32_t id : query.ids) {
        if (id >= num_experts_) ByteSource::refuse();
      }
    }
  }
}

int64_t SampleStudy::sample() const {
  if (records_.contains(asked_sample_)) return asked_sample_;
  return records_.empty() ? -1 : records_.begin()->first;
}

const SampleRecord* SampleStudy::record() const {
  return records_.empty() ? nullptr : &records_.at(sample());
}

void SampleStudy::add_notices(Result& result) const {
  if (record() == nullptr) {
    result.notices.push_back("no attention of sample " + std::to_string(asked_sample_) + " in layer " + layer_name() +
                             " was seen");
  } else if (sample() != asked_sample_) {
    result.notices.push_back("there is no sample " + std::to_string(asked_sample_) + ": sample " +
                             std::to_string(sample()) + " is drawn");
  }
  if (layer_ != asked_layer_) {
    result.notices.push_back("there are fewer than " + std::to_string(asked_layer_ + 1) + " layers: layer " +
                             layer_name() + " is drawn");
  }
}

std::vector<double> gate_usage(const SampleRecord& record, int64_t length, int64_t num_experts) {
  std::vector<double> usage(static_cast<size_t>(num_experts));
  for (const auto& [position, query] : record.queries) {
    if (position >= length) break;
    for (size_t k = 0; k < query.ids.size(); ++k) {
      if (query.ids[k] >= 0) usage[static_cast<size_t>(query.ids[k])] += query.gates[k];
    }
  }
  return usage;
}

std::vector<int64_t> top_of_usage(const std::vector<double>& usage, int64_t count, bool with_unused) {
  std::vector<int64_t> top;
  for (const int64_t e : ranked(usage)) {
    if (static_cast<int64_t>(top.size()) == count || (!with_unused && !(usage[static_cast<size_t>(e)] > 0))) break;
    top.push_back(e);
  }
  return top;
}

void SankeyLinks::add(int64_t stage, const std::string& source, const std::string& target, double value) {
  stages_.push_back(stage);
  sources_.push_back(source);
  targets_.push_back(target);
  values_.push_back(value);
}

Table SankeyLinks::table(const std::string& name) const {
  Table table(name);
  table.integers("stage") = stages_;
  table.texts("source") = sources_;
  table.texts("target") = targets_;
  table.reals("value") = values_;
  return table;
}

std::string position_range(int64_t begin, int64_t end) {
  return "(" + std::to_string(begin + 1) + "-" + std::to_string(end) + ")";
}

}  // namespace moetap::analysis::studies
