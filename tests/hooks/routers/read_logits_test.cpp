// The logits of a router are what its selection reads, whatever was done to the scores before. See
// Note [Logits are what selection reads].
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <ostream>

#include "hooks/routers/find_routers.h"
#include "tests/hooks/graph/graph_values.h"
#include "tests/hooks/moe_sources.h"

namespace moetap::hooks::testing {
namespace {

namespace jit = torch::jit;

// Makes `read`, the tensor that selection reads, of `raw`, the projection of the tokens h [T, kHidden].
struct Change {
  const char* name;
  const char* code;
  int64_t num_experts = kExperts;
};

void PrintTo(const Change& change, std::ostream* stream) {
  *stream << change.name;
}

const std::vector<Change> kChanges = {
    {"AddOfAnotherProjection", "read = raw + torch.linear(torch.linear(h, self.down), self.up) * 0.5"},
    {"NoiseOfItsOwnWidth", "read = raw + torch.randn_like(raw) * torch.softplus(torch.linear(h, self.noise))"},
    {"TemperatureOfAToken", "read = raw * torch.softplus(torch.linear(h, self.one))"},
    {"DividedByATemperatureOfAToken", "read = raw / torch.softplus(torch.linear(h, self.one))"},
    {"DividedByTheirDeviation", "read = raw / raw.std(dim=1, keepdim=True)"},
    {"DividedByTheirNorm", "read = raw / torch.linalg_vector_norm(raw, dim=-1, keepdim=True)"},
    {"WithoutTheirMean", "read = raw - raw.mean(-1, keepdim=True)"},
    {"WithoutTheirMaximum", "read = raw - raw.amax(-1, keepdim=True)"},
    {"LayerNorm", "read = torch.layer_norm(raw, [6])"},
    {"BatchNorm", "read = torch.batch_norm(raw, None, None, self.mean, self.variance, False, 0.1, 1e-5, False)"},
    {"SoftCap", "read = torch.tanh(raw / 30.0) * 30.0"},
    {"Clamp", "read = raw.clamp(-1.0, 1.0)"},
    {"MaskOfABuffer", "read = raw.masked_fill(self.off, -1e9)"},
    {"WhereOfABuffer", "read = torch.where(self.off, torch.full_like(raw, -1e9), raw)"},
    {"ProductWithABuffer", "read = raw * self.scale"},
    {"NullExperts", "read = torch.cat([raw, self.null.expand(h.size(0), 2)], -1)", kExperts + 2},
    {"MaskInPlace", "read = raw.masked_fill_(self.off, -1e9)"},
};

class ReadLogits : public ::testing::TestWithParam<Change> {
 protected:
  // The router of a model whose selection reads what `change` makes.
  void find(const std::string& change) {
    const jit::Module model =
        compile({.type = "Model",
                 .parameters = {{"expert_weights", random_tensor({kExperts + 2, kHidden, kHidden}, 3)},
                                {"down", random_tensor({2, kHidden}, 11)},
                                {"up", random_tensor({kExperts, 2}, 12)},
                                {"noise", random_tensor({kExperts, kHidden}, 13)},
                                {"one", random_tensor({1, kHidden}, 14)},
                                {"null", random_tensor({2}, 15)}},
                 .buffers = {{"off", random_tensor({kExperts}, 16) > 1},
                             {"scale", random_tensor({kExperts}, 17)},
                             {"mean", random_tensor({kExperts}, 18)},
                             {"variance", random_tensor({kExperts}, 19).abs()}},
                 .modules = {{"gate", holder("Gate", random_tensor({kExperts, kHidden}, 7))}},
                 .code = "def forward(self, x: Tensor) -> Tensor:\n    h = torch.layer_norm(x, [8]).view(-1, 8)\n"
                         "    raw = torch.linear(h, self.gate.weight)\n    " +
                         change + R"(
    weights, ids = torch.topk(torch.softmax(read, -1), 2, -1)
    return x + self.experts(h, ids, weights).view_as(x)
)" + kIndexParameters.code});
    graph_ = std::make_unique<MethodGraph>(model, "forward");
    std::vector<SkippedNode> skipped;
    routers_ = find_routers(*graph_, ValueOrigins(*graph_), skipped);
  }

  std::unique_ptr<MethodGraph> graph_;
  std::vector<FoundRouter> routers_;
};

TEST_P(ReadLogits, AreWhatEntersTheScoring) {
  find(GetParam().code);
  ASSERT_EQ(routers_.size(), 1u) << graph_->graph()->toString(false);
  ASSERT_NE(routers_[0].logits, nullptr);
  EXPECT_EQ(routers_[0].logits, node_of_kind(*graph_, "aten::softmax")->input(0));
  EXPECT_EQ(routers_[0].num_experts, GetParam().num_experts);
}

INSTANTIATE_TEST_SUITE_P(Logits, ReadLogits, ::testing::ValuesIn(kChanges),
                         [](const auto& info) { return info.param.name; });

// Scores that were computed with what was picked are read by no pick before it.
TEST_F(ReadLogits, AreNotWhatAPickMade) {
  find(R"(best = torch.max(raw, -1, keepdim=True)[0]
    near = ((best - raw) / torch.clamp_min(raw.abs(), 1e-3)) < 0.5
    soft = torch.softmax(raw.masked_fill(near.logical_not(), -1e9), -1)
    read = raw)");
  ASSERT_EQ(routers_.size(), 1u);
  EXPECT_EQ(routers_[0].logits, value_named(*graph_, "raw"));
}

// What a router is given by the layer before belongs to that layer's projection; the sum is this one's.
TEST_F(ReadLogits, HoldWhatTheLayerBeforePassedOn) {
  find(R"(before = torch.linear(h, self.noise)
    weights0, ids0 = torch.topk(torch.softmax(before, -1), 2, -1)
    h = torch.layer_norm(h + self.experts(h, ids0, weights0), [8])
    own = torch.linear(h, self.gate.weight)
    read = own + before)");
  ASSERT_EQ(routers_.size(), 2u);
  EXPECT_EQ(routers_[0].logits, value_named(*graph_, "before"));
  EXPECT_EQ(routers_[1].logits, value_named(*graph_, "read"));
  EXPECT_EQ(routers_[0].top_k, 2);
  EXPECT_EQ(routers_[1].top_k, 2);
}

}  // namespace
}  // namespace moetap::hooks::testing
