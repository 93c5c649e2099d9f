#include "analysis/studies/usage_scratch.h"

#include <algorithm>
#include <cstddef>
#include <span>
#include <stdexcept>

namespace moetap::analysis::studies {
namespace {

constexpr int64_t kTermsACell = 4;  // from which on it pays to sum a batch's transitions once and add the sums twice

}  // namespace

UsageSums::UsageSums(int64_t num_layers, int64_t num_experts)
    : num_layers(num_layers),
      num_experts(num_experts),
      counts(static_cast<size_t>(num_layers * num_experts)),
      gates(num_layers, num_experts) {}

void UsageSums::add(const TokenBatch& batch, bool with_padding) {
  for (int64_t l = 0; l < num_layers; ++l) {
    const LayerTokens& layer = batch.layers[static_cast<size_t>(l)];
    int64_t* const count = counts.data() + l * num_experts;
    const bool has_layer_gates = !layer.gates.empty();
    has_gates |= has_layer_gates;
    for (int64_t t = 0; t < batch.num_tokens; ++t) {
      if (!layer.has_seen(t) || (!with_padding && !batch.is_valid(t))) continue;
      const auto ids = layer.ids_of(t);
      for (const int32_t id : ids) {
        if (id >= 0) ++count[id];
      }
      if (!has_layer_gates) continue;
      const auto slot_gates = layer.gates_of(t);
      gates.make_room(l, layer.top_k);
      for (size_t k = 0; k < ids.size(); ++k) {
        if (ids[k] >= 0) gates.add_in_room(l, ids[k], slot_gates[k]);
      }
    }
  }
}

void UsageSums::merge(const UsageSums& other) {
  if (counts.size() != other.counts.size()) throw std::logic_error("sums of usage of different sizes");
  for (size_t i = 0; i < counts.size(); ++i) counts[i] += other.counts[i];
  gates.merge(other.gates);
  has_gates |= other.has_gates;
}

void UsageSums::clear() {
  std::fill(counts.begin(), counts.end(), 0);
  gates.clear();
  has_gates = false;
}

void UsageSums::save(ByteSink& sink) const {
  sink.integer(has_gates ? 1 : 0);
  sink.values(counts);
  gates.save(sink);
}

void UsageSums::load(ByteSource& source) {
  has_gates = source.integer() != 0;
  counts = source.values<int64_t>(counts.size());
  gates.load(source);
}

void UsageScratch::begin(const TokenBatch& batch) {
  std::vector<int64_t> num_experts;
  for (const LayerTokens& layer : batch.layers) num_experts.push_back(layer.num_experts);
  if (num_experts == num_experts_) return;
  num_experts_ = num_experts;
  for (Part& part : parts_) part = Part{};
}

const UsageSums& UsageScratch::of(const TokenBatch& batch, bool with_padding) {
  begin(batch);
  Part& part = parts_[with_padding];
  if (part.has_usage) return *part.usage;
  if (!part.usage) {
    const auto most = std::max_element(num_experts_.begin(), num_experts_.end());
    part.usage.emplace(static_cast<int64_t>(num_experts_.size()), most == num_experts_.end() ? 0 : *most);
  }
  part.usage->clear();
  part.usage->add(batch, with_padding);
  part.has_usage = true;
  return *part.usage;
}

const GateTransitions* UsageScratch::transitions_of(const TokenBatch& batch, bool with_padding) {
  begin(batch);
  Part& part = parts_[with_padding];
  if (part.has_transitions) return &*part.transitions;
  int64_t cells = 0, terms = 0;
  for (size_t l = 0; l + 1 < batch.layers.size(); ++l) {
    cells += num_experts_[l] * num_experts_[l + 1];
    terms += batch.num_tokens * batch.layers[l].top_k * batch.layers[l + 1].top_k;
  }
  if (terms < kTermsACell * cells) return nullptr;
  if (!part.transitions) part.transitions.emplace(num_experts_);
  part.transitions->clear();
  part.transitions->add(batch, with_padding ? std::span<const uint8_t>{} : batch.valid);
  part.has_transitions = true;
  return &*part.transitions;
}

}  // namespace moetap::analysis::studies
