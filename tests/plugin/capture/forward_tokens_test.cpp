#include "plugin/capture/forward_tokens.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "plugin/capture/host_copies.h"

namespace moetap::plugin {
namespace {

using Arguments = c10::List<std::optional<at::Tensor>>;

class ForwardTokensTest : public testing::Test {
 protected:
  /// Arguments: ids, mask.
  void read(const at::Tensor& ids, const at::Tensor& mask) {
    places_.ids = 0;
    places_.mask = 1;
    tokens_.read(places_, Arguments({ids, mask}), /*keep_ids=*/true, copies_,
                 [this](const std::string& what, const std::string&) { notices_.push_back(what); });
  }
  std::shared_ptr<const TokenGroup> group(TextOfComponent text, std::vector<int64_t> sizes) {
    return tokens_.group_of({text, std::move(sizes)}, &copies_);
  }

  HostCopies copies_;
  TextArguments places_;
  ForwardTokens tokens_;
  std::vector<std::string> notices_;
};

TEST_F(ForwardTokensTest, CallsThatSeeTheTextShareItsColumns) {
  read(at::arange(6, at::kLong).reshape({2, 3}), at::tensor({1, 1, 1, 0, 1, 1}, at::kLong).reshape({2, 3}));
  EXPECT_EQ(tokens_.batch(), 2);
  const auto flat = group(TextOfComponent::kText, {6}), batched = group(TextOfComponent::kText, {2, 3});
  EXPECT_EQ(flat, batched);
  EXPECT_TRUE(flat->attribution.text);
  EXPECT_EQ(flat->rows.num_rows, 2);
  EXPECT_TRUE(at::equal(flat->token_ids, at::arange(6, at::kLong)));
  EXPECT_EQ(flat->valid.sum().item<int64_t>(), 5);
  EXPECT_NE(flat, group(TextOfComponent::kNone, {6})) << "a tower's tokens are not the text's";
  EXPECT_TRUE(notices_.empty());
}

TEST_F(ForwardTokensTest, SequenceFirstCallsHaveColumnsInTheirOrder) {
  read(at::arange(6, at::kLong).reshape({2, 3}), {});
  EXPECT_TRUE(at::equal(group(TextOfComponent::kText, {3, 2})->token_ids, at::tensor({0, 3, 1, 4, 2, 5}, at::kLong)));
}

TEST_F(ForwardTokensTest, TheFirstRouterShowsTheSamplesOfAForwardWithoutArguments) {
  EXPECT_FALSE(tokens_.batch());
  EXPECT_FALSE(group(TextOfComponent::kNone, {12})->attribution.attributed);
  EXPECT_EQ(group(TextOfComponent::kNone, {3, 4})->attribution.num_rows, 3);
  EXPECT_EQ(tokens_.batch(), 3);
}

/// Tokens that run along the dimensions of an argument of the given rank.
hooks::TokenLayout layout_of(int64_t rank, bool sequence_first) {
  hooks::TokenLayout layout;
  layout.known = true;
  layout.dims = {{hooks::TokenDimRole::kBatch, {{0, 0, rank}}}, {hooks::TokenDimRole::kSequence, {{0, 1, rank}}}};
  if (sequence_first) std::swap(layout.dims[0], layout.dims[1]);
  return layout;
}

TEST_F(ForwardTokensTest, ALayoutTellsTheOrderOfFlatTokens) {
  read(at::arange(9, at::kLong).reshape({3, 3}), at::tensor({1, 1, 1, 1, 1, 0, 1, 0, 0}, at::kLong).reshape({3, 3}));
  const auto layout = layout_of(2, /*sequence_first=*/true);
  const auto flat = tokens_.group_of({TextOfComponent::kText, {9}, c10::kCPU, nullptr, &layout}, &copies_);
  EXPECT_TRUE(at::equal(flat->token_ids, at::tensor({0, 3, 6, 1, 4, 7, 2, 5, 8}, at::kLong)));
  EXPECT_TRUE(at::equal(flat->valid, at::tensor({1, 1, 1, 1, 1, 0, 1, 0, 0}, at::kLong).to(at::kBool)));
  EXPECT_EQ(flat->rows.order, analysis::RowOrder::kInterleaved);
  EXPECT_NE(flat, group(TextOfComponent::kText, {9})) << "without a layout the samples come first";
}

TEST_F(ForwardTokensTest, TheArgumentsShowTheSamplesOfAForwardWithoutText) {
  TextArguments places;
  tokens_.read(places, Arguments({at::zeros({3, 5, 8})}), true, copies_, [](const auto&, const auto&) {});
  EXPECT_EQ(tokens_.batch(), 3);
  EXPECT_FALSE(group(TextOfComponent::kText, {15})->attribution.attributed) << "nothing shows their order";
  const auto layout = layout_of(3, /*sequence_first=*/false);
  const auto known = tokens_.group_of({TextOfComponent::kText, {15}, c10::kCPU, nullptr, &layout}, &copies_);
  EXPECT_EQ(known->attribution.num_rows, 3);
  EXPECT_EQ(known->attribution.position, PositionOf::kSequence);
  EXPECT_FALSE(known->attribution.text);
}

TEST_F(ForwardTokensTest, HiddenStatesWithoutASequenceAreOneASample) {
  TextArguments places;
  tokens_.read(places, Arguments({at::zeros({3, 8})}), true, copies_, [](const auto&, const auto&) {});
  const auto layout = layout_of(3, /*sequence_first=*/false);
  const auto known = tokens_.group_of({TextOfComponent::kText, {3}, c10::kCPU, nullptr, &layout}, &copies_);
  EXPECT_EQ(known->attribution.num_rows, 3);
  EXPECT_EQ(known->attribution.position, PositionOf::kNone);
}

TEST_F(ForwardTokensTest, HooksSeeTheTextThatTheirLayoutShows) {
  EXPECT_EQ(tokens_.text_of_hook(0, "decoder"), TextOfComponent::kDecoder);
  TextArguments places;
  places.texts_of_hooks = {TextOfComponent::kNone, TextOfComponent::kDecoder};
  tokens_.read(places, Arguments(), true, copies_, [](const auto&, const auto&) {});
  EXPECT_EQ(tokens_.text_of_hook(0, "decoder"), TextOfComponent::kNone);
  EXPECT_EQ(tokens_.text_of_hook(1, "language_model"), TextOfComponent::kDecoder);
}

TEST_F(ForwardTokensTest, AfterTheEndNothingChanges) {
  tokens_.end();
  group(TextOfComponent::kNone, {3, 4});
  EXPECT_FALSE(tokens_.batch());
}

TEST_F(ForwardTokensTest, AStepNarrowsATextThatOnlyTheMaskShows) {
  read({}, at::ones({2, 9}, at::kLong));
  EXPECT_EQ(tokens_.query_text().length, 9);
  EXPECT_EQ(group(TextOfComponent::kText, {2, 1})->num_tokens, 2);
  EXPECT_EQ(tokens_.query_text().length, 1);
  EXPECT_EQ(tokens_.query_text().mask_columns, 9);
}

TEST_F(ForwardTokensTest, FirstValidTokensComeBeforePadding) {
  read(at::zeros({1, 5}, at::kLong), at::tensor({0, 1, 0, 1, 1}, at::kLong).reshape({1, 5}));
  const auto text = group(TextOfComponent::kText, {5});
  EXPECT_TRUE(at::equal(tokens_.first_valid(text, 4, copies_), at::tensor({1, 3, 4, 0}, at::kLong)));
  const auto other = group(TextOfComponent::kNone, {3});
  EXPECT_TRUE(at::equal(tokens_.first_valid(other, 2, copies_), at::arange(2, at::kLong)));
}

TEST_F(ForwardTokensTest, WhatIsNotUnderstoodIsSaid) {
  read(at::zeros({1, 5}, at::kLong), at::ones({1, 1, 5, 5}, at::kLong));
  EXPECT_EQ(notices_, std::vector<std::string>{"the token mask must be [B, S], others are not used"});
}

}  // namespace
}  // namespace moetap::plugin
