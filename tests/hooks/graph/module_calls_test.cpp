#include "hooks/graph/module_calls.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/hooks/graph/graph_values.h"
#include "tests/hooks/moe_sources.h"

namespace moetap::hooks::testing {
namespace {

namespace jit = torch::jit;

jit::Module gate() {
  return compile({.type = "Gate", .parameters = {{"weight", random_tensor({kExperts, kHidden}, 1)}}, .code = R"(
def forward(self, h: Tensor, k: int) -> Tuple[Tensor, Tensor]:
    return torch.topk(torch.linear(h, self.weight), k, -1)
)"});
}

jit::Module block() {
  return compile({.type = "Block", .modules = {{"gate", gate()}}, .code = R"(
def forward(self, x: Tensor) -> Tensor:
    weights, ids = self.gate.forward(x, 2)
    return self.scaled(weights)

def scaled(self, weights: Tensor) -> Tensor:
    return weights * 2.0
)"});
}

std::vector<std::string> paths(const MethodGraph& graph) {
  std::vector<std::string> all;
  for (const ModuleCall& call : graph.calls()) all.push_back(call.path + ":" + call.method);
  return all;
}

TEST(ModuleCalls, AreKeptWithWhatTheyTookAndReturned) {
  const jit::Module model = compile({.type = "Model", .modules = {{"block", block()}}, .code = R"(
def forward(self, x: Tensor) -> Tensor:
    return torch.relu(self.block.forward(x))
)"});
  const MethodGraph graph(model, "forward", "", CallsOfModules::kKept);
  ASSERT_EQ(paths(graph),
            (std::vector<std::string>{":forward", "block:forward", "block.gate:forward", "block:scaled"}));
  const ModuleCall& called = graph.calls()[2];
  EXPECT_EQ(called.argument_names, (std::vector<std::string>{"h", "k"}));
  EXPECT_EQ(called.arguments.at(0), graph.graph()->inputs()[1]);
  jit::Node* topk = node_of_kind(graph, "aten::topk");
  EXPECT_EQ(called.outputs, (std::vector<jit::Value*>{topk->output(0), topk->output(1)})) << "the tuple's elements";
  // Its nodes are its own: top-k, and not the product behind it.
  auto inside = [&](const ModuleCall& call, const char* kind) {
    const int64_t order = graph.order(node_of_kind(graph, kind));
    return call.first <= order && order < call.last;
  };
  EXPECT_TRUE(inside(called, "aten::linear"));
  EXPECT_TRUE(inside(called, "aten::topk"));
  EXPECT_FALSE(inside(called, "aten::mul"));
  EXPECT_TRUE(inside(graph.calls()[1], "aten::mul"));
  EXPECT_FALSE(inside(graph.calls()[1], "aten::relu"));
  EXPECT_TRUE(inside(graph.calls()[0], "aten::relu"));
}

TEST(ModuleCalls, LeaveNoMarkers) {
  const jit::Module model = stacked({block(), block()});
  const MethodGraph graph(model, "forward", "", CallsOfModules::kKept);
  for (const jit::Node* node : graph.nodes()) {
    EXPECT_FALSE(is_call_marker(node)) << *node;
    EXPECT_NE(node->kind(), jit::prim::Print) << *node;
  }
  EXPECT_EQ(graph.calls().size(), 7u);
  EXPECT_TRUE(MethodGraph(model, "forward").calls().empty()) << "forgotten unless they are to be kept";
}

TEST(ModuleCalls, AreSeenInForks) {
  const jit::Module model = compile({.type = "Model", .modules = {{"block", block()}}, .code = R"(
def forward(self, x: Tensor) -> Tensor:
    return torch.wait(fork(self.run, x))

def run(self, x: Tensor) -> Tensor:
    return self.block.forward(x)
)"});
  const auto found = paths(MethodGraph(model, "forward", "", CallsOfModules::kKept));
  EXPECT_NE(std::find(found.begin(), found.end(), "block.gate:forward"), found.end());
}

// What a model prints itself is no marker.
TEST(ModuleCalls, LeaveTheModelsOwnPrints) {
  const jit::Module model = compile({.type = "Model", .code = R"(
def forward(self, x: Tensor) -> Tensor:
    print(x)
    return x
)"});
  const MethodGraph graph(model, "forward", "", CallsOfModules::kKept);
  EXPECT_FALSE(is_call_marker(node_of_kind(graph, "prim::Print")));
}

}  // namespace
}  // namespace moetap::hooks::testing
