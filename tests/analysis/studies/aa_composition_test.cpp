#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "analysis/studies/residues.h"
#include "tests/analysis/studies/studies_support.h"

namespace moetap::analysis::studies {
namespace {

TEST(AaComposition, SharesOfStandardResidues) {
  const std::vector<SequenceRecord> records = {{true, "AAc-X*"}, {true, ""}, {true, "C"}, {false, "AX"}};
  const Result result = result_of_sequences(make_aa_composition, records);
  EXPECT_EQ(header(result, "aa_composition"), "residue,positive,negative");
  EXPECT_EQ(header(result, "aa_summary"), "set,records,kept,min_length,max_length,mean_length,nonstandard_letters");
  EXPECT_EQ(column(result, "aa_composition", "positive")[0], .5);
  EXPECT_EQ(column(result, "aa_composition", "positive")[1], .5);
  EXPECT_EQ(column(result, "aa_composition", "negative")[0], 1);
  EXPECT_EQ(column(result, "aa_summary", "records"), (std::vector<double>{3, 1}));
  EXPECT_EQ(column(result, "aa_summary", "kept"), (std::vector<double>{2, 1}));
  EXPECT_EQ(column(result, "aa_summary", "max_length"), (std::vector<double>{4, 2}));
  EXPECT_EQ(column(result, "aa_summary", "mean_length"), (std::vector<double>{2.5, 2}));
  EXPECT_EQ(texts(result, "aa_summary", "nonstandard_letters"), (std::vector<std::string>{"X", "X"}));
  EXPECT_EQ(result.sentence,
            "residue A differs most between the sets: 50 % of the residues of the positive and 100 % of those of the "
            "negative sequences");
}

TEST(AaComposition, NotebookDividesByAllLetters) {
  const Result result = result_of_sequences(make_aa_composition, {{true, "AAcX"}, {true, "C"}}, notebook_options());
  EXPECT_EQ(column(result, "aa_composition", "positive")[0], .4);
  EXPECT_EQ(column(result, "aa_composition", "positive")[1], .2);
  EXPECT_TRUE(std::isnan(column(result, "aa_composition", "negative")[0]));
  EXPECT_EQ(texts(result, "aa_summary", "nonstandard_letters")[0], "Xc");
}

TEST(AaComposition, MergesExactly) {
  const std::unique_ptr<Study> a = make_aa_composition({}, {}), b = make_aa_composition({}, {});
  a->observe(SequenceRecord{true, "ACCD"});
  b->observe(SequenceRecord{false, "WWY"});
  ByteSink sink;
  b->save(sink);
  ByteSource source(sink.bytes());
  const std::unique_ptr<Study> loaded = make_aa_composition({}, {});
  loaded->load(source);
  loaded->merge(*a);
  expect_equal(loaded->finalize(), result_of_sequences(make_aa_composition, {{false, "WWY"}, {true, "ACCD"}}));
}

}  // namespace
}  // namespace moetap::analysis::studies
