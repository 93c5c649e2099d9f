#include "plugin/dump/dumped_forward.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>

#include <algorithm>
#include <limits>
#include <utility>

namespace moetap::plugin {
namespace {

at::Tensor behind(const at::Tensor& first, const at::Tensor& second) {
  return first.defined() && second.defined() ? at::cat({first, second}) : at::Tensor();
}

std::vector<LayerRows> layer_rows(const ForwardRecord& record, const LayerTable& layers, Dump what,
                                  DumpWeights weights) {
  std::vector<LayerRows> all;
  for (const RouterRecord& router : record.routers) {
    if (!router.selected.defined()) continue;
    LayerRows rows;
    rows.layer = layers.at(record.model->instance, router.hook);
    rows.row = router.row;
    rows.position = router.position.to(at::kInt);
    rows.token_id = router.token_id.to(at::kInt);
    const int64_t largest =
        router.sums.num_experts + record.model->hooks.at(static_cast<size_t>(router.hook)).null_experts;
    rows.selected = router.selected.to(largest <= std::numeric_limits<int16_t>::max() ? at::kShort : at::kInt);
    if (what != Dump::kIds && router.weights.defined()) {
      rows.weights = router.weights.to(weights == DumpWeights::kF16 ? at::kHalf : at::kFloat);
    }
    if (what == Dump::kFull) {
      rows.logits = router.logits;
      rows.scores = router.scores;
    }
    rows.input = router.input;
    const auto earlier =
        std::find_if(all.begin(), all.end(), [&](const LayerRows& known) { return known.layer == rows.layer; });
    rows.call = at::full({router.selected.size(0)}, earlier == all.end() ? 0 : earlier->num_calls, at::kInt);
    if (earlier == all.end()) {
      all.push_back(std::move(rows));
      continue;
    }
    ++earlier->num_calls;
    for (at::Tensor LayerRows::*column :
         {&LayerRows::row, &LayerRows::position, &LayerRows::token_id, &LayerRows::call, &LayerRows::selected,
          &LayerRows::weights, &LayerRows::logits, &LayerRows::scores, &LayerRows::input}) {
      (*earlier).*column = behind((*earlier).*column, rows.*column);
    }
  }
  return all;
}

}  // namespace

bool LayerRows::same_rows(const LayerRows& other) const {
  const auto same = [](const at::Tensor& a, const at::Tensor& b) { return a.is_same(b) || at::equal(a, b); };
  return num_rows() == other.num_rows() && same(row, other.row) && same(position, other.position) &&
         same(token_id, other.token_id) && same(call, other.call);
}

DumpedForward dumped_forward(const ForwardRecord& record, const RunLayers& layers, Dump what, DumpWeights weights) {
  DumpedForward forward;
  forward.index = record.index;
  forward.generation = record.generation;
  forward.samples = record.samples;
  forward.layers = layer_rows(record, layers.routers, what, weights);
  for (const AttentionRecord& attention : record.attention) {
    if (!attention.values.defined() || attention.call > 0) continue;
    const RunLayer& layer = layers.attention.layers()[layers.attention.at(record.model->instance, attention.hook)];
    forward.attention.push_back(
        {layer.component, layer.layer, attention.row, attention.position, attention.values, attention.value_names});
  }
  return forward;
}

}  // namespace moetap::plugin
