#include "hooks/routers/tensor_lists.h"

#include <gtest/gtest.h>

#include "tests/hooks/graph/graph_values.h"
#include "tests/hooks/moe_sources.h"

namespace moetap::hooks::testing {
namespace {

namespace jit = torch::jit;

TEST(ListElements, AreTheTensorsOfAList) {
  const jit::Module model = compile({.type = "Model", .code = R"(
def forward(self, x: Tensor, y: Tensor) -> Tensor:
    joined = torch.cat([x, y], -1)
    return joined
)"});
  const MethodGraph graph(model, "forward");
  jit::Node* cat = node_of_kind(graph, "aten::cat");
  EXPECT_EQ(list_elements(cat->input(0)), (std::vector<jit::Value*>{value_named(graph, "x"), value_named(graph, "y")}));
  EXPECT_EQ(list_elements(cat->output()), std::vector<jit::Value*>{cat->output()});
}

TEST(GrowsInLoop, TellsListsThatAreAppendedToInTurns) {
  const jit::Module model = compile({.type = "Model", .code = R"(
def forward(self, x: Tensor) -> Tensor:
    once: List[Tensor] = []
    once.append(x)
    again: List[Tensor] = []
    for i in range(3):
        again.append(x)
    return torch.cat(once) + torch.cat(again)
)"});
  const MethodGraph graph(model, "forward");
  EXPECT_FALSE(grows_in_loop(value_named(graph, "once")));
  EXPECT_TRUE(grows_in_loop(value_named(graph, "again")));
  EXPECT_EQ(list_elements(value_named(graph, "once")), std::vector<jit::Value*>{value_named(graph, "x")});
}

}  // namespace
}  // namespace moetap::hooks::testing
