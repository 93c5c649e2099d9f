#include "hooks/points/no_router.h"

#include <gtest/gtest.h>

namespace moetap::hooks {
namespace {

torch::jit::Module plain_module() {
  torch::jit::Module module("Plain");
  module.define(R"(
    def forward(self, x):
        return x + 1

    def encode(self, x):
        return x + 2
  )");
  return module;
}

TEST(NoRouter, AsksWhetherItIsSuchAModel) {
  EXPECT_EQ(no_router_message(plain_module(), {}),
            "no router was found in the methods forward, encode; no selection of experts (topk, argmax, max, sort) was "
            "seen: is it a Mixture-of-Experts model?");
  EXPECT_TRUE(no_router_message(torch::jit::Module("Empty"), {})
                  .starts_with("no router was found in the methods (there are none); "));
}

TEST(NoRouter, ShowsWhatWasSkipped) {
  Discovery discovery;
  discovery.skipped.push_back({"%a = aten::topk(%x)", "indexes tokens, not experts"});
  EXPECT_EQ(no_router_message(plain_module(), discovery),
            "no router was found in the methods forward, encode; 1 skipped: %a = aten::topk(%x) (indexes tokens, not "
            "experts)");
  discovery.skipped.resize(5, {"%b = aten::topk(%y)", "no projection"});
  EXPECT_EQ(no_router_message(plain_module(), discovery),
            "no router was found in the methods forward, encode; 5 skipped: %a = aten::topk(%x) (indexes tokens, not "
            "experts); %b = aten::topk(%y) (no projection); %b = aten::topk(%y) (no projection); moetap inspect --json "
            "lists all");
}

}  // namespace
}  // namespace moetap::hooks
