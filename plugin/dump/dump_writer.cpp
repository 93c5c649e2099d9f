#include "plugin/dump/dump_writer.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

namespace moetap::plugin {

/// What one layer reported in one forward; the calls of a loop one behind the other.
struct DumpWriter::LayerRows {
  size_t layer = 0;
  int64_t num_calls = 1;
  at::Tensor row, position, token_id;  // as in RouterRecord
  at::Tensor call;                     // int32 [T]
  at::Tensor selected, weights, logits, scores;

  int64_t num_rows() const { return selected.size(0); }

  bool same_rows(const LayerRows& other) const {
    const auto same = [](const at::Tensor& a, const at::Tensor& b) { return a.is_same(b) || at::equal(a, b); };
    return num_rows() == other.num_rows() && same(row, other.row) && same(position, other.position) &&
           same(token_id, other.token_id) && same(call, other.call);
  }
};

namespace {

at::Tensor behind(const at::Tensor& first, const at::Tensor& second) {
  return first.defined() && second.defined() ? at::cat({first, second}) : at::Tensor();
}

at::Tensor sample_column(const at::Tensor& row, const std::vector<int64_t>& samples) {
  if (samples.empty()) return at::full_like(row, -1);
  const at::Tensor numbers = at::tensor(samples, at::kLong);
  return at::where(row.lt(0), -1, numbers.index_select(0, row.clamp_min(0)));
}

}  // namespace

std::vector<DumpWriter::LayerRows> DumpWriter::collect(const ForwardRecord& record, LayerTable& layers) {
  std::vector<LayerRows> all;
  for (const RouterRecord& router : record.routers) {
    if (!router.selected.defined()) continue;
    LayerRows rows;
    rows.layer = layers.place(*record.model, router.hook, router.sums.num_experts);
    rows.row = router.row;
    rows.position = router.position;
    rows.token_id = router.token_id;
    const bool fits = router.sums.num_experts <= std::numeric_limits<int16_t>::max();
    rows.selected = router.selected.to(fits ? at::kShort : at::kInt);
    rows.weights = router.weights;
    if (what_ == Dump::kFull) {
      rows.logits = router.logits;
      rows.scores = router.scores;
    }
    const auto earlier =
        std::find_if(all.begin(), all.end(), [&](const LayerRows& known) { return known.layer == rows.layer; });
    rows.call = at::full({router.selected.size(0)}, earlier == all.end() ? 0 : earlier->num_calls, at::kInt);
    if (earlier == all.end()) {
      all.push_back(std::move(rows));
      continue;
    }
    layout_changed_ |= loops_.insert(rows.layer).second;
    ++earlier->num_calls;
    for (at::Tensor LayerRows::*column :
         {&LayerRows::row, &LayerRows::position, &LayerRows::token_id, &LayerRows::call, &LayerRows::selected,
          &LayerRows::weights, &LayerRows::logits, &LayerRows::scores}) {
      (*earlier).*column = behind((*earlier).*column, rows.*column);
    }
  }
  return all;
}

std::map<std::string, int64_t> DumpWriter::add(const ForwardRecord& record, LayerTable& layers) {
  added_to_.clear();
  std::map<std::string, std::vector<LayerRows>> by_component;
  for (LayerRows& rows : collect(record, layers)) {
    by_component[layers.layers()[rows.layer].component].push_back(std::move(rows));
  }
  for (const auto& [component, rows] : by_component) add_component(component, rows, record, layers);
  return std::move(added_to_);
}

void DumpWriter::add_component(const std::string& component, const std::vector<LayerRows>& rows,
                               const ForwardRecord& record, const LayerTable& layers) {
  Component& known = components_[component];
  std::vector<Group> groups;
  for (const LayerRows& layer : rows) {
    if (known.apart.contains(layer.layer)) continue;
    const auto same =
        std::find_if(groups.begin(), groups.end(), [&](const Group& group) { return layer.same_rows(*group.front()); });
    if (same == groups.end()) {
      groups.push_back({&layer});
    } else {
      same->push_back(&layer);
    }
  }
  // The first of the largest.
  const auto largest = std::max_element(groups.begin(), groups.end(),
                                        [](const Group& a, const Group& b) { return a.size() < b.size(); });
  std::set<size_t> together;
  if (largest != groups.end()) {
    for (const LayerRows* layer : *largest) together.insert(layer->layer);
  }
  // If none of the layers that shared their rows so far ran, these others are not their companions.
  const bool stranger = !known.together.empty() && std::none_of(together.begin(), together.end(), [&](size_t layer) {
    return known.together.contains(layer);
  });
  const Component before = known;
  if (stranger) {
    known.apart.insert(together.begin(), together.end());
  } else if (!together.empty()) {
    for (const size_t layer : known.together) {
      if (!together.contains(layer)) known.apart.insert(layer);
    }
    known.together = together;
    append(component, *largest, record, layers);
  }
  for (const LayerRows& layer : rows) {
    if (known.together.contains(layer.layer) && !stranger) continue;
    known.apart.insert(layer.layer);
    append(component + "." + layers.layers()[layer.layer].layer, {&layer}, record, layers);
  }
  layout_changed_ |= before.together != known.together || before.apart != known.apart;
}

void DumpWriter::append(const std::string& series, const Group& group, const ForwardRecord& record,
                        const LayerTable& layers) {
  const LayerRows& first = *group.front();
  if (first.num_rows() == 0) return;
  std::vector<DumpColumn> columns = {
      {"sample", sample_column(first.row, record.samples)},
      {"position", first.position.to(at::kInt)},
      {"token_id", first.token_id.to(at::kInt)},
      {"phase", at::full({first.num_rows()}, record.generation ? 1 : 0, at::kByte)},
  };
  const bool loops =
      std::any_of(group.begin(), group.end(), [&](const LayerRows* layer) { return loops_.contains(layer->layer); });
  if (loops) columns.push_back({"call", first.call});
  std::map<std::string, std::string> hooks;
  for (const LayerRows* layer : group) {
    const RunLayer& known = layers.layers()[layer->layer];
    hooks[known.layer] = known.name;
    columns.push_back({known.layer + ".selected", layer->selected});
    if (layer->weights.defined()) columns.push_back({known.layer + ".weights", layer->weights.to(at::kFloat)});
    // The logits of a probe are of the first tokens only.
    if (layer->logits.defined() && layer->logits.size(0) == layer->num_rows()) {
      columns.push_back({known.layer + ".logits", layer->logits});
    }
    if (layer->scores.defined()) columns.push_back({known.layer + ".scores", layer->scores});
  }
  DumpSeries& target = series_of(series);
  target.append(columns, hooks);
  added_to_[series] = target.num_rows();
}

DumpSeries& DumpWriter::series_of(const std::string& name) {
  const auto [known, is_new] = series_.try_emplace(
      name, DumpSeries::Place{place_.dump_folder, place_.journal_folder, name, place_.rank, place_.max_shard_bytes});
  return known->second;
}

void DumpWriter::settle() {
  for (auto& [name, series] : series_) series.settle();
}

void DumpWriter::sync() {
  for (auto& [name, series] : series_) series.sync();
}

void DumpWriter::finish() {
  for (auto& [name, series] : series_) series.finish();
}

std::string DumpWriter::changed_layout() {
  if (!std::exchange(layout_changed_, false)) return "";
  nlohmann::json json = {{"loops", loops_}, {"components", nlohmann::json::object()}};
  for (const auto& [name, component] : components_) {
    json["components"][name] = {{"together", component.together}, {"apart", component.apart}};
  }
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

void DumpWriter::set_layout(const std::string& layout) {
  const auto json = nlohmann::json::parse(layout);
  loops_ = json.at("loops").get<std::set<size_t>>();
  components_.clear();
  for (const auto& [name, component] : json.at("components").items()) {
    components_[name] = {component.at("together").get<std::set<size_t>>(),
                         component.at("apart").get<std::set<size_t>>()};
  }
}

std::map<std::string, int64_t> DumpWriter::restore() {
  std::map<std::string, int64_t> rows;
  for (const std::string& name : DumpSeries::names_in(place_.dump_folder, place_.journal_folder)) {
    rows[name] = series_of(name).restore();
  }
  return rows;
}

int64_t DumpWriter::cut(const std::map<std::string, int64_t>& rows) {
  int64_t missing = 0;
  for (const auto& [name, number] : rows) missing += series_of(name).cut(number);
  for (auto& [name, series] : series_) {
    if (!rows.contains(name)) series.cut(0);
  }
  return missing;
}

}  // namespace moetap::plugin
