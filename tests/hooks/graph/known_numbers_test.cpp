#include "hooks/graph/known_numbers.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/hooks/graph/graph_values.h"
#include "tests/hooks/moe_sources.h"

namespace moetap::hooks::testing {
namespace {

// The bounds of `made`, least first; {} where they are not known.
std::vector<int64_t> bounds_of(const std::string& code) {
  const torch::jit::Module model =
      compile({.type = "Model",
               .buffers = {{"ids", at::arange(6, 9)}, {"mask", at::ones({2}, at::kBool)}},
               .integers = {{"experts", 6}},
               .code = "def forward(self, x: Tensor):\n    made = " + code + "\n    return made\n"});
  const MethodGraph graph(model, "forward");
  const auto range = known_numbers(graph, value_named(graph, "made"));
  return range ? std::vector<int64_t>{range->least, range->largest} : std::vector<int64_t>{};
}

TEST(KnownNumbers, AreThoseThatTheGraphFixes) {
  using Bounds = std::vector<int64_t>;
  EXPECT_EQ(bounds_of("torch.full([x.size(0), 1], 6)"), (Bounds{6, 6}));
  EXPECT_EQ(bounds_of("torch.full_like(x, self.experts)"), (Bounds{6, 6}));
  EXPECT_EQ(bounds_of("torch.arange(6, 8).unsqueeze(0).expand(x.size(0), 2)"), (Bounds{6, 7}));
  EXPECT_EQ(bounds_of("torch.arange(4)"), (Bounds{0, 3}));
  EXPECT_EQ(bounds_of("torch.tensor([6, 9])"), (Bounds{6, 9}));
  EXPECT_EQ(bounds_of("torch.zeros_like(x) + 6"), (Bounds{6, 6}));
  EXPECT_EQ(bounds_of("torch.ones_like(x) * 6 + torch.arange(2)"), (Bounds{6, 7}));
  EXPECT_EQ(bounds_of("self.ids.view(1, 3)[:, :2]"), (Bounds{6, 8}));
  EXPECT_EQ(bounds_of("torch.empty_like(x).fill_(7)"), (Bounds{7, 7}));
  EXPECT_EQ(bounds_of("x + 6"), Bounds());
  EXPECT_EQ(bounds_of("torch.arange(x.size(0))"), Bounds());
  EXPECT_EQ(bounds_of("self.mask.view(1, 2)"), Bounds());
  EXPECT_EQ(bounds_of("torch.full([2], 0.5)"), Bounds());
}

}  // namespace
}  // namespace moetap::hooks::testing
