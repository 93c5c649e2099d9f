#include "hooks/routers/find_routers.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/hooks/graph/graph_values.h"
#include "tests/hooks/moe_sources.h"

namespace moetap::hooks::testing {
namespace {

namespace jit = torch::jit;

class FindRouters : public ::testing::Test {
 protected:
  void find(const jit::Module& model, const std::string& path = "") {
    graph_ = std::make_unique<MethodGraph>(model, "forward", path);
    const ValueOrigins origins(*graph_);
    skipped_.clear();
    routers_ = find_routers(*graph_, origins, skipped_);
  }

  std::unique_ptr<MethodGraph> graph_;
  std::vector<FoundRouter> routers_;
  std::vector<SkippedNode> skipped_;
};

jit::Module block(const std::string& gate = "torch.linear(h, self.gate.weight)") {
  return compile(block_source("def route(self, h: Tensor):\n    logits = " + gate + R"(
    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
    return ids, weights
)",
                              kMaskEachExpert));
}

TEST_F(FindRouters, NamesThemByTheirProjectionInOrder) {
  find(stacked({block(), block()}), "tower");
  ASSERT_EQ(routers_.size(), 2u);
  EXPECT_EQ(routers_[0].owner, "tower.layers.0.mlp.gate");
  EXPECT_EQ(routers_[1].owner, "tower.layers.1.mlp.gate");
  EXPECT_LT(graph_->order(routers_[0].anchor()), graph_->order(routers_[1].anchor()));
  EXPECT_TRUE(skipped_.empty());
}

// The number of experts is read from the weight, behind casts, transposes and norms.
TEST_F(FindRouters, ReadTheNumberOfExpertsFromTheWeight) {
  for (const char* gate : {"torch.linear(h, self.gate.weight)", "torch.matmul(h, self.gate.weight.t())",
                           "torch.mm(h, self.gate.weight.to(float32).t())",
                           "torch.linear(h, self.gate.weight / torch.linalg_vector_norm(self.gate.weight))"}) {
    find(block(gate));
    ASSERT_EQ(routers_.size(), 1u) << gate;
    EXPECT_EQ(routers_[0].num_experts, kExperts) << gate;
    EXPECT_EQ(routers_[0].owner, "gate") << gate;
  }
}

TEST_F(FindRouters, SkipPicksWithoutAProjection) {
  find(compile({.type = "Model", .code = R"(
def forward(self, x: Tensor) -> Tensor:
    return torch.topk(x, 2, -1)[0]
)"}));
  EXPECT_TRUE(routers_.empty());
  ASSERT_EQ(skipped_.size(), 1u);
  EXPECT_EQ(skipped_[0].reason, SkipReason::kHasNoProjection);
  EXPECT_EQ(skipped_[0].node, node_of_kind(*graph_, "aten::topk"));
  EXPECT_EQ(skipped_[0].source, skipped_[0].node);
}

TEST_F(FindRouters, SkipOneScoreAToken) {
  find(compile({.type = "Model", .parameters = {{"weight", random_tensor({1, kHidden}, 1)}}, .code = R"(
def forward(self, x: Tensor) -> Tensor:
    return torch.topk(torch.linear(x, self.weight).squeeze(-1), 2, -1)[0]
)"}));
  EXPECT_TRUE(routers_.empty());
  ASSERT_EQ(skipped_.size(), 1u);
  EXPECT_EQ(skipped_[0].reason, SkipReason::kIndexesTokens);
  EXPECT_EQ(skipped_[0].source, node_of_kind(*graph_, "aten::linear"));
}

// Ids of the arguments: named by what the experts have in common, with no projection.
class FindHashRouters : public FindRouters {
 protected:
  void find_hash(const std::string& rule) {
    const jit::Module experts = folder("Experts", {{"0", holder("E", random_tensor({kHidden, kHidden}, 1))},
                                                   {"1", holder("E", random_tensor({kHidden, kHidden}, 2))}});
    find(compile({.type = "Model",
                  .parameters = {{"embedding", random_tensor({11, kHidden}, 3)}},
                  .buffers = {{"table", at::arange(11, at::kLong).remainder(2)}},
                  .modules = {{"experts", experts}},
                  .code = R"(
def forward(self, input_ids: Tensor, size: int) -> Tensor:
    h = torch.embedding(self.embedding, input_ids)
    ids = )" + rule + R"(
    rows0 = torch.where(ids == 0)[0]
    rows1 = torch.where(ids == 1)[0]
    out = torch.zeros_like(h)
    out = out.index_add(0, rows0, torch.matmul(h[rows0], getattr(self.experts, "0").weight))
    return out.index_add(0, rows1, torch.matmul(h[rows1], getattr(self.experts, "1").weight))
)"}));
  }
};

TEST_F(FindHashRouters, NamesThemByTheirExperts) {
  for (const char* rule : {"self.table[input_ids]", "torch.remainder(input_ids, 2)"}) {
    find_hash(rule);
    ASSERT_EQ(routers_.size(), 1u) << rule;
    EXPECT_EQ(routers_[0].owner, "experts") << rule;
    EXPECT_EQ(routers_[0].num_experts, 2) << rule;
    EXPECT_EQ(routers_[0].scoring, "hash") << rule;
    EXPECT_EQ(routers_[0].projection.node, nullptr) << rule;
    EXPECT_TRUE(routers_[0].add_slot_dim) << rule;
  }
}

TEST_F(FindHashRouters, SkipsAnUnknownNumberOfExperts) {
  find_hash("torch.remainder(input_ids, size)");
  EXPECT_TRUE(routers_.empty());
  ASSERT_EQ(skipped_.size(), 1u);
  EXPECT_EQ(skipped_[0].reason, SkipReason::kUnknownNumExperts);
}

TEST(HookPointOfARouter, HasWhatIsKnownOfIt) {
  FoundRouter router;
  router.owner = "gate";
  router.num_experts = 8;
  router.top_k = 2;
  router.scoring = "sigmoid";
  router.layer = "3";
  router.component = "encoder";
  const HookPoint hook = hook_point(router, "encode");
  EXPECT_EQ(hook.kind, HookKind::kRouter);
  EXPECT_EQ(hook.name, "gate");
  EXPECT_EQ(hook.method, "encode");
  EXPECT_EQ(hook.num_experts, 8);
  EXPECT_EQ(hook.top_k, 2);
  EXPECT_EQ(hook.scoring, "sigmoid");
  EXPECT_EQ(hook.layer, "3");
  EXPECT_EQ(hook.component, "encoder");
}

}  // namespace
}  // namespace moetap::hooks::testing
