#include "analysis/studies/switch_fraction.h"

#include <algorithm>
#include <compare>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "analysis/studies/layer_order.h"
#include "analysis/studies/sentence_numbers.h"
#include "analysis/studies/switch_tables.h"
#include "analysis/studies/token_runs.h"

namespace moetap::analysis::studies {
namespace {

constexpr int64_t kMaxRuns = 1 << 16;

class SwitchFraction : public PairStudy {
 public:
  explicit SwitchFraction(const PairShape& shape) : shape_(shape), layers_(shape.a.layers.size()) {}

  void observe(const PairBatch& batch) override {
    for_samples(batch.a, [&](int64_t first, int64_t last) {
      if (batch.a.sample[static_cast<size_t>(first)] < 0) return;
      for (size_t l = 0; l < layers_.size(); ++l) observe_sample(batch, l, first, last);
    });
  }
  void merge(const PairStudy& other) override {
    const auto& from = dynamic_cast<const SwitchFraction&>(other);
    for (size_t l = 0; l < layers_.size(); ++l) layers_[l].merge(from.layers_[l]);
  }
  void save(ByteSink& sink) const override {
    for (const MeanSum& layer : layers_) layer.save(sink);
  }
  void load(ByteSource& source) override {
    for (MeanSum& layer : layers_) layer.load(source);
  }
  Result finalize() const override {
    std::vector<SwitchRow> rows;
    for (size_t l = 0; l < layers_.size(); ++l) {
      rows.push_back({shape_.run_a, shape_.run_b, shape_.a.name, shape_.a.layers[l].id, layers_[l]});
    }
    return switch_result(rows, rows);
  }

 private:
  void observe_sample(const PairBatch& batch, size_t l, int64_t first, int64_t last) {
    const LayerTokens &a = batch.a.layers[l], &b = batch.b.layers[l];
    int64_t slots = 0, switched = 0;
    for (int64_t t = first; t < last; ++t) {
      if (!has_row(batch.a, a, t) || !has_row(batch.b, b, t)) continue;
      const std::span<const int32_t> ids_a = a.ids_of(t), ids_b = b.ids_of(t);
      for (size_t k = 0; k < std::max(ids_a.size(), ids_b.size()); ++k) {
        const int32_t id_a = k < ids_a.size() ? ids_a[k] : -1, id_b = k < ids_b.size() ? ids_b[k] : -1;
        slots += id_a >= 0 || id_b >= 0;
        switched += id_a != id_b;
      }
    }
    if (slots > 0) layers_[l].add(static_cast<double>(switched) / static_cast<double>(slots));
  }

  PairShape shape_;
  std::vector<MeanSum> layers_;
};

class LoggedSwitchFraction : public Study {
 public:
  void observe(const LoggedEntry& entry) override {
    for (const LoggedLayer& layer : entry.layers) {
      if (layer.selected_experts.empty()) continue;
      layers_[{entry.component, layer.layer}][{entry.task, entry.doc_id, entry.run, entry.log, entry.place}] =
          layer.selected_experts;
    }
  }
  void merge(const Study& other) override {
    const auto& from = dynamic_cast<const LoggedSwitchFraction&>(other);
    for (const auto& [layer, lists] : from.layers_) layers_[layer].insert(lists.begin(), lists.end());
  }
  void save(ByteSink& sink) const override {
    sink.integer(static_cast<int64_t>(layers_.size()));
    for (const auto& [layer, lists] : layers_) {
      sink.text(layer.first);
      sink.text(layer.second);
      sink.integer(static_cast<int64_t>(lists.size()));
      for (const auto& [entry, ids] : lists) {
        sink.text(entry.task);
        for (const int64_t number : {entry.doc_id, entry.run, entry.log, entry.place}) sink.integer(number);
        sink.values(ids);
      }
    }
  }
  void load(ByteSource& source) override {
    layers_.clear();
    for (int64_t left = source.integer(); left > 0; --left) {
      std::string component = source.text(), layer = source.text();
      Lists& lists = layers_[{component, layer}];
      for (int64_t entries = source.integer(); entries > 0; --entries) {
        Entry entry;
        entry.task = source.text();
        for (int64_t* number : {&entry.doc_id, &entry.run, &entry.log, &entry.place}) *number = source.integer();
        const bool fits = entry.run >= 0 && entry.run <= kMaxRuns && entry.log >= 0 && entry.place >= 0;
        if (!fits) ByteSource::refuse();
        lists[entry] = source.values<int32_t>();
      }
    }
  }
  Result finalize() const override;

 private:
  /// A list's key. Each rank may count its doc_ids from 0, so a doc_id alone names no entry.
  struct Entry {
    std::string task;
    int64_t doc_id = 0, run = 0, log = 0, place = 0;

    auto operator<=>(const Entry&) const = default;
    bool is_of(const Entry& other) const { return task == other.task && doc_id == other.doc_id && run == other.run; }
  };
  using Lists = std::map<Entry, std::vector<int32_t>>;
  /// What is not compared, and what is joined by its order.
  struct Remarks {
    int64_t of_two_lengths = 0;                              // lists
    std::set<std::pair<std::string, int64_t>> repeated;      // task, doc_id: more than once in a run
    std::set<std::pair<std::string, int64_t>> not_as_often;  // likewise, but more often in one run
  };
  struct ByLayer {
    bool operator()(const std::pair<std::string, std::string>& a, const std::pair<std::string, std::string>& b) const {
      return a.first != b.first ? a.first < b.first : LayerOrder()(a.second, b.second);
    }
  };

  SwitchRow compare(const std::pair<std::string, std::string>& layer, const Lists& lists, int64_t run_a, int64_t run_b,
                    Remarks& remarks) const;

  std::map<std::pair<std::string, std::string>, Lists, ByLayer> layers_;  // component, layer
};

SwitchRow LoggedSwitchFraction::compare(const std::pair<std::string, std::string>& layer, const Lists& lists,
                                        int64_t run_a, int64_t run_b, Remarks& remarks) const {
  SwitchRow row{std::to_string(run_a), std::to_string(run_b), layer.first, layer.second, {}};
  for (auto a = lists.begin(); a != lists.end();) {
    const Entry& first = a->first;
    const auto begin = a;
    int64_t times = 0;
    for (; a != lists.end() && a->first.is_of(first); ++a) ++times;
    if (first.run != run_a) continue;
    const Entry other{first.task, first.doc_id, run_b, 0, 0};
    const auto begin_b = lists.lower_bound(other);
    int64_t times_b = 0;
    for (auto b = begin_b; b != lists.end() && b->first.is_of(other); ++b) ++times_b;
    if (times_b == 0) continue;
    if (times > 1 || times_b > 1) remarks.repeated.emplace(first.task, first.doc_id);
    if (times != times_b) {
      remarks.not_as_often.emplace(first.task, first.doc_id);
      continue;
    }
    auto b = begin_b;
    for (auto of_a = begin; of_a != a; ++of_a, ++b) {
      const std::vector<int32_t>&ids_a = of_a->second, &ids_b = b->second;
      if (ids_a.size() != ids_b.size()) {
        ++remarks.of_two_lengths;
        continue;
      }
      int64_t switched = 0;
      for (size_t i = 0; i < ids_a.size(); ++i) switched += ids_a[i] != ids_b[i];
      row.fraction.add(static_cast<double>(switched) / static_cast<double>(ids_a.size()));
    }
  }
  return row;
}

Result LoggedSwitchFraction::finalize() const {
  int64_t last_run = 0;
  Remarks remarks, ignored;
  for (const auto& [layer, lists] : layers_) {
    for (const auto& [entry, ids] : lists) last_run = std::max(last_run, entry.run);
  }
  std::vector<SwitchRow> rows, against_last;
  for (int64_t run = 0; run < last_run; ++run) {
    for (const auto& [layer, lists] : layers_) {
      rows.push_back(compare(layer, lists, run, run + 1, remarks));
      against_last.push_back(compare(layer, lists, run, last_run, ignored));
    }
  }
  Result result = switch_result(rows, against_last);
  if (!remarks.repeated.empty()) {
    const auto repeated = static_cast<int64_t>(remarks.repeated.size());
    std::string notice = count_text(repeated, "doc_id comes", "doc_ids come") +
                         " more than once in a run's logs of a task; entries of one doc_id are joined in the order of "
                         "their ranks and of their places there";
    if (const auto left_out = static_cast<int64_t>(remarks.not_as_often.size()); left_out > 0) {
      notice +=
          ", and " + std::to_string(left_out) + " that one run has" + " more often than the other are not compared";
    }
    result.notices.push_back(std::move(notice));
  }
  if (remarks.of_two_lengths > 0) {
    result.notices.push_back(count_text(remarks.of_two_lengths, "list", "lists") +
                             " of selected_experts not compared, since the runs' have two lengths");
  }
  return result;
}

}  // namespace

std::unique_ptr<PairStudy> make_switch_fraction(const PairShape& shape, const StudyOptions&) {
  return std::make_unique<SwitchFraction>(shape);
}

std::unique_ptr<Study> make_logged_switch_fraction(const ComponentShape&, const StudyOptions&) {
  return std::make_unique<LoggedSwitchFraction>();
}

}  // namespace moetap::analysis::studies
