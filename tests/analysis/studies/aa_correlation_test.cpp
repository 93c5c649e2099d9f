#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "analysis/studies/residues.h"
#include "tests/analysis/studies/studies_support.h"

namespace moetap::analysis::studies {
namespace {

/// Pearson's, in two passes.
double pearson(const std::vector<double>& x, const std::vector<double>& y) {
  double mean_x = 0, mean_y = 0, xy = 0, xx = 0, yy = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    mean_x += x[i] / static_cast<double>(x.size());
    mean_y += y[i] / static_cast<double>(x.size());
  }
  for (size_t i = 0; i < x.size(); ++i) {
    xy += (x[i] - mean_x) * (y[i] - mean_y);
    xx += (x[i] - mean_x) * (x[i] - mean_x);
    yy += (y[i] - mean_y) * (y[i] - mean_y);
  }
  return xy / std::sqrt(xx * yy);
}

std::vector<std::string> random_sequences(int count) {
  std::mt19937_64 random(61);
  std::vector<std::string> sequences;
  for (int i = 0; i < count; ++i) {
    std::string letters;
    for (uint64_t n = 30 + random() % 100; n > 0; --n) letters += kResidues[random() % 20];
    sequences.push_back(letters);
  }
  return sequences;
}

TEST(AaCorrelation, AgreesWithTwoPasses) {
  const std::vector<std::string> sequences = random_sequences(200);
  std::vector<SequenceRecord> records;
  std::vector<std::vector<double>> fractions(20);
  for (const std::string& letters : sequences) {
    records.push_back({true, letters});
    for (size_t a = 0; a < 20; ++a) {
      const auto count = std::count(letters.begin(), letters.end(), kResidues[a]);
      fractions[a].push_back(static_cast<double>(count) / static_cast<double>(letters.size()));
    }
  }
  const Result result = result_of_sequences(make_aa_correlation, records);
  for (size_t a = 0; a < 20; ++a) {
    const std::vector<double> found = column(result, "aa_correlation_positive", std::string(1, kResidues[a]));
    for (size_t b = 0; b < 20; ++b) EXPECT_NEAR(found[b], pearson(fractions[b], fractions[a]), 1e-11);
    EXPECT_EQ(found[a], 1);
    EXPECT_TRUE(std::isnan(column(result, "aa_correlation_negative", "A")[a]));
  }
  EXPECT_EQ(header(result, "aa_correlation_negative"), "residue,A,C,D,E,F,G,H,I,K,L,M,N,P,Q,R,S,T,V,W,Y");
}

TEST(AaCorrelation, ConstantRowsAndEmptySequences) {
  const std::vector<SequenceRecord> records = {{true, "aacc"}, {true, "AC"}, {true, "XX"}, {true, ""}};
  const Result result = result_of_sequences(make_aa_correlation, records);
  EXPECT_TRUE(std::isnan(column(result, "aa_correlation_positive", "A")[1]));  // both have halves
  EXPECT_NE(result.notices.at(0).find("2 positive sequences counted, 1 without standard residues"), std::string::npos);
  const Result notebook =
      result_of_sequences(make_aa_correlation, {{true, "AACC"}, {true, "AC"}, {true, "XX"}}, notebook_options());
  EXPECT_NEAR(column(notebook, "aa_correlation_positive", "A")[1], 1, 1e-15);  // the zeros make it so
}

TEST(AaCorrelation, LengthsAndTheFirstVersion) {
  StudyOptions options;
  options.max_length = 4;
  const std::vector<SequenceRecord> records = {{true, "AACC"}, {true, "ACD"}, {true, "AX"}, {true, "AAAAAA"}};
  EXPECT_NE(result_of_sequences(make_aa_correlation, records, options).notices.at(0).find("3 positive"),
            std::string::npos);
  options.definitions = Definitions::kNotebook;
  EXPECT_NE(result_of_sequences(make_aa_correlation, records, options).notices.at(0).find("2 positive"),
            std::string::npos);
}

TEST(AaCorrelation, MergesExactly) {
  const std::vector<std::string> sequences = random_sequences(60);
  std::vector<SequenceRecord> records;
  for (const std::string& letters : sequences) records.push_back({letters.size() % 2 == 0, letters});
  const std::unique_ptr<Study> a = make_aa_correlation({}, {}), b = make_aa_correlation({}, {});
  for (size_t i = records.size(); i > 0; --i) (i % 3 == 0 ? a : b)->observe(records[i - 1]);
  ByteSink sink;
  b->save(sink);
  ByteSource source(sink.bytes());
  const std::unique_ptr<Study> loaded = make_aa_correlation({}, {});
  loaded->load(source);
  loaded->merge(*a);
  expect_equal(loaded->finalize(), result_of_sequences(make_aa_correlation, records));
}

}  // namespace
}  // namespace moetap::analysis::studies
