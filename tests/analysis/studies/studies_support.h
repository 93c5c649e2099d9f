#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "analysis/studies/study.h"

namespace moetap::analysis::studies {

/// The notebook's arrays, small, and their views as batches and rows of attention.
struct TestArrays {
  int64_t L = 0, B = 0, S = 0, E = 0, K = 0;
  std::vector<int32_t> types;         // [B, S]; −1: padding, at the end
  std::vector<int32_t> ids;           // [L, B, S, K]
  std::vector<double> gates;          // [L, B, S, K]
  std::vector<float> attention;       // [L, B, S, S]
  std::vector<double> attention_f64;  // the same in double; empty: float32 is given

  /// Zeros and ids 0.
  TestArrays(int64_t L, int64_t B, int64_t S, int64_t E, int64_t K);

  int64_t length(int64_t b) const;
  int32_t& type(int64_t b, int64_t s) { return types[static_cast<size_t>(b * S + s)]; }
  size_t slot(int64_t l, int64_t b, int64_t s, int64_t k) const {
    return static_cast<size_t>(((l * B + b) * S + s) * K + k);
  }
  size_t cell(int64_t l, int64_t b, int64_t i, int64_t j) const {
    return static_cast<size_t>(((l * B + b) * S + i) * S + j);
  }
  ComponentShape shape() const;
};

/// Random arrays: lengths from `shortest` to S, ids without repetition but now and then −1 or twice the same, gates of
/// a softmax, rows of attention that sum to 1 over valid keys. Padded places hold other ordinary numbers.
TestArrays random_arrays(uint64_t seed, int64_t L, int64_t B, int64_t S, int64_t E, int64_t K, int64_t shortest = 0);

/// Two layers, two samples of three places of which the last one of the second is padding; E = 3, K = 2.
TestArrays hand_arrays();

/// One layer, one sample of n places; E = 3, K = 2; rows of attention that are given.
TestArrays sample_arrays(int64_t n);

/// What a study is fed: the tokens of some samples (with padding only if asked), then their attention.
struct Feed {
  bool tokens = true;
  bool padding = false;
  bool attention = true;
  int64_t query_block = 0;  // rows of attention at a time; 0: all of a sample
  bool scratch = false;     // what studies share is counted once for all
};
void feed(Study& study, const TestArrays& arrays, const std::vector<int64_t>& samples, const Feed& how = {});

/// Calls visit(b, n, i, row, expert, gate) for each used slot of a layer: n valid tokens, row i of the attention.
using VisitSlot = std::function<void(int64_t, int64_t, int64_t, const std::vector<double>&, int64_t, double)>;
void for_each_slot(const TestArrays& arrays, int64_t l, const VisitSlot& visit);

/// Equal to 1e-10 relative, or both NaN.
void expect_close(double found, double expected, const std::string& what);

using Maker = std::unique_ptr<Study> (*)(const ComponentShape&, const StudyOptions&);

/// The result of a study that saw all samples.
Result result_of(Maker make, const TestArrays& arrays, const StudyOptions& options = {}, const Feed& how = {});

/// The same of a study of sequences.
Result result_of_sequences(Maker make, const std::vector<SequenceRecord>& records, const StudyOptions& options = {});

/// Column of a table as doubles; integers are converted. The table and the column must be there.
std::vector<double> column(const Result& result, const std::string& table, const std::string& name);
std::vector<std::string> texts(const Result& result, const std::string& table, const std::string& name);
/// Names of the columns, joined by commas.
std::string header(const Result& result, const std::string& table);

/// Checks that tables, matrices and the sentence are the same to the last bit.
void expect_equal(const Result& a, const Result& b);
/// Splits the samples at random among a few studies, merges these in random order through saved bytes, and expects the
/// bits of one study that saw all.
void expect_exact_merge(Maker make, const TestArrays& arrays, const StudyOptions& options = {}, const Feed& how = {});
/// Expects the same bits when padding is appended, the padded places get other numbers, and samples are permuted.
void expect_padding_is_not_data(Maker make, const TestArrays& arrays, const StudyOptions& options = {});

StudyOptions notebook_options();

}  // namespace moetap::analysis::studies
