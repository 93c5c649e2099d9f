#include "plugin/results/probe_file.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/softmax.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <stdexcept>

#include "plugin/formats/byte_stream.h"
#include "plugin/formats/safetensors.h"
#include "plugin/records/description_keys.h"

namespace moetap::plugin {

std::string ProbeFile::encode(const ForwardRecord& record, const LayerTable& layers) const {
  ByteWriter bytes;
  // By layer: tokens kept, with those of this forward so far (in a loop a layer reports several times in a forward).
  std::map<size_t, int64_t> tokens;
  for (const RouterRecord& router : record.routers) {
    if (!router.logits.defined() || router.logits.size(0) == 0) continue;
    const int64_t num_experts = router.logits.size(1);
    const size_t layer = layers.at(record.model->instance, router.hook);
    const auto known = probes_.find(layer);
    int64_t& have = tokens[layer];
    if (have == 0 && known != probes_.end()) {
      have = static_cast<int64_t>(known->second.probabilities.size()) / num_experts;
    }
    const int64_t wanted = std::min(tokens_a_layer_ - have, router.logits.size(0));
    if (wanted <= 0) continue;
    have += wanted;
    const at::Tensor probabilities = at::softmax(router.logits.narrow(0, 0, wanted).to(at::kFloat), -1).contiguous();
    bytes.count(layer);
    bytes.count(static_cast<uint64_t>(num_experts));
    bytes.reals({probabilities.const_data_ptr<float>(), static_cast<size_t>(probabilities.numel())});
  }
  return bytes.take();
}

std::string ProbeFile::take(const std::string& encoded, const std::vector<size_t>& places) const {
  ByteWriter taken;
  std::map<size_t, int64_t> tokens;  // by layer: kept, with those that were taken
  for (ByteReader bytes(encoded); !bytes.at_end();) {
    const size_t layer = places.at(bytes.count());
    const auto num_experts = static_cast<int64_t>(bytes.count());
    const std::vector<float> values = bytes.reals();
    if (num_experts <= 0) throw std::runtime_error("probabilities of a layer without experts");
    const auto known = probes_.find(layer);
    const auto kept =
        known == probes_.end() ? 0 : static_cast<int64_t>(known->second.probabilities.size()) / num_experts;
    int64_t& have = tokens.try_emplace(layer, kept).first->second;
    const int64_t wanted = std::min(tokens_a_layer_ - have, static_cast<int64_t>(values.size()) / num_experts);
    if (wanted <= 0) continue;
    have += wanted;
    taken.count(layer);
    taken.count(static_cast<uint64_t>(num_experts));
    taken.reals(std::span(values).first(static_cast<size_t>(wanted * num_experts)));
  }
  return taken.take();
}

void ProbeFile::add(const std::string& encoded) {
  for (ByteReader bytes(encoded); !bytes.at_end();) {
    Probe& probe = probes_[bytes.count()];
    probe.num_experts = static_cast<int64_t>(bytes.count());
    const std::vector<float> values = bytes.reals();
    probe.probabilities.insert(probe.probabilities.end(), values.begin(), values.end());
  }
}

void ProbeFile::write(const std::string& path, const LayerTable& layers) const {
  if (probes_.empty()) return;
  SafetensorsFile file;
  file.metadata = {{keys::kSchemaVersion.name, "1"}};
  for (const auto& [layer, probe] : probes_) {
    const auto tokens = static_cast<int64_t>(probe.probabilities.size()) / probe.num_experts;
    const at::Tensor tensor = at::empty({tokens, probe.num_experts}, at::kFloat);
    std::memcpy(tensor.mutable_data_ptr<float>(), probe.probabilities.data(), tensor.nbytes());
    const RunLayer& known = layers.layers()[layer];
    file.tensors[known.component + "." + known.layer] = tensor;
  }
  write_safetensors(path, file);
}

}  // namespace moetap::plugin
