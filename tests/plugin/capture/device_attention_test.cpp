// Attention on a device is recorded as on the CPU; its rows stay there where sums are shorter: see Note [The fake
// device].
#include "analysis/attention/attention_device.h"
#include "plugin/capture/attention_device_sums.h"
#include "plugin/capture/host_copies.h"
#include "tests/plugin/capture/device_forwards.h"

namespace moetap::plugin {
namespace {

constexpr int64_t kHeads = 2, kDepth = 8;

/// Layers of an attention, hook 2i, and a router, hook 2i + 1.
ModelDescription blocks(int64_t layers) {
  ModelDescription model;
  model.instance = random_instance();
  for (int64_t layer = 0; layer < layers; ++layer) {
    ModelDescription one = gates(1);
    hooks::HookPoint attention;
    attention.id = 2 * layer;
    attention.kind = hooks::HookKind::kAttention;
    attention.name = "layers." + std::to_string(layer) + ".attn";
    attention.method = "forward";
    attention.component = "language_model";
    attention.self_attention = true;
    one.hooks[0].id = attention.id + 1;
    one.hooks[0].layer = attention.layer = std::to_string(layer);
    model.hooks.push_back(attention);
    model.hooks.push_back(one.hooks[0]);
  }
  model.method_arguments["forward"] = {"input_ids", "attention_mask"};
  return model;
}

struct Forward {
  Reports routers;
  std::vector<ReportedAttention> attention;

  Forward(int64_t batch, int64_t length, int64_t layers, uint64_t seed, bool padded = true)
      : routers(batch, length, layers, seed, padded) {
    for (int64_t layer = 0; layer < layers; ++layer) {
      ReportedAttention reported;
      reported.query = at::randn({batch, kHeads, length, kDepth});
      reported.key = at::randn({batch, kHeads, length, kDepth});
      reported.mask = routers.mask.to(at::kBool).view({batch, 1, 1, length});
      reported.layout = "bhqk";
      attention.push_back(reported);
    }
  }

  Forward to(at::Device device) const {
    Forward moved = *this;
    moved.routers = routers.to(device);
    for (ReportedAttention& reported : moved.attention) {
      for (at::Tensor* tensor : {&reported.query, &reported.key, &reported.mask}) *tensor = tensor->to(device);
    }
    return moved;
  }
};

void report_blocks(const std::string& model, const Forward& forward) {
  ForwardRecorder recorder(find_binding(model), "forward", forward.routers.arguments());
  for (size_t layer = 0; layer < forward.attention.size(); ++layer) {
    recorder.attention(static_cast<int64_t>(2 * layer), forward.attention[layer]);
    recorder.router(static_cast<int64_t>(2 * layer + 1), forward.routers.routers[layer]);
  }
  recorder.end();
}

/// Sums, however they were recorded.
at::Tensor words_of(const ExpertAttentionRecord& experts) {
  analysis::AttentionSums sums = experts.sums;
  if (!sums.defined()) add_experts(sums, experts.rows);
  return sums.words;
}

void expect_same_attention(const ForwardRecord& actual, const ForwardRecord& expected) {
  ASSERT_EQ(actual.attention.size(), expected.attention.size());
  for (size_t i = 0; i < actual.attention.size(); ++i) {
    SCOPED_TRACE("attention " + std::to_string(i));
    const AttentionRecord &a = actual.attention[i], &b = expected.attention[i];
    EXPECT_EQ(std::pair(a.hook, a.call), std::pair(b.hook, b.call));
    EXPECT_EQ(a.attributed, b.attributed);
    EXPECT_EQ(a.num_key_heads, b.num_key_heads);
    EXPECT_EQ(a.sums.num_rows, b.sums.num_rows);
    EXPECT_TRUE(same(a.sums.words, b.sums.words));
    EXPECT_TRUE(same(a.values, b.values));
    EXPECT_TRUE(!b.values.defined() || (same(a.row, b.row) && same(a.position, b.position)));
    ASSERT_EQ(a.experts.size(), b.experts.size());
    for (size_t e = 0; e < a.experts.size(); ++e) {
      EXPECT_EQ(a.experts[e].router_hook, b.experts[e].router_hook);
      EXPECT_TRUE(at::equal(words_of(a.experts[e]), words_of(b.experts[e])));
    }
    ASSERT_EQ(a.matrices.size(), b.matrices.size());
    for (size_t m = 0; m < a.matrices.size(); ++m) {
      EXPECT_EQ(a.matrices[m].sample, b.matrices[m].sample);
      EXPECT_EQ(a.matrices[m].first_position, b.matrices[m].first_position);
      EXPECT_TRUE(at::equal(a.matrices[m].probabilities, b.matrices[m].probabilities));
    }
  }
}

class DeviceAttentionTest : public DeviceRecordingTest {
 protected:
  DeviceAttentionTest() { config_.attention = Attention::kStats; }

  /// Records forwards on the CPU and on the device; more than the first, so that there are blocks.
  void expect_as_on_the_cpu(const Forward& forward, int64_t num_experts_in_attention) {
    const auto layers = static_cast<int64_t>(forward.attention.size());
    RecordedRun on_cpu(config_), on_device(config_);
    const std::string cpu_model = on_cpu.bind(blocks(layers)), model = on_device.bind(blocks(layers));
    const Forward moved = forward.to(at::Device(kType, 0));
    const RunningDevice running;
    for (int i = 0; i < kForwards; ++i) {
      report_blocks(cpu_model, forward);
      report_blocks(model, moved);
    }
    const auto &actual = on_device.close(), &expected = on_cpu.close();
    EXPECT_EQ(on_device.recording->counters().failed_hooks, 0);
    ASSERT_EQ(actual.size(), size_t{kForwards});
    ASSERT_EQ(expected.size(), size_t{kForwards});
    for (size_t i = 0; i < kForwards; ++i) {
      SCOPED_TRACE("forward " + std::to_string(i));
      expect_same_attention(actual[i], expected[i]);
      ASSERT_EQ(expected[i].attention.size(), static_cast<size_t>(layers));
      for (const AttentionRecord& attention : expected[i].attention) {
        EXPECT_EQ(attention.experts.size(), static_cast<size_t>(num_experts_in_attention));
      }
    }
  }

  /// What a forward costs once those before it have shown how much memory it needs.
  fake_device::Counts costs_of(const Forward& forward) {
    RecordedRun run(config_);
    const std::string model = run.bind(blocks(static_cast<int64_t>(forward.attention.size())));
    const Forward moved = forward.to(at::Device(kType, 0));
    fake_device::Counts counts;
    for (int i = 0; i < 12; ++i) {  // beyond the calls in which hooks check themselves
      fake_device::reset_counts();
      report_blocks(model, moved);
      counts = fake_device::counts();
      const RunningDevice running;
      run.recording->flush();
      const std::lock_guard lock(run.collected->mutex);
      run.collected->records.clear();  // a record that is kept holds its memory
    }
    return counts;
  }

  static constexpr int kForwards = 12;
  Config config_;
};

TEST_F(DeviceAttentionTest, ALongForwardIsRecordedAsOnTheCpu) {
  for (const bool padded : {false, true}) expect_as_on_the_cpu(Forward(2, 96, 2, 1, padded), 1);
}

TEST_F(DeviceAttentionTest, AShortForwardIsRecordedAsOnTheCpu) {
  for (const int64_t length : {1, 5}) expect_as_on_the_cpu(Forward(2, length, 2, 1, false), 1);
}

TEST_F(DeviceAttentionTest, ValuesAndMatricesAreThoseOfTheCpu) {
  config_.dump = Dump::kIds;
  expect_as_on_the_cpu(Forward(2, 96, 1, 2), 1);
  config_.dump = Dump::kNone;
  config_.attention = Attention::kFull;
  expect_as_on_the_cpu(Forward(2, 96, 1, 3), 1);
}

TEST_F(DeviceAttentionTest, RoutersThatSeeOtherTokensAreToldByTheHost) {
  // The router sees the same tokens in another order: nothing but their rows and positions tells.
  Forward forward(2, 96, 1, 4);
  ReportedRouter& router = forward.routers.routers[0];
  const auto turned = [](const at::Tensor& tensor) {
    return tensor.view({2, 96, -1}).transpose(0, 1).contiguous();  // [S, B, ...]
  };
  router.logits = turned(router.logits);
  router.selected[0] = turned(router.selected[0]);
  router.weights[0] = turned(router.weights[0]);
  expect_as_on_the_cpu(forward, 1);
}

TEST_F(DeviceAttentionTest, ForwardsOfOtherLengthsThanTheirRoutersHaveNoExperts) {
  Forward forward(2, 96, 1, 5, /*padded=*/false);
  ReportedRouter& router = forward.routers.routers[0];
  for (at::Tensor* tensor : {&router.logits, &router.selected[0], &router.weights[0]}) {
    *tensor = tensor->narrow(0, 0, 7).contiguous();
  }
  expect_as_on_the_cpu(forward, 0);
}

TEST_F(DeviceAttentionTest, ALongForwardIsOneCopyWithoutRows) {
  constexpr int64_t kLayers = 3;
  const fake_device::Counts counts = costs_of(Forward(2, 512, kLayers, 1));
  EXPECT_EQ(counts.kernels, 4 * kLayers) << "attention, router, the sums by sample, those by expert";
  EXPECT_EQ(counts.synchronizations, 0);
  EXPECT_EQ(counts.copies_to_host, 1);
  EXPECT_EQ(counts.pinned_allocations, 0);
  // Sums, and the ids, weights and margins of the routers; the rows would be 157 bytes a token more.
  EXPECT_LE(counts.bytes_to_host, kLayers * (1024 * 40 + 40000));
}

TEST_F(DeviceAttentionTest, RefusalsOfKernelsAreCounted) {
  const auto before = analysis::refused_attention_calls();
  costs_of(Forward(2, 96, 1, 1));
  EXPECT_EQ(analysis::refused_attention_calls(), before);
}

/// The sums of a layer and of its experts, over all records.
std::pair<at::Tensor, at::Tensor> totals(const std::vector<ForwardRecord>& records, size_t layer) {
  analysis::AttentionSums all, by_expert;
  for (const ForwardRecord& record : records) {
    const AttentionRecord& attention = record.attention.at(layer);
    merge(all, sum_rows(attention.sums));
    analysis::AttentionSums experts = attention.experts.at(0).sums;
    if (!experts.defined()) add_experts(experts, attention.experts.at(0).rows);
    merge(by_expert, experts);
  }
  return {all.words, by_expert.words};
}

TEST_F(DeviceAttentionTest, ReplaysOfAGraphAddUp) {
  constexpr int64_t kLayers = 2;
  for (const int64_t length : {6, 96}) {
    for (const Dump dump : {Dump::kNone, Dump::kIds}) {
      config_.dump = dump;
      const Forward forward = Forward(2, length, kLayers, 5).to(at::Device(kType, 0));
      RecordedRun plain(config_), run(config_);
      const std::string plain_model = plain.bind(blocks(kLayers)), model = run.bind(blocks(kLayers));
      for (int i = 0; i < 5; ++i) report_blocks(plain_model, forward);
      report_blocks(model, forward);
      fake_device::run_until_idle();
      fake_device::begin_capture();
      report_blocks(model, forward);
      const auto replay = fake_device::end_capture();
      const RunningDevice running;
      run.recording->flush();
      for (int i = 0; i < 3; ++i) replay();
      run.recording->flush();
      replay();
      const auto &records = run.close(), &one_by_one = plain.close();
      EXPECT_EQ(run.recording->counters().failed_hooks, 0);
      EXPECT_EQ(run.recording->counters().replayed, 4);
      ASSERT_EQ(records.size(), 3u);
      EXPECT_EQ(records[1].replays, 3);
      EXPECT_FALSE(records[1].attention.at(0).attributed);
      EXPECT_FALSE(records[1].attention.at(0).values.defined());
      for (size_t layer = 0; layer < kLayers; ++layer) {
        const auto [sums, experts] = totals(records, layer);
        const auto [expected_sums, expected_experts] = totals(one_by_one, layer);
        EXPECT_TRUE(at::equal(sums, expected_sums)) << layer;
        EXPECT_TRUE(at::equal(experts, expected_experts)) << layer;
      }
    }
  }
}

TEST_F(DeviceAttentionTest, GraphsOfSampledAttentionAreRefusedByName) {
  config_.attention_sample = 3;
  RecordedRun run(config_);
  const std::string model = run.bind(blocks(1));
  const Forward forward = Forward(2, 6, 1, 5).to(at::Device(kType, 0));
  fake_device::begin_capture();
  report_blocks(model, forward);
  const auto replay = fake_device::end_capture();
  const RunningDevice running;
  replay();
  const auto& records = run.close();
  ASSERT_EQ(records.size(), 1u);
  EXPECT_EQ(records[0].routers.size(), 1u);
  EXPECT_TRUE(records[0].attention.empty());
  EXPECT_EQ(run.recording->counters().failed_hooks, 0) << "forwards outside the graph are recorded";
  EXPECT_FALSE(run.recording->counters().notices.empty());
}

/// A call whose sums by expert were made on the device, and what became of its router.
TEST_F(DeviceAttentionTest, WeightsThatWereWithheldSinceLeaveTheSumsOut) {
  for (const bool withheld : {false, true}) {
    auto model = std::make_shared<ModelDescription>(blocks(1));
    PendingAttention pending(model, std::make_shared<HookChecks>(2), false);
    MeasuredAttention call;
    auto group = std::make_shared<TokenGroup>();
    group->attribution.attributed = false;
    call.tokens = group;
    call.rows.num_heads = kHeads;
    call.rows.num_regions = 5;
    call.sums = analysis::empty_attention_sums(kHeads, 5, true, 0, 1);
    call.by_expert.push_back({1, 0, true, analysis::empty_attention_sums(kHeads, 5, true, kExperts, 1)});
    pending.add(call);
    ForwardRecord record;
    record.samples = {0};
    RouterRecord router;
    router.hook = 1;
    if (!withheld) router.weights = at::ones({0, 2});
    record.routers.push_back(router);
    pending.finish(record);
    ASSERT_EQ(record.attention.size(), 1u);
    EXPECT_EQ(record.attention[0].experts.size(), withheld ? 0u : 1u);
  }
}

}  // namespace
}  // namespace moetap::plugin
