#include "cli/studies/logits_source.h"

#include <ATen/ops/empty.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <numeric>

#include "cli/inputs/saved_value.h"
#include "cli/terminal/command_error.h"
#include "plugin/formats/safetensors.h"
#include "plugin/process/error_text.h"
#include "plugin/records/layer_table.h"

namespace moetap::cli {
namespace {

struct LayerOrder {
  bool operator()(const std::string& a, const std::string& b) const { return plugin::layer_id_less(a, b); }
};
using Layers = std::map<std::string, at::Tensor, LayerOrder>;

Layers read_layers(const std::string& path) {
  Layers layers;
  if (std::filesystem::path(path).extension() == ".safetensors") {
    try {
      for (auto& [name, tensor] : plugin::read_safetensors(path).tensors) layers.emplace(name, tensor);
    } catch (const std::exception& error) {
      const std::string line = plugin::one_line(error);
      throw CommandError(line.find(path) == std::string::npos ? fmt::format("{}: {}", path, line) : line);
    }
    return layers;
  }
  const c10::IValue value = read_saved_value(path);
  if (!value.isGenericDict()) {
    throw CommandError(fmt::format("{}: must hold a dict, layer -> logits, it holds a {}", path, value.tagKind()));
  }
  for (const auto& entry : value.toGenericDict()) {
    const bool is_layer = (entry.key().isString() || entry.key().isInt()) && entry.value().isTensor();
    if (!is_layer) {
      throw CommandError(fmt::format("{}: must hold a dict of layers (text or a number) -> logits, it has {} -> {}",
                                     path, entry.key().tagKind(), entry.value().tagKind()));
    }
    const std::string name = entry.key().isInt() ? std::to_string(entry.key().toInt()) : entry.key().toStringRef();
    layers.emplace(name, entry.value().toTensor());
  }
  return layers;
}

}  // namespace

LogitsSource::LogitsSource(const std::string& path, int64_t top_k) {
  const Layers layers = read_layers(path);
  if (layers.empty()) throw CommandError(fmt::format("{}: holds no layers", path));
  if (top_k < 1) {
    throw CommandError(fmt::format("{}: logits do not say how many experts a token chooses: give --top-k K", path));
  }
  shape_.name = "arrays";
  std::vector<int64_t> rows;
  for (const auto& [name, tensor] : layers) {
    const bool fits = tensor.is_floating_point() && (tensor.dim() == 2 || tensor.dim() == 3) && tensor.numel() > 0;
    if (!fits) {
      throw CommandError(fmt::format("{}: layer {} must be reals [T, E] or [B, S, E], it is {} [{}]", path, name,
                                     c10::toString(tensor.scalar_type()), fmt::join(tensor.sizes(), ", ")));
    }
    at::Tensor logits = tensor.dim() == 2 ? tensor.unsqueeze(0) : tensor;
    const std::vector<int64_t> of{logits.size(0), logits.size(1)};
    if (rows.empty()) rows = of;
    if (of != rows) {
      throw CommandError(fmt::format("{}: layer {} has [{}] tokens, layer {} has [{}]: all must be of the same", path,
                                     name, fmt::join(of, ", "), layers.begin()->first, fmt::join(rows, ", ")));
    }
    if (top_k > logits.size(2)) {
      throw CommandError(fmt::format("{}: layer {} has {} experts, --top-k is {}", path, name, logits.size(2), top_k));
    }
    shape_.layers.push_back({name, "", logits.size(2), 0, top_k, "softmax"});
    logits_.push_back(logits.contiguous());
  }
  length_ = shape_.padded_length = rows[1];
  for (int64_t sample = 0; sample < rows[0]; ++sample) add_sample(sample, length_);
  has_ |= studies::kNeedsWeights | studies::kNeedsGates | studies::kNeedsScores | studies::kNeedsLogits;
}

void LogitsSource::append(int64_t sample, int64_t first, int64_t n, uint32_t needs, Cache& /*cache*/,
                          std::vector<LayerBuffer>& layers) const {
  for (size_t l = 0; l < layers.size(); ++l) {
    LayerBuffer& layer = layers[l];
    const int64_t E = shape_.layers[l].num_experts, K = shape_.layers[l].top_k;
    const at::Tensor wide = logits_[l][sample].narrow(0, first, n).to(at::kDouble).contiguous();
    const double* logits = wide.const_data_ptr<double>();
    std::vector<int32_t> order(static_cast<size_t>(E));
    std::vector<double> scores(static_cast<size_t>(E));
    for (int64_t t = 0; t < n; ++t, logits += E) {
      const double largest = *std::max_element(logits, logits + E);
      double sum = 0;
      for (int64_t e = 0; e < E; ++e) sum += scores[static_cast<size_t>(e)] = std::exp(logits[e] - largest);
      for (double& score : scores) score /= sum;
      std::iota(order.begin(), order.end(), 0);
      std::partial_sort(order.begin(), order.begin() + K, order.end(),
                        [&](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; });
      for (int64_t k = 0; k < K; ++k) {
        const int32_t id = order[static_cast<size_t>(k)];
        layer.ids.push_back(id);
        layer.weights.push_back(scores[static_cast<size_t>(id)]);
        layer.gates.push_back(scores[static_cast<size_t>(id)]);
      }
      if ((needs & studies::kNeedsScores) != 0) layer.scores.insert(layer.scores.end(), scores.begin(), scores.end());
      if ((needs & studies::kNeedsLogits) != 0) layer.logits.insert(layer.logits.end(), logits, logits + E);
    }
  }
}

}  // namespace moetap::cli
