#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "tests/hooks/tokens/followed_layouts.h"

namespace moetap::hooks::testing {
namespace {

// Queries and keys of 2 heads: q, k [B, 2, S, 4].
const std::vector<std::string> kHeads = {kEmbed, "b, s = ids.size(0), ids.size(1)",
                                         "q = torch.linear(x, self.square).view(b, s, 2, 4).transpose(1, 2)",
                                         "k = torch.linear(x, self.square).view(b, s, 2, 4).transpose(1, 2)"};

class CacheMasks : public Masks {
 protected:
  /// Of a forward that makes `keys` of q and k, and uses the mask m in `use`.
  std::string of_cache(const std::string& arguments, const std::vector<std::string>& keys, const std::string& use) {
    std::vector<std::string> lines = kHeads;
    lines.insert(lines.end(), keys.begin(), keys.end());
    lines.push_back("scores = torch.matmul(q, keys.transpose(-1, -2))");
    lines.push_back(use);
    lines.push_back("a = torch.matmul(torch.softmax(scores, -1), keys)");
    lines.push_back("h = x + a.transpose(1, 2).reshape(b, s, 8)");
    const std::string all = masks(arguments, lines);
    return all.substr(0, all.find(','));  // the places may be a mask, too, for all that is known
  }
};

const std::vector<std::pair<std::string, std::string>> kUses = {
    {"scores = scores.masked_fill(m[:, None, None, :] == 0, -1e9)", "valid"},
    {"scores = scores + (1.0 - m.unsqueeze(1).unsqueeze(2)) * -1e9", "valid"},
    {"scores = scores + m[:, None, None, :]", "additive"},
    {"scores = scores.masked_fill(m.view(b, 1, 1, -1), -1e9)", "padding"}};

TEST_F(CacheMasks, OfAGrowingCacheEndWithTheTokens) {
  for (const std::vector<std::string>& keys :
       {std::vector<std::string>{"keys = torch.cat([past, k], 2)"},
        {"keys = torch.cat([past, k], -2)"},
        {"keys = torch.cat((past.to(k.dtype), k), dim=-2)"},
        {"seen = past.size(2)", "keys = torch.cat([past, k], 2)"},
        {"seen = past.shape[-2]", "keys = torch.cat([past, k], -2)"},
        {"keys = torch.cat([past, k], 2)", "keys = keys.unsqueeze(2).expand(-1, -1, 1, -1, -1).flatten(1, 2)"},
        {"keys = torch.cat([past.transpose(1, 2), k.transpose(1, 2)], 1).transpose(1, 2)"}}) {
    for (const auto& [use, means] : kUses) {
      EXPECT_EQ(of_cache("ids: Tensor, m: Tensor, past: Tensor", keys, use), "B tokens " + means)
          << keys[0] << " " << use;
    }
  }
}

TEST_F(CacheMasks, OverKeysBehindTheTokensDoNotEndWithThem) {
  for (const std::string keys : {"keys = torch.cat([k, past], 2)", "keys = torch.cat([k, past], dim=-2)",
                                 "keys = torch.cat([k.transpose(1, 2), past], 1).transpose(1, 2)"}) {
    for (const auto& [use, means] : kUses) {
      EXPECT_EQ(of_cache("ids: Tensor, m: Tensor, past: Tensor", {keys}, use), "B buffer " + means)
          << keys << " " << use;
    }
  }
}

TEST_F(Masks, OfACacheBesideKeysOfOneHead) {
  EXPECT_EQ(masks("ids: Tensor, m: Tensor, past: Tensor",
                  {kEmbed, "keys = torch.cat([past, torch.linear(x, self.square).unsqueeze(1)], -2)",
                   "scores = torch.matmul(x.unsqueeze(1), keys.transpose(-1, -2)) + m[:, None, None, :]",
                   "h = x + torch.matmul(torch.softmax(scores, -1), keys).squeeze(1)"}),
            "B tokens additive");
}

TEST_F(CacheMasks, WhoseEndIsTakenAreAlongTheTokens) {
  for (const std::string end : {"m[:, -s:]", "m[:, -x.size(1):]", "m[:, m.size(1) - s:]"}) {
    EXPECT_EQ(
        masks("ids: Tensor, m: Tensor", {kEmbed, "s = ids.size(1)", "h = x * " + end + ".unsqueeze(-1).to(x.dtype)"}),
        "B tokens valid")
        << end;
  }
}

TEST_F(CacheMasks, OfAStaticCacheTellWhereTheTokensAre) {
  const std::string arguments = "ids: Tensor, m: Tensor, cache: Tensor, at: Tensor";
  for (const std::string write :
       {"keys = cache.index_copy(2, at, k)", "keys = cache.index_copy_(2, at, k)", "cache.index_copy_(2, at, k)",
        "cache[:, :, at] = k", "keys = torch.index_copy(cache, -2, at.to(4), k)"}) {
    const std::vector<std::string> keys =
        write.starts_with("keys") ? std::vector<std::string>{write} : std::vector<std::string>{write, "keys = cache"};
    for (const auto& [use, means] : kUses) {
      EXPECT_EQ(of_cache(arguments, keys, use), "B buffer " + means + " at D") << write << " " << use;
    }
  }
}

TEST_F(CacheMasks, OfAStaticCacheAtPlacesThatAreComputed) {
  const std::string use = kUses[0].first;
  EXPECT_EQ(
      of_cache("ids: Tensor, m: Tensor, cache: Tensor, at: Tensor", {"keys = cache.index_copy(2, at + 1, k)"}, use),
      "B buffer valid");
  EXPECT_EQ(
      of_cache("ids: Tensor, m: Tensor, cache: Tensor, p: int", {"cache[:, :, p:p + s] = k", "keys = cache"}, use),
      "B buffer valid");
  EXPECT_EQ(of_cache("ids: Tensor, m: Tensor, caches: List[Tensor], at: Tensor",
                     {"keys = caches[0].index_copy_(2, at, k)"}, use),
            "B buffer valid at C");
}

TEST_F(CacheMasks, OfAStaticCacheThatIsAnElementOfAList) {
  const std::string arguments = "ids: Tensor, m: Tensor, caches: List[Tensor], p: int";
  for (const std::vector<std::string>& keys :
       {std::vector<std::string>{"caches[0][:, :, p:p + s] = k", "keys = caches[0]"},
        {"own = caches[1]", "own[:, :, p:p + s] = k", "keys = caches[1]"},
        {"caches[0][..., p:p + s, :] = k", "keys = caches[0]"},
        {"caches[0].narrow(2, p, s).copy_(k)", "keys = caches[0].to(k.dtype)"}}) {
    EXPECT_EQ(of_cache(arguments, keys, kUses[0].first), "B buffer valid") << keys[0];
  }
  EXPECT_EQ(of_cache(arguments, {"caches[0][:, :, p:p + s] = k", "keys = caches[0][:, :, :p + s]"}, kUses[0].first),
            "B unknown valid");
  EXPECT_EQ(of_cache("ids: Tensor, m: Tensor, caches: List[Tensor], at: Tensor",
                     {"caches[0].index_copy_(2, at, k)", "keys = caches[0]"}, kUses[0].first),
            "B buffer valid at C");
  EXPECT_EQ(of_cache("ids: Tensor, m: Tensor, caches: List[Tensor], at: Tensor",
                     {"caches[0][:, :, at] = k", "keys = caches[0]"}, kUses[0].first),
            "B buffer valid at C");
}

TEST_F(CacheMasks, OfAStaticCacheInATuple) {
  for (const std::string taken : {"keys = pair[1]", "other, keys = pair"}) {
    EXPECT_EQ(of_cache("ids: Tensor, m: Tensor, pair: Tuple[Tensor, Tensor], p: int",
                       {"pair[1][:, :, p:p + s] = k", taken}, kUses[0].first),
              "B buffer valid")
        << taken;
  }
}

TEST_F(CacheMasks, OfThePartThatWasWrittenEndWithTheTokens) {
  EXPECT_EQ(of_cache("ids: Tensor, m: Tensor, cache: Tensor, p: int",
                     {"cache[:, :, p:p + s] = k", "keys = cache[:, :, :p + s]"}, kUses[0].first),
            "B unknown valid");
}

TEST_F(Layouts, HiddenStatesThatArePartlyWrittenAreNoCache) {
  EXPECT_EQ(after("embeds: Tensor, images: Tensor, p: int",
                  {"i = torch.linear(images, self.square)", "embeds[:, p:p + i.size(1)] = i", "h = embeds"}),
            "batch:A0 sequence:A1");
}

TEST_F(Layouts, IdsThatChooseAMatrixOfEachSample) {
  follow(R"(
def forward(self, ids: Tensor, domain: Tensor) -> Tensor:
    x = torch.embedding(self.table, ids)
    made = torch.bmm(x, self.bank[domain])
    return made
)");
  const TokenFlow& flow = layouts_->flow();
  EXPECT_EQ(flow.rank(1), 1);
  EXPECT_EQ(text(layouts_->of(flow.arguments()[1], std::vector<LeftOutDim>())), "batch:B0") << "the same as A0";
}

}  // namespace
}  // namespace moetap::hooks::testing
