#include "analysis/routers/router_columns.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "analysis/routers/router_sums.h"

namespace moetap::analysis {
namespace {

RouterCall full_call() {
  at::manual_seed(3);
  RouterCall call;
  call.num_experts = 6;
  call.logits = at::randn({9, 6});
  call.scores = call.logits.sigmoid();
  call.selected = std::get<1>(call.scores.topk(3, 1)).flip(1).contiguous();
  call.weights = call.scores.gather(1, call.selected);
  call.weights[2][1] = 0;
  call.selected[4][0] = -1;
  call.sigmoid_scores = true;
  return call;
}

TokenRows two_rows() {
  return {at::tensor({0, 0, 0, 1, 1, 1, 1, -1, 1}, at::kLong), 2};
}

// Taking columns out of the sums is the same as never having had them.
TEST(RouterColumns, LeftOutOfSumsAsOutOfTheCall) {
  for (RouterColumns columns = 0; columns < kIdsColumn; ++columns) {
    RouterCall call = full_call(), without = call;
    leave_out(without, columns);
    EXPECT_EQ(columns_of(without), columns_of(call) & ~columns);
    if (columns & kWeightsColumn) call.weights = placeholder_weights(call);
    RouterSums sums = observe(call, two_rows());
    leave_out(sums, columns, columns_of(call));
    RouterSums expected = observe(without, two_rows());
    // Without its scores a call measures the sigmoid of its logits; sums that hold the scores' entropy have none then.
    if (columns == kScoresColumn || columns == (kScoresColumn | kWeightsColumn)) {
      for (int64_t row = 0; row < expected.num_rows; ++row) {
        expected.words
            .narrow(0, row * expected.layout().row_words() + RouterSumsLayout::scalar_sum(kScoreEntropy),
                    kScalarSumWords)
            .zero_();
      }
    }
    EXPECT_TRUE(at::equal(sums.words, expected.words)) << columns;
  }
}

TEST(RouterColumns, HaveNames) {
  EXPECT_STREQ(column_name(kLogitsColumn), "logits");
  EXPECT_STREQ(column_name(kScoresColumn), "scores");
  EXPECT_STREQ(column_name(kWeightsColumn), "weights");
  EXPECT_STREQ(column_name(kIdsColumn), "ids");
}

}  // namespace
}  // namespace moetap::analysis
