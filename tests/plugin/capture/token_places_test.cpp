#include "plugin/capture/token_places.h"

#include <gtest/gtest.h>

namespace moetap::plugin {
namespace {

using hooks::TokenDim;
using hooks::TokenDimRole;

TokenDim batch(std::vector<hooks::ArgumentDim> of) {
  return {TokenDimRole::kBatch, std::move(of)};
}
TokenDim sequence(std::vector<hooks::ArgumentDim> of) {
  return {TokenDimRole::kSequence, std::move(of)};
}
TokenDim other(int64_t size) {
  return {TokenDimRole::kOther, {}, size};
}

hooks::TokenLayout layout(std::vector<TokenDim> dims) {
  hooks::TokenLayout layout;
  layout.known = true;
  layout.dims = std::move(dims);
  return layout;
}

const ArgumentSizes kSizes = {at::DimVector{2, 5}, std::nullopt, at::DimVector{1, 5}};

TEST(TokenPlaces, InBothOrders) {
  const auto first = place_tokens(layout({batch({{0, 0, 2}}), sequence({{0, 1, 2}})}), kSizes, 10);
  ASSERT_TRUE(first);
  EXPECT_EQ(first->batch, 2);
  EXPECT_EQ(first->batch_step, 5);
  EXPECT_EQ(first->length, 5);
  EXPECT_EQ(first->sequence_step, 1);
  const auto last = place_tokens(layout({sequence({{0, 1, 2}}), batch({{0, 0, 2}})}), kSizes, 10);
  ASSERT_TRUE(last);
  EXPECT_EQ(last->batch_step, 1);
  EXPECT_EQ(last->sequence_step, 2);
}

TEST(TokenPlaces, WhatIsBroadcastOrAbsentDoesNotCount) {
  const auto places =
      place_tokens(layout({batch({{2, 0, 2}, {1, 0, 3}, {0, 0, 2}}), sequence({{1, 1, 3}, {2, 1, 2}})}), kSizes, 10);
  ASSERT_TRUE(places);
  EXPECT_EQ(places->batch, 2);
  EXPECT_EQ(places->length, 5);
}

TEST(TokenPlaces, AMaskMayCoverACacheAsWell) {
  const ArgumentSizes step = {at::DimVector{2, 1}, std::nullopt, at::DimVector{2, 9}};
  const auto places = place_tokens(layout({batch({{0, 0, 2}}), sequence({{0, 1, 2}, {2, 1, 2}})}), step, 2);
  ASSERT_TRUE(places);
  EXPECT_EQ(places->length, 1);
}

TEST(TokenPlaces, AnUnknownDimensionIsWhatTheOthersLeave) {
  const auto tower = place_tokens(layout({batch({{0, 0, 2}}), other(0), other(0)}), kSizes, 18);
  ASSERT_TRUE(tower);
  EXPECT_EQ(tower->batch, 2);
  EXPECT_EQ(tower->batch_step, 9);
  EXPECT_FALSE(tower->has_sequence);
  EXPECT_EQ(place_tokens(layout({other(0), batch({{0, 0, 2}})}), kSizes, 18)->batch_step, 1);
  EXPECT_EQ(place_tokens(layout({batch({{0, 0, 2}}), other(3)}), kSizes, 6)->batch_step, 3);
}

TEST(TokenPlaces, WhatDoesNotFitIsNotKnown) {
  EXPECT_FALSE(place_tokens({}, kSizes, 10));
  EXPECT_FALSE(place_tokens(layout({batch({{0, 0, 2}}), sequence({{0, 1, 2}})}), kSizes, 8)) << "pruned tokens";
  EXPECT_FALSE(place_tokens(layout({batch({{0, 0, 2}}), other(0)}), kSizes, 9));
  EXPECT_FALSE(place_tokens(layout({other(0), batch({{0, 0, 2}}), other(0)}), kSizes, 8)) << "which of the two?";
  EXPECT_FALSE(place_tokens(layout({batch({{0, 0, 3}}), sequence({{0, 1, 3}})}), kSizes, 10)) << "of another rank";
}

TEST(TokenPlaces, PartsOfAConcatenation) {
  TokenDim both = sequence({});
  both.parts = {{}, {TokenDimRole::kOther, {{0, 1, 2}}}};
  const auto places = place_tokens(layout({batch({{0, 0, 2}}), both}), kSizes, 16);
  ASSERT_TRUE(places);
  EXPECT_EQ(places->length, 8);
  EXPECT_EQ(places->part_sizes, (std::vector<int64_t>{3, 5}));
}

TEST(BatchOfArguments, IsThatOfTheLayoutsElseTheSharedFirstDimension) {
  EXPECT_EQ(batch_of_arguments({batch({{0, 0, 2}, {2, 0, 2}})}, kSizes), 2);
  EXPECT_EQ(batch_of_arguments({}, {at::DimVector{3, 5, 8}, at::DimVector{3, 5}, at::DimVector{7}}), 3);
  EXPECT_FALSE(batch_of_arguments({}, kSizes)) << "they do not share it";
  EXPECT_FALSE(batch_of_arguments({}, {std::nullopt}));
}

}  // namespace
}  // namespace moetap::plugin
