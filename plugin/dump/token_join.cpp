#include "plugin/dump/token_join.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <stdexcept>
#include <unordered_map>

namespace moetap::plugin {
namespace {

constexpr int64_t kBlockRows = 1 << 14;

struct Row {
  int64_t row = 0;  // in its series
  int64_t sample = 0, position = 0, token_id = 0, phase = 0, call = 0;
};

/// Goes through a series forward by forward.
class SeriesCursor {
 public:
  explicit SeriesCursor(const DumpSeriesReader& series) : series_(series), loops_(series.has_column("call")) {
    if (!series.has_column("forward")) {
      throw std::runtime_error(
          fmt::format("{} of rank {}: its rows cannot be told from those of other layers: the dump has no column "
                      "forward; record the "
                      "run again",
                      series.name(), series.rank()));
    }
    fill();
  }

  /// The forward of the next row; empty at the end.
  std::optional<int64_t> forward() const {
    return place_ < forwards_.size() ? std::optional(forwards_[place_]) : std::nullopt;
  }

  /// All rows of that forward.
  std::vector<Row> take() {
    std::vector<Row> rows;
    const int64_t number = forwards_.at(place_);
    while (place_ < forwards_.size() && forwards_[place_] == number) {
      rows.push_back({begin_ + static_cast<int64_t>(place_), samples_[place_], positions_[place_], token_ids_[place_],
                      phases_[place_], loops_ ? calls_[place_] : 0});
      ++place_;
      if (place_ == forwards_.size()) fill();
    }
    if (place_ < forwards_.size() && forwards_[place_] < number) {
      throw std::runtime_error(
          fmt::format("{} of rank {}: forward {} stands behind forward {}: its rows cannot be told "
                      "from those of other layers",
                      series_.name(), series_.rank(), forwards_[place_], number));
    }
    return rows;
  }

 private:
  /// The next block that holds any row.
  void fill() {
    begin_ += static_cast<int64_t>(forwards_.size());
    place_ = 0;
    forwards_.clear();
    while (begin_ < series_.num_rows()) {
      const int64_t n = std::min(kBlockRows, series_.num_rows() - begin_);
      for (auto* column : {&forwards_, &samples_, &positions_, &token_ids_, &phases_, &calls_}) {
        column->resize(static_cast<size_t>(n));
      }
      series_.read_integers("forward", begin_, n, forwards_.data());
      series_.read_integers("sample", begin_, n, samples_.data());
      series_.read_integers("position", begin_, n, positions_.data());
      series_.read_integers("token_id", begin_, n, token_ids_.data());
      series_.read_integers("phase", begin_, n, phases_.data());
      if (loops_) series_.read_integers("call", begin_, n, calls_.data());
      drop_missing();
      if (!forwards_.empty()) return;
      begin_ += n;
    }
  }

  /// Ends the block before rows that lie in no whole shard, or moves its begin behind them.
  void drop_missing() {
    size_t missing = 0;
    while (missing < phases_.size() && phases_[missing] < 0) ++missing;
    size_t end = missing;
    while (end < phases_.size() && phases_[end] >= 0) ++end;
    for (auto* column : {&forwards_, &samples_, &positions_, &token_ids_, &phases_, &calls_}) {
      *column = std::vector<int64_t>(column->begin() + static_cast<int64_t>(missing),
                                     column->begin() + static_cast<int64_t>(end));
    }
    if (!forwards_.empty()) begin_ += static_cast<int64_t>(missing);
  }

  const DumpSeriesReader& series_;
  bool loops_;
  int64_t begin_ = 0;
  size_t place_ = 0;
  std::vector<int64_t> forwards_, samples_, positions_, token_ids_, phases_, calls_;
};

struct Key {
  int64_t sample, position, nth;
  bool operator==(const Key&) const = default;
};

struct KeyHash {
  size_t operator()(const Key& key) const {
    auto mix = [](uint64_t x) { return (x ^ (x >> 31)) * 0x9E3779B97F4A7C15ULL; };
    return mix(static_cast<uint64_t>(key.sample) +
               mix(static_cast<uint64_t>(key.position) * 31 + mix(static_cast<uint64_t>(key.nth))));
  }
};

/// The tokens of one forward.
class ForwardTokens {
 public:
  /// Gives each row of one series its token, as a place in the forward.
  std::vector<size_t> add(const std::vector<Row>& rows) {
    std::map<int64_t, int64_t> rows_of_call;  // with an unknown sample
    for (const Row& row : rows) rows_of_call[row.call] += row.sample < 0 ? 1 : 0;
    std::unordered_map<Key, int64_t, KeyHash> seen;  // (sample, position, call) -> rows so far
    std::vector<size_t> places;
    const bool is_first = tokens_.empty();
    const int64_t unknown = rows_of_call.empty() ? 0 : rows_of_call.begin()->second;
    if (is_first) num_unknown_ = unknown;
    // Places in a call tell nothing where the calls differ in length: such rows are tokens of their own.
    const int64_t kind = unknown == num_unknown_ ? 0 : ++kinds_;
    for (const Row& row : rows) {
      const int64_t nth = seen[{row.sample, row.position, row.call}]++;
      const Key key{row.sample >= 0 ? row.sample : -1 - kind, row.position, nth};
      const auto [known, is_new] = known_.try_emplace(key, tokens_.size());
      if (is_new) {
        tokens_.push_back(row);
        extra_ |= !is_first;
      }
      places.push_back(known->second);
    }
    return places;
  }

  /// The order of the tokens: order[place] is the token's rank among those of the forward.
  std::vector<size_t> order() const {
    std::vector<size_t> places(tokens_.size());
    for (size_t i = 0; i < places.size(); ++i) places[i] = i;
    if (extra_) {
      std::unordered_map<int64_t, size_t> first;
      for (size_t i = 0; i < tokens_.size(); ++i) first.try_emplace(tokens_[i].sample, i);
      std::stable_sort(places.begin(), places.end(), [&](size_t a, size_t b) {
        return std::pair(first.at(tokens_[a].sample), tokens_[a].position) <
               std::pair(first.at(tokens_[b].sample), tokens_[b].position);
      });
    }
    std::vector<size_t> order(places.size());
    for (size_t i = 0; i < places.size(); ++i) order[places[i]] = i;
    return order;
  }

  const std::vector<Row>& tokens() const { return tokens_; }

 private:
  std::vector<Row> tokens_;
  std::unordered_map<Key, size_t, KeyHash> known_;
  int64_t num_unknown_ = 0;
  int64_t kinds_ = 0;
  bool extra_ = false;  // tokens that the first series does not have
};

constexpr auto kNumberBytes = static_cast<int64_t>(sizeof(int64_t));
constexpr auto kLabelBytes = static_cast<int64_t>(sizeof(TokenLabel));

/// Writes the rows and tokens of one forward, in as few pieces as there are.
void write_numbers(TokenJoin::OfSeries& series, const std::vector<Row>& rows, const std::vector<size_t>& places,
                   const std::vector<size_t>& order, int64_t first_token) {
  if (rows.empty()) return;
  std::vector<int64_t> tokens(rows.size());
  std::vector<int64_t> row_of(order.size(), 0);
  for (size_t i = 0; i < rows.size(); ++i) {
    const size_t place = order[places[i]];
    tokens[i] = first_token + static_cast<int64_t>(place) + 1;
    if (row_of[place] == 0) row_of[place] = rows[i].row + 1;
  }
  for (size_t begin = 0; begin < rows.size();) {
    size_t end = begin + 1;
    while (end < rows.size() && rows[end].row == rows[end - 1].row + 1) ++end;
    series.tokens->write(rows[begin].row * kNumberBytes, &tokens[begin],
                         static_cast<int64_t>(end - begin) * kNumberBytes);
    begin = end;
  }
  series.rows->write(first_token * kNumberBytes, row_of.data(), static_cast<int64_t>(row_of.size()) * kNumberBytes);
}

}  // namespace

TokenJoin join_tokens(const std::vector<const DumpSeriesReader*>& series, const std::string& scratch_folder,
                      const std::function<void()>& check) {
  TokenJoin join;
  join.labels = std::make_unique<ScratchFile>(scratch_folder);
  std::vector<SeriesCursor> cursors;
  for (const DumpSeriesReader* one : series) {
    cursors.emplace_back(*one);
    join.series.push_back(
        {std::make_unique<ScratchFile>(scratch_folder), std::make_unique<ScratchFile>(scratch_folder)});
  }
  while (true) {
    std::optional<int64_t> forward;
    for (const SeriesCursor& cursor : cursors) {
      if (cursor.forward() && (!forward || *cursor.forward() < *forward)) forward = cursor.forward();
    }
    if (!forward) return join;
    check();
    ForwardTokens tokens;
    std::vector<std::vector<Row>> rows(cursors.size());
    std::vector<std::vector<size_t>> places(cursors.size());
    for (size_t i = 0; i < cursors.size(); ++i) {
      if (cursors[i].forward() != forward) continue;
      rows[i] = cursors[i].take();
      places[i] = tokens.add(rows[i]);
    }
    const std::vector<size_t> order = tokens.order();
    std::vector<TokenLabel> labels(order.size());
    for (size_t i = 0; i < order.size(); ++i) {
      const Row& token = tokens.tokens()[i];
      labels[order[i]] = {token.sample,
                          *forward,
                          static_cast<int32_t>(token.position),
                          static_cast<int32_t>(token.token_id),
                          static_cast<int32_t>(token.phase),
                          static_cast<int32_t>(series.front()->rank())};
    }
    join.labels->write(join.num_tokens * kLabelBytes, labels.data(), static_cast<int64_t>(labels.size()) * kLabelBytes);
    for (size_t i = 0; i < cursors.size(); ++i)
      write_numbers(join.series[i], rows[i], places[i], order, join.num_tokens);
    join.num_tokens += static_cast<int64_t>(order.size());
  }
}

}  // namespace moetap::plugin
