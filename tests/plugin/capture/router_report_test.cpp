#include "plugin/capture/router_report.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>
#include <utility>

#include "tests/plugin/support/tensors.h"

namespace moetap::plugin {
namespace {

hooks::HookPoint hook(std::optional<int64_t> num_experts = std::nullopt, const std::string& scoring = "softmax") {
  return {0, "0", "gate", hooks::HookKind::kRouter, "forward", "language_model", num_experts, std::nullopt, scoring};
}

at::Tensor ids(std::vector<int64_t> values, at::IntArrayRef sizes) {
  return longs(std::move(values)).reshape(sizes);
}
at::Tensor reals(std::vector<double> values, at::IntArrayRef sizes) {
  return at::tensor(values, at::kFloat).reshape(sizes);
}

std::string error_of(const ReportedRouter& reported, const hooks::HookPoint& point = hook()) {
  try {
    to_canonical(reported, point);
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "no error";
}

TEST(RouterCapture, SlotsAlongTheLastDimension) {
  const auto logits = at::randn({2, 3, 4});
  const auto [weights, selected] = logits.softmax(-1).topk(2, -1);
  const auto captured = to_canonical({logits, logits.softmax(-1), {selected}, {weights}, -1, "slots"}, hook());
  EXPECT_EQ(captured.call.num_experts, 4);
  EXPECT_EQ(captured.token_sizes, (std::vector<int64_t>{2, 3}));
  expect_equal(captured.call.logits, logits.reshape({6, 4}));
  expect_equal(captured.call.scores, logits.softmax(-1).reshape({6, 4}));
  expect_equal(captured.call.selected, selected.reshape({6, 2}));
  expect_equal(captured.call.weights, weights.reshape({6, 2}));
  EXPECT_FALSE(captured.call.sigmoid_scores);
}

TEST(RouterCapture, FlattenedBetweenProjectionAndSelection) {
  const auto logits = at::randn({2, 3, 4});
  const auto [weights, selected] = logits.reshape({6, 4}).topk(2, -1);
  for (const int64_t dim : {int64_t{-1}, int64_t{2}}) {
    const auto captured = to_canonical({logits, logits.reshape({6, 4}), {selected}, {weights}, dim, "slots"}, hook());
    expect_equal(captured.call.selected, selected);
    expect_equal(captured.call.weights, weights);
    expect_equal(captured.call.scores, logits.reshape({6, 4}));
  }
}

TEST(RouterCapture, InputsHaveTheTokensOfTheRouter) {
  const auto logits = at::randn({2, 3, 4});
  const auto [weights, selected] = logits.softmax(-1).topk(2, -1);
  const auto input_of = [&, weights = weights, selected = selected](const at::Tensor& input, const std::string& why) {
    ReportedRouter reported{logits, {}, {selected}, {weights}, -1, "slots"};
    reported.input = input;
    reported.no_input = why;
    return to_input(to_canonical(reported, hook()), reported);
  };
  const auto hidden = at::randn({2, 3, 5}).to(at::kBFloat16);
  for (const at::Tensor& input : {hidden, hidden.reshape({6, 5}), hidden.movedim(-1, 0).contiguous().movedim(0, -1)}) {
    const CanonicalInput found = input_of(input, "");
    EXPECT_EQ(found.missing, "");
    expect_equal(found.rows, hidden.reshape({6, 5}));
  }
  EXPECT_NE(input_of(at::randn({5, 5}), "").missing.find("6 tokens, got [5, 5]"), std::string::npos);
  EXPECT_NE(input_of(at::ones({6, 5}, at::kLong), "").missing.find("Long"), std::string::npos);
  EXPECT_NE(input_of(at::randn({6, 0}), "").missing, "");
  EXPECT_NE(input_of({}, "").missing.find("instrumented without"), std::string::npos);
  EXPECT_EQ(input_of({}, "no projection of it is known").missing, "no projection of it is known");
  EXPECT_FALSE(input_of({}, "").rows.defined());
}

// Ids of null experts are kept beside the call, in which they are unused slots. What lies beyond them is no expert.
TEST(RouterCapture, SetsIdsOfNullExpertsAside) {
  const auto logits = at::randn({2, 4});
  const auto selected = ids({3, 4, 5, 900}, {2, 2});
  const auto weights = reals({0.5, 0.25, 0.125, 1}, {2, 2});
  auto point = hook();
  EXPECT_NE(error_of({logits, {}, {selected}, {weights}, -1, "slots"}, point), "no error");
  EXPECT_FALSE(to_canonical({logits, {}, {selected.remainder(4)}, {weights}, -1, "slots"}, point).null_ids.defined());
  point.null_experts = 2;
  const auto captured = to_canonical({logits, {}, {selected}, {weights}, -1, "slots"}, point);
  expect_equal(captured.call.selected, ids({3, -1, -1, -1}, {2, 2}));
  expect_equal(captured.null_ids, ids({-1, 4, 5, -1}, {2, 2}));
  expect_equal(captured.call.weights, weights);
  EXPECT_EQ(captured.call.num_experts, 4);
}

// Several picks may find one expert, whose weight is one number.
TEST(RouterCapture, ReportsAnExpertOfADenseRouterOnce) {
  const auto weights = reals({0.5, 0.25, 0, 0, 0, 0, 0.75, 0}, {2, 4});
  const auto captured =
      to_canonical({at::randn({2, 4}), {}, {ids({0, 2}, {2, 1}), ids({1, 2}, {2, 1})}, {weights}, -1, "dense"}, hook());
  expect_equal(captured.call.selected, ids({0, 1, 2, -1}, {2, 2}));
  expect_equal(captured.call.weights, reals({0.5, 0.25, 0.75, 0}, {2, 2}));
}

// So may ids that are computed with. Those that one pick gave do not: then it is known what it reads.
TEST(RouterCapture, ReportsAnExpertThatIsNamedTwiceOnce) {
  const auto weights = reals({0.5, 0.25, 0, 0, 0, 0, 0.75, 0}, {2, 4});
  const auto captured =
      to_canonical({at::randn({2, 4}), {}, {ids({0, 1, 2, 2}, {2, 2})}, {weights}, -1, "dense"}, hook());
  expect_equal(captured.call.selected, ids({0, 1, 2, -1}, {2, 2}));
  expect_equal(captured.call.weights, reals({0.5, 0.25, 0.75, 0}, {2, 2}));
}

TEST(RouterCapture, SumsAMaskOfKeptTokensOverTheSlots) {
  const auto selected = ids({0, 3, 2, 1}, {2, 2});
  auto kept = at::one_hot(selected, 4);
  kept[1][0].zero_();  // the first slot of the second token does not fit in
  const auto weights = reals({0.5, 0.25, 0.75, 1}, {2, 2});
  const auto captured = to_canonical({at::randn({2, 4}), {}, {selected}, {weights, kept}, -1, "kept"}, hook());
  expect_equal(captured.call.weights, reals({0.5, 0.25, 0, 1}, {2, 2}));
}

// A model that weighs images has its ids and weights over pixels, [images, slots, 1, 1].
TEST(RouterCapture, BroadcastsOverDimensionsBehind) {
  const auto logits = at::randn({3, 4});
  const auto [weights, selected] = logits.softmax(-1).topk(2, -1);
  const auto pixels = [](const at::Tensor& tensor) { return tensor.unsqueeze(-1).unsqueeze(-1); };
  const auto slots = to_canonical({logits, {}, {pixels(selected)}, {pixels(weights)}, -1, "slots"}, hook());
  expect_equal(slots.call.selected, selected);
  expect_equal(slots.call.weights, weights);
  const auto all = at::zeros({3, 4}).scatter(1, selected, weights);
  const auto dense = to_canonical({logits, {}, {selected}, {pixels(all)}, -1, "dense"}, hook());
  expect_equal(dense.call.weights, weights);
  const auto one = to_canonical({at::randn({2, 3, 4}), {}, {ids({0, 1, 2, 3, 0, 1}, {6, 1})}, {}, -1, "slots"}, hook());
  expect_equal(one.call.selected, ids({0, 1, 2, 3, 0, 1}, {6, 1}));
}

TEST(RouterCapture, OneTensorASlot) {
  const auto logits = at::randn({2, 3, 4});
  const auto selected = logits.topk(2, -1);
  const auto& chosen = std::get<1>(selected);
  const auto first = chosen.select(-1, 0);      // [B, S]
  const auto second = chosen.narrow(-1, 1, 1);  // [B, S, 1]
  const auto weight = std::get<0>(selected);
  const auto captured = to_canonical(
      {logits, {}, {first, second}, {weight.select(-1, 0).reshape({6}), weight.select(-1, 1)}, -1, "slots"}, hook());
  expect_equal(captured.call.selected, chosen.reshape({6, 2}));
  expect_equal(captured.call.weights, weight.reshape({6, 2}));
  // argmax: one slot, no dimension for it
  expect_equal(to_canonical({logits, {}, {first}, {}, -1, "slots"}, hook()).call.selected, first.reshape({6, 1}));
}

TEST(RouterCapture, ExpertsInAnotherDimension) {
  const auto logits = at::randn({2, 4, 3, 5});  // [B, E, h, w]
  const auto [weights, selected] = logits.topk(2, 1);
  for (const int64_t dim : {int64_t{1}, int64_t{-3}}) {
    const auto captured = to_canonical({logits, {}, {selected}, {weights}, dim, "slots"}, hook());
    EXPECT_EQ(captured.token_sizes, (std::vector<int64_t>{2, 3, 5}));
    expect_equal(captured.call.logits, logits.permute({0, 2, 3, 1}).reshape({30, 4}));
    expect_equal(captured.call.selected, selected.permute({0, 2, 3, 1}).reshape({30, 2}));
  }
  const auto transposed = at::randn({4, 6});  // [E, T]
  const auto [w, s] = transposed.topk(2, 0);
  const auto captured = to_canonical({transposed, {}, {s}, {w}, 0, "slots"}, hook());
  expect_equal(captured.call.logits, transposed.t());
  expect_equal(captured.call.selected, s.t());
}

TEST(RouterCapture, DenseWeightsAreGathered) {
  const auto selected = ids({2, 0, 1, 2}, {2, 2});
  const auto dense = reals({.1, .2, .3, 0, .5, 0}, {2, 3});
  const auto logits = at::zeros({2, 3});
  expect_equal(to_canonical({logits, {}, {selected}, {dense}, -1, "dense"}, hook()).call.weights,
               reals({.3, .1, .5, 0}, {2, 2}));
  const auto variable = to_canonical({logits, {}, {selected}, {dense}, -1, "variable"}, hook()).call;
  expect_equal(variable.selected, ids({2, 0, 1, -1}, {2, 2}));
  expect_equal(variable.weights, reals({.3, .1, .5, 0}, {2, 2}));
}

TEST(RouterCapture, SlotsOfTokensThatAreNotKeptWeighNothing) {
  const auto logits = at::randn({3, 4});
  const auto selected = ids({0, 1, 2, 3, 1, 0}, {3, 2});
  const auto kept = at::zeros({3, 4}, at::kBool);
  for (const auto& [token, expert] : {std::pair{0, 0}, {1, 2}, {1, 3}}) kept[token][expert].fill_(true);
  const auto captured =
      to_canonical({logits, {}, {selected}, {reals({1, 2, 3, 4, 5, 6}, {3, 2}), kept}, -1, "kept"}, hook());
  expect_equal(captured.call.weights, reals({1, 0, 3, 4, 0, 0}, {3, 2}));
  expect_equal(captured.call.selected, selected);
  const auto flat = to_canonical({logits, {}, {selected}, {reals({1, 2, 3, 4, 5, 6}, {6})}, -1, "slots"}, hook());
  expect_equal(flat.call.weights, reals({1, 2, 3, 4, 5, 6}, {3, 2}));
  EXPECT_NE(error_of({logits, {}, {selected}, {reals({1}, {1})}, -1, "kept"}), "no error");
}

TEST(RouterCapture, ExpertChoiceIsTurnedRound) {
  const auto logits = at::zeros({4, 3});                 // 4 tokens, 3 experts
  const auto tokens = ids({0, 1, 1, 3, 0, -1}, {3, 2});  // nobody takes token 2
  const auto weights = reals({.1, .2, .3, .4, .5, .6}, {3, 2});
  const auto call = to_canonical({logits, {}, {tokens}, {weights}, -1, "expert_choice"}, hook()).call;
  expect_equal(call.selected, ids({0, 2, -1, 0, 1, -1, -1, -1, -1, 1, -1, -1}, {4, 3}));
  expect_equal(call.weights, reals({.1, .5, 0, .2, .3, 0, 0, 0, 0, .4, 0, 0}, {4, 3}));
  const auto batched =
      to_canonical({logits.reshape({2, 2, 3}), {}, {ids({0, 1, 1, 0, 0, 1}, {2, 3, 1})}, {}, -1, "expert_choice"},
                   hook())
          .call;
  expect_equal(batched.selected, ids({0, -1, -1, 1, 2, -1, 0, 1, -1, 2, -1, -1}, {4, 3}));
  EXPECT_FALSE(batched.weights.defined());
}

TEST(RouterCapture, WithoutLogits) {
  const auto selected = ids({0, 3, 1, 2}, {2, 2});
  const auto captured = to_canonical({{}, {}, {selected}, {}, -1, "slots"}, hook(4));
  EXPECT_EQ(captured.call.num_experts, 4);
  EXPECT_FALSE(captured.call.logits.defined());
  expect_equal(captured.call.selected, selected);
  EXPECT_NE(error_of({{}, {}, {selected}, {}, -1, "slots"}).find("number of experts is unknown"), std::string::npos);
}

TEST(RouterCapture, SmallShapes) {
  for (const int64_t tokens : {0, 1}) {
    const auto logits = at::randn({tokens, 1});
    const auto call =
        to_canonical({logits, {}, {at::zeros({tokens, 1}, at::kLong)}, {at::ones({tokens, 1})}, -1, "slots"}, hook())
            .call;
    EXPECT_EQ(call.selected.size(0), tokens);
    EXPECT_EQ(call.weights.size(1), 1);
  }
  const auto int32 =
      to_canonical({at::randn({2, 3}, at::kHalf), {}, {ids({0, 2}, {2, 1}).to(at::kInt)}, {}, -1, "slots"},
                   hook(std::nullopt, "sigmoid_bias"))
          .call;
  EXPECT_EQ(int32.selected.scalar_type(), at::kLong);
  EXPECT_EQ(int32.logits.scalar_type(), at::kHalf);
  EXPECT_TRUE(int32.sigmoid_scores);
}

TEST(RouterCapture, WhatDoesNotFitIsNamed) {
  const auto logits = at::zeros({2, 3});
  EXPECT_EQ(error_of({logits, {}, {ids({0, 3}, {2, 1})}, {}, -1, "slots"}),
            "selected must hold experts in [0, 3) or -1, got 3");
  EXPECT_EQ(error_of({logits, {}, {ids({0, -2}, {2, 1})}, {}, -1, "slots"}),
            "selected must hold experts in [0, 3) or -1, got -2");
  constexpr int64_t kLeast = std::numeric_limits<int64_t>::min(), kMost = std::numeric_limits<int64_t>::max();
  EXPECT_EQ(error_of({logits, {}, {ids({kLeast, 1}, {2, 1})}, {}, -1, "slots"}),
            "selected must hold experts in [0, 3) or -1, got -9223372036854775808");
  EXPECT_EQ(error_of({logits, {}, {ids({2, kMost}, {2, 1})}, {}, -1, "slots"}),
            "selected must hold experts in [0, 3) or -1, got 9223372036854775807");
  EXPECT_EQ(error_of({logits, {}, {ids({-1, 2}, {2, 1})}, {}, -1, "slots"}), "no error");
  EXPECT_EQ(error_of({logits, {}, {ids({0, 1, 2}, {3, 1})}, {}, -1, "slots"}),
            "selected must be [2 tokens, slots], got [3, 1]");
  EXPECT_EQ(error_of({logits, {}, {ids({0, 1}, {2, 1})}, {at::zeros({2, 2})}, -1, "slots"}),
            "weights must be laid out as selected [2, 1], got [2, 2]");
  EXPECT_EQ(error_of({logits, at::zeros({2, 4}), {ids({0, 1}, {2, 1})}, {}, -1, "slots"}),
            "scores must be [2 tokens, 3 experts], got [2, 4]");
  EXPECT_EQ(error_of({logits, {}, {at::zeros({2, 1})}, {}, -1, "slots"}), "selected must hold integers, got Float");
  EXPECT_EQ(error_of({logits, {}, {}, {}, -1, "slots"}), "selected must hold at least one tensor, got none");
  EXPECT_NE(error_of({logits, {}, {ids({0, 1}, {2, 1})}, {}, -1, "sparse"}).find("got \"sparse\""), std::string::npos);
  EXPECT_NE(error_of({logits, {}, {ids({0, 1}, {2, 1})}, {}, 5, "slots"}).find("a dimension 5"), std::string::npos);
  EXPECT_NE(error_of({logits, {}, {ids({0, 2}, {1, 2})}, {}, -1, "expert_choice"}).find("[3 experts, capacity]"),
            std::string::npos);
}

}  // namespace
}  // namespace moetap::plugin
