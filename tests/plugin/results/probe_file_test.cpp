#include "plugin/results/probe_file.h"

#include <gtest/gtest.h>

#include "plugin/formats/safetensors.h"
#include "tests/plugin/support/synthetic_forward.h"

namespace moetap::plugin {
namespace {

TEST(ProbeFileTest, TheProbeKeepsTheFirstTokensOfEachLayer) {
  const auto model = describe({{"language_model", "0"}});
  std::vector<ForwardRecord> records;
  for (int64_t i = 0; i < 3; ++i) {
    records.push_back(forward_of(model, {i}));
    records.back().routers = {observe_router({.hook = 0}, seeded_logits(i, {1, 3, 4}))};
  }
  Config config;
  config.probe_tokens = 7;
  SyntheticRun run(config);
  run.write(model, records);
  const SafetensorsFile probe = read_safetensors(run.path("moetap/probe.safetensors"));
  const at::Tensor all =
      at::cat({records[0].routers[0].logits, records[1].routers[0].logits, records[2].routers[0].logits});
  EXPECT_TRUE(at::equal(probe.tensors.at("language_model.0"), at::softmax(all, -1).narrow(0, 0, 7)));
}

TEST(ProbeFileTest, EncodingChangesNothingUntilItIsAdded) {
  const auto model = describe({{"language_model", "0"}});
  LayerTable layers;
  layers.place(*model, 0, 4);
  ForwardRecord record = forward_of(model, {0});  // a loop: two calls of one layer
  record.routers = {observe_router({}, seeded_logits(1, {1, 3, 4})),
                    observe_router({.call = 1}, seeded_logits(2, {1, 3, 4}))};
  ProbeFile probe(5);
  const std::string encoded = probe.encode(record, layers);
  EXPECT_EQ(probe.encode(record, layers), encoded);
  probe.add(encoded);
  EXPECT_EQ(probe.encode(record, layers), "");  // the layer has all its tokens already
  const TemporaryFolder folder;
  probe.write(folder.file("probe.safetensors"), layers);
  const at::Tensor kept = read_safetensors(folder.file("probe.safetensors")).tensors.at("language_model.0");
  const at::Tensor all = at::cat({record.routers[0].logits, record.routers[1].logits});
  EXPECT_TRUE(at::equal(kept, at::softmax(all, -1).narrow(0, 0, 5)));
}

}  // namespace
}  // namespace moetap::plugin
