#include "analysis/studies/logged_metrics.h"

#include <cmath>
#include <map>
#include <string>
#include <tuple>

#include "analysis/studies/layer_order.h"
#include "analysis/studies/mean_sum.h"
#include "analysis/studies/sentence_numbers.h"

namespace moetap::analysis::studies {
namespace {

/// A row of a table: run, a text (task or category), component, layer.
struct LogKey {
  int64_t run = 0;
  std::string text, component, layer;

  bool operator<(const LogKey& other) const {
    const auto rank = [](const LogKey& key) { return std::tie(key.run, key.text, key.component); };
    if (rank(*this) != rank(other)) return rank(*this) < rank(other);
    return LayerOrder()(layer, other.layer);
  }
};

struct LogMeans {
  int64_t entries = 0;
  MeanSum entropy_topk, margin, dist_entropy, diver_loss;

  static constexpr MeanSum LogMeans::*kAll[] = {&LogMeans::entropy_topk, &LogMeans::margin, &LogMeans::dist_entropy,
                                                &LogMeans::diver_loss};
  void merge(const LogMeans& other) {
    entries += other.entries;
    for (MeanSum LogMeans::*of : kAll) (this->*of).merge(other.*of);
  }
};
using LogRows = std::map<LogKey, LogMeans>;

double mean_of(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return values.empty() ? kUndefined : sum / static_cast<double>(values.size());
}

class LoggedMetrics : public Study {
 public:
  void observe(const LoggedEntry& entry) override {
    const std::string category = entry.category.empty() ? "unknown" : entry.category;
    for (const LoggedLayer& layer : entry.layers) {
      LogMeans of;
      of.entries = 1;
      of.entropy_topk.add(layer.entropy_topk);
      of.margin.add(mean_of(layer.margins));
      of.dist_entropy.add(normalised_entropy(layer.dist_top1));
      of.diver_loss.add(layer.diver_loss);
      by_task_[{entry.run, entry.task, entry.component, layer.layer}].merge(of);
      by_category_[{entry.run, category, entry.component, layer.layer}].merge(of);
    }
  }

  void merge(const Study& other) override {
    const auto& from = dynamic_cast<const LoggedMetrics&>(other);
    for (const auto& [key, means] : from.by_task_) by_task_[key].merge(means);
    for (const auto& [key, means] : from.by_category_) by_category_[key].merge(means);
  }
  void save(ByteSink& sink) const override {
    for (const LogRows* rows : {&by_task_, &by_category_}) {
      sink.integer(static_cast<int64_t>(rows->size()));
      for (const auto& [key, means] : *rows) {
        sink.integer(key.run);
        for (const std::string* text : {&key.text, &key.component, &key.layer}) sink.text(*text);
        sink.integer(means.entries);
        for (MeanSum LogMeans::*of : LogMeans::kAll) (means.*of).save(sink);
      }
    }
  }
  void load(ByteSource& source) override {
    for (LogRows* rows : {&by_task_, &by_category_}) {
      rows->clear();
      for (int64_t left = source.integer(); left > 0; --left) {
        LogKey key;
        key.run = source.integer();
        for (std::string* text : {&key.text, &key.component, &key.layer}) *text = source.text();
        LogMeans& means = (*rows)[key];
        means.entries = source.integer();
        for (MeanSum LogMeans::*of : LogMeans::kAll) (means.*of).load(source);
      }
    }
  }
  Result finalize() const override;

 private:
  LogRows by_task_, by_category_;
};

/// The columns that all three tables begin with; `text` names the second one.
struct LogColumns {
  LogColumns(Table& table, bool by_category)
      : run(table.integers("run")),
        text(by_category ? nullptr : &table.texts("task")),
        component(table.texts("component")),
        category(by_category ? &table.texts("category") : nullptr),
        layer(table.texts("layer")),
        entries(table.integers("entries")) {}

  void add(const LogKey& key, int64_t num_entries) {
    run.push_back(key.run);
    (text != nullptr ? text : category)->push_back(key.text);
    component.push_back(key.component);
    layer.push_back(key.layer);
    entries.push_back(num_entries);
  }

  std::vector<int64_t>& run;
  std::vector<std::string>* text;
  std::vector<std::string>& component;
  std::vector<std::string>* category;
  std::vector<std::string>& layer;
  std::vector<int64_t>& entries;
};

Result LoggedMetrics::finalize() const {
  Table metrics("router_metrics"), categories("category_entropy"), diversity("diversity");
  LogColumns metric_columns(metrics, false), category_columns(categories, true), diversity_columns(diversity, false);
  auto& entropy = metrics.reals("entropy_topk");
  auto& margin = metrics.reals("margin");
  auto& dist_entropy = categories.reals("dist_entropy");
  auto& category_topk = categories.reals("entropy_topk");
  auto& diver_loss = diversity.reals("diver_loss");
  for (const auto& [key, means] : by_task_) {
    metric_columns.add(key, means.entries);
    entropy.push_back(means.entropy_topk.mean());
    margin.push_back(means.margin.mean());
    if (means.diver_loss.count == 0) continue;
    diversity_columns.add(key, means.diver_loss.count);
    diver_loss.push_back(means.diver_loss.mean());
  }
  // The columns are run, component, category, layer; rows are in that order.
  std::map<std::tuple<int64_t, std::string, std::string>, std::vector<const LogRows::value_type*>> by_columns;
  for (const auto& row : by_category_) {
    by_columns[{row.first.run, row.first.component, row.first.text}].push_back(&row);
  }
  for (const auto& [columns, rows] : by_columns) {
    for (const LogRows::value_type* row : rows) {
      category_columns.add(row->first, row->second.entries);
      dist_entropy.push_back(row->second.dist_entropy.mean());
      category_topk.push_back(row->second.entropy_topk.mean());
    }
  }
  Result result;
  const int64_t least = place_of_smallest(dist_entropy), most = place_of_largest(dist_entropy);
  if (least >= 0) {
    const auto narrow = static_cast<size_t>(least), wide = static_cast<size_t>(most);
    result.sentence = "category " + (*category_columns.category)[narrow] +
                      " spreads over the experts least, in layer " + category_columns.layer[narrow] + " (" +
                      number_text(dist_entropy[narrow]) + " of ln E), category " + (*category_columns.category)[wide] +
                      " most, in layer " + category_columns.layer[wide] + " (" + number_text(dist_entropy[wide]) + ")";
  } else if (const int64_t sure = place_of_smallest(entropy); sure >= 0) {
    const auto row = static_cast<size_t>(sure);
    result.sentence = "layer " + metric_columns.layer[row] + " is the surest: the entropy of its weights is " +
                      number_text(entropy[row]) + " nats on average";
  } else {
    result.sentence = "the log has neither entropies nor counts of experts";
  }
  result.tables.push_back(std::move(metrics));
  result.tables.push_back(std::move(categories));
  if (diversity.num_rows() > 0) result.tables.push_back(std::move(diversity));
  return result;
}

}  // namespace

double normalised_entropy(const std::vector<int64_t>& counts) {
  double total = 0;
  for (const int64_t count : counts) total += static_cast<double>(count);
  if (counts.size() < 2 || !(total > 0)) return kUndefined;
  double entropy = 0;
  for (const int64_t count : counts) {
    const double share = static_cast<double>(count) / total;
    entropy -= share * std::log(share + 1e-9);
  }
  return entropy / std::log(static_cast<double>(counts.size()));
}

std::unique_ptr<Study> make_logged_metrics(const ComponentShape&, const StudyOptions&) {
  return std::make_unique<LoggedMetrics>();
}

}  // namespace moetap::analysis::studies
