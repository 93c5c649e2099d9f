#include "hooks/graph/method_graph.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/hooks/graph/graph_values.h"
#include "tests/hooks/moe_sources.h"

namespace moetap::hooks::testing {
namespace {

namespace jit = torch::jit;

int64_t count(const MethodGraph& graph, const std::string& kind) {
  return std::count_if(graph.nodes().begin(), graph.nodes().end(),
                       [&](const jit::Node* node) { return node->kind().toQualString() == kind; });
}

jit::Module linear_module(uint64_t seed = 1) {
  return compile({.type = "Linear", .parameters = {{"weight", random_tensor({4, kHidden}, seed)}}, .code = R"(
def forward(self, x: Tensor) -> Tensor:
    return torch.linear(x, self.weight)
)"});
}

TEST(MethodGraph, InlinesCallsOfMethodsAndSubmodules) {
  const jit::Module module =
      compile({.type = "Model", .modules = {{"first", linear_module()}, {"second", linear_module(2)}}, .code = R"(
def forward(self, x: Tensor) -> Tensor:
    return self.helper(x) + self.second.forward(x)

def helper(self, x: Tensor) -> Tensor:
    return self.first.forward(x)
)"});
  const std::string before = module.get_method("forward").graph()->toString();
  const MethodGraph graph(module, "forward");
  EXPECT_EQ(graph.method(), "forward");
  EXPECT_EQ(count(graph, "prim::CallMethod"), 0);
  EXPECT_EQ(count(graph, "aten::linear"), 2);
  // The graph is a copy.
  EXPECT_EQ(module.get_method("forward").graph()->toString(), before);
  EXPECT_NE(before.find("prim::CallMethod"), std::string::npos);
}

TEST(MethodGraph, NumbersNodesInOrderOfExecution) {
  const jit::Module module = compile({.type = "Model", .code = R"(
def forward(self, x: Tensor, n: int) -> Tensor:
    first = x + 1
    for i in range(n):
        inside = first * 2
        if i > 1:
            nested = inside - 1
        else:
            nested = inside
        first = torch.relu(nested)
    last = torch.sigmoid(first)
    return last
)"});
  const MethodGraph graph(module, "forward");
  const std::vector<const jit::Node*> expected = {
      node_of_kind(graph, "aten::add"),    node_of_kind(graph, "prim::Loop"), node_of_kind(graph, "aten::mul"),
      node_of_kind(graph, "prim::If"),     node_of_kind(graph, "aten::sub"),  node_of_kind(graph, "aten::relu"),
      node_of_kind(graph, "aten::sigmoid")};
  for (size_t i = 0; i + 1 < expected.size(); ++i) {
    EXPECT_LT(graph.order(expected[i]), graph.order(expected[i + 1])) << *expected[i] << *expected[i + 1];
  }
  const auto& nodes = graph.nodes();
  for (size_t i = 0; i < nodes.size(); ++i) EXPECT_EQ(graph.order(nodes[i]), static_cast<int64_t>(i));
  // A block's return stands behind the block's nodes and before what follows the block.
  const jit::Node* body_return = node_of_kind(graph, "prim::Loop")->blocks()[0]->return_node();
  EXPECT_GT(graph.order(body_return), graph.order(node_of_kind(graph, "aten::relu")));
  EXPECT_LT(graph.order(body_return), graph.order(node_of_kind(graph, "aten::sigmoid")));
}

// After an in-place operator its result stands for the changed tensor.
TEST(MethodGraph, UsesTheResultsOfInPlaceOperators) {
  const jit::Module module = compile({.type = "Model", .code = R"(
def forward(self, x: Tensor) -> Tensor:
    weights, ids = torch.topk(x, 2, -1)
    total = weights.sum(-1, keepdim=True)
    weights.div_(total)
    return weights * 2.0
)"});
  const MethodGraph graph(module, "forward");
  const jit::Node* divided = node_of_kind(graph, "aten::div_");
  const jit::Node* product = node_of_kind(graph, "aten::mul");
  EXPECT_EQ(product->input(0), divided->output());
  EXPECT_EQ(node_of_kind(graph, "aten::sum")->input(0), node_of_kind(graph, "aten::topk")->output(0))
      << "what was read before the operator is not its result";
}

TEST(MethodGraph, UsesAnInPlaceResultOnlyWhereItIsComputed) {
  const jit::Module module = compile({.type = "Model", .code = R"(
def forward(self, x: Tensor, flag: bool) -> Tensor:
    y = x + 1
    if flag:
        y.mul_(2)
    return y - 1
)"});
  const MethodGraph graph(module, "forward");
  EXPECT_EQ(node_of_kind(graph, "aten::sub")->input(0), node_of_kind(graph, "aten::add")->output());
}

TEST(MethodGraph, EntersForks) {
  const jit::Module module = compile({.type = "Model", .modules = {{"block", linear_module()}}, .code = R"(
def forward(self, x: Tensor) -> Tensor:
    y = x + 1
    return torch.wait(fork(self.block.forward, y))
)"});
  const MethodGraph graph(module, "forward");
  jit::Node* fork = node_of_kind(graph, "prim::fork");
  jit::Node* inside = node_of_kind(graph, "aten::linear");
  EXPECT_EQ(graph.fork_of(inside->owningGraph()), fork);
  EXPECT_EQ(graph.fork_of(graph.graph().get()), nullptr);
  EXPECT_EQ(graph.outer_of(inside->input(0)), node_of_kind(graph, "aten::add")->output());
  EXPECT_EQ(graph.outer_of(graph.graph()->inputs()[1]), nullptr);
  EXPECT_EQ(graph.outer_of(inside->output()), nullptr);
  EXPECT_EQ(graph.attribute_path(inside->input(1)), (std::vector<std::string>{"block", "weight"}));
  EXPECT_LT(graph.order(fork), graph.order(inside));
  EXPECT_LT(graph.order(inside), graph.order(node_of_kind(graph, "aten::wait")));
  // The copy has a subgraph of its own.
  const MethodGraph again(module, "forward");
  EXPECT_NE(fork_subgraph(fork), fork_subgraph(node_of_kind(again, "prim::fork")));
  EXPECT_EQ(fork_subgraph(inside), nullptr);
}

TEST(MethodGraph, ReadsConstantsAndAttributes) {
  const at::Tensor weight = random_tensor({4, kHidden}, 1);
  const jit::Module module = compile({.type = "Model",
                                      .integers = {{"k", 3}},
                                      .modules = {{"layers", folder("Layers", {{"0", linear_module()}})}},
                                      .code = R"(
def forward(self, x: Tensor) -> Tensor:
    y = getattr(self.layers, "0").forward(x)
    values, ids = torch.topk(y, self.k, -1)
    return values + 1
)"});
  const MethodGraph graph(module, "forward");
  const jit::Node* linear = node_of_kind(graph, "aten::linear");
  EXPECT_EQ(graph.attribute_path(linear->input(1)), (std::vector<std::string>{"layers", "0", "weight"}));
  EXPECT_TRUE(graph.attribute_path(linear->output()).empty());
  ASSERT_TRUE(graph.constant(linear->input(1)).has_value());
  EXPECT_TRUE(at::equal(graph.constant(linear->input(1))->toTensor(), weight));
  EXPECT_EQ(graph.constant(linear->output()), std::nullopt);
  const jit::Node* topk = node_of_kind(graph, "aten::topk");
  EXPECT_EQ(graph.constant_int(topk->input(1)), 3) << "an attribute of the module";
  EXPECT_EQ(graph.constant_int(topk->input(2)), -1) << "a constant of the graph";
  EXPECT_EQ(graph.constant_int(linear->input(1)), std::nullopt) << "a tensor is no integer";
}

TEST(MethodGraph, ReadsListsOfIntegers) {
  using Elements = std::vector<std::optional<int64_t>>;
  const MethodGraph graph(compile({.type = "Model", .integers = {{"k", 3}}, .code = R"(
def forward(self, x: Tensor) -> Tensor:
    y = x.view([2, self.k, -1]).sum([0, 1]).view([x.size(0), 4])
    return torch.softmax(y, x.size(1)) + torch.sigmoid(x)
)"}),
                          "forward");
  const jit::Node* view = node_of_kind(graph, "aten::view");
  EXPECT_EQ(graph.constant_ints(view->input(1)), (Elements{2, 3, -1}));
  EXPECT_EQ(graph.constant_ints(node_of_kind(graph, "aten::sum")->input(1)), (Elements{0, 1}));
  const jit::Node* last = view->output()->uses()[0].user->output()->uses()[0].user;
  EXPECT_EQ(graph.constant_ints(last->input(1)), (Elements{std::nullopt, 4}));
  const jit::Node* softmax = node_of_kind(graph, "aten::softmax");
  EXPECT_EQ(graph.constant_ints(softmax->input(1)), Elements{std::nullopt}) << "a size is no constant";
  EXPECT_EQ(graph.constant_ints(softmax->input(0)), std::nullopt) << "a tensor is no list of integers";
}

}  // namespace
}  // namespace moetap::hooks::testing
