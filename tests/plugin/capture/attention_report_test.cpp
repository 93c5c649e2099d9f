#include "plugin/capture/attention_report.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/plugin/support/error_of.h"

namespace moetap::plugin {
namespace {

// Every size differs, so that no two dimensions can be taken for each other.
constexpr int64_t kBatch = 2, kGroups = 3, kOfGroup = 5, kHeads = kGroups * kOfGroup, kQueries = 4, kKeys = 7,
                  kDepth = 11;

/// A tensor [B, G, R, Q, K] as a model whose dimensions are `layout` has it. One that lacks batch or heads has only the
/// first of them.
at::Tensor laid_out(const at::Tensor& canonical, std::string_view layout) {
  const auto has = [&](char letter) { return layout.find(letter) != std::string_view::npos; };
  at::Tensor tensor = canonical;
  std::string dims = "bgrqk";
  if (has('m')) {
    tensor = tensor.flatten(0, 2);
    dims = "mqk";
  } else if (!has('g')) {
    tensor = tensor.flatten(1, 2);
    dims = "bhqk";
    if (!has('h')) tensor = tensor.select(1, 0);
    if (!has('h')) dims = "bqk";
    if (!has('b')) tensor = tensor.select(0, 0);
    if (!has('b')) dims.erase(0, 1);
  }
  std::vector<int64_t> order;
  for (const char letter : layout) order.push_back(static_cast<int64_t>(dims.find(letter)));
  return tensor.permute(order);
}

/// What `laid_out` leaves of a canonical tensor [B, H, Q, K].
at::Tensor expected(const at::Tensor& canonical, std::string_view layout) {
  at::Tensor rest = canonical;
  const auto has = [&](char letter) { return layout.find(letter) != std::string_view::npos; };
  if (!has('m') && !has('g') && !has('h')) rest = rest.narrow(1, 0, 1);
  if (!has('m') && !has('b')) rest = rest.narrow(0, 0, 1);
  return rest;
}

const char* const kLayouts[] = {"bhqk",  "hbqk",  "bqhk",  "qbhk", "bhkq", "mqk",
                                "bgrqk", "brgqk", "bqgrk", "hqk",  "bqk",  "qk"};

int64_t heads_of(std::string_view layout) {
  return layout.find('m') == std::string_view::npos ? 0 : kHeads;
}

at::Tensor numbers(at::IntArrayRef sizes) {
  int64_t count = 1;
  for (const int64_t size : sizes) count *= size;
  return at::arange(count, at::kFloat).reshape(sizes);
}

TEST(AttentionReportTest, ProbabilitiesOfEveryLayout) {
  const at::Tensor values = numbers({kBatch, kGroups, kOfGroup, kQueries, kKeys});
  for (const std::string_view layout : kLayouts) {
    ReportedAttention reported;
    reported.probabilities = laid_out(values, layout);
    reported.scores = reported.probabilities + 0.5;
    reported.num_heads = heads_of(layout);
    reported.layout = layout;
    const analysis::AttentionCall call = to_canonical(reported);
    const at::Tensor canonical = expected(values.flatten(1, 2), layout);
    EXPECT_TRUE(at::equal(call.probabilities, canonical)) << layout << call.probabilities.sizes();
    EXPECT_TRUE(at::equal(call.scores, canonical + 0.5)) << layout;
    EXPECT_FALSE(call.query.defined());
  }
}

TEST(AttentionReportTest, QueriesKeysAndMasksOfEveryLayout) {
  const at::Tensor queries = numbers({kBatch, kGroups, kOfGroup, kQueries, kDepth});
  const at::Tensor keys = numbers({kBatch, kGroups, kOfGroup, kKeys, kDepth}) + 10000;
  const at::Tensor masks = numbers({kBatch, kGroups, kOfGroup, kQueries, kKeys});
  for (const std::string_view layout : {"bhqk", "hbqk", "mqk", "bgrqk", "brgqk", "hqk", "bqk", "qk"}) {
    ReportedAttention reported;
    reported.query = laid_out(queries, layout);
    reported.key = laid_out(keys, layout);
    reported.mask = laid_out(masks, layout);
    reported.num_heads = heads_of(layout);
    reported.layout = layout;
    const analysis::AttentionCall call = to_canonical(reported);
    EXPECT_TRUE(at::equal(call.query, expected(queries.flatten(1, 2), layout))) << layout;
    EXPECT_TRUE(at::equal(call.key, expected(keys.flatten(1, 2), layout))) << layout;
    EXPECT_TRUE(at::equal(call.mask, expected(masks.flatten(1, 2), layout))) << layout << call.mask.sizes();
    EXPECT_FALSE(call.probabilities.defined());
  }
}

TEST(AttentionReportTest, AMaskMayLackDimensionsOrShareThem) {
  const at::Tensor queries = numbers({kBatch, kGroups, kOfGroup, kQueries, kDepth});
  const at::Tensor keys = numbers({kBatch, kGroups, kOfGroup, kKeys, kDepth});
  const at::Tensor one = numbers({kQueries, kKeys});
  const at::Tensor of_sequence = numbers({kBatch, 1, 1, 1, kKeys});
  const at::Tensor of_group = numbers({1, kGroups, 1, kQueries, kKeys});
  struct Case {
    std::string_view layout;
    at::Tensor mask, expected;  // expected: broadcast to [B, H, Q, K]
  };
  const auto whole = [](const at::Tensor& mask) {
    return mask.expand({kBatch, kGroups, kOfGroup, kQueries, kKeys}).flatten(1, 2);
  };
  const Case cases[] = {
      {"bhqk", one, whole(one)},
      {"mqk", one, whole(one)},
      {"mqk", one.unsqueeze(0), whole(one)},
      {"bgrqk", one, whole(one)},
      {"bhqk", of_sequence.squeeze(1), whole(of_sequence)},
      {"hbqk", of_sequence.squeeze(1).transpose(0, 1), whole(of_sequence)},
      {"bgrqk", of_sequence, whole(of_sequence)},
      {"brgqk", of_group.transpose(1, 2), whole(of_group)},
      {"bqk", of_sequence.squeeze(1).squeeze(1), whole(of_sequence).narrow(1, 0, 1)},
  };
  for (const Case& one_case : cases) {
    ReportedAttention reported;
    reported.query = laid_out(queries, one_case.layout);
    reported.key = laid_out(keys, one_case.layout);
    reported.mask = one_case.mask;
    reported.num_heads = heads_of(one_case.layout);
    reported.layout = one_case.layout;
    const at::Tensor mask = to_canonical(reported).mask;
    EXPECT_TRUE(at::equal(mask.expand_as(one_case.expected), one_case.expected))
        << one_case.layout << one_case.mask.sizes() << " gave " << mask.sizes();
  }
}

TEST(AttentionReportTest, SharedKeysStayGrouped) {
  ReportedAttention reported;
  reported.query = numbers({kBatch, kHeads, kQueries, kDepth});
  reported.key = numbers({kBatch, kGroups, kKeys, kDepth});
  reported.layout = "bhqk";
  EXPECT_EQ(to_canonical(reported).key.size(1), kGroups);
  // Groups as a dimension of their own, of which the key has one head.
  reported.query = reported.query.unflatten(1, {kGroups, kOfGroup});
  reported.key = reported.key.unsqueeze(2);
  reported.layout = "bgrqk";
  const analysis::AttentionCall call = to_canonical(reported);
  EXPECT_EQ(call.query.size(1), kHeads);
  EXPECT_TRUE(at::equal(call.key, reported.key.squeeze(2)));
}

TEST(AttentionReportTest, TheScaleIsThatOfTheSizeOfAHeadUnlessItIsGiven) {
  ReportedAttention reported;
  reported.query = numbers({1, 1, kQueries, 16});
  reported.key = numbers({1, 1, kKeys, 16});
  reported.layout = "bhqk";
  EXPECT_DOUBLE_EQ(to_canonical(reported).scale, 0.25);
  EXPECT_FALSE(to_canonical(reported).causal);
  reported.scale = 2;
  reported.causal = true;
  EXPECT_DOUBLE_EQ(to_canonical(reported).scale, 2);
  EXPECT_TRUE(to_canonical(reported).causal);
}

TEST(AttentionReportTest, WhatDoesNotFitIsNamed) {
  const auto message = [](const ReportedAttention& reported) {
    const std::string text = error_of<c10::Error>([&] { to_canonical(reported); });
    return text.substr(0, text.find('\n'));
  };
  ReportedAttention reported;
  reported.layout = "bhqk";
  const auto starts_with = [](const std::string& text, const std::string& start) {
    EXPECT_TRUE(text.starts_with(start)) << text << "\nexpected: " << start;
  };
  starts_with(message(reported), "attention: either probabilities or query and key must be given");
  reported.query = numbers({2, 4, 3, 5});
  starts_with(message(reported), "attention: either probabilities or query and key must be given");
  reported.key = numbers({2, 4, 3, 6});
  starts_with(message(reported),
              "attention: query and key must have the same sequences and features, got [2, 4, 3, 5] and [2, 4, 3, 6]");
  reported.key = numbers({2, 3, 3, 5});
  starts_with(message(reported),
              "attention: the heads of the query must be a multiple of those of the key, got 4 and 3");
  reported.key = numbers({2, 2, 3, 5});
  reported.mask = numbers({1, 1, 1, 3, 3});
  starts_with(message(reported), "attention: the mask must broadcast to the dimensions \"bhqk\", got [1, 1, 1, 3, 3]");
  reported.mask = at::Tensor();
  reported.layout = "mqk";
  starts_with(message(reported), "attention: query must have the dimensions \"mqk\", got [2, 4, 3, 5]");
  for (const char* layout : {"bhqx", "bbqk"}) {
    reported.layout = layout;
    starts_with(message(reported),
                std::string("attention: the layout must be of the letters bmhgrqk, each once, got \"") + layout + "\"");
  }
  ReportedAttention merged;
  merged.probabilities = numbers({6, 3, 3});
  merged.layout = "mqk";
  merged.num_heads = 4;
  starts_with(message(merged),
              "attention: the batch and heads of probabilities must be a multiple of 4 heads, got [6, 3, 3]");
}

}  // namespace
}  // namespace moetap::plugin
