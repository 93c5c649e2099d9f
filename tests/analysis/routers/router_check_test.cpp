#include "analysis/routers/router_check.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

namespace moetap::analysis {
namespace {

constexpr int64_t kTokens = 80, kExperts = 8, kTopK = 3;

at::Tensor ids_of(const at::Tensor& choice, int64_t k = kTopK) {
  return std::get<1>(choice.topk(k, 1));
}

at::Tensor renormalised(const at::Tensor& weights) {
  return weights / weights.sum(1, true);
}

at::Tensor dense(const at::Tensor& ids, const at::Tensor& weights) {
  return at::zeros({ids.size(0), kExperts}, weights.options()).scatter_(1, ids, weights);
}

CheckedRouter call(const at::Tensor& logits, const at::Tensor& scores, const at::Tensor& ids, const at::Tensor& weights,
                   const at::Tensor& choice, std::string_view scoring) {
  CheckedRouter router;
  router.call.num_experts = kExperts;
  router.call.logits = logits;
  router.call.scores = scores;
  router.call.selected = ids;
  router.call.weights = weights;
  router.choice = choice;
  router.scoring = scoring;
  router.scores_are_plain = router.weights_are_scaled_scores = router.weights_have_factors_of_experts = true;
  router.top_k = ids.size(1);
  return router;
}

at::Tensor random_logits(at::ScalarType dtype = at::kFloat) {
  at::manual_seed(7);
  return (2 * at::randn({kTokens, kExperts})).to(dtype);
}

CheckedRouter softmax_router(at::ScalarType dtype = at::kFloat) {
  const at::Tensor logits = random_logits(dtype), scores = logits.softmax(1, at::kFloat), ids = ids_of(scores);
  return call(logits, scores, ids, renormalised(scores.gather(1, ids)).to(dtype), scores, "softmax");
}

CheckedRouter softmax_of_selected() {
  const at::Tensor logits = random_logits(), ids = ids_of(logits);
  return call(logits, {}, ids, logits.gather(1, ids).softmax(1), logits, "softmax_topk");
}

CheckedRouter sigmoid_with_bias() {
  const at::Tensor logits = random_logits(), scores = logits.sigmoid(), choice = scores + at::linspace(0, 1, kExperts);
  const at::Tensor ids = ids_of(choice);
  return call(logits, scores, ids, 2.5 * renormalised(scores.gather(1, ids)), choice, "sigmoid_bias");
}

CheckedRouter dense_router() {
  CheckedRouter router = softmax_router();
  router.dense_weights = dense(router.call.selected, router.call.weights);
  return router;
}

std::vector<std::string> wrong_columns(const CheckedRouter& router) {
  std::vector<std::string> columns;
  for (const auto& [column, reason] : judge(count_misfits(router))) columns.push_back(column_name(column));
  return columns;
}

using Columns = std::vector<std::string>;

TEST(RouterCheck, FindsNothingWrongWithRightOnes) {
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16}) {
    EXPECT_EQ(wrong_columns(softmax_router(dtype)), Columns{}) << dtype;
  }
  EXPECT_EQ(wrong_columns(softmax_of_selected()), Columns{});
  EXPECT_EQ(wrong_columns(sigmoid_with_bias()), Columns{});
  EXPECT_EQ(wrong_columns(dense_router()), Columns{});
}

// Small scores have lost their digits, or are 0, although the scores are float32 again.
TEST(RouterCheck, AllowsScoresThatWereRoundedToHalf) {
  CheckedRouter router = softmax_router();
  router.call.logits = 8 * router.call.logits;
  router.choice = router.call.scores = router.call.logits.softmax(1).to(at::kHalf).to(at::kFloat);
  router.call.selected = ids_of(router.choice);
  router.call.weights = router.call.scores.gather(1, router.call.selected);
  EXPECT_EQ(wrong_columns(router), Columns{});
}

TEST(RouterCheck, AllowsWhatModelsDoWithWeights) {
  const auto with = [](const std::function<at::Tensor(const CheckedRouter&)>& weights) {
    CheckedRouter router = softmax_router();
    router.call.weights = weights(router);
    return wrong_columns(router);
  };
  const at::Tensor scale_of_experts = at::linspace(0.5, 3, kExperts), scale_of_tokens = at::rand({kTokens, 1}) + 0.1;
  EXPECT_EQ(with([](const auto& r) { return r.call.scores.gather(1, r.call.selected); }), Columns{});
  EXPECT_EQ(with([&](const auto& r) { return r.call.weights * scale_of_tokens; }), Columns{});
  // Of experts, renormalised or not; dropped slots; a softmax over the selected scores.
  EXPECT_EQ(with([&](const auto& r) {
              return r.call.scores.gather(1, r.call.selected) * scale_of_experts.index({r.call.selected});
            }),
            Columns{});
  EXPECT_EQ(
      with([&](const auto& r) { return renormalised(r.call.weights * scale_of_experts.index({r.call.selected})); }),
      Columns{});
  EXPECT_EQ(with([](const auto& r) { return r.call.weights * at::rand_like(r.call.weights).gt(0.3); }), Columns{});
  EXPECT_EQ(with([](const auto& r) { return r.call.scores.gather(1, r.call.selected).softmax(1); }), Columns{});
}

TEST(RouterCheck, AllowsAFactorOfEachSlotIfTheGraphHasOne) {
  CheckedRouter router = softmax_router();
  router.weights_have_factors_of_experts = false;
  router.call.weights = router.call.weights * at::tensor({1.0, 0.9, 0.3});
  EXPECT_EQ(wrong_columns(router), Columns{"weights"});
  router = softmax_router();
  router.call.weights = router.call.weights * at::tensor({1.0, 0.9, 0.3});
  EXPECT_EQ(wrong_columns(router), Columns{});
  router.call.weights = renormalised(router.call.weights);
  EXPECT_EQ(wrong_columns(router), Columns{});
}

// Few ratios are explained by some factors: they prove nothing.
TEST(RouterCheck, AllowsFactorsOfExpertsInCallsOfFewTokens) {
  const at::Tensor scale = at::linspace(0.5, 3, kExperts);
  for (const int64_t tokens : {1, 2, 4}) {
    for (const bool of_experts : {true, false}) {
      CheckedRouter router = softmax_router();
      for (at::Tensor* tensor :
           {&router.call.logits, &router.call.scores, &router.call.selected, &router.call.weights, &router.choice}) {
        *tensor = tensor->narrow(0, 0, tokens);
      }
      router.call.weights =
          router.call.weights * (of_experts ? scale.index({router.call.selected}) : scale.narrow(0, 0, kTopK));
      EXPECT_EQ(wrong_columns(router), Columns{}) << tokens << of_experts;
    }
  }
}

TEST(RouterCheck, AllowsWeightsOfOneScoringAndASelectionByAnother) {
  CheckedRouter router = sigmoid_with_bias();
  router.call.weights = router.call.logits.gather(1, router.call.selected).softmax(1);
  EXPECT_EQ(wrong_columns(router), Columns{});
  router = softmax_router();
  router.call.weights = router.call.logits.gather(1, router.call.selected);
  EXPECT_EQ(wrong_columns(router), Columns{});
}

// Logits that the weights are made of, and which the selection does not read. Behind a scoring function the check
// cannot tell them from noise that is added to the scores.
TEST(RouterCheck, NoticesLogitsThatOnlyTheWeightsAreMadeOf) {
  for (const int64_t k : {int64_t{1}, kTopK}) {
    const at::Tensor logits = random_logits(), choice = logits + at::randn_like(logits), ids = ids_of(choice, k);
    const at::Tensor of_ids = logits.gather(1, ids);
    const at::Tensor weights = k == 1 ? 1.5 * of_ids.sigmoid() : of_ids.softmax(1);
    CheckedRouter router = call(logits, {}, ids, weights, choice, k == 1 ? "sigmoid_topk" : "softmax_topk");
    EXPECT_EQ(wrong_columns(router), Columns{"logits"}) << k;
    router = call(logits, logits.softmax(1), ids, logits.softmax(1).gather(1, ids), choice.softmax(1), "softmax");
    EXPECT_EQ(wrong_columns(router), Columns{}) << k;
  }
}

// Of weights that were made of the scores by other than factors nothing is known.
TEST(RouterCheck, AllowsWeightsThatAreNoScaledScores) {
  CheckedRouter router = softmax_router();
  router.weights_are_scaled_scores = false;
  router.call.weights = renormalised(router.call.weights.square());
  EXPECT_EQ(wrong_columns(router), Columns{});
}

TEST(RouterCheck, AllowsMaskedScores) {
  CheckedRouter router = softmax_router();
  router.scores_are_plain = false;  // nothing is known of what was done to them
  router.call.scores = router.call.scores.clone();
  router.call.scores.select(1, 4).zero_();
  router.choice = router.call.scores = renormalised(router.call.scores);
  router.call.selected = ids_of(router.choice);
  router.call.weights = router.choice.gather(1, router.call.selected);
  EXPECT_EQ(wrong_columns(router), Columns{});
}

// Sinkhorn's: the weights prove the logits, which the selection reads in a way of its own.
TEST(RouterCheck, AllowsASelectionOfItsOwnIfTheWeightsAreOfTheLogits) {
  for (const int64_t k : {int64_t{1}, kTopK}) {
    const at::Tensor logits = random_logits(), scores = logits.sigmoid();
    const at::Tensor choice = logits.exp() / logits.exp().sum(0, true), ids = ids_of(choice, k);
    CheckedRouter router = call(logits, scores, ids, scores.gather(1, ids), choice, "sigmoid");
    EXPECT_EQ(wrong_columns(router), Columns{}) << k;
    router.call.logits = logits + at::rand({kTokens, kExperts});
    router.call.scores = router.call.logits.sigmoid();
    router.choice = router.call.logits.exp();
    EXPECT_EQ(wrong_columns(router).back(), "ids") << k;
  }
}

TEST(RouterCheck, AllowsMasksBehindTheScoring) {
  for (const double closed : {0.0, -1e9, -std::numeric_limits<double>::infinity()}) {
    CheckedRouter router = softmax_router();
    router.choice = router.call.scores.clone();
    router.choice.narrow(1, 2, 4).fill_(closed);
    router.call.selected = ids_of(router.choice);
    router.call.weights = router.call.scores.gather(1, router.call.selected);
    EXPECT_EQ(wrong_columns(router), Columns{}) << closed;
  }
}

TEST(RouterCheck, AllowsTies) {
  CheckedRouter router = softmax_router();
  router.call.logits = at::zeros({kTokens, kExperts});
  router.choice = router.call.scores = router.call.logits.softmax(1);
  router.call.weights = at::full({kTokens, kTopK}, 1.0 / kTopK);
  EXPECT_EQ(wrong_columns(router), Columns{});  // the ids are those of other logits
}

TEST(RouterCheck, LeavesOutSlotsWithoutAnExpert) {
  CheckedRouter router = softmax_router();
  router.choice = at::Tensor();
  router.call.selected = router.call.selected.clone();
  router.call.selected.select(1, 1).fill_(-1);
  router.call.weights = router.call.weights.clone();
  router.call.weights.select(1, 1).fill_(0.7);
  EXPECT_EQ(wrong_columns(router), Columns{});
}

TEST(RouterCheck, TakesNoTokensAndNotANumber) {
  CheckedRouter router = softmax_router();
  router.call.logits[3].fill_(std::nan(""));
  router.call.scores[3].fill_(std::nan(""));
  router.call.weights[3].fill_(std::nan(""));
  EXPECT_EQ(wrong_columns(router), Columns{});
  for (at::Tensor* tensor :
       {&router.call.logits, &router.call.scores, &router.call.selected, &router.call.weights, &router.choice}) {
    *tensor = tensor->narrow(0, 0, 0);
  }
  EXPECT_EQ(wrong_columns(router), Columns{});
}

// What follows hands the check a tensor from the wrong place.

TEST(RouterCheck, FindsLogitsFromBeforeAnAddend) {
  const at::Tensor before = random_logits() - 0.1 * at::randn({kTokens, kExperts});
  CheckedRouter router = softmax_router();
  router.call.logits = before;
  EXPECT_EQ(wrong_columns(router), Columns{"logits"});
  router = sigmoid_with_bias();
  router.call.logits = before;
  EXPECT_EQ(wrong_columns(router), Columns{"logits"});
  router = softmax_of_selected();
  router.call.logits = before;
  EXPECT_EQ(wrong_columns(router), (Columns{"logits", "weights"}));
}

TEST(RouterCheck, FindsLogitsFromBeforeAMask) {
  const at::Tensor before = random_logits(), closed = at::rand({kTokens, kExperts}).lt(0.2);
  const at::Tensor logits = before.masked_fill(closed, -std::numeric_limits<double>::infinity());
  const at::Tensor scores = logits.softmax(1), ids = ids_of(scores);
  CheckedRouter router = call(before, scores, ids, renormalised(scores.gather(1, ids)), scores, "softmax");
  EXPECT_EQ(wrong_columns(router), Columns{"logits"});
  router = call(before, {}, ids, logits.gather(1, ids).softmax(1), logits, "softmax_topk");
  EXPECT_EQ(wrong_columns(router), Columns{"logits"});
}

// What is closed in both says nothing of a constant that an expert gets.
TEST(RouterCheck, FindsLogitsFromBeforeAnAddendAmongClosedExperts) {
  const at::Tensor logits =
      random_logits().masked_fill(at::rand({kTokens, kExperts}).lt(0.2), -std::numeric_limits<double>::infinity());
  const at::Tensor ids = ids_of(logits);
  CheckedRouter router = call(logits, {}, ids, {}, logits, "none");
  EXPECT_EQ(wrong_columns(router), Columns{});
  router.call.logits = logits - at::linspace(0, 1, kExperts);
  EXPECT_EQ(wrong_columns(router), Columns{});  // a bias for the selection
  router.call.logits = logits - 0.1 * at::randn({kTokens, kExperts});
  EXPECT_EQ(wrong_columns(router), Columns{"logits"});
}

TEST(RouterCheck, FindsWeightsOfOtherScores) {
  CheckedRouter router = softmax_router();
  const at::Tensor changed = router.call.scores * (1 + at::rand({kTokens, kExperts}));
  router.choice = changed;
  router.call.selected = ids_of(changed);
  router.call.weights = changed.gather(1, router.call.selected);
  EXPECT_EQ(wrong_columns(router), Columns{"weights"});
  router.weights_are_scaled_scores = false;  // noise, a bias that is multiplied: no matter of the logits
  EXPECT_EQ(wrong_columns(router), Columns{});
}

TEST(RouterCheck, FindsScoresFromBeforeAChange) {
  CheckedRouter router = softmax_router();
  router.call.scores = router.call.scores * (1 + at::rand({kTokens, kExperts}));
  router.choice = router.call.logits;
  EXPECT_EQ(wrong_columns(router), Columns{"scores"});
}

TEST(RouterCheck, FindsWeightsOfANeighbour) {
  for (CheckedRouter router :
       {softmax_router(), softmax_of_selected(), sigmoid_with_bias(), softmax_router(at::kHalf)}) {
    router.call.weights = router.call.weights.roll(1, 0);
    EXPECT_EQ(wrong_columns(router), Columns{"weights"}) << router.scoring;
  }
}

TEST(RouterCheck, FindsWeightsInAnotherOrder) {
  CheckedRouter router = softmax_router();
  router.call.weights = router.call.weights.flip(1);
  EXPECT_EQ(wrong_columns(router), Columns{"weights"});
}

TEST(RouterCheck, FindsWeightsFromBeforeAFactorOfSlots) {
  CheckedRouter router = softmax_router();
  router.call.weights = router.call.weights * (0.5 + at::rand_like(router.call.weights));
  EXPECT_EQ(wrong_columns(router), Columns{"weights"});
}

TEST(RouterCheck, AllowsABiasForTheSelectionOfWhatIsScoredLater) {
  const at::Tensor logits = random_logits(), choice = logits + at::linspace(-1, 1, kExperts), ids = ids_of(choice);
  CheckedRouter router = call(logits, {}, ids, logits.gather(1, ids).sigmoid(), choice, "sigmoid_topk");
  EXPECT_EQ(wrong_columns(router), Columns{});
  router.call.weights = choice.gather(1, ids).sigmoid();  // then it is part of the logits
  EXPECT_EQ(wrong_columns(router), (Columns{"logits", "weights"}));
}

TEST(RouterCheck, FindsABestSlotThatIsAlwaysDropped) {
  CheckedRouter router = softmax_router();
  router.call.weights = router.call.weights.clone();
  router.call.weights.select(1, 0).narrow(0, 0, kTokens - 1).zero_();
  EXPECT_EQ(wrong_columns(router), Columns{});
  router.call.weights.select(1, 0).zero_();
  EXPECT_EQ(wrong_columns(router), Columns{"weights"});
}

TEST(RouterCheck, FindsAnOrderOfAllExperts) {
  CheckedRouter router;
  router.scoring = "none";
  router.call.num_experts = kExperts;
  router.call.logits = random_logits();
  router.call.selected = router.call.logits.argsort(/*dim=*/int64_t{1});
  EXPECT_EQ(wrong_columns(router), Columns{});  // all experts of a token, where experts choose tokens
  router.has_slots = true;
  EXPECT_EQ(wrong_columns(router), Columns{"ids"});
  router.call.weights = at::rand({kTokens, kExperts});
  router.call.weights.select(1, 7).zero_();
  EXPECT_EQ(wrong_columns(router), Columns{});  // sorted, and used until they add up to enough
  router.call.weights = at::Tensor();
  router.top_k = kExperts;
  EXPECT_EQ(wrong_columns(router), Columns{});
}

TEST(RouterCheck, FindsWeightsThatAreNotScored) {
  CheckedRouter router = softmax_of_selected();
  router.call.weights = router.call.logits.gather(1, router.call.selected);
  EXPECT_EQ(wrong_columns(router), Columns{"weights"});
}

TEST(RouterCheck, FindsIdsOfAnotherPick) {
  CheckedRouter router = sigmoid_with_bias();
  router.call.selected = ids_of(router.call.scores);
  const Columns columns = wrong_columns(router);
  EXPECT_EQ(columns.back(), "ids");
}

// Without what the pick reads: the weights or the ids are wrong, and nothing speaks for the ids.
TEST(RouterCheck, FindsIdsOfAnotherPickByTheWeights) {
  CheckedRouter router = softmax_router();
  router.choice = at::Tensor();
  router.call.selected = ids_of(at::rand({kTokens, kExperts}));
  EXPECT_EQ(wrong_columns(router), (Columns{"weights", "ids"}));
  router = softmax_router();
  router.choice = at::Tensor();
  router.call.weights = router.call.weights.roll(1, 0);
  EXPECT_EQ(wrong_columns(router), Columns{"weights"});
}

TEST(RouterCheck, FindsASlotTooFew) {
  CheckedRouter router = softmax_router();
  router.top_k = kTopK - 1;
  router.call.selected = router.call.selected.narrow(1, 1, kTopK - 1);
  router.call.weights = router.call.weights.narrow(1, 1, kTopK - 1);
  EXPECT_EQ(wrong_columns(router), Columns{"ids"});
  router.call.selected = softmax_router().call.selected.narrow(1, 0, kTopK - 1);
  router.call.weights = softmax_router().call.weights.narrow(1, 0, kTopK - 1);
  EXPECT_EQ(wrong_columns(router), Columns{});  // these are the best two
  router.top_k = kTopK;
  EXPECT_EQ(wrong_columns(router), Columns{"ids"});
}

TEST(RouterCheck, FindsIdsTwice) {
  CheckedRouter router = softmax_router();
  router.call.selected = router.call.selected.clone();
  router.call.selected.select(1, 2).copy_(router.call.selected.select(1, 0));
  const Columns columns = wrong_columns(router);
  ASSERT_FALSE(columns.empty());
  EXPECT_EQ(columns.back(), "ids");
}

TEST(RouterCheck, FindsShiftedRows) {
  CheckedRouter router = softmax_router();
  router.call.logits = router.call.logits.roll(1, 0);
  EXPECT_EQ(wrong_columns(router), Columns{"logits"});
  router = softmax_router();
  router.call.selected = router.call.selected.roll(1, 0);
  const Columns columns = wrong_columns(router);
  ASSERT_FALSE(columns.empty());
  EXPECT_EQ(columns.back(), "ids");
}

TEST(RouterCheck, FindsDenseWeightsOutsideTheIds) {
  CheckedRouter router = dense_router();
  router.dense_weights = router.call.scores;
  EXPECT_EQ(wrong_columns(router), Columns{"ids"});
}

TEST(RouterCheck, LooksAtTokensAllOverTheCall) {
  CheckedRouter router = softmax_router();
  const int64_t repeats = 4 * kMaxCheckedTokens / kTokens;
  for (at::Tensor* tensor :
       {&router.call.logits, &router.call.scores, &router.call.selected, &router.call.weights, &router.choice}) {
    *tensor = tensor->repeat({repeats, 1});
  }
  EXPECT_EQ(wrong_columns(router), Columns{});
  router.call.weights = router.call.weights.clone();
  const int64_t half = router.call.weights.size(0) / 2;
  router.call.weights.narrow(0, half, half).copy_(router.call.weights.narrow(0, half, half).flip(1));
  EXPECT_EQ(wrong_columns(router), Columns{"weights"});
}

// Samples of four positions, of which the first is right.
TEST(RouterCheck, LooksAtOtherPositionsThanTheFirst) {
  const int64_t samples = kMaxCheckedTokens, length = 4;
  const at::Tensor logits = at::randn({length, kExperts}).repeat({samples, 1}), ids = ids_of(logits);
  CheckedRouter router = call(logits, {}, ids, {}, logits, "none");
  EXPECT_EQ(wrong_columns(router), Columns{});
  router.call.logits = logits.clone();
  router.call.logits.view({samples, length, kExperts}).narrow(1, 1, length - 1).add_(at::rand({samples, 3, kExperts}));
  EXPECT_EQ(wrong_columns(router), Columns{"logits"});
}

TEST(RouterCheck, SaysOnTheDeviceWhetherTheWeightsFit) {
  CheckedRouter router = softmax_router();
  EXPECT_TRUE(weights_fit(count_misfits(router)).item<bool>());
  router.call.weights = router.call.weights.flip(1);
  EXPECT_FALSE(weights_fit(count_misfits(router)).item<bool>());
  router.call.weights = at::Tensor();
  EXPECT_TRUE(weights_fit(count_misfits(router)).item<bool>());
}

}  // namespace
}  // namespace moetap::analysis
