#include "hooks/graph/value_origins.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/hooks/graph/graph_values.h"
#include "tests/hooks/moe_sources.h"

namespace moetap::hooks::testing {
namespace {

namespace jit = torch::jit;

std::string text(Origin origin) {
  switch (origin) {
    case Origin::kConstant:
      return "constant";
    case Origin::kParameter:
      return "parameter";
    case Origin::kInput:
      return "input";
    case Origin::kActivation:
      return "activation";
  }
  return "unknown";
}

jit::Module model(const std::string& code) {
  return compile({.type = "Model",
                  .parameters = {{"weight", random_tensor({kExperts, kHidden}, 1)},
                                 {"table", random_tensor({11, kHidden}, 2)},
                                 {"temperature", at::ones({1})}},
                  .code = code});
}

class Origins : public ::testing::Test {
 protected:
  void follow(const std::string& code) {
    graph_ = std::make_unique<MethodGraph>(model(code), "forward");
    origins_ = std::make_unique<ValueOrigins>(*graph_);
  }
  std::string of(const std::string& name) const { return text(origins_->of(value_named(*graph_, name))); }

  std::unique_ptr<MethodGraph> graph_;
  std::unique_ptr<ValueOrigins> origins_;
};

TEST_F(Origins, TellHiddenStatesFromArguments) {
  follow(R"(
def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
    embedded = torch.embedding(self.table, ids)
    moved = embedded.transpose(0, 1)
    wide = mask.unsqueeze(-1)
    compared = ids == 3
    masked = moved * wide.transpose(0, 1)
    size = ids.size(0)
    fresh = torch.zeros_like(masked)
    return masked + fresh + compared.sum() + size
)");
  EXPECT_EQ(of("ids"), "input");
  EXPECT_EQ(of("wide"), "input");
  EXPECT_EQ(of("compared"), "input");
  EXPECT_EQ(of("embedded"), "activation");
  EXPECT_EQ(of("moved"), "activation");
  EXPECT_EQ(of("masked"), "activation");
  EXPECT_EQ(of("size"), "constant");
  EXPECT_EQ(of("fresh"), "constant");
}

TEST_F(Origins, KnowWhatIsComputedFromParametersAlone) {
  follow(R"(
def forward(self, x: Tensor) -> Tensor:
    normal = self.weight / torch.linalg_vector_norm(self.weight, 2, [-1], True)
    turned = normal.t()
    scaled = turned * torch.exp(self.temperature)
    product = torch.matmul(x, scaled)
    return product
)");
  EXPECT_EQ(of("normal"), "parameter");
  EXPECT_EQ(of("scaled"), "parameter");
  EXPECT_EQ(of("product"), "activation");
  EXPECT_EQ(of("x"), "activation") << "an argument that is projected as it is is a hidden state";
}

TEST_F(Origins, OfAnArgumentThatIsPooledAndProjectedIsAHiddenState) {
  for (const std::string pooled : {"x.mean(1)", "x.amax(1)", "x[:, 0]", "x[:, 1:]"}) {
    follow("def forward(self, x: Tensor, mask: Tensor) -> Tensor:\n    pooled = " + pooled +
           "\n    share = mask.mean(1)\n    return torch.linear(pooled, self.weight).sum() + share.sum()\n");
    EXPECT_EQ(of("x"), "activation") << pooled;
    EXPECT_EQ(of("mask"), "input") << pooled;
  }
}

TEST_F(Origins, PassBranchesLoopsAndForks) {
  follow(R"(
def forward(self, ids: Tensor, n: int) -> Tensor:
    state = torch.zeros([3, 8])
    for i in range(n):
        before = state * 2.0
        state = torch.embedding(self.table, ids) + before
    if n > 2:
        chosen = state
    else:
        chosen = torch.zeros([3, 8])
    after = torch.relu(chosen)
    future = fork(self.inside, after)
    result = torch.wait(future)
    return result

def inside(self, x: Tensor) -> Tensor:
    within = torch.relu(x)
    return within
)");
  EXPECT_EQ(of("before"), "activation") << "what the loop carries around";
  EXPECT_EQ(of("after"), "activation");
  EXPECT_EQ(of("within"), "activation");
  EXPECT_EQ(of("result"), "activation");
}

TEST_F(Origins, FollowWritesIntoFreshTensors) {
  follow(R"(
def forward(self, x: Tensor) -> Tensor:
    hidden = torch.matmul(x, self.weight.t())
    out = torch.zeros([4, 6])
    written = out.add_(hidden.sum(0))
    return written
)");
  EXPECT_EQ(of("written"), "activation");
  EXPECT_EQ(of("out"), "activation");
}

struct ProjectionCase {
  const char* name;
  const char* expression;  // of `x`, a hidden state, and parameters
  bool matches;
};

void PrintTo(const ProjectionCase& projection, std::ostream* stream) {
  *stream << projection.name;
}

class Projections : public ::testing::TestWithParam<ProjectionCase> {};

TEST_P(Projections, AreOfActivationsByParameters) {
  const std::string code = R"(
def forward(self, ids: Tensor) -> Tensor:
    x = torch.embedding(self.table, ids)
    return )" + std::string(GetParam().expression) +
                           "\n";
  const MethodGraph graph(model(code), "forward");
  const ValueOrigins origins(graph);
  Projection found;
  int64_t matched = 0;
  for (jit::Node* node : graph.nodes()) {
    if (match_projection(node, origins, found)) ++matched;
  }
  ASSERT_EQ(matched, GetParam().matches ? 1 : 0);
  if (!GetParam().matches) return;
  EXPECT_TRUE(origins.is_activation(found.activation));
  EXPECT_TRUE(origins.is_parameter(found.parameter));
  EXPECT_FALSE(origins.is_activation(found.parameter));
}

INSTANTIATE_TEST_SUITE_P(
    ValueOrigins, Projections,
    ::testing::Values(ProjectionCase{"linear", "torch.linear(x, self.weight)", true},
                      ProjectionCase{"matmul", "torch.matmul(x, self.weight.t())", true},
                      ProjectionCase{"transposed", "torch.matmul(self.weight, x.view(-1, 8).t())", true},
                      ProjectionCase{"mm", "torch.mm(x.view(-1, 8), self.weight.t())", true},
                      ProjectionCase{"addmm", "torch.addmm(self.temperature, x.view(-1, 8), self.weight.t())", true},
                      ProjectionCase{"einsum", "torch.einsum(\"bsd,ed->bse\", [x, self.weight])", true},
                      ProjectionCase{"cast", "torch.linear(x.to(float32), self.weight.to(float32))", true},
                      ProjectionCase{"summed", "(x.view(-1, 8).unsqueeze(1) * self.weight).sum(-1)", true},
                      ProjectionCase{"summed_other", "(self.weight.unsqueeze(0) * x.view(-1, 1, 8)).sum([2])", true},
                      ProjectionCase{"summed_tokens", "(x.view(-1, 8).unsqueeze(1) * self.weight).sum(0)", false},
                      ProjectionCase{"summed_of_one", "(x * self.weight[0]).sum(-1)", false},
                      ProjectionCase{"attention", "torch.matmul(x, x.transpose(1, 2))", false},
                      ProjectionCase{"parameters_alone", "x.sum() + torch.matmul(self.weight, self.weight.t())", false},
                      ProjectionCase{"elementwise", "x * self.table[0]", false},
                      ProjectionCase{"mask", "torch.matmul(ids.to(float32), torch.ones([5, 2]))", false}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace moetap::hooks::testing
