#include "plugin/dump/dump_writer.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "plugin/dump/attention_series.h"
#include "plugin/dump/dump_keys.h"
#include "plugin/formats/json_text.h"

namespace moetap::plugin {

namespace {

at::Tensor sample_column(const at::Tensor& row, const DumpedForward& forward) {
  if (forward.rows_are_samples) return row;
  if (forward.samples.empty()) return at::full_like(row, -1);
  const at::Tensor numbers = at::tensor(forward.samples, at::kLong);
  return at::where(row.lt(0), -1, numbers.index_select(0, row.clamp_min(0)));
}

std::string layout_text(const DumpWriter::Layout& layout) {
  nlohmann::json json = {{keys::kLoops.name, layout.loops}, {keys::kLayouts.name, nlohmann::json::object()}};
  for (const auto& [name, component] : layout.components) {
    json[keys::kLayouts.name][name] = {{keys::kTogether.name, component.together},
                                       {keys::kApart.name, component.apart}};
  }
  return compact_text(json);
}

}  // namespace

/// Makes the dump rows of one forward.
class DumpWriter::Preparation {
 public:
  Preparation(const DumpWriter& writer, const DumpedForward& forward, const LayerTable& layers)
      : writer_(writer), forward_(forward), layers_(layers) {
    rows_.layout = writer.layout_;
  }

  ForwardRows run() {
    std::map<std::string, std::vector<LayerRows>> by_component;
    for (const LayerRows& rows : forward_.layers) {
      if (rows.num_calls > 1) rows_.layout.loops.insert(rows.layer);
      by_component[layers_.layers()[rows.layer].component].push_back(rows);
    }
    for (const auto& [component, rows] : by_component) add_component(component, rows);
    if (rows_.layout != writer_.layout_) rows_.layout_text = layout_text(rows_.layout);
    return std::move(rows_);
  }

 private:
  using Group = std::vector<const LayerRows*>;

  void add_component(const std::string& component, const std::vector<LayerRows>& rows);
  void append(const std::string& series, const Group& group);
  void add_attention(ForwardRows::OfSeries& rows, const std::string& component, const LayerRows& first) const;

  const DumpWriter& writer_;
  const DumpedForward& forward_;
  const LayerTable& layers_;
  ForwardRows rows_;
};

void DumpWriter::Preparation::add_component(const std::string& component, const std::vector<LayerRows>& rows) {
  Layout::Component& known = rows_.layout.components[component];
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
  // The first of the largest groups.
  const auto largest = std::max_element(groups.begin(), groups.end(),
                                        [](const Group& a, const Group& b) { return a.size() < b.size(); });
  std::set<size_t> together;
  if (largest != groups.end()) {
    for (const LayerRows* layer : *largest) together.insert(layer->layer);
  }
  // True if the shared series exists and none of its layers is in this group: these layers do not belong to it.
  const bool stranger = !known.together.empty() && std::none_of(together.begin(), together.end(), [&](size_t layer) {
    return known.together.contains(layer);
  });
  if (stranger) {
    known.apart.insert(together.begin(), together.end());
  } else if (!together.empty()) {
    for (const size_t layer : known.together) {
      if (!together.contains(layer)) known.apart.insert(layer);
    }
    known.together = together;
    append(component, *largest);
  }
  for (const LayerRows& layer : rows) {
    if (known.together.contains(layer.layer) && !stranger) continue;
    known.apart.insert(layer.layer);
    append(component + "." + layers_.layers()[layer.layer].layer, {&layer});
  }
}

void DumpWriter::Preparation::append(const std::string& series, const Group& group) {
  const LayerRows& first = *group.front();
  if (first.num_rows() == 0) return;
  ForwardRows::OfSeries rows{series, {}, {}};
  const auto add = [&](std::string name, const at::Tensor& column) {
    TORCH_CHECK(column.size(0) == first.num_rows(), "column ", name, " of the dump must have ", first.num_rows(),
                " rows, got ", column.sizes());
    rows.columns.push_back({std::move(name), column.contiguous()});
  };
  add("sample", sample_column(first.row, forward_));
  add("position", first.position);
  add("token_id", first.token_id);
  add("phase", at::full({first.num_rows()}, forward_.generation ? 1 : 0, at::kByte));
  add("forward", at::full({first.num_rows()}, forward_.index, at::kLong));
  const bool loops = std::any_of(group.begin(), group.end(),
                                 [&](const LayerRows* layer) { return rows_.layout.loops.contains(layer->layer); });
  if (loops) add("call", first.call);
  for (const LayerRows* layer : group) {
    const RunLayer& known = layers_.layers()[layer->layer];
    rows.hooks[known.layer] = known.name;
    add(known.layer + ".selected", layer->selected);
    if (layer->weights.defined()) add(known.layer + ".weights", layer->weights);
    // Logits that were recorded for the probe alone may be those of the first tokens only: they are no column.
    if (layer->logits.defined() && layer->logits.size(0) == layer->num_rows()) {
      add(known.layer + ".logits", layer->logits);
    }
    if (layer->scores.defined()) add(known.layer + ".scores", layer->scores);
    if (layer->input.defined()) add(known.layer + ".input", layer->input);
  }
  if (!loops) add_attention(rows, layers_.layers()[first.layer].component, first);
  const auto before = writer_.series_.find(series);
  rows_.num_rows[series] = (before == writer_.series_.end() ? 0 : before->second.num_rows()) + first.num_rows();
  rows_.series.push_back(std::move(rows));
}

void DumpWriter::Preparation::add_attention(ForwardRows::OfSeries& rows, const std::string& component,
                                            const LayerRows& first) const {
  for (const DumpedForward::Attention& attention : forward_.attention) {
    if (attention.component != component || !at::equal(attention.row, first.row) ||
        !at::equal(attention.position, first.position)) {
      continue;
    }
    rows.columns.push_back({attention.layer + ".attention_stats", attention.values});
    rows.attention_columns[attention.layer] = attention.value_names;
  }
}

DumpWriter::ForwardRows DumpWriter::prepare(const ForwardRecord& record, const RunLayers& layers) const {
  return prepare(dumped_forward(record, layers, wanted_.what, wanted_.weights), layers.routers);
}

DumpWriter::ForwardRows DumpWriter::prepare(const DumpedForward& forward, const LayerTable& layers) const {
  return Preparation(*this, forward, layers).run();
}

void DumpWriter::add(ForwardRows rows) {
  for (const ForwardRows::OfSeries& of : rows.series) {
    for (const DumpColumn& column : of.columns) bytes_ += static_cast<int64_t>(column.rows.nbytes());
    DumpSeries& series = series_of(of.series);
    series.append(of.columns, of.hooks, of.attention_columns);
    if (!in_batch_) series.write();
  }
  layout_ = std::move(rows.layout);
}

void DumpWriter::end_batch() {
  in_batch_ = false;
  for (auto& [name, series] : series_) series.write();
}

DumpSeries& DumpWriter::series_of(const std::string& name) {
  const auto [known, is_new] = series_.try_emplace(
      name, DumpSeries::Place{place_.dump_folder, place_.journal_folder, name, place_.rank, place_.max_shard_bytes});
  return known->second;
}

void DumpWriter::settle() {
  if (in_batch_) return;
  for (auto& [name, series] : series_) series.settle();
}

void DumpWriter::sync() {
  for (auto& [name, series] : series_) series.sync();
}

void DumpWriter::finish() {
  for (auto& [name, series] : series_) series.finish();
}

void DumpWriter::set_layout(const std::string& layout) {
  const auto json = nlohmann::json::parse(layout);
  Layout read{json.at(keys::kLoops.name).get<std::set<size_t>>(), {}};
  for (const auto& [name, component] : json.at(keys::kLayouts.name).items()) {
    read.components[name] = {component.at(keys::kTogether.name).get<std::set<size_t>>(),
                             component.at(keys::kApart.name).get<std::set<size_t>>()};
  }
  layout_ = std::move(read);
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
  for (const auto& [name, number] : rows) {
    if (!AttentionSeries::is_name(name)) missing += series_of(name).cut(number);
  }
  for (auto& [name, series] : series_) {
    if (!rows.contains(name)) series.cut(0);
  }
  return missing;
}

}  // namespace moetap::plugin
