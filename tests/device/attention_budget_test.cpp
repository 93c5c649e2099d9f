// What an attention call costs the host on a device with kernels: see Note [The fake device].
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "analysis/attention/attention_device.h"
#include "analysis/attention/attention_sums.h"
#include "tests/analysis/attention/attention_calls.h"
#include "tests/analysis/attention/compare_rows.h"
#include "tests/support/fake_device.h"
#include "tests/support/fake_operators.h"

namespace moetap::analysis {
namespace {

class AttentionBudgetTest : public testing::Test {
 protected:
  void SetUp() override {
    fake_device::install();
    host_ = random_call({2, 4, 2, 70, 70, 16});
    host_.call.causal = true;
    host_.tokens.query_position = host_.tokens.key_position = positions_of({70, 33}, 70);
    device_ = host_;
    AttentionCall& call = device_.call;
    AttentionTokens& tokens = device_.tokens;
    for (at::Tensor* tensor : {&call.query, &call.key, &tokens.query_position, &tokens.key_position}) {
      *tensor = tensor->to(at::Device(fake_device::kType, 0));
    }
    fake_device::run_until_idle();
    fake_device::reset_counts();
  }
  void TearDown() override { fake_device::run_until_idle(); }

  static AttentionRows on_host(AttentionRows rows) {
    for (at::Tensor* tensor : {&rows.line, &rows.values, &rows.bins, &rows.region, &rows.position, &rows.num_keys,
                               &rows.length, &rows.weight, &rows.head_high, &rows.head_low, &rows.head_max_score}) {
      *tensor = fake_device::on_cpu(*tensor);
    }
    return rows;
  }

  CallOfTest host_, device_;
};

TEST_F(AttentionBudgetTest, ACallIsOneMeasurementAndElevenAllocations) {
  const AttentionRows rows = measure_attention(device_.call, device_.tokens);
  const fake_device::Counts counts = fake_device::counts();
  EXPECT_EQ(counts.kernels, 1);
  EXPECT_EQ(counts.allocations, 11) << "ten tensors of the rows, and memory for the kernels";
  EXPECT_EQ(counts.operations, 0);
  EXPECT_EQ(counts.fills, 0);
  EXPECT_EQ(counts.synchronizations, 0);
  EXPECT_EQ(counts.copies_to_host + counts.copies_to_device + counts.copies_on_device, 0);
  EXPECT_EQ(counts.events, 0);
  fake_device::run_until_idle();
  expect_equal(on_host(rows), fast(host_), 1e-6, "on the device");
}

TEST_F(AttentionBudgetTest, AGraphMeasuresAgainWithEachReplay) {
  fake_device::begin_capture();
  const AttentionRows rows = measure_attention(device_.call, device_.tokens);
  const std::function<void()> replay = fake_device::end_capture();
  EXPECT_EQ(fake_device::counts().operations, 0);
  for (const double factor : {1.0, 3.0}) {
    host_.call.query.mul_(factor);
    fake_device::on_cpu(device_.call.query).copy_(host_.call.query);
    replay();
    expect_equal(on_host(rows), fast(host_), 1e-6, "replayed");
  }
}

TEST_F(AttentionBudgetTest, TheMatrixIsMadeByTheSameMeasurement) {
  const AttentionRows rows = measure_attention(device_.call, device_.tokens, {/*matrix=*/true});
  EXPECT_EQ(fake_device::counts().kernels, 1);
  EXPECT_EQ(fake_device::counts().operations, 0);
  EXPECT_EQ(fake_device::counts().synchronizations, 0);
  fake_device::run_until_idle();
  AttentionRows measured = on_host(rows);
  measured.matrix = fake_device::on_cpu(rows.matrix);
  expect_equal(measured, fast(host_, /*matrix=*/true), 1e-6, "on the device");
}

TEST_F(AttentionBudgetTest, SumsAreOneKernelEach) {
  const AttentionRows rows = measure_attention(device_.call, device_.tokens);
  const at::Device device(fake_device::kType, 0);
  AttentionSums sums = empty_attention_sums(4, 5, true, 6, 2, device);
  const at::Tensor selected = at::randint(6, {140, 2}, at::kInt), on_device = selected.to(device);
  fake_device::run_until_idle();
  fake_device::reset_counts();
  add_rows(sums, rows, {});
  add_experts(sums, rows, {}, on_device, {});
  const fake_device::Counts counts = fake_device::counts();
  EXPECT_EQ(counts.kernels, 2);
  EXPECT_EQ(counts.allocations + counts.operations + counts.fills + counts.synchronizations + counts.events, 0);
  fake_device::run_until_idle();
  AttentionSums expected = empty_attention_sums(4, 5, true, 6, 2);
  const AttentionRows of_host = fast(host_);
  add_rows(expected, of_host, {});
  add_experts(expected, of_host, {}, selected, {});
  sums.words = fake_device::on_cpu(sums.words);
  normalize(sums);
  EXPECT_TRUE(at::equal(sums.words, expected.words));
}

TEST_F(AttentionBudgetTest, CallsThatKernelsDoNotTakeAreCountedByReason) {
  const std::string reason = "query and key are not half, bfloat16 or float";
  const int64_t before = refused_attention_calls()[reason];
  for (CallOfTest* test : {&host_, &device_}) {
    test->call.query = test->call.query.to(at::kDouble);
    test->call.key = test->call.key.to(at::kDouble);
  }
  fake_device::run_until_idle();
  fake_device::reset_counts();
  const AttentionRows rows = measure_attention(device_.call, device_.tokens);
  EXPECT_EQ(refused_attention_calls()[reason], before + 1);
  EXPECT_EQ(fake_device::counts().kernels, 0);
  EXPECT_GT(fake_device::counts().operations, 0);
  fake_device::run_until_idle();
  expect_equal(on_host(rows), fast(host_), 1e-5, "by operations");
}

}  // namespace
}  // namespace moetap::analysis
