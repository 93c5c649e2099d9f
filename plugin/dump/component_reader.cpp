#include "plugin/dump/component_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>

namespace moetap::plugin {
namespace {

constexpr auto kNumberBytes = static_cast<int64_t>(sizeof(int64_t));
constexpr float kMissing = std::numeric_limits<float>::quiet_NaN();

std::string column_of_layer(const std::string& layer, const char* what) {
  return layer + "." + what;
}

void read_series_labels(const DumpSeriesReader& series, int64_t first, int64_t n, TokenLabel* out) {
  std::fill_n(out, n, TokenLabel{.rank = static_cast<int32_t>(series.rank())});
  std::vector<int64_t> values(static_cast<size_t>(n));
  const auto read = [&](const char* column, auto set) {
    if (!series.has_column(column)) return;
    series.read_integers(column, first, n, values.data());
    for (int64_t i = 0; i < n; ++i) set(out[i], values[static_cast<size_t>(i)]);
  };
  read("sample", [](TokenLabel& label, int64_t value) { label.sample = value; });
  read("forward", [](TokenLabel& label, int64_t value) { label.forward = value; });
  read("position", [](TokenLabel& label, int64_t value) { label.position = static_cast<int32_t>(value); });
  read("token_id", [](TokenLabel& label, int64_t value) { label.token_id = static_cast<int32_t>(value); });
  read("phase", [](TokenLabel& label, int64_t value) { label.phase = static_cast<int32_t>(value); });
}

}  // namespace

ComponentReader::ComponentReader(Source source) : source_(std::move(source)) {
  for (const auto& [rank, folder] : source_.folders) add_rank(rank, folder);
}

void ComponentReader::add_rank(int64_t number, const std::string& folder) {
  auto rank = std::make_unique<Rank>();
  rank->first_token = num_tokens_;
  bool plain = true;
  for (const std::string& name : DumpSeriesReader::names_in(folder)) {
    if (!DumpSeriesReader::may_be_of(name, source_.component)) continue;
    auto series = std::make_unique<RankSeries>();
    std::vector<std::string> damage;
    series->reader = std::make_unique<DumpSeriesReader>(folder, name, number, damage);
    const bool is_empty = series->reader->shards().empty();
    if (!is_empty && series->reader->component() != source_.component) continue;
    damage_.insert(damage_.end(), damage.begin(), damage.end());
    if (is_empty) continue;
    plain = plain && series->reader->layer().empty() && !series->reader->has_column("call");
    series->first_token = rank->first_token;
    rank->series.push_back(std::move(series));
  }
  if (rank->series.empty()) return;
  if (plain) {
    rank->num_tokens = rank->series.front()->reader->num_rows();
  } else {
    std::vector<const DumpSeriesReader*> readers;
    // The shared series has the shortest name, so it is the first.
    for (const auto& series : rank->series) readers.push_back(series->reader.get());
    rank->join = std::make_unique<TokenJoin>(join_tokens(readers, source_.scratch_folder, source_.check));
    for (size_t i = 0; i < rank->series.size(); ++i) {
      rank->series[i]->join = rank->join.get();
      rank->series[i]->place = i;
    }
    rank->num_tokens = rank->join->num_tokens;
  }
  num_tokens_ += rank->num_tokens;
  add_pieces(*rank);
  ranks_.push_back(std::move(rank));
}

void ComponentReader::add_pieces(const Rank& rank) {
  for (const auto& series : rank.series) {
    for (const std::string& layer : series->reader->layers()) {
      const std::string column = column_of_layer(layer, "selected");
      for (const DumpShard& shard : series->reader->shards()) {
        if (!shard.columns.contains(column)) continue;
        std::vector<Piece>& pieces = layers_[layer];
        const bool goes_on = !pieces.empty() && pieces.back().series == series.get() &&
                             pieces.back().first_row + pieces.back().num_rows == shard.first_row;
        if (goes_on) {
          pieces.back().num_rows += shard.num_rows;
        } else {
          pieces.push_back({series.get(), shard.first_row, shard.num_rows});
        }
      }
    }
  }
}

bool ComponentReader::is_joined() const {
  return std::any_of(ranks_.begin(), ranks_.end(), [](const auto& rank) { return rank->join != nullptr; });
}

bool ComponentReader::has_column(const std::string& layer, const char* what) const {
  const auto found = layers_.find(layer);
  if (found == layers_.end()) return false;
  return std::all_of(found->second.begin(), found->second.end(), [&](const Piece& piece) {
    return piece.series->reader->has_column(column_of_layer(layer, what));
  });
}

int64_t ComponentReader::width(const std::string& layer, const char* what) const {
  int64_t width = 0;
  const auto found = layers_.find(layer);
  if (found == layers_.end()) return width;
  for (const Piece& piece : found->second) {
    width = std::max(width, piece.series->reader->width(column_of_layer(layer, what)));
  }
  return width;
}

bool ComponentReader::loops(const std::string& layer) const {
  const auto found = layers_.find(layer);
  return found != layers_.end() && std::any_of(found->second.begin(), found->second.end(), [](const Piece& piece) {
           return piece.series->reader->has_column("call");
         });
}

void ComponentReader::read_labels(int64_t first, int64_t n, TokenLabel* out) const {
  for (const auto& rank : ranks_) {
    const int64_t begin = std::max(first, rank->first_token);
    const int64_t end = std::min(first + n, rank->first_token + rank->num_tokens);
    if (begin >= end) continue;
    TokenLabel* to = out + (begin - first);
    const int64_t row = begin - rank->first_token, rows = end - begin;
    if (rank->join) {
      rank->join->labels->read(row * static_cast<int64_t>(sizeof(TokenLabel)), to,
                               rows * static_cast<int64_t>(sizeof(TokenLabel)));
    } else {
      read_series_labels(*rank->series.front()->reader, row, rows, to);
    }
  }
}

template <typename Value, typename Read>
void ComponentReader::gather(const std::string& layer, int64_t first, int64_t n, int64_t width, Value missing,
                             Value* out, const Read& read) const {
  std::fill_n(out, n * width, missing);
  const auto found = layers_.find(layer);
  if (found == layers_.end()) return;
  std::vector<Value> values;
  std::vector<int64_t> rows;
  for (const Piece& piece : found->second) {
    const RankSeries& series = *piece.series;
    if (series.join == nullptr) {
      const int64_t begin = std::max(first, series.first_token + piece.first_row);
      const int64_t end = std::min(first + n, series.first_token + piece.first_row + piece.num_rows);
      if (begin < end) read(*series.reader, begin - series.first_token, end - begin, out + (begin - first) * width);
      continue;
    }
    const int64_t begin = std::max(first, series.first_token);
    const int64_t end = std::min(first + n, series.first_token + series.join->num_tokens);
    if (begin >= end) continue;
    rows.resize(static_cast<size_t>(end - begin));
    series.join->series[series.place].rows->read((begin - series.first_token) * kNumberBytes, rows.data(),
                                                 (end - begin) * kNumberBytes);
    int64_t low = std::numeric_limits<int64_t>::max(), high = -1;
    for (int64_t& row : rows) {
      --row;
      if (row < piece.first_row || row >= piece.first_row + piece.num_rows) {
        row = -1;
        continue;
      }
      low = std::min(low, row);
      high = std::max(high, row);
    }
    if (high < 0) continue;
    // Calls of a loop stand between the rows of the first call: read what lies close together, no more.
    constexpr int64_t kBlock = 4096;
    for (int64_t block = low; block <= high; block += kBlock) {
      const int64_t size = std::min(kBlock, high + 1 - block);
      const bool wanted =
          std::any_of(rows.begin(), rows.end(), [&](int64_t row) { return row >= block && row < block + size; });
      if (!wanted) continue;
      values.resize(static_cast<size_t>(size * width));
      read(*series.reader, block, size, values.data());
      for (size_t i = 0; i < rows.size(); ++i) {
        if (rows[i] < block || rows[i] >= block + size) continue;
        std::copy_n(values.data() + (rows[i] - block) * width, width,
                    out + (begin - first + static_cast<int64_t>(i)) * width);
      }
    }
  }
}

void ComponentReader::read_ids(const std::string& layer, int64_t first, int64_t n, int64_t width, int32_t* out) const {
  const std::string column = column_of_layer(layer, "selected");
  gather<int32_t>(layer, first, n, width, -1, out,
                  [&](const DumpSeriesReader& series, int64_t row, int64_t rows, int32_t* to) {
                    series.read_ids(column, row, rows, width, to);
                  });
}

void ComponentReader::read_reals(const std::string& layer, const char* what, int64_t first, int64_t n, int64_t width,
                                 float* out) const {
  const std::string column = column_of_layer(layer, what);
  const float fill = std::strcmp(what, "weights") == 0 ? 0.0F : kMissing;
  gather<float>(layer, first, n, width, kMissing, out,
                [&](const DumpSeriesReader& series, int64_t row, int64_t rows, float* to) {
                  series.read_reals(column, row, rows, width, fill, to);
                });
}

int64_t ComponentReader::num_rows(const std::string& layer) const {
  int64_t rows = 0;
  const auto found = layers_.find(layer);
  if (found == layers_.end()) return rows;
  for (const Piece& piece : found->second) rows += piece.num_rows;
  return rows;
}

int64_t ComponentReader::num_rows(const std::string& layer, int64_t rank) const {
  int64_t rows = 0;
  const auto found = layers_.find(layer);
  if (found == layers_.end()) return rows;
  for (const Piece& piece : found->second) rows += piece.series->reader->rank() == rank ? piece.num_rows : 0;
  return rows;
}

std::vector<ComponentReader::RankTokens> ComponentReader::ranks() const {
  std::vector<RankTokens> ranks;
  for (const auto& rank : ranks_) {
    ranks.push_back({rank->series.front()->reader->rank(), rank->first_token, rank->num_tokens});
  }
  return ranks;
}

template <typename Use>
void ComponentReader::for_rows(const std::string& layer, int64_t first, int64_t n, const Use& use) const {
  int64_t piece_begin = 0;
  for (const Piece& piece : layers_.at(layer)) {
    const int64_t begin = std::max(first, piece_begin);
    const int64_t end = std::min(first + n, piece_begin + piece.num_rows);
    if (begin < end) use(*piece.series, piece.first_row + begin - piece_begin, end - begin, begin - first);
    piece_begin += piece.num_rows;
  }
}

void ComponentReader::read_row_tokens(const std::string& layer, int64_t first, int64_t n, Rows& rows) const {
  rows.token.assign(static_cast<size_t>(n), -1);
  rows.call.assign(static_cast<size_t>(n), 0);
  for_rows(layer, first, n, [&](const RankSeries& series, int64_t row, int64_t num_rows, int64_t place) {
    int64_t* tokens = rows.token.data() + place;
    if (series.join == nullptr) {
      for (int64_t i = 0; i < num_rows; ++i) tokens[i] = series.first_token + row + i;
    } else {
      series.join->series[series.place].tokens->read(row * kNumberBytes, tokens, num_rows * kNumberBytes);
      for (int64_t i = 0; i < num_rows; ++i) tokens[i] = tokens[i] == 0 ? -1 : tokens[i] - 1 + series.first_token;
    }
    if (series.reader->has_column("call"))
      series.reader->read_integers("call", row, num_rows, rows.call.data() + place);
  });
}

void ComponentReader::read_row_labels(const std::string& layer, int64_t first, int64_t n, TokenLabel* out) const {
  for_rows(layer, first, n, [&](const RankSeries& series, int64_t row, int64_t num_rows, int64_t place) {
    read_series_labels(*series.reader, row, num_rows, out + place);
  });
}

void ComponentReader::read_row_ids(const std::string& layer, int64_t first, int64_t n, int64_t width,
                                   int32_t* out) const {
  const std::string column = column_of_layer(layer, "selected");
  for_rows(layer, first, n, [&](const RankSeries& series, int64_t row, int64_t num_rows, int64_t place) {
    series.reader->read_ids(column, row, num_rows, width, out + place * width);
  });
}

void ComponentReader::read_row_reals(const std::string& layer, const char* what, int64_t first, int64_t n,
                                     int64_t width, float* out) const {
  const std::string column = column_of_layer(layer, what);
  const float fill = std::strcmp(what, "weights") == 0 ? 0.0F : kMissing;
  for_rows(layer, first, n, [&](const RankSeries& series, int64_t row, int64_t num_rows, int64_t place) {
    series.reader->read_reals(column, row, num_rows, width, fill, out + place * width);
  });
}

}  // namespace moetap::plugin
