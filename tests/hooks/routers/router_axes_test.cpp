#include "hooks/routers/router_axes.h"

#include <gtest/gtest.h>

#include "tests/hooks/graph/graph_values.h"
#include "tests/hooks/moe_sources.h"

namespace moetap::hooks::testing {
namespace {

namespace jit = torch::jit;

// The expert axis of `y = expression`, of scores x whose experts lie at `expert_dim`.
struct AxisCase {
  const char* expression;
  int64_t expert_dim;
  std::optional<int64_t> rank;  // of x, where it is known
  int64_t expected;
};

void PrintTo(const AxisCase& axis, std::ostream* stream) {
  *stream << axis.expression;
}

MethodGraph graph_of(const std::string& expression) {
  return MethodGraph(
      compile({.type = "Model",
               .code = "def forward(self, x: Tensor) -> Tensor:\n    y = " + expression + "\n    return y\n"}),
      "forward");
}

class MoveAxis : public ::testing::TestWithParam<AxisCase> {};

TEST_P(MoveAxis, FollowsTheExperts) {
  const MethodGraph graph = graph_of(GetParam().expression);
  Fact fact;
  fact.expert_dim = GetParam().expert_dim;
  fact.rank = GetParam().rank;
  move_axis(graph, *value_named(graph, "y")->node(), fact);
  EXPECT_EQ(fact.expert_dim, GetParam().expected);
}

INSTANTIATE_TEST_SUITE_P(RouterAxes, MoveAxis,
                         ::testing::Values(AxisCase{"x.t()", -1, 2, -2}, AxisCase{"x.transpose(-2, -1)", -1, {}, -2},
                                           AxisCase{"x.transpose(1, 2)", -1, 3, -2},
                                           AxisCase{"x.transpose(0, 1)", -1, 3, -1},
                                           AxisCase{"x.permute([0, 2, 1])", -1, {}, -2},
                                           AxisCase{"x.permute([2, 0, 1])", -1, {}, -3},
                                           AxisCase{"torch.movedim(x, -1, -3)", -1, {}, -3},
                                           AxisCase{"torch.movedim(x, -3, -1)", -1, {}, -2}));

// Whether the tokens are in their order behind `y = expression`.
struct OrderCase {
  const char* expression;
  int64_t expert_dim;
  std::optional<int64_t> rank;
  bool kept;
};

void PrintTo(const OrderCase& order, std::ostream* stream) {
  *stream << order.expression;
}

class KeepsTokenOrder : public ::testing::TestWithParam<OrderCase> {};

TEST_P(KeepsTokenOrder, WhereOnlyTheExpertsMove) {
  const MethodGraph graph = graph_of(GetParam().expression);
  Fact fact;
  fact.expert_dim = GetParam().expert_dim;
  fact.rank = GetParam().rank;
  EXPECT_EQ(keeps_token_order(graph, *value_named(graph, "y")->node(), fact), GetParam().kept);
}

INSTANTIATE_TEST_SUITE_P(
    RouterAxes, KeepsTokenOrder,
    ::testing::Values(OrderCase{"x.t()", -1, 2, true}, OrderCase{"x.transpose(0, 1)", -1, 2, true},
                      OrderCase{"x.transpose(0, 1)", -1, 3, false}, OrderCase{"x.transpose(1, 2)", -1, 3, true},
                      OrderCase{"x.transpose(0, 2)", -1, 3, false}, OrderCase{"x.transpose(-1, -2)", -1, {}, true},
                      OrderCase{"x.permute([2, 0, 1])", -1, {}, true}, OrderCase{"x.permute([1, 0, 2])", -1, {}, false},
                      OrderCase{"x.permute([0, 2, 3, 1])", -3, {}, true},
                      OrderCase{"torch.movedim(x, -1, 0)", -1, {}, true},
                      OrderCase{"torch.movedim(x, 0, -1)", -1, 3, false}, OrderCase{"x.flip([0])", -1, 2, false}));

TEST(FromEnd, NeedsTheRank) {
  EXPECT_EQ(from_end(1, 3), -2);
  EXPECT_EQ(from_end(-1, 3), -1);
  EXPECT_EQ(from_end(1, std::nullopt), 1);
}

// Experts that are not last keep their place from the front.
TEST(ResizeRank, KeepsThePlaceOfTheExperts) {
  Fact first;
  first.rank = 4;
  first.expert_dim = -3;
  resize_rank(first, 3);
  EXPECT_EQ(first.expert_dim, -2);
  EXPECT_EQ(first.rank, 3);
  Fact last;
  last.rank = 4;
  resize_rank(last, 2);
  EXPECT_EQ(last.expert_dim, -1);
}

TEST(IsFullRange, LeavesNothingOut) {
  for (const auto& [expression, full] : std::vector<std::pair<const char*, bool>>{
           {"x[:]", true}, {"x[0:]", true}, {"x[1:]", false}, {"x[:4]", false}, {"x[::2]", false}}) {
    const MethodGraph graph = graph_of(expression);
    EXPECT_EQ(is_full_range(graph, *node_of_kind(graph, "aten::slice")), full) << expression;
  }
}

}  // namespace
}  // namespace moetap::hooks::testing
