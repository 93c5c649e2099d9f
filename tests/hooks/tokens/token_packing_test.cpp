#include "hooks/tokens/token_packing.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "tests/hooks/tokens/followed_layouts.h"

namespace moetap::hooks::testing {
namespace {

const std::string kWithMask = "ids: Tensor, m: Tensor";
const std::string kLeft = "batch:A0 sequence:A1 where B ";

TEST_F(Layouts, TokensThatAMaskLeaves) {
  for (const auto& [keep, which] :
       std::vector<std::pair<std::string, std::string>>{{"m > 0", "gt 0.0"},
                                                        {"m != 0", "ne 0.0"},
                                                        {"m == 1", "eq 1.0"},
                                                        {"0 < m", "gt 0.0"},
                                                        {"m.to(11)", "ne 0.0"},

                                                        {"~m.to(11)", "eq 0.0"},
                                                        {"(m == 0).logical_not()", "ne 0.0"},
                                                        {"torch.ge(m, 0.5)", "ge 0.5"}}) {
    EXPECT_EQ(after(kWithMask, {kEmbed, "keep = " + keep, "h = x[keep]"}), kLeft + which) << keep;
    EXPECT_EQ(after(kWithMask, {kEmbed, "keep = (" + keep + ").view(-1)", "h = x.view(-1, 8)[keep]"}), kLeft + which)
        << keep;
  }
}

TEST_F(Layouts, TokensThatAreTakenByTheirPlaces) {
  const std::vector<std::vector<std::string>> spellings = {
      {"i = torch.nonzero(m.flatten()).flatten()", "h = x.flatten(0, 1).index_select(0, i)"},
      {"i = torch.nonzero(m.reshape(-1) != 0).squeeze(-1)", "h = x.reshape(-1, 8)[i]"},
      {"i = m.view(-1).nonzero()[:, 0]", "h = x.view(-1, 8)[i]"},
      {"i = torch.nonzero(m.flatten()).view(-1, 1).expand(-1, 8)", "h = torch.gather(x.view(-1, 8), 0, i)"},
      {"i, j = torch.where(m != 0)", "h = x[i, j]"},
      {"at = torch.nonzero(m)", "h = x[at[:, 0], at[:, 1]]"},
      {"h = x.masked_select((m != 0).unsqueeze(-1)).view(-1, 8)"},
      {"h = torch.embedding(self.table, ids[m != 0])"}};
  for (const std::vector<std::string>& lines : spellings) {
    std::vector<std::string> all = {kEmbed};
    all.insert(all.end(), lines.begin(), lines.end());
    EXPECT_EQ(after(kWithMask, all), kLeft + "ne 0.0") << lines[0];
  }
  EXPECT_EQ(after(kIds, {kEmbed, "h = x[ids != 3]"}), "batch:A0 sequence:A1 where A ne 3.0");
  EXPECT_EQ(after(kWithMask, {kEmbed, "h = x.transpose(0, 1)[m.t() != 0]"}), "sequence:A1 batch:A0 where B ne 0.0");
}

TEST_F(Layouts, PackedTokensThroughALayerAndBack) {
  EXPECT_EQ(after(kWithMask, {kEmbed, "p = x[m != 0]", "p = p + torch.gelu(torch.linear(p, self.square))",
                              "y = torch.zeros_like(x)", "y[m != 0] = p", "h = x + y"}),
            "batch:A0 sequence:A1");
  EXPECT_EQ(after(kWithMask, {kEmbed, "p = x[m != 0]", "n = p.size(0)",
                              "h = torch.layer_norm(p.view(n, 2, 4).reshape(n, 8), [8])"}),
            kLeft + "ne 0.0");
}

TEST_F(Layouts, TokensThatSomethingElseLeavesAreNotKnown) {
  for (const std::vector<std::string>& lines :
       {std::vector<std::string>{"h = x[(m != 0) & (ids != 1)]"},
        {"h = x[x.sum(-1) > 0]"},
        {"i = torch.nonzero(m.flatten()).flatten()", "h = x.view(-1, 8)[i + 1]"},
        {"i = torch.nonzero(m.flatten()).flatten()", "h = x.view(-1, 8)[i][torch.argsort(i)]"},
        {"i = torch.nonzero(m.flatten()).flatten()", "h = x.view(-1, 8)[i].flip([0])"},
        {"i, j = torch.where(m != 0)", "h = x[j, i]"},
        {"p = x[m != 0]", "h = p[p.sum(-1) > 0]"}}) {
    std::vector<std::string> all = {kEmbed};
    all.insert(all.end(), lines.begin(), lines.end());
    EXPECT_EQ(after(kWithMask, all), "unknown") << lines.back();
  }
}

}  // namespace
}  // namespace moetap::hooks::testing
