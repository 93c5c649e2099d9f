#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>

#include "hooks/routers/router_flow.h"
#include "tests/hooks/graph/graph_values.h"
#include "tests/hooks/moe_sources.h"

namespace moetap::hooks::testing {

/// Code of experts that use `ids` and `weights`.
inline const std::string kRunExperts = R"(
    chosen = self.expert_weights[ids.reshape(-1)]
    rows = x.repeat_interleave(ids.size(1), 0).unsqueeze(1)
    outputs = torch.bmm(rows, chosen).squeeze(1) * weights.reshape(-1, 1)
    return outputs
)";

/// Follows the projection `logits` by the parameter `gate` of a hidden state `x` [T, kHidden]. The buffer `places`
/// [kExperts] says where each expert lies.
class FollowedProjection : public ::testing::Test {
 protected:
  void follow(const std::string& code) {
    const torch::jit::Module model = compile({.type = "Model",
                                              .parameters = {{"gate", random_tensor({kExperts, kHidden}, 1)},
                                                             {"expert_weights", expert_weights()},
                                                             {"expert_scale", random_tensor({kExperts}, 2)}},
                                              .buffers = {{"places", at::arange(kExperts, at::kLong).flip(0)}},
                                              .code = "def forward(self, input: Tensor):\n"
                                                      "    x = torch.layer_norm(input, [8])\n"
                                                      "    logits = torch.linear(x, self.gate)\n" +
                                                      code});
    graph_ = std::make_unique<MethodGraph>(model, "forward");
    origins_ = std::make_unique<ValueOrigins>(*graph_);
    Projection projection;
    ASSERT_TRUE(match_projection(value_named(*graph_, "logits")->node(), *origins_, projection));
    shapes_ = std::make_unique<KnownShapes>(*graph_);
    flow_ = std::make_unique<RouterFlow>(*graph_, *origins_, *shapes_, projection, kExperts);
  }

  torch::jit::Value* value(const std::string& name) const { return value_named(*graph_, name); }

  const Fact& fact(const std::string& name) const {
    const Fact* found = flow_->fact(value(name));
    if (found == nullptr) throw std::invalid_argument("nothing is known of " + name);
    return *found;
  }

  bool is_followed(const std::string& name) const { return flow_->fact(value(name)) != nullptr; }

  int64_t count(EventKind kind) const {
    return std::count_if(flow_->events().begin(), flow_->events().end(),
                         [&](const Event& e) { return e.kind == kind; });
  }

  std::unique_ptr<MethodGraph> graph_;
  std::unique_ptr<ValueOrigins> origins_;
  std::unique_ptr<KnownShapes> shapes_;
  std::unique_ptr<RouterFlow> flow_;
};

}  // namespace moetap::hooks::testing
