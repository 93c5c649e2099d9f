// Ids that stand for no routed expert. See Note [Ids beyond the experts].
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <ostream>

#include "hooks/instrument.h"
#include "tests/hooks/block_variants.h"
#include "tests/hooks/moe_sources.h"
#include "tests/hooks/recorded_operators.h"

namespace moetap::hooks::testing {
namespace {

namespace jit = torch::jit;

// What the block does between its pick of two of six, and its experts. `expected` are the ids that a hook reports, made
// of the picked `ids`.
struct Spelling {
  const char* name;
  const char* code;
  at::Tensor (*expected)(const at::Tensor& ids);
  int64_t null_experts = 0;
  int64_t num_experts = kExperts;
};

void PrintTo(const Spelling& spelling, std::ostream* stream) {
  *stream << spelling.name;
}

at::Tensor as_picked(const at::Tensor& ids) {
  return ids;
}

at::Tensor last_four_elsewhere(const at::Tensor& ids) {
  return ids.masked_fill(ids >= 4, 6);
}

at::Tensor last_four_unused(const at::Tensor& ids) {
  return ids.masked_fill(ids >= 4, -1);
}

at::Tensor last_slot_shared(const at::Tensor& ids) {
  at::Tensor changed = ids.clone();
  changed.select(1, 1).fill_(6);
  return changed;
}

const std::vector<Spelling> kSpellings = {
    {"MaskedFill", "ids = ids.masked_fill(ids >= 4, 6)", last_four_elsewhere, 1},
    {"WhereOfFull", "ids = torch.where(ids < 4, ids, torch.full_like(ids, 6))", last_four_elsewhere, 1},
    {"WhereTheOtherWayRound", "ids = torch.where(ids >= 4, torch.tensor(6), ids)", last_four_elsewhere, 1},
    {"WrittenByAMask", "ids[ids >= 4] = 6", last_four_elsewhere, 1},
    {"MaskedFillInPlace", "ids.masked_fill_(ids >= 4, 6)", last_four_elsewhere, 1},
    {"LastSlotFilled", "ids[:, -1].fill_(6)", last_slot_shared, 1},
    {"LastSlotCopied", "ids[:, -1].copy_(torch.tensor(6))", last_slot_shared, 1},
    {"MinusOne", "ids = ids.masked_fill(ids >= 4, -1)", last_four_unused, 0},

    {"SharedBehind", R"(
    ids = torch.cat([ids, torch.full([h.size(0), 1], 6)], -1)
    weights = torch.cat([weights, torch.ones([h.size(0), 1])], -1))",
     as_picked},
    {"TwoSharedBehind", R"(
    ids = torch.cat([ids, torch.arange(6, 8).unsqueeze(0).expand(h.size(0), 2)], dim=1)
    weights = torch.cat([weights, torch.full([h.size(0), 2], 0.5)], dim=1))",
     as_picked},
    {"SharedBefore", R"(
    ids = torch.cat([torch.full([h.size(0), 1], 6), ids], -1)
    weights = torch.cat([torch.ones([h.size(0), 1]), weights], -1))",
     as_picked},
    {"SharedAndScaledTogether", R"(
    ids = torch.cat([ids, torch.full([h.size(0), 1], 6)], -1)
    weights = torch.cat([weights, torch.ones([h.size(0), 1])], -1) * 2.0)",
     as_picked},
    {"SharedByPadding", R"(
    ids = torch.constant_pad_nd(ids, [0, 1], 6)
    weights = torch.constant_pad_nd(weights, [0, 1], 1.0))",
     as_picked},
};

const char* const kExpertsAndShared = R"(
    return x + self.every(h, ids, weights).view_as(x)

def every(self, h: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    out = torch.zeros_like(h)
    for e in range(6):
        token, slot = torch.where(ids == e)
        out.index_add_(0, token, torch.matmul(h[token], self.expert_weights[e]) * weights[token, slot].unsqueeze(-1))
    token, slot = torch.where(ids >= 6)
    out.index_add_(0, token, torch.matmul(h[token], self.shared) * weights[token, slot].unsqueeze(-1))
    return out
)";

class NullExperts : public ::testing::TestWithParam<Spelling> {
 protected:
  static jit::Module block(const std::string& code) {
    const BlockVariant variant{GetParam().name, code};
    return compile(variant_source(variant));
  }
};

TEST_P(NullExperts, AreNoSlotsOrSaySo) {
  jit::Module model = stacked({block(std::string(R"(
    logits = torch.linear(h, self.gate.weight)
    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
    )") + GetParam().code + kExpertsAndShared)});
  model.eval();
  const Instrumented twin = instrument(model, [](const Discovery&) { return describe_nothing(); });
  ASSERT_EQ(twin.discovery.hooks.size(), 1u);
  const HookPoint& hook = twin.discovery.hooks[0];
  EXPECT_EQ(hook.num_experts, kExperts);
  EXPECT_EQ(hook.null_experts, GetParam().null_experts);
  EXPECT_EQ(hook.top_k, kTopK);
  const at::Tensor input = random_input(2), plain = call(model, {input});
  const Recording recording;
  EXPECT_TRUE(at::equal(call(twin.module, {input}), plain));
  const auto forwards = recording.forwards();
  ASSERT_EQ(forwards.at(0).routers.size(), 1u);
  const RouterReport& report = forwards[0].routers[0];
  const at::Tensor picked = std::get<1>(canonical(report, kTokens).logits.topk(kTopK, -1));
  ASSERT_EQ(report.selected.size(), 1u);
  EXPECT_TRUE(at::equal(report.selected[0], GetParam().expected(picked))) << report.selected[0];
  ASSERT_EQ(report.weights.size(), 1u);
  EXPECT_EQ(report.weights[0].sizes(), report.selected[0].sizes());
}

INSTANTIATE_TEST_SUITE_P(Hooks, NullExperts, ::testing::ValuesIn(kSpellings),
                         [](const auto& info) { return info.param.name; });

// Columns of the logits that no projection gives.
TEST(NullColumns, AreCounted) {
  for (const char* columns : {"torch.cat([logits, torch.zeros([h.size(0), 2])], -1)",
                              "torch.cat([logits, self.temperature.expand(h.size(0), 2)], -1)",
                              "torch.constant_pad_nd(logits, [0, 2], 0.0)"}) {
    const BlockVariant variant{"Columns", std::string(R"(
    logits = torch.linear(h, self.gate.weight)
    logits = )") + columns + R"(
    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
)" + kExpertsAndShared};
    const Discovery discovery = discover(stacked({compile(variant_source(variant))}));
    ASSERT_EQ(discovery.hooks.size(), 1u) << columns;
    EXPECT_EQ(discovery.hooks[0].num_experts, kExperts + 2) << columns;
    EXPECT_EQ(discovery.hooks[0].null_experts, 2) << columns;
  }
}

}  // namespace
}  // namespace moetap::hooks::testing
