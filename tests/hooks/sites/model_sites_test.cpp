#include "hooks/sites/model_sites.h"

#include <gtest/gtest.h>

#include "hooks/graph/entry_methods.h"
#include "tests/hooks/moe_sources.h"

namespace moetap::hooks::testing {
namespace {

namespace jit = torch::jit;

jit::Module block(uint64_t seed) {
  return compile(block_source(R"(
def route(self, h: Tensor):
    weights, ids = torch.topk(torch.softmax(torch.linear(h, self.gate.weight), -1), 2, -1)
    return ids, weights
)",
                              kMaskEachExpert, seed));
}

// `forward` calls both blocks and picks among its results; `encode` calls the second block.
jit::Module model() {
  return compile({.type = "Model", .modules = {{"first", block(1)}, {"second", block(2)}}, .code = R"(
def forward(self, x: Tensor) -> Tensor:
    y = self.second.forward(self.first.forward(x))
    return torch.topk(y, 1, -1)[0]

def encode(self, x: Tensor) -> Tensor:
    return self.second.forward(x)
)"});
}

TEST(ModelSites, NumberHooksOverAllMethods) {
  const ModelSites found = find_sites(model());
  ASSERT_EQ(found.methods.size(), 2u);
  ASSERT_EQ(found.discovery.hooks.size(), 3u);
  size_t next = 0;
  for (const MethodSites& method : found.methods) {
    ASSERT_EQ(method.sites.size(), method.routers.size());
    for (const Site& site : method.sites) {
      EXPECT_EQ(site.hook.id, static_cast<int64_t>(next));
      EXPECT_EQ(site.hook.name, found.discovery.hooks[next].name);
      EXPECT_EQ(site.hook.layer, found.discovery.hooks[next].layer);
      EXPECT_EQ(site.hook.method, method.graph->entry());
      EXPECT_EQ(method.routers.at(site.place).owner, site.hook.name);
      EXPECT_EQ(method.routers.at(site.place).anchor(), site.anchor);
      ++next;
    }
  }
  EXPECT_EQ(found.discovery.hooks[0].name, "first.gate");
  EXPECT_EQ(found.discovery.hooks[2].method, "encode");
}

TEST(ModelSites, ListWhatWasSkipped) {
  const ModelSites found = find_sites(model());
  ASSERT_EQ(found.discovery.skipped.size(), 1u);
  EXPECT_NE(found.discovery.skipped[0].node.find("aten::topk"), std::string::npos);
  EXPECT_EQ(found.discovery.skipped[0].reason, to_string(SkipReason::kSelectsNoExpert));
}

// A router that a spec adds gets its place in the order of execution, and so does what the spec skips.
TEST(ModelSites, KeepTheOrderOfWhatASpecAdds) {
  HookSpecEntry skip, named;
  skip.module = named.module = "first";
  skip.skip = true;
  named.logits.emplace().kind = ValueReference::Kind::kOperator;
  named.logits->target = "aten::linear";
  named.selected.emplace_back().kind = ValueReference::Kind::kOperator;
  named.selected[0].target = "aten::topk";
  named.selected[0].output = 1;
  const ModelSites found = find_sites(model(), {}, {"spec.json", {skip, named}});
  const MethodSites& forward = found.methods.at(0);
  ASSERT_EQ(forward.sites.size(), 2u);
  EXPECT_EQ(forward.sites[0].hook.name, "first");
  EXPECT_EQ(forward.sites[0].hook.id, 0);
  EXPECT_EQ(forward.sites[1].hook.name, "second.gate");
  ASSERT_EQ(forward.skipped.size(), 2u);
  EXPECT_EQ(forward.skipped[0].reason, SkipReason::kSkippedByHookSpec);
  EXPECT_LT(forward.graph->order(forward.skipped[0].node), forward.graph->order(forward.skipped[1].node));
}

// Two modules of one class that no method of the model reaches: their code cannot tell which of them runs.
TEST(ModelSites, SkipMethodsWhoseCodeIsShared) {
  const jit::Module first = block(1);
  const jit::Module wrapper =
      folder("Wrapper", {{"first", first}, {"second", another_of(first, 30)}, {"third", another_of(first, 40)}});
  const ModelSites found = find_sites(wrapper);
  EXPECT_TRUE(found.discovery.hooks.empty());
  ASSERT_EQ(found.discovery.skipped.size(), 3u);
  EXPECT_EQ(found.discovery.skipped[0].node, "first.forward");
  EXPECT_EQ(found.discovery.skipped[0].reason,
            "second has the same class (and 1 more): what is recorded in its code does not tell which of them the host "
            "called");
  EXPECT_THROW(find_sites(wrapper, {"second.forward"}), MethodError);
}

}  // namespace
}  // namespace moetap::hooks::testing
