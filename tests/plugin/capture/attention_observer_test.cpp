#include "plugin/capture/attention_observer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <thread>

#include "analysis/attention/attention_metrics.h"
#include "tests/plugin/support/error_of.h"
#include "tests/plugin/support/synthetic_attention.h"
#include "tests/plugin/support/tensors.h"

namespace moetap::plugin {
namespace {

constexpr int64_t kBatch = 2, kLength = 6;

class AttentionObserverTest : public testing::Test {
 protected:
  AttentionObserverTest() {
    add_attention_hooks(*model_, {{"language_model", "0"}, {"language_model", "1"}});
    context_.model = model_;
    context_.copies = std::make_shared<HostCopies>();
    context_.tokens = std::make_shared<ForwardTokens>();
    values_.limit_bytes = 1 << 20;
    values_.samples = [](int64_t batch) {
      std::vector<int64_t> samples;
      for (int64_t i = 0; i < batch; ++i) samples.push_back(100 + i);
      return samples;
    };
    text_arguments_.ids = 0;
    context_.tokens->read(text_arguments_,
                          c10::List<std::optional<at::Tensor>>({at::zeros({kBatch, kLength}, at::kLong)}),
                          /*keep_ids=*/true, *context_.copies,
                          [](const std::string& what, const std::string&) { ADD_FAILURE() << what; });
  }

  AttentionObserver observer() { return {context_, values_, std::make_shared<CachedRegions>(), checks_}; }

  ReportedAttention reported(int64_t seed = 1) const {
    ReportedAttention reported;
    reported.probabilities = seeded_probabilities(seed, kBatch, kLength);
    reported.scores = reported.probabilities.log();
    reported.layout = "bhqk";
    return reported;
  }

  static ForwardRecord finish(AttentionObserver& observer) {
    ForwardRecord record;
    record.samples = {7, 8};
    const auto report = observer.end();
    if (report == nullptr) return record;
    HostCopies copies;
    report->prepare(copies);
    report->finish(record);
    return record;
  }

  const at::NoGradGuard no_gradients_;
  std::shared_ptr<ModelDescription> model_ = std::make_shared<ModelDescription>();
  TextArguments text_arguments_;  // outlives the tokens
  ForwardContext context_;
  AttentionValues values_;
  std::shared_ptr<HookChecks> checks_ = std::make_shared<HookChecks>(2);
};

TEST_F(AttentionObserverTest, SumsAreThoseOfTheRowsBySample) {
  AttentionObserver observer = this->observer();
  observer.observe(1, reported(1));
  observer.observe(0, reported(2));
  observer.observe(1, reported(3));  // a loop
  const ForwardRecord record = finish(observer);
  ASSERT_EQ(record.attention.size(), 3u);
  const int64_t seeds[] = {2, 1, 3}, hooks[] = {0, 1, 1}, calls[] = {0, 0, 1};
  for (size_t i = 0; i < 3; ++i) {
    const AttentionRecord& attention = record.attention[i];
    EXPECT_EQ(attention.hook, hooks[i]);
    EXPECT_EQ(attention.call, calls[i]);
    EXPECT_TRUE(attention.attributed);
    EXPECT_EQ(attention.num_key_heads, kAttentionHeads);
    EXPECT_TRUE(attention.matrices.empty());
    EXPECT_FALSE(attention.values.defined());
    const AttentionRecord expected = observe_attention({}, seeded_probabilities(seeds[i], kBatch, kLength));
    EXPECT_EQ(attention.sums.num_rows, kBatch);
    expect_equal(attention.sums.words, expected.sums.words);
  }
}

TEST_F(AttentionObserverTest, TheGraphKnowsHowManyHeadsOfKeysThereAre) {
  AttentionObserver observer = this->observer();
  ReportedAttention fused;
  fused.query = at::randn({kBatch, 4, kLength, 8});
  fused.key = at::randn({kBatch, 2, kLength, 8});
  fused.layout = "bhqk";
  observer.observe(0, fused);
  model_->hooks[1].num_key_heads = 1;
  observer.observe(1, fused);
  const ForwardRecord record = finish(observer);
  EXPECT_EQ(record.attention.at(0).num_key_heads, 2);
  EXPECT_EQ(record.attention.at(1).num_key_heads, 1);
  EXPECT_EQ(record.attention[0].sums.num_heads, 4);
}

TEST_F(AttentionObserverTest, KeepsTheMatrixAndTheValuesOfRowsWhereTheyAreAskedFor) {
  values_.matrix = values_.values = true;
  AttentionObserver observer = this->observer();
  observer.observe(0, reported());
  const ForwardRecord record = finish(observer);
  const AttentionRecord& attention = record.attention.at(0);
  const at::Tensor mean = reported().probabilities.mean(1);
  ASSERT_EQ(attention.matrices.size(), 2u);
  for (int64_t sample = 0; sample < kBatch; ++sample) {
    const AttentionMatrixRecord& matrix = attention.matrices[static_cast<size_t>(sample)];
    EXPECT_EQ(matrix.sample, sample);
    EXPECT_EQ(matrix.first_position, 0);
    EXPECT_TRUE(at::allclose(matrix.probabilities, mean[sample], 1e-6, 1e-7));
  }
  // entropy ... last, 5 regions, received
  ASSERT_EQ(attention.value_names.size(), 17u);
  EXPECT_EQ(attention.value_names[4], "self");
  EXPECT_EQ(attention.value_names.back(), "received");
  ASSERT_EQ(attention.values.sizes(), (std::vector<int64_t>{kBatch * kLength, 17}));
  EXPECT_TRUE(at::allclose(attention.values.select(1, 4), mean.diagonal(0, 1, 2).flatten(), 1e-6, 1e-7));
  EXPECT_TRUE(at::allclose(attention.values.select(1, 16), mean.sum(1).flatten(), 1e-5, 1e-6));
  expect_equal(attention.row, at::arange(kBatch, at::kLong).repeat_interleave(kLength));
  expect_equal(attention.position, at::arange(kLength, at::kInt).repeat({kBatch}));
}

TEST_F(AttentionObserverTest, AMatrixBeyondTheLimitIsRefusedByName) {
  values_.matrix = true;
  values_.limit_bytes = 2 * kLength * kLength * 4;  // exactly: two layers
  AttentionObserver enough = observer();
  enough.observe(0, reported());
  EXPECT_EQ(finish(enough).attention.size(), 1u);
  --values_.limit_bytes;
  AttentionObserver refused = observer();
  const std::string message = error_of<c10::Error>([&] { refused.observe(0, reported()); });
  EXPECT_EQ(message.substr(0, message.find('\n')),
            "attention full keeps 288 bytes a sample: 2 layers, up to 6 queries × 6 keys; attention_limit_bytes is "
            "287: raise "
            "it, or set attention to stats");
  EXPECT_TRUE(finish(refused).attention.empty());
  values_.matrix = false;  // stats need no matrix
  AttentionObserver stats = observer();
  stats.observe(0, reported());
  EXPECT_EQ(finish(stats).attention.size(), 1u);
}

TEST_F(AttentionObserverTest, SamplingTakesTheSameRowsOfASampleWhereverItStands) {
  values_.sample = 2;
  values_.seed = 5;
  AttentionObserver observer = this->observer();
  observer.observe(0, reported());
  const ForwardRecord record = finish(observer);
  const analysis::AttentionSums& sums = record.attention.at(0).sums;
  for (int64_t row = 0; row < kBatch; ++row) {
    EXPECT_EQ(sums.counter(row, analysis::kMeasuredRows), 2);
    EXPECT_EQ(sums.counter(row, analysis::kQueries), kLength);
  }
  // The same samples in another order.
  values_.samples = [](int64_t) { return std::vector<int64_t>{101, 100}; };
  AttentionObserver turned = this->observer();
  ReportedAttention other = reported();
  other.probabilities = other.probabilities.flip(0);
  other.scores = other.scores.flip(0);
  turned.observe(0, other);
  const analysis::AttentionSums turned_sums = finish(turned).attention.at(0).sums;
  for (int64_t row = 0; row < kBatch; ++row) {
    expect_equal(select_row(turned_sums, row).words, select_row(sums, 1 - row).words);
  }
}

TEST_F(AttentionObserverTest, AfterTheEndNothingIsObserved) {
  AttentionObserver observer = this->observer();
  EXPECT_EQ(observer.end(), nullptr);
  observer.observe(0, reported());
  EXPECT_EQ(observer.end(), nullptr);
}

TEST_F(AttentionObserverTest, ForksReportAtTheSameTime) {
  AttentionObserver observer = this->observer();
  constexpr int kThreads = 4, kCalls = 8;
  const ReportedAttention same = reported();  // made here, since threads share the generator of random numbers
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&] {
      const at::NoGradGuard no_gradients;
      for (int call = 0; call < kCalls; ++call) observer.observe(call % 2, same);
    });
  }
  for (std::thread& thread : threads) thread.join();
  const ForwardRecord record = finish(observer);
  ASSERT_EQ(record.attention.size(), size_t{kThreads * kCalls});
  for (size_t i = 0; i < record.attention.size(); ++i) {
    EXPECT_EQ(record.attention[i].hook, static_cast<int64_t>(i / (kThreads * kCalls / 2)));
    EXPECT_EQ(record.attention[i].call, static_cast<int64_t>(i % (kThreads * kCalls / 2)));
    expect_equal(record.attention[i].sums.words, record.attention[0].sums.words);
  }
}

TEST_F(AttentionObserverTest, NestedQueriesAreRefusedByName) {
  AttentionObserver observer = this->observer();
  // What the operators of hooks/attention/packed_projection.h report of a nested tensor: nothing.
  const std::string error = error_of<c10::Error>([&] { observer.observe(0, {}); });
  EXPECT_NE(error.find("its queries are a nested tensor"), std::string::npos) << error;
}

TEST_F(AttentionObserverTest, ValuesThatAreNoProbabilitiesAreRefused) {
  AttentionObserver refused = this->observer();
  ReportedAttention wrong = reported();
  wrong.probabilities = wrong.probabilities * 2;
  const std::string error = error_of<c10::Error>([&] { refused.observe(0, wrong); });
  EXPECT_NE(error.find("in 12 of 12 rows one is negative or they sum to more than 1"), std::string::npos) << error;
  EXPECT_TRUE(finish(refused).attention.empty());
  AttentionObserver with_scores = this->observer();
  ReportedAttention scores = reported();
  scores.probabilities = scores.probabilities - 1.0 / kLength;  // each row sums to 0
  EXPECT_NE(error_of<c10::Error>([&] { with_scores.observe(1, scores); }).find("one is negative"), std::string::npos);
  AttentionObserver observer = this->observer();
  ReportedAttention halved = reported();  // a sink takes the rest
  halved.probabilities = halved.probabilities * 0.5;
  observer.observe(0, halved);
  EXPECT_EQ(finish(observer).attention.size(), 1u);
}

TEST_F(AttentionObserverTest, CallsThatSeeOtherTokensAreToldApart) {
  model_->hooks[1].self_attention = false;  // to a text of its own, of as many tokens
  model_->hooks[1].key_tokens.known = true;
  AttentionObserver observer = this->observer();
  ReportedAttention longer = reported();
  longer.probabilities =
      at::cat({at::full({kBatch, kAttentionHeads, kLength, 2}, 0.25), longer.probabilities * 0.5}, 3);
  longer.scores = at::Tensor();
  observer.observe(0, reported());
  observer.observe(1, reported());
  observer.observe(0, longer);  // behind a cache of two
  observer.observe(0, reported());
  const ForwardRecord record = finish(observer);
  ASSERT_EQ(record.attention.size(), 4u);
  const AttentionRecord& behind_cache = record.attention[1];
  EXPECT_TRUE(record.attention[0].sums.self);
  EXPECT_FALSE(record.attention[3].sums.self);
  expect_equal(record.attention[2].sums.words, record.attention[0].sums.words);
  // A half of each query looks at the first two keys, which its own do not stand behind in the other call.
  const auto first = [](const AttentionRecord& attention) {
    return analysis::finalize(sum_rows(attention.sums)).first.value();
  };
  EXPECT_GT(first(behind_cache), 0.5);
}

}  // namespace
}  // namespace moetap::plugin
