#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "analysis/studies/exact_table.h"
#include "analysis/studies/residues.h"
#include "analysis/studies/sentence_numbers.h"

namespace moetap::analysis::studies {
namespace {

/// Sums over the sequences of one set, of their fractions f[a] = count of a / standard residues.
struct FractionSums {
  int64_t sequences = 0, left_out = 0, empty = 0;              // empty: without any standard residue
  ExactTable first = ExactTable(1, kNumResidues);              // f[a]
  ExactTable second = ExactTable(kNumResidues, kNumResidues);  // f[a] * f[b]
  std::vector<double> smallest = std::vector<double>(kNumResidues, 2);
  std::vector<double> largest = std::vector<double>(kNumResidues, -1);

  void add(const std::array<double, kNumResidues>& fractions) {
    ++sequences;
    first.add_row(0, 1, fractions);
    for (size_t a = 0; a < kNumResidues; ++a) {
      second.add_row(static_cast<int64_t>(a), fractions[a], fractions);
      smallest[a] = std::min(smallest[a], fractions[a]);
      largest[a] = std::max(largest[a], fractions[a]);
    }
  }
  void merge(const FractionSums& other) {
    sequences += other.sequences;
    left_out += other.left_out;
    empty += other.empty;
    first.merge(other.first);
    second.merge(other.second);
    for (size_t a = 0; a < kNumResidues; ++a) {
      smallest[a] = std::min(smallest[a], other.smallest[a]);
      largest[a] = std::max(largest[a], other.largest[a]);
    }
  }

  /// Sum of (f[a] - mean)(f[b] - mean), times the number of sequences.
  double covariance(int64_t a, int64_t b) const {
    return static_cast<double>(sequences) * second.value(a, b) - first.value(0, a) * first.value(0, b);
  }
  /// Pearson's; undefined for a residue whose fraction is the same in all sequences.
  double correlation(int64_t a, int64_t b) const {
    const auto constant = [&](int64_t r) {
      return !(largest[static_cast<size_t>(r)] > smallest[static_cast<size_t>(r)]);
    };
    if (sequences < 2 || constant(a) || constant(b)) return kUndefined;
    if (a == b) return 1;
    return std::clamp(covariance(a, b) / std::sqrt(covariance(a, a) * covariance(b, b)), -1.0, 1.0);
  }
};

/// How the fractions of residues go together over sequences. Recommended: sequences with no standard residue are left
/// out, and those longer than --max-length. Notebook: its second version, which takes letters as they are written and
/// keeps such sequences as zeros; with --max-length its first one, which takes only sequences of standard residues.
class AaCorrelation : public Study {
 public:
  explicit AaCorrelation(const StudyOptions& options)
      : is_notebook_(options.definitions == Definitions::kNotebook), max_length_(options.max_length) {}

  void observe(const SequenceRecord& record) override {
    FractionSums& set = sets_[record.is_positive ? 0 : 1];
    const std::string letters = is_notebook_ ? std::string(record.letters) : plain_letters(record.letters);
    if (letters.empty()) return;
    std::array<double, kNumResidues> fractions = {};
    double standard = 0;
    for (const char letter : letters) {
      const int64_t place = residue_place(letter);
      if (place < 0) continue;
      ++fractions[static_cast<size_t>(place)];
      ++standard;
    }
    const auto length = static_cast<int64_t>(letters.size());
    const bool is_first_version = is_notebook_ && max_length_ > 0;
    const bool is_mixed = is_first_version && standard < static_cast<double>(length);
    if ((max_length_ > 0 && length > max_length_) || is_mixed) {
      ++set.left_out;
      return;
    }
    if (standard == 0) {
      ++set.empty;
      if (!is_notebook_) return;
    }
    for (double& fraction : fractions) fraction = standard > 0 ? fraction / standard : 0;
    set.add(fractions);
  }
  void merge(const Study& other) override {
    const auto& from = dynamic_cast<const AaCorrelation&>(other);
    for (size_t s = 0; s < sets_.size(); ++s) sets_[s].merge(from.sets_[s]);
  }
  void save(ByteSink& sink) const override {
    for (const FractionSums& set : sets_) {
      for (const int64_t value : {set.sequences, set.left_out, set.empty}) sink.integer(value);
      set.first.save(sink);
      set.second.save(sink);
      sink.values(set.smallest);
      sink.values(set.largest);
    }
  }
  void load(ByteSource& source) override {
    for (FractionSums& set : sets_) {
      for (int64_t* value : {&set.sequences, &set.left_out, &set.empty}) *value = source.integer();
      set.first.load(source);
      set.second.load(source);
      set.smallest = source.values<double>(kNumResidues);
      set.largest = source.values<double>(kNumResidues);
    }
  }

  Result finalize() const override {
    Result result;
    double strongest = -1;
    result.sentence = "fewer than two sequences: no correlation is defined";
    for (size_t s = 0; s < sets_.size(); ++s) {
      const std::string name = s == 0 ? "positive" : "negative";
      const FractionSums& set = sets_[s];
      Table table("aa_correlation_" + name);
      auto& residues = table.texts("residue");
      for (const char residue : kResidues) residues.emplace_back(1, residue);
      for (int64_t b = 0; b < kNumResidues; ++b) {
        auto& column = table.reals(residues[static_cast<size_t>(b)]);
        for (int64_t a = 0; a < kNumResidues; ++a) {
          column.push_back(set.correlation(a, b));
          if (a >= b || !(std::abs(column.back()) > strongest)) continue;
          strongest = std::abs(column.back());
          result.sentence = "residues " + residues[static_cast<size_t>(a)] + " and " +
                            residues[static_cast<size_t>(b)] + " go together most: r = " + number_text(column.back()) +
                            " over " + count_text(set.sequences, name + " sequence", name + " sequences");
        }
      }
      result.tables.push_back(std::move(table));
      result.notices.push_back(notice(name, set));
    }
    return result;
  }

 private:
  std::string notice(const std::string& name, const FractionSums& set) const {
    std::string text = count_text(set.sequences, name + " sequence", name + " sequences") + " counted";
    if (set.left_out > 0) text += ", " + std::to_string(set.left_out) + " left out by length or letters";
    if (set.empty > 0) {
      text += ", " + std::to_string(set.empty) + " without standard residues " +
              (is_notebook_ ? "kept as zeros, which distorts the result" : "left out");
    }
    return text;
  }

  const bool is_notebook_;
  const int64_t max_length_;
  std::array<FractionSums, 2> sets_;  // positive, negative
};

}  // namespace

std::unique_ptr<Study> make_aa_correlation(const ComponentShape& /*shape*/, const StudyOptions& options) {
  return std::make_unique<AaCorrelation>(options);
}

}  // namespace moetap::analysis::studies
