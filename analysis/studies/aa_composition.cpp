#include <algorithm>
#include <array>
#include <cctype>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "analysis/studies/expert_ranking.h"
#include "analysis/studies/residues.h"
#include "analysis/studies/sentence_numbers.h"

namespace moetap::analysis::studies {

int64_t residue_place(char letter) {
  const size_t place = kResidues.find(letter);
  return place == std::string_view::npos ? -1 : static_cast<int64_t>(place);
}

std::string plain_letters(std::string_view letters) {
  std::string plain;
  for (const char letter : letters) {
    if (letter != '*' && letter != '-') plain += static_cast<char>(std::toupper(static_cast<unsigned char>(letter)));
  }
  return plain;
}

namespace {

constexpr int64_t kNumLetters = 256;

/// The letters of one set of sequences.
struct LetterCounts {
  int64_t records = 0, kept = 0;  // kept: with at least one letter
  int64_t shortest = kNoInteger, longest = kNoInteger;
  int64_t letters = 0;
  std::vector<int64_t> counts = std::vector<int64_t>(kNumLetters);

  void add(std::string_view sequence) {
    ++records;
    if (sequence.empty()) return;
    ++kept;
    take_lengths(static_cast<int64_t>(sequence.size()), static_cast<int64_t>(sequence.size()));
    letters += static_cast<int64_t>(sequence.size());
    for (const char letter : sequence) ++counts[static_cast<unsigned char>(letter)];
  }
  void take_lengths(int64_t low, int64_t high) {
    if (low == kNoInteger) return;
    shortest = shortest == kNoInteger ? low : std::min(shortest, low);
    longest = longest == kNoInteger ? high : std::max(longest, high);
  }
  void merge(const LetterCounts& other) {
    records += other.records;
    kept += other.kept;
    letters += other.letters;
    take_lengths(other.shortest, other.longest);
    for (size_t i = 0; i < counts.size(); ++i) counts[i] += other.counts[i];
  }

  int64_t count_of(size_t residue) const { return counts[static_cast<unsigned char>(kResidues[residue])]; }
  int64_t standard() const {
    int64_t total = 0;
    for (size_t a = 0; a < kResidues.size(); ++a) total += count_of(a);
    return total;
  }
  /// The other letters that occur, in the order of their codes.
  std::string nonstandard_letters() const {
    std::string found;
    for (size_t i = 0; i < counts.size(); ++i) {
      if (counts[i] > 0 && residue_place(static_cast<char>(i)) < 0) found += static_cast<char>(i);
    }
    return found;
  }
};

/// How often each residue occurs. Recommended: of the standard residues. Notebook: of all letters, as they are written.
class AaComposition : public Study {
 public:
  explicit AaComposition(const StudyOptions& options) : is_notebook_(options.definitions == Definitions::kNotebook) {}

  void observe(const SequenceRecord& record) override {
    LetterCounts& set = sets_[record.is_positive ? 0 : 1];
    if (is_notebook_) {
      set.add(record.letters);
    } else {
      set.add(plain_letters(record.letters));
    }
  }
  void merge(const Study& other) override {
    const auto& from = dynamic_cast<const AaComposition&>(other);
    for (size_t s = 0; s < sets_.size(); ++s) sets_[s].merge(from.sets_[s]);
  }
  void save(ByteSink& sink) const override {
    for (const LetterCounts& set : sets_) {
      for (const int64_t value : {set.records, set.kept, set.shortest, set.longest, set.letters}) sink.integer(value);
      sink.values(set.counts);
    }
  }
  void load(ByteSource& source) override {
    for (LetterCounts& set : sets_) {
      for (int64_t* value : {&set.records, &set.kept, &set.shortest, &set.longest, &set.letters}) {
        *value = source.integer();
      }
      set.counts = source.values<int64_t>(kNumLetters);
    }
  }

  Result finalize() const override {
    Table table("aa_composition");
    auto& residues = table.texts("residue");
    std::array<std::vector<double>*, 2> frequencies = {&table.reals("positive"), &table.reals("negative")};
    std::vector<double> differences;
    for (size_t a = 0; a < kResidues.size(); ++a) {
      residues.emplace_back(1, kResidues[a]);
      for (size_t s = 0; s < sets_.size(); ++s) {
        const int64_t total = is_notebook_ ? sets_[s].letters : sets_[s].standard();
        frequencies[s]->push_back(total > 0 ? static_cast<double>(sets_[s].count_of(a)) / static_cast<double>(total)
                                            : kUndefined);
      }
      differences.push_back(std::abs(frequencies[0]->back() - frequencies[1]->back()));
    }
    Result result;
    const auto widest = static_cast<size_t>(ranked(differences).front());
    if (std::isnan(differences[widest])) {
      const auto& only = sets_[0].kept > 0 ? *frequencies[0] : *frequencies[1];
      const auto first = static_cast<size_t>(ranked(only).front());
      result.sentence = sets_[0].kept + sets_[1].kept == 0
                            ? "there are no sequences"
                            : "residue " + residues[first] + " is the most frequent, " + percent_text(only[first]);
    } else {
      result.sentence = "residue " + residues[widest] +
                        " differs most between the sets: " + percent_text((*frequencies[0])[widest]) +
                        " of the residues of the positive and " + percent_text((*frequencies[1])[widest]) +
                        " of those of the negative sequences";
    }
    result.tables.push_back(std::move(table));
    result.tables.push_back(summary());
    return result;
  }

 private:
  Table summary() const {
    Table table("aa_summary");
    auto& names = table.texts("set");
    auto& records = table.integers("records");
    auto& kept = table.integers("kept");
    auto& shortest = table.integers("min_length");
    auto& longest = table.integers("max_length");
    auto& means = table.reals("mean_length");
    auto& letters = table.texts("nonstandard_letters");
    for (size_t s = 0; s < sets_.size(); ++s) {
      const LetterCounts& set = sets_[s];
      names.emplace_back(s == 0 ? "positive" : "negative");
      records.push_back(set.records);
      kept.push_back(set.kept);
      shortest.push_back(set.shortest);
      longest.push_back(set.longest);
      means.push_back(set.kept > 0 ? static_cast<double>(set.letters) / static_cast<double>(set.kept) : kUndefined);
      letters.push_back(set.nonstandard_letters());
    }
    return table;
  }

  const bool is_notebook_;
  std::array<LetterCounts, 2> sets_;  // positive, negative
};

}  // namespace

std::unique_ptr<Study> make_aa_composition(const ComponentShape& /*shape*/, const StudyOptions& options) {
  return std::make_unique<AaComposition>(options);
}

}  // namespace moetap::analysis::studies
