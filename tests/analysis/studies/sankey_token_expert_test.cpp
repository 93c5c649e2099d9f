#include <gtest/gtest.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "analysis/studies/sample_queries.h"
#include "tests/analysis/studies/studies_support.h"

namespace moetap::analysis::studies {
namespace {

TEST(SankeyTokenExpert, FlowsHaveOneUnit) {
  const TestArrays arrays = sample_arrays(3);  // received: 1.5, .75, .75
  const Result result = result_of(make_sankey_token_expert, arrays);
  EXPECT_EQ(header(result, "sankey_token_expert"), "stage,source,target,value");
  EXPECT_EQ(texts(result, "sankey_token_expert", "source"),
            (std::vector<std::string>{"Token_1", "Token_1", "Token_2", "Token_2", "Token_3", "Token_3", "Expert_0",
                                      "Expert_1", "Expert_2"}));
  EXPECT_EQ(texts(result, "sankey_token_expert", "target")[6], "Attention");
  const std::vector<double> expected = {.5, .25, .5, .25, .5, .25, 1.5, .25 * 2.25, .25 * .75};
  EXPECT_EQ(column(result, "sankey_token_expert", "value"), expected);
  StudyOptions options;
  options.token_text = [](int32_t id) { return std::string(1, static_cast<char>('A' + id)); };
  EXPECT_EQ(texts(result_of(make_sankey_token_expert, arrays, options), "sankey_token_expert", "source")[2], "B2");
}

TEST(SankeyTokenExpert, NotebookTakesMeans) {
  const Result result = result_of(make_sankey_token_expert, sample_arrays(3), notebook_options());
  EXPECT_EQ(texts(result, "sankey_token_expert", "source")[0], "Token_0");
  const std::vector<double> value = column(result, "sankey_token_expert", "value");
  EXPECT_EQ(value[6], 1);
  EXPECT_EQ(value[7], 1.125);
  EXPECT_EQ(value[8], .75);
  const Result longer = result_of(make_sankey_token_expert, sample_arrays(150), notebook_options());
  EXPECT_EQ(column(longer, "sankey_token_expert", "value").size(), 2U * 140 + 3);
  EXPECT_NEAR(column(longer, "sankey_token_expert", "value")[280], (70 + 139 * 140 * .5 / 149) / 140, 1e-6);
}

TEST(SankeyTokenExpert, PicksTheSampleAndLayer) {
  const TestArrays arrays = random_arrays(51, 3, 4, 12, 4, 2, 4);
  StudyOptions options;
  options.sample = 2;
  options.layer = 1;
  const Result result = result_of(make_sankey_token_expert, arrays, options);
  double mass = 0;
  for (int64_t s = 0; s < arrays.length(2); ++s) {
    for (int64_t k = 0; k < 2; ++k) mass += arrays.gates[arrays.slot(1, 2, s, k)];
  }
  double flow = 0;
  const auto stage = column(result, "sankey_token_expert", "stage"),
             value = column(result, "sankey_token_expert", "value");
  for (size_t i = 0; i < stage.size(); ++i) flow += stage[i] == 1 ? value[i] : 0;
  EXPECT_NEAR(flow, mass, 1e-12);
  options.layer = 3;
  EXPECT_THROW(make_sankey_token_expert(arrays.shape(), options), std::runtime_error);
  options.layer = 1;
  options.sample = 9;
  const Result none = result_of(make_sankey_token_expert, arrays, options);
  EXPECT_TRUE(column(none, "sankey_token_expert", "value").empty());
  EXPECT_FALSE(none.notices.empty());
}

TEST(SankeyTokenExpert, MergesExactly) {
  const TestArrays arrays = random_arrays(52, 2, 5, 14, 4, 2, 6);
  expect_exact_merge(make_sankey_token_expert, arrays);
  expect_exact_merge(make_sankey_token_expert, arrays, notebook_options());
  expect_padding_is_not_data(make_sankey_token_expert, arrays);
  expect_equal(result_of(make_sankey_token_expert, arrays),
               result_of(make_sankey_token_expert, arrays, {}, {.query_block = 4}));
}

}  // namespace
}  // namespace moetap::analysis::studies
