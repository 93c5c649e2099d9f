#include "hooks/graph/known_shapes.h"

#include <gtest/gtest.h>

#include <ostream>

#include "tests/hooks/graph/graph_values.h"
#include "tests/hooks/moe_sources.h"

namespace moetap::hooks::testing {
namespace {

// What the graph fixes of the shape of `y`. h is [tokens, 8], w a parameter [6, 8], and x is an argument.
struct ShapeCase {
  const char* expression;
  std::optional<int64_t> rank;
  std::optional<int64_t> last;
};

void PrintTo(const ShapeCase& shape, std::ostream* stream) {
  *stream << shape.expression;
}

class Shapes : public ::testing::TestWithParam<ShapeCase> {};

TEST_P(Shapes, AreKnownFromParametersAndSizes) {
  const MethodGraph graph(
      compile({.type = "Model",
               .parameters = {{"w", random_tensor({6, 8}, 1)}, {"table", random_tensor({50, 7}, 2)}},
               .code = std::string("def forward(self, x: Tensor) -> Tensor:\n"
                                   "    h = x.view(-1, 8)\n    y = ") +
                       GetParam().expression + "\n    return y\n"}),
      "forward");
  KnownShapes shapes(graph);
  const KnownShape shape = shapes.of(value_named(graph, "y"));
  EXPECT_EQ(shape.rank, GetParam().rank);
  EXPECT_EQ(shape.last, GetParam().last);
}

INSTANTIATE_TEST_SUITE_P(
    KnownShapes, Shapes,
    ::testing::Values(
        ShapeCase{"x + 1", {}, {}}, ShapeCase{"h * 2", 2, 8}, ShapeCase{"torch.linear(h, self.w)", 2, 6},
        ShapeCase{"torch.linear(x, self.w)", {}, 6}, ShapeCase{"torch.matmul(h, self.w.t())", 2, {}},
        ShapeCase{"torch.mm(x, self.w)", 2, 8}, ShapeCase{"x * torch.linear(h, self.w)", {}, 6},
        ShapeCase{"torch.softmax(h, -1).to(6)", 2, 8}, ShapeCase{"torch.topk(h, 2, -1)[0] + 0", 2, 2},
        ShapeCase{"torch.topk(h, 2, 0)[0] + 0", 2, 8}, ShapeCase{"torch.topk(x, 2, 1)[0] + 0", {}, {}},
        ShapeCase{"torch.kthvalue(h, 2, -1, True)[0] + 0", 2, 1}, ShapeCase{"h.sum(-1, keepdim=True)", 2, 1},
        ShapeCase{"h.sum(-1)", 1, {}}, ShapeCase{"x.mean(-1, keepdim=True)", {}, 1}, ShapeCase{"h.mean(0)", 1, 8},
        ShapeCase{"h.unsqueeze(-1)", 3, 1}, ShapeCase{"h.unsqueeze(0)", 3, 8}, ShapeCase{"h[:, :1]", 2, 1},
        ShapeCase{"h[:, 2:5]", 2, 3}, ShapeCase{"h[1:]", 2, 8}, ShapeCase{"h[:, 1]", 1, {}}, ShapeCase{"h[0]", 1, 8},
        ShapeCase{"x.view(2, 3, 4)", 3, 4}, ShapeCase{"h.view(-1)", 1, {}}, ShapeCase{"h.expand(3, -1, -1)", 3, 8},
        ShapeCase{"h.transpose(0, 1)", 2, {}}, ShapeCase{"torch.cat([h, h], -1)", 2, 16},
        ShapeCase{"torch.cat([h, h], 0)", 2, 8}, ShapeCase{"torch.stack([h, h, h], -1)", 3, 3},
        ShapeCase{"torch.zeros_like(h)", 2, 8}, ShapeCase{"torch.zeros([4, 5])", 2, 5},
        ShapeCase{"torch.embedding(self.table, x)", {}, 7}, ShapeCase{"torch.one_hot(h.argmax(-1), 9)", 2, 9},
        ShapeCase{"h.argmax(-1, keepdim=True)", 2, 1}, ShapeCase{"torch.arange(5)", 1, 5},
        ShapeCase{"torch.einsum(\"td,ed->te\", [h, self.w])", 2, {}},
        ShapeCase{"torch.einsum(\"td,de->te\", [h, self.w])", 2, 8}, ShapeCase{"torch.layer_norm(h, [8])", 2, 8},
        ShapeCase{"h.max(-1, keepdim=True)[0] + 0", 2, 1}, ShapeCase{"x.max(-1, keepdim=True)[0] + 0", {}, 1},
        ShapeCase{"x.max(1, keepdim=True)[0] + 0", {}, {}}, ShapeCase{"h.max(0, keepdim=True)[0] + 0", 2, 8},
        ShapeCase{"h.narrow(-1, 2, 3)", 2, 3}, ShapeCase{"h.narrow(0, 2, 3)", 2, 8},
        ShapeCase{"torch.split(h, [1, 7], -1)[0]", 2, 1}, ShapeCase{"torch.split(h, 3, -1)[2]", 2, 2},
        ShapeCase{"torch.split(h, 3, 0)[0]", 2, 8}, ShapeCase{"torch.split(x, [1, 7], 1)[0]", {}, {}},
        ShapeCase{"torch.chunk(h, 4, 1)[0]", 2, 2}, ShapeCase{"torch.chunk(x, 4, -1)[0]", {}, {}},
        ShapeCase{"torch.unbind(h, 1)[0]", 1, {}}, ShapeCase{"x.view(-1, h.size(-1))", 2, 8}));

// What is made of `y` tells its shape: a model's arguments have none of their own.
TEST(KnownShapes, AreToldByTheUses) {
  const MethodGraph graph(compile({.type = "Model", .parameters = {{"w", random_tensor({6, 8}, 1)}}, .code = R"(
def forward(self, x: Tensor):
    batch, length, width = x.shape
    y = x + 1
    z = x * 2
    norm = torch.layer_norm(x - 1, [5])
    return torch.linear(y, self.w), torch.matmul(z, self.w), norm, y.view(-1, y.size(-1)), x.view(-1, width)
)"}),
                          "forward");
  KnownShapes shapes(graph);
  EXPECT_EQ(shapes.of(graph.graph()->inputs()[1]).rank, 3);
  EXPECT_EQ(shapes.of(graph.graph()->inputs()[1]).last, std::nullopt);
  EXPECT_EQ(shapes.of(value_named(graph, "y")).last, 8);
  EXPECT_EQ(shapes.of(value_named(graph, "z")).last, 6);
  EXPECT_EQ(shapes.of(value_named(graph, "norm")).last, 5);
  EXPECT_EQ(shapes.of(graph.graph()->outputs()[0]->node()->input(3)).last, 8);
}

}  // namespace
}  // namespace moetap::hooks::testing
