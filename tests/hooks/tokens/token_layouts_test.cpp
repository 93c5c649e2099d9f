#include "hooks/tokens/token_layouts.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "tests/hooks/tokens/followed_layouts.h"

namespace moetap::hooks::testing {
namespace {

TEST_F(Layouts, BatchFirstHoweverItIsFlattened) {
  const std::string expected = "batch:A0 sequence:A1";
  EXPECT_EQ(after(kIds, {kEmbed, "h = x"}), expected);
  for (const std::string flat :
       {"h = x.view(-1, 8)", "h = x.reshape(-1, x.size(-1))", "h = x.flatten(0, 1)", "h = torch.flatten(x, 0, -2)",
        "h = x.reshape(x.size(0) * x.size(1), x.size(2))", "h = x.contiguous().view([x.numel() // x.size(-1), -1])"}) {
    EXPECT_EQ(after(kIds, {kEmbed, flat}), expected) << flat;
  }
  EXPECT_EQ(after(kIds, {kEmbed, "b, s, d = x.size()", "h = x.view(b * s, d)"}), expected);
  EXPECT_EQ(after(kIds, {kEmbed, "b, s, d = x.shape", "h = x.view(b, s, 2, 4).flatten(2)"}), expected);
}

TEST_F(Layouts, SequenceFirstHoweverItIsWritten) {
  const std::string expected = "sequence:A1 batch:A0";
  for (const std::string turn :
       {"y = x.transpose(0, 1)", "y = x.permute(1, 0, 2)", "y = torch.movedim(x, 0, 1)", "y = x.swapaxes(1, 0)",
        "y = torch.embedding(self.table, ids.t())", "y = torch.embedding(self.table, ids.transpose(0, 1).contiguous())",
        "y = torch.stack(torch.unbind(x.transpose(0, 1), -1), -1)", "y = torch.einsum('bsd->sbd', [x])"}) {
    EXPECT_EQ(after(kIds, {kEmbed, turn, "h = y"}), expected) << turn;
    EXPECT_EQ(after(kIds, {kEmbed, turn, "h = y.reshape(-1, 8)"}), expected) << turn;
    EXPECT_EQ(after(kIds, {kEmbed, turn, "s, b, d = y.size()", "h = y.reshape(s * b, d)"}), expected) << turn;
    EXPECT_EQ(after(kIds, {kEmbed, turn, "h = y.flatten(0, 1)"}), expected) << turn;
    EXPECT_EQ(after(kIds, {kEmbed, turn, "h = y.transpose(0, 1)"}), "batch:A0 sequence:A1") << turn;
  }
}

TEST_F(Layouts, EmbeddingsHoweverTheyAreWritten) {
  for (const std::string lookup :
       {"x = self.table[ids]",
        "x = torch.index_select(self.table, 0, ids.reshape(-1)).view(ids.size(0), ids.size(1), -1)",
        "x = torch.embedding(self.table, ids.clamp(0, 10))", "x = torch.embedding(self.table, ids.to(4)) * 2.0"}) {
    EXPECT_EQ(after(kIds, {lookup, "h = x.transpose(0, 1)"}), "sequence:A1 batch:A0") << lookup;
    EXPECT_EQ(layout("logits").ids, std::vector<int64_t>{0}) << lookup;
  }
}

TEST_F(Layouts, AViewThatCutsAnewLosesTheTokens) {
  EXPECT_EQ(after(kIds, {kEmbed, "h = x.view(x.size(1), x.size(0), x.size(2))"}), "unknown");
  EXPECT_EQ(after(kIds, {kEmbed, "h = x[torch.argsort(x.sum(-1).sum(-1))]"}), "unknown") << "sorted samples";
  // Of samples in another order nothing is said, sizes are not asked either.
  for (const std::string turned : {"h = torch.roll(x, [1], [0])", "h = x.flip(0)"}) {
    EXPECT_EQ(after(kIds, {kEmbed, turned}), "other:? other:A1") << turned;
  }
}

TEST_F(Layouts, LayersKeepWhatTheyDoNotMove) {
  const std::string expected = "sequence:A1 batch:A0";
  EXPECT_EQ(after(kIds, {kEmbed, "y = torch.linear(x, self.square).transpose(0, 1)", "y = torch.layer_norm(y, [8])",
                         "h = torch.gelu(y) * 2.0 + y.mean(-1, True)"}),
            expected);
  // Attention with heads.
  EXPECT_EQ(
      after(kIds, {kEmbed, "b, s, d = x.size()", "q = torch.linear(x, self.square).view(b, s, 2, 4).transpose(1, 2)",
                   "scores = torch.softmax(torch.matmul(q, q.transpose(-1, -2)), -1)",
                   "a = torch.matmul(scores, q).transpose(1, 2).reshape(b, s, d)", "h = a.transpose(0, 1)"}),
      expected);
  EXPECT_EQ(after(kIds, {kEmbed, "q = x.unflatten(-1, [2, 4]).transpose(1, 2)",
                         "a = torch.scaled_dot_product_attention(q, q, q)", "h = a.transpose(1, 2).flatten(2)"}),
            "batch:A0 sequence:A1");
}

TEST_F(Layouts, AResidualSumKeepsTheStreamBesideWhatIsNotKnown) {
  EXPECT_EQ(after(kIds, {kEmbed, "y = x.transpose(0, 1)", "h = y + torch.fft_fft(y, None, -1, None).real"}),
            "sequence:A1 batch:A0");
  EXPECT_EQ(after(kIds, {kEmbed, "h = torch.cdist(x, x)[0].unfold(0, 1, 1)"}), "unknown");
}

TEST_F(Layouts, ExpertsGiveBackTheTokensThatTheyGot) {
  EXPECT_EQ(
      after(kIds, {kEmbed, "y = x.transpose(0, 1)", "flat = y.reshape(-1, 8)", "out = torch.zeros_like(flat)",
                   "t = torch.where(flat.sum(-1) > 0)[0]", "out.index_add_(0, t, flat[t])", "h = out.view_as(y)"}),
      "sequence:A1 batch:A0");
}

TEST_F(Layouts, EmbeddingsAndHiddenStatesAsArguments) {
  EXPECT_EQ(after("embeds: Tensor", {"h = embeds.reshape(-1, 8)"}), "batch:A0 sequence:A1");
  EXPECT_EQ(after("mask: Tensor, embeds: Tensor", {"h = embeds.transpose(0, 1).reshape(-1, 8)"}),
            "sequence:B1 batch:B0");
  EXPECT_EQ(after("ids: Optional[Tensor], embeds: Optional[Tensor]",
                  {"if embeds is None:", "    assert ids is not None", "    x = torch.embedding(self.table, ids)",
                   "else:", "    x = embeds", "h = x + self.places[:, :x.size(1)]"}),
            "batch:A0 sequence:A1");
  EXPECT_EQ(layout("logits").dims.at(0).arguments.size(), 2u) << "ids or embeds, whichever is given";
}

TEST_F(Layouts, AttentionOverTheFirstDimensionShowsThatItIsTheSequence) {
  const std::vector<std::string> attention = {"s, b, d = x.size()",
                                              "q = torch.linear(x, self.square)",
                                              "q = q.view(s, b * 2, 4).transpose(0, 1)",
                                              "p = torch.softmax(torch.bmm(q, q.transpose(1, 2)), -1)",
                                              "a = torch.bmm(p, q).transpose(0, 1).reshape(s, b, d)",
                                              "h = x + a"};
  EXPECT_EQ(after("x: Tensor", attention), "sequence:A0 batch:A1");
  std::vector<std::string> pooled = attention;
  pooled.push_back("h = h.mean(0)");
  EXPECT_EQ(after("x: Tensor", pooled), "batch:A1");
}

TEST_F(Layouts, PooledTokensAreOneASample) {
  for (const std::string pool :
       {"h = x.mean(1)", "h = x[:, 0]", "h = x.select(1, -1)", "h = x.sum([1])", "h = x.amax(1)",
        "h = torch.max(x, 1)[0]", "h = x[torch.arange(x.size(0)), ids.argmax(-1)]", "h = x.mean(1, True).squeeze(1)"}) {
    EXPECT_EQ(after(kIds, {kEmbed, pool}), "batch:A0") << pool;
  }
  EXPECT_EQ(after(kIds, {kEmbed, "h = x.mean(1, True)"}), "batch:A0");
}

TEST_F(Layouts, ImagesHaveTokensOfTheirOwn) {
  const std::string patches = "p = torch.conv2d(pixels, self.kernel, None, [4, 4])";
  EXPECT_EQ(after("pixels: Tensor", {patches, "h = p.flatten(2).transpose(1, 2)"}), "batch:A0 other:? other:?");
  EXPECT_EQ(after("pixels: Tensor", {patches, "b, c, y, x = p.shape", "h = p.view(b, c, y * x).permute(2, 0, 1)"}),
            "other:? other:? batch:A0");
  EXPECT_EQ(after("pixels: Tensor", {patches, "h = p.mean([2, 3])"}), "batch:A0");
  EXPECT_EQ(after("pixels: Tensor",
                  {patches, "b, c, y, x = p.shape", "w = p.permute(0, 2, 3, 1).view(b, y // 2, 2, x // 2, 2, c)",
                   "h = w.permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)"}),
            "batch:A0 other:? other:? other:2 other:2")
      << "windows";
  EXPECT_EQ(after("pixels: Tensor", {patches, "h = p.permute(0, 2, 3, 1)"}), "batch:A0 other:? other:?");
  EXPECT_EQ(after("pixels: Tensor", {patches, "h = torch.adaptive_avg_pool2d(p, [1, 1]).flatten(1)"}), "batch:A0");
}

TEST_F(Layouts, ImageAndTextBehindEachOther) {
  EXPECT_EQ(after("pixels: Tensor, ids: Tensor",
                  {"p = torch.conv2d(pixels, self.kernel, None, [4, 4]).flatten(2).transpose(1, 2)", kEmbed,
                   "h = torch.cat([p, x], 1)"}),
            "batch:A0 sequence:(?+B1)");
  EXPECT_EQ(layout("logits").ids, std::vector<int64_t>{1});
  EXPECT_EQ(after(kIds, {kEmbed, "h = torch.cat([self.first.expand(x.size(0), -1, -1), x], 1).reshape(-1, 8)"}),
            "batch:A0 sequence:(1+A1)");
}

TEST_F(Layouts, EncoderAndDecoderHaveEachTheirOwn) {
  follow(R"(
def forward(self, ids: Tensor, decoder_ids: Tensor) -> Tensor:
    x = torch.embedding(self.table, ids)
    first = torch.linear(x, self.weight)
    y = torch.embedding(self.table, decoder_ids)
    a = torch.matmul(torch.softmax(torch.matmul(y, x.transpose(1, 2)), -1), x)
    second = torch.linear((y + a).view(-1, 8), self.weight)
    return first.sum() + second
)");
  EXPECT_EQ(of("first"), "batch:A0 sequence:A1");
  EXPECT_EQ(of("second"), "batch:B0 sequence:B1");
  EXPECT_EQ(layout("first").ids, std::vector<int64_t>{0});
  EXPECT_EQ(layout("second").ids, std::vector<int64_t>{1});
}

TEST_F(Layouts, BranchesLoopsAndForks) {
  EXPECT_EQ(after(kIds + ", flag: bool",
                  {kEmbed, "y = x.transpose(0, 1)", "for i in range(3):", "    y = y + torch.linear(y, self.square)",
                   "if flag:", "    y = y * 2.0", "h = y.flatten(0, 1)"}),
            "sequence:A1 batch:A0");
  EXPECT_EQ(after(kIds + ", flag: bool", {kEmbed, "if flag:", "    x = x.transpose(0, 1)", "h = x"}), "unknown")
      << "the order is known only in the run";
}

TEST_F(Masks, UseShowsWhatTheyMean) {
  const std::string arguments = "ids: Tensor, m: Tensor";
  for (const auto& [line, means] : std::vector<std::pair<std::string, std::string>>{
           {"scores = scores.masked_fill(m[:, None, :], -1e9)", "padding"},
           {"scores = scores.masked_fill(m.unsqueeze(1).eq(0), float('-inf'))", "valid"},
           {"scores = scores.masked_fill(torch.logical_not(m.to(boolean))[:, None], -10000.)", "valid"},
           {"scores = scores + (1.0 - m[:, None, :]) * -1e9", "valid"},
           {"scores = scores + (m[:, None, :] - 1.0) * 1e9", "valid"},
           {"scores = scores + (-m[:, None, :]) * 1e9", "padding"},
           {"scores = scores + m[:, None, :]", "additive"},
           {"scores = torch.where(m[:, None, :] > 0, scores, torch.full_like(scores, -1e9))", "valid"},
           {"scores = scores + torch.zeros_like(m).to(scores.dtype).masked_fill(m == 0, -1e9)[:, None]", "valid"}}) {
    EXPECT_EQ(masks(arguments, {kEmbed, kScores, line, kApply}), "B tokens " + means) << line;
  }
  EXPECT_EQ(masks(arguments, {kEmbed, "h = x * m.unsqueeze(-1)"}), "B tokens valid");
  EXPECT_EQ(masks(arguments, {kEmbed, "h = x.masked_fill(m.unsqueeze(-1), 0.0)"}), "B tokens padding");
  EXPECT_EQ(masks(arguments, {kEmbed, "h = x"}), "B unknown auto");
  EXPECT_EQ(masks(arguments, {kEmbed, "h = (x * m.unsqueeze(-1)).transpose(0, 1)"}), "B tokens valid");
}

TEST_F(Masks, OfPairsOfTokensAreNone) {
  const std::string arguments = "ids: Tensor, m: Tensor";
  EXPECT_EQ(masks(arguments, {kEmbed, kScores, "scores = scores.masked_fill(m, -1e9)", kApply}), "B other padding");
  EXPECT_EQ(masks(arguments, {kEmbed, kScores, "scores = scores + m[None]", kApply}), "B other additive");
  EXPECT_EQ(masks(arguments,
                  {kEmbed, "q = x.unsqueeze(1)", "h = x + torch.scaled_dot_product_attention(q, q, q, m).squeeze(1)"}),
            "B other auto");
}

TEST_F(Masks, ViewsShowWhichDimensionsTheyHave) {
  const std::string arguments = "x: Tensor, square: Tensor, m: Tensor";
  EXPECT_EQ(masks(arguments,
                  {"b, s, d = x.size()", "both = torch.zeros_like(square).masked_fill_(square, -1e9).view(1, 1, s, s)",
                   "both = both + torch.zeros_like(m).masked_fill_(m, -1e9).view(b, 1, 1, s)", "q = x.unsqueeze(1)",
                   "h = x + torch.scaled_dot_product_attention(q, q, q, both).squeeze(1)"}),
            "B other padding, C tokens padding");
}

TEST_F(Masks, SequenceFirstMasks) {
  EXPECT_EQ(masks("ids: Tensor, m: Tensor", {kEmbed, "h = x.transpose(0, 1) * m.unsqueeze(-1)"}), "B transposed valid");
}

TEST_F(Masks, OfAnotherTextAreNotTheTokens) {
  EXPECT_EQ(masks("other: Tensor, m: Tensor, ids: Tensor",
                  {"e = torch.embedding(self.table, other)", kEmbed,
                   "p = torch.matmul(x, e.transpose(1, 2)).masked_fill(m.unsqueeze(1) == 0, -1e9)",
                   "h = x + torch.matmul(torch.softmax(p, -1), e)"}),
            "B other valid");
}

TEST_F(Masks, WithACacheRunAlongKeysThatEndWithTheTokens) {
  EXPECT_EQ(masks("ids: Tensor, m: Tensor, past: List[Tensor]",
                  {kEmbed, "k = torch.cat([past[0], x], 1)",
                   "scores = torch.matmul(x, k.transpose(1, 2)).masked_fill(m.unsqueeze(1) == 0, -1e9)",
                   "h = x + torch.matmul(torch.softmax(scores, -1), k)"}),
            "B tokens valid");
}

TEST_F(Layouts, HeadsAndFeaturesAreLeftOutOfTheTokens) {
  follow(R"(
def forward(self, ids: Tensor) -> Tensor:
    x = torch.embedding(self.table, ids)
    b, n = x.size(0), x.size(1)
    heads = torch.linear(x, self.square).view(b, n, 2, 4).transpose(1, 2)
    merged = heads.reshape(b * 2, n, 4)
    return merged
)");
  const std::string expected = "batch:A0 sequence:A1";
  const auto of_dims = [&](const char* name, const std::vector<LeftOutDim>& without) {
    return text(layouts_->of(value_named(*graph_, name), without));
  };
  EXPECT_EQ(of_dims("heads", {{1}, {-1}}), expected);
  EXPECT_EQ(of_dims("merged", {{0, 2}, {2}}), expected);
  EXPECT_EQ(of_dims("merged", {{0, 3}, {2}}), "unknown");  // so many heads are not there
}

}  // namespace
}  // namespace moetap::hooks::testing
