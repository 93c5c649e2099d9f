#include "hooks/routers/picked_indices.h"

#include <gtest/gtest.h>

#include "tests/hooks/graph/graph_values.h"
#include "tests/hooks/moe_sources.h"

namespace moetap::hooks::testing {
namespace {

TEST(PickedIndices, AreKnownBehindArithmetic) {
  const torch::jit::Module model = compile({.type = "Model", .code = R"(
def forward(self, x: Tensor):
    values, ids = torch.topk(x, 2, -1)
    scaled = (ids * 3).view(-1)
    first = ids[:, 0]
    best = torch.argmax(x, -1)
    joined = torch.cat([ids, ids], -1)
    return values, scaled, first, best, joined
)"});
  const MethodGraph graph(model, "forward");
  for (const char* name : {"ids", "scaled", "first", "best"}) EXPECT_TRUE(are_picked(value_named(graph, name))) << name;
  for (const char* name : {"x", "values", "joined"}) EXPECT_FALSE(are_picked(value_named(graph, name))) << name;
}

}  // namespace
}  // namespace moetap::hooks::testing
