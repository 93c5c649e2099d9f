#include "plugin/capture/router_observer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

namespace moetap::plugin {
namespace {

class RouterObserverTest : public testing::Test {
 protected:
  RouterObserverTest() {
    auto model = std::make_shared<ModelDescription>();
    for (const int64_t hook : {0, 1}) {
      model->hooks.push_back(
          {hook, std::to_string(hook), "gate", hooks::HookKind::kRouter, "forward", "language_model", 4, 2, "softmax"});
    }
    context_.model = model;
    state_ = std::make_shared<RouterState>(*model);
    context_.tokens = std::make_shared<ForwardTokens>();
    context_.copies = std::make_shared<HostCopies>();
  }

  RouterObserver observer(const RouterValues& values) { return {context_, values, state_}; }

  static ForwardRecord finish(PendingReport& report) {
    ForwardRecord record;
    record.samples = {0};
    HostCopies copies;
    report.prepare(copies);
    report.finish(record);
    return record;
  }

  ReportedRouter reported() const { return {logits_, scores_, {selected_}, {weights_}, -1, "slots"}; }

  const at::NoGradGuard no_gradients_;
  ForwardContext context_;
  std::shared_ptr<RouterState> state_;
  at::Tensor logits_ = at::randn({5, 4});
  at::Tensor scores_ = logits_.softmax(1);
  at::Tensor weights_ = std::get<0>(scores_.topk(2, 1)), selected_ = std::get<1>(scores_.topk(2, 1));
};

TEST_F(RouterObserverTest, KeepsWhatIsAskedFor) {
  for (const RouterValues values :
       {RouterValues{}, RouterValues{true, false, 0}, RouterValues{true, true, 0}, RouterValues{false, false, 3}}) {
    RouterObserver observer = this->observer(values);
    observer.observe(0, reported());
    const auto report = observer.end();
    ASSERT_NE(report, nullptr);
    const RouterRecord router = finish(*report).routers.at(0);
    EXPECT_EQ(router.sums.tokens(), 5);
    EXPECT_EQ(router.selected.defined(), values.per_token);
    if (values.per_token) {
      EXPECT_TRUE(at::equal(router.selected, selected_));
      EXPECT_TRUE(at::equal(router.weights, weights_));
      EXPECT_TRUE(at::equal(router.margins, weights_.select(1, 0) - weights_.select(1, 1)));
    }
    ASSERT_EQ(router.logits.defined(), values.full || values.probe_tokens > 0);
    if (router.logits.defined()) {
      EXPECT_TRUE(at::equal(router.logits, values.full ? logits_ : logits_.narrow(0, 0, 3)));
    }
    EXPECT_EQ(router.scores.defined(), values.full);
  }
}

TEST_F(RouterObserverTest, KeepsInputsWhereTheyAreAskedFor) {
  const at::Tensor input = at::randn({5, 3}).to(at::kHalf), expected = input.clone();
  std::vector<std::string> notices;
  context_.notice = [&](const std::string& what, const std::string&) { notices.push_back(what); };
  for (const bool asked : {false, true}) {
    RouterObserver observer = this->observer({.per_token = true, .record_held = true, .input = asked});
    // Short calls of a known form would be held, which keep no inputs.
    for (int call = 0; call < 3; ++call) {
      ReportedRouter reported = this->reported();
      reported.input = call == 2 ? at::Tensor() : input;
      observer.observe(1, reported);
    }
    const auto report = observer.end();
    const ForwardRecord record = finish(*report);
    if (!asked) continue;
    ASSERT_EQ(record.routers.size(), 3u);
    for (const int call : {0, 1}) {
      EXPECT_TRUE(at::equal(record.routers[static_cast<size_t>(call)].input, expected));
      EXPECT_FALSE(record.routers[static_cast<size_t>(call)].input.is_alias_of(input));
    }
    EXPECT_FALSE(record.routers[2].input.defined());
  }
  std::erase_if(notices, [](const std::string& line) { return !line.starts_with("the dump"); });
  ASSERT_EQ(notices.size(), 1u);
  EXPECT_NE(notices[0].find("the dump lacks the input of router \"gate\""), std::string::npos);
}

TEST_F(RouterObserverTest, WhatTheModelChangesLaterIsNotSeen) {
  RouterObserver observer = this->observer({true, true, 0});
  observer.observe(0, reported());
  const at::Tensor logits = logits_.clone(), selected = selected_.clone();
  logits_.zero_();
  selected_.zero_();
  const RouterRecord router = finish(*observer.end()).routers.at(0);
  EXPECT_TRUE(at::equal(router.logits, logits));
  EXPECT_TRUE(at::equal(router.selected, selected));
}

TEST_F(RouterObserverTest, CallsOfAHookAreNumbered) {
  RouterObserver observer = this->observer({});
  for (const int64_t hook : {0, 1, 0}) observer.observe(hook, reported());
  const ForwardRecord record = finish(*observer.end());
  ASSERT_EQ(record.routers.size(), 3u);
  EXPECT_EQ(record.routers[1].hook, 0);
  EXPECT_EQ(record.routers[1].call, 1);
  EXPECT_EQ(record.routers[2].hook, 1);
  EXPECT_EQ(record.transitions.size(), 1u);
}

TEST_F(RouterObserverTest, AfterTheEndNothingIsMeasured) {
  RouterObserver observer = this->observer({});
  EXPECT_EQ(observer.end(), nullptr);
  observer.observe(0, reported());
  EXPECT_EQ(observer.end(), nullptr);
  EXPECT_EQ(observer.end_replayed(), nullptr);
}

TEST_F(RouterObserverTest, SaysWhatDoesNotFit) {
  RouterObserver observer = this->observer({});
  selected_ = at::full({5, 2}, 4, at::kLong);
  EXPECT_THROW(observer.observe(0, reported()), c10::Error);
  EXPECT_EQ(observer.end(), nullptr);
}

}  // namespace
}  // namespace moetap::plugin
