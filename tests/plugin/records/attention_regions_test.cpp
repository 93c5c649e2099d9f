#include "plugin/records/attention_regions.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <map>

#include "plugin/records/config.h"
#include "tests/plugin/support/error_of.h"

namespace moetap::plugin {
namespace {

using Names = std::vector<std::string>;

TEST(AttentionRegionsTest, PartsAreNumbered) {
  const AttentionRegions regions = AttentionRegions::from_text("parts:3");
  EXPECT_EQ(regions.by, AttentionRegions::By::kParts);
  EXPECT_EQ(regions.num_regions(), 3);
  EXPECT_EQ(regions.names(), (Names{"part 0", "part 1", "part 2"}));
  EXPECT_EQ(AttentionRegions::from_text("parts:1").num_regions(), 1);
  EXPECT_EQ(AttentionRegions::from_text("parts:16").num_regions(), 16);
  EXPECT_EQ(AttentionRegions::from_text(Config().attention_regions).num_regions(), 5);
}

TEST(AttentionRegionsTest, TokensOfOtherIdsAreTheLastRegion) {
  const AttentionRegions regions = AttentionRegions::from_text("tokens:image=151655;code=7,0");
  EXPECT_EQ(regions.by, AttentionRegions::By::kTokens);
  EXPECT_EQ(regions.tokens, (std::vector<AttentionRegions::TokenRegion>{{"image", {151655}}, {"code", {7, 0}}}));
  EXPECT_EQ(regions.num_regions(), 3);
  EXPECT_EQ(regions.names(), (Names{"image", "code", "other"}));
  EXPECT_EQ(AttentionRegions::from_text("tokens:a=1;").names(), (Names{"a", "other"}));
}

TEST(AttentionRegionsTest, AnArgumentMayHaveAnyRegion) {
  const AttentionRegions regions = AttentionRegions::from_text("argument:token_type:ids");
  EXPECT_EQ(regions.by, AttentionRegions::By::kArgument);
  EXPECT_EQ(regions.argument, "token_type:ids");
  EXPECT_EQ(regions.num_regions(), AttentionRegions::kMaxRegions);
  EXPECT_EQ(regions.names().size(), 16u);
  EXPECT_EQ(regions.names().back(), "region 15");
}

TEST(AttentionRegionsTest, WhatCannotBeReadIsRefusedWithTheReason) {
  std::string sixteen = "tokens:";
  for (int i = 0; i < 16; ++i) sixteen += fmt::format("r{}={};", i, i);
  const std::map<std::string, std::string> reasons = {
      {"", "there is no \":\""},
      {"5", "there is no \":\""},
      {"part:5", "\"part\" is none of them"},
      {"parts:", "R must be from 1 to 16"},
      {"parts:0", "R must be from 1 to 16"},
      {"parts:17", "R must be from 1 to 16"},
      {"parts:5x", "R must be from 1 to 16"},
      {"tokens:", "no region is named"},
      {"tokens:image", "a region is NAME=ID[,ID]..."},
      {"tokens:=3", "a region is NAME=ID[,ID]..."},
      {"tokens:a=", "\"\" is no token id"},
      {"tokens:a=-1", "\"-1\" is no token id"},
      {"tokens:a=1,,2", "\"\" is no token id"},
      {"tokens:a=1;a=2", "two regions are called a"},
      {"tokens:other=2", "two regions are called other"},
      {"tokens:a=1;b=1", "token 1 is in two regions"},
      {sixteen, "there may be 15 regions and \"other\""},
      {"argument:", "no argument is named"},
  };
  for (const auto& [text, reason] : reasons) {
    EXPECT_EQ(
        error_of<std::invalid_argument>([&, text = text] { AttentionRegions::from_text(text); }),
        fmt::format("attention_regions must be parts:R, tokens:NAME=ID[,ID]...;... or argument:NAME, got \"{}\": {}",
                    text, reason));
  }
}

TEST(AttentionRegionsTest, AConfigurationWithBadRegionsIsRefused) {
  Config config;
  config.attention_regions = "parts:99";
  EXPECT_NE(error_of<std::invalid_argument>([&] { config.check(); }).find("got \"parts:99\""), std::string::npos);
}

}  // namespace
}  // namespace moetap::plugin
