#include "hooks/routers/hash_ids.h"

#include <gtest/gtest.h>

#include "tests/hooks/graph/graph_values.h"
#include "tests/hooks/moe_sources.h"

namespace moetap::hooks::testing {
namespace {

namespace jit = torch::jit;

struct Match {
  bool found = false;
  HashIds hash;
};

/// What the node that makes `ids` is taken for.
Match match(const std::string& code) {
  const jit::Module model = compile({.type = "Model",
                                     .parameters = {{"bank", random_tensor({kExperts, kHidden, kHidden}, 3)}},
                                     .buffers = {{"table", at::arange(20, at::kLong).remainder(5).view({10, 2})}},
                                     .code = "def forward(self, tokens: Tensor):\n" + code + "    return ids\n"});
  const MethodGraph graph(model, "forward");
  const ValueOrigins origins(graph);
  Match match;
  match.found = match_hash_ids(value_named(graph, "ids")->node(), graph, origins, match.hash);
  return match;
}

TEST(HashIds, AreRemaindersOfArguments) {
  const Match remainder = match("    ids = tokens % 4\n");
  ASSERT_TRUE(remainder.found);
  EXPECT_EQ(remainder.hash.num_experts, 4);
  EXPECT_EQ(remainder.hash.top_k, 1);
  EXPECT_FALSE(remainder.hash.has_slots);
}

TEST(HashIds, AreLookedUpInTables) {
  const Match table = match("    ids = self.table[tokens]\n");
  ASSERT_TRUE(table.found);
  EXPECT_EQ(table.hash.num_experts, 5);
  EXPECT_EQ(table.hash.top_k, 2);
  EXPECT_TRUE(table.hash.has_slots);
}

TEST(HashIds, MayBeTheArgumentItself) {
  const Match chosen = match("    ids = self.bank[tokens]\n");
  ASSERT_TRUE(chosen.found);
  EXPECT_EQ(chosen.hash.num_experts, kExperts);
}

TEST(HashIds, AreNotComputedFromHiddenStates) {
  EXPECT_FALSE(match("    ids = torch.linear(self.bank[0], self.bank[1]).long() % 4\n").found);
  EXPECT_FALSE(match("    ids = tokens * 3\n").found);
}

}  // namespace
}  // namespace moetap::hooks::testing
