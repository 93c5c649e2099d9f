#include "hooks/points/forward_handle.h"

#include <gtest/gtest.h>

#include "tests/hooks/graph/graph_values.h"
#include "tests/hooks/moe_sources.h"

namespace moetap::hooks::testing {
namespace {

namespace jit = torch::jit;

TEST(ForwardHandle, ReachesTheForksOfForks) {
  const jit::Module model = compile({.type = "Model", .code = R"(
def forward(self, x: Tensor) -> Tensor:
    return torch.wait(fork(self.outer, x))

def outer(self, x: Tensor) -> Tensor:
    return torch.wait(fork(self.inner, torch.relu(x)))

def inner(self, x: Tensor) -> Tensor:
    return torch.sigmoid(x)
)"});
  const MethodGraph graph(model, "forward");
  jit::Value* handle = graph.graph()->inputs()[1];
  jit::Graph* outer = node_of_kind(graph, "aten::relu")->owningGraph();
  jit::Graph* inner = node_of_kind(graph, "aten::sigmoid")->owningGraph();
  ASSERT_NE(outer, inner);
  ForwardHandle handles(graph, handle);
  EXPECT_EQ(handles.in(graph.graph().get()), handle);
  jit::Value* inside = handles.in(inner);
  EXPECT_EQ(inside->owningGraph(), inner);
  EXPECT_EQ(graph.outer_of(inside), handles.in(outer));
  EXPECT_EQ(graph.outer_of(handles.in(outer)), handle);
  EXPECT_EQ(handles.in(inner), inside) << "asked again, no second input";
  EXPECT_EQ(inner->inputs().size(), graph.fork_of(inner)->inputs().size());
  graph.graph()->lint();
}

}  // namespace
}  // namespace moetap::hooks::testing
