#include "hooks/routers/later_products.h"

#include <gtest/gtest.h>

#include <ostream>

#include "tests/hooks/graph/graph_values.h"
#include "tests/hooks/moe_sources.h"

namespace moetap::hooks::testing {
namespace {

// What is returned of `product`, where `h`, `y` and `z` are hidden states.
struct LaterUse {
  const char* name;
  LaterProduct expected;
  const char* code;
};

void PrintTo(const LaterUse& use, std::ostream* stream) {
  *stream << use.name;
}

class LaterProducts : public ::testing::TestWithParam<LaterUse> {};

TEST_P(LaterProducts, AreFollowedToAnotherActivation) {
  const MethodGraph graph(
      compile({.type = "Model", .parameters = {{"w", random_tensor({8, 8}, 1)}}, .code = std::string(R"(
def forward(self, x: Tensor, rows: Tensor) -> Tensor:
    h = torch.layer_norm(x, [8])
    y = torch.linear(h, self.w)
    z = torch.linear(torch.relu(h), self.w)
    product = h * x
)") + GetParam().code + "\n"}),
      "forward");
  const ValueOrigins origins(graph);
  KnownShapes shapes(graph);
  EXPECT_EQ(later_product(value_named(graph, "product"), origins, shapes), GetParam().expected);
}

INSTANTIATE_TEST_SUITE_P(
    LaterUses, LaterProducts,
    ::testing::Values(
        LaterUse{"Projected", LaterProduct::kNone, "    return torch.linear(product, self.w)"},
        LaterUse{"AddedToTheStream", LaterProduct::kNone, "    return (x + product) * z"},
        LaterUse{"AddedToTheEmbeddingOfTokens", LaterProduct::kNone, R"(
    stream = torch.embedding(self.w, rows).to(6) + product.unsqueeze(-1)
    return stream * torch.rsqrt(stream.pow(2).mean(-1, True)) * z)"},
        LaterUse{"ScaledByAParameterOfTheExpert", LaterProduct::kAnother, R"(
    return product * self.w[torch.argmax(h, -1)] * y)"},
        LaterUse{"SummedOverSlots", LaterProduct::kNone, "    return product.sum(1) * z"},
        LaterUse{"ScaledByAParameter", LaterProduct::kNone, "    return product * self.w"},
        LaterUse{"Normalised", LaterProduct::kNone, "    return product / product.sum(-1, keepdim=True)"},
        LaterUse{"TimesItsOwnSum", LaterProduct::kNone, "    return product * product.sum(-1, keepdim=True)"},
        LaterUse{"TimesAMask", LaterProduct::kNone, "    return product * (z > 0).to(6)"},
        LaterUse{"AddedToAnotherProduct", LaterProduct::kNone, "    return torch.addcmul(product, y, z)"},
        LaterUse{"TimesAnother", LaterProduct::kAnother, "    return product * y"},
        LaterUse{"NormalisedTimesAnother", LaterProduct::kAnother, "    return (product / product.sum(-1)).to(6) * y"},
        LaterUse{"TimesAnotherAndAdded", LaterProduct::kAnother, "    return torch.addcmul(x, product, z)"},
        LaterUse{"Contracted", LaterProduct::kAnother, "    return torch.matmul(product, y)"},
        LaterUse{"ContractedByEinsum", LaterProduct::kAnother, "    return torch.einsum(\"td,td->t\", [product, y])"},
        LaterUse{"InABranch", LaterProduct::kAnother, R"(
    if bool(rows.sum() > 0):
        product = product * 2.0
    return product * y)"},
        LaterUse{"InALoop", LaterProduct::kAnother, R"(
    out = torch.zeros_like(x)
    for i in range(3):
        out = out + product[rows] * y
    return out)"},
        LaterUse{"ColumnTimesAnother", LaterProduct::kSpread, "    return product.unsqueeze(-1) * y"},
        LaterUse{"ViewTimesAnother", LaterProduct::kSpread, "    return product.view(-1, 1) * y"},
        LaterUse{"RowsTimesAnother", LaterProduct::kSpread, "    return product[rows, rows, None] * y"}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace moetap::hooks::testing
