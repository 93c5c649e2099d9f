#include "plugin/dump/dump_forward_reader.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string_view>

#include "plugin/dump/dump_keys.h"
#include "plugin/dump/series_files.h"
#include "plugin/formats/random_access_file.h"

namespace moetap::plugin {
namespace {

constexpr std::string_view kStatsEnd = ".attention_stats";
struct Label {
  const char* name;
  at::ScalarType dtype;
};
constexpr Label kLabels[] = {{"sample", at::kLong},
                             {"position", at::kInt},
                             {"token_id", at::kInt},
                             {"phase", at::kByte},
                             {"forward", at::kLong}};
constexpr Label kCall = {"call", at::kInt};

/// What a series has of one forward, in one piece.
struct Piece {
  at::Tensor sample, position, token_id, call, phase, forward;
  std::vector<std::pair<LayerPlace, LayerRows>> layers;
  std::vector<DumpedForward::Attention> attention;
};

at::Tensor behind(const at::Tensor& first, const at::Tensor& second, const std::string& path) {
  const bool same =
      first.defined() == second.defined() && (!first.defined() || (first.scalar_type() == second.scalar_type() &&
                                                                   first.sizes().slice(1) == second.sizes().slice(1)));
  if (!same) {
    throw std::runtime_error(path + ": a forward has other columns in this shard and in the one after it");
  }
  return first.defined() ? at::cat({first, second}) : at::Tensor();
}

}  // namespace

/// One series, with a stretch of rows of one shard in memory.
class DumpForwardReader::Series {
 public:
  Series(DumpSeriesReader reader, const LayerPlaces& places) : reader_(std::move(reader)), places_(places) {}

  const DumpSeriesReader& reader() const { return reader_; }

  /// The shard with a row, or the first behind it.
  const std::string& path_of(int64_t row) const {
    const std::vector<DumpShard>& shards = reader_.shards();
    return std::partition_point(shards.begin(), shards.end() - 1,
                                [&](const DumpShard& s) { return s.first_row + s.num_rows <= row; })
        ->path;
  }

  /// The pieces of the rows that lie in whole shards.
  std::vector<Piece> read(int64_t begin, int64_t rows, int64_t read_ahead_bytes) {
    std::vector<Piece> pieces;
    const std::vector<DumpShard>& shards = reader_.shards();
    const int64_t end = begin + rows;
    auto shard = std::partition_point(shards.begin(), shards.end(),
                                      [&](const DumpShard& s) { return s.first_row + s.num_rows <= begin; });
    for (; shard != shards.end() && shard->first_row < end; ++shard) {
      const int64_t first = std::max(begin, shard->first_row);
      const int64_t last = std::min(end, shard->first_row + shard->num_rows);
      pieces.push_back(piece(*shard, first - shard->first_row, last - first, read_ahead_bytes));
    }
    return pieces;
  }

 private:
  /// The columns of the open shard that belong to one layer; -1: it has none.
  struct LayerColumns {
    LayerPlace place;
    int selected = -1, weights = -1, logits = -1, scores = -1, input = -1;
  };
  struct StatsColumn {
    std::string layer;
    int column = -1;
    std::vector<std::string> names;
  };

  void open(const DumpShard& shard) {
    if (open_ == &shard) return;
    file_ = std::make_unique<RandomAccessFile>(shard.path);
    const auto header = read_shard_header(*file_);
    if (!header) throw std::runtime_error(shard.path + ": is damaged: it is shorter than its header");
    const auto& metadata = header->header.metadata;
    AttentionColumns names;
    if (const auto text = metadata.find(keys::kAttentionColumns.name); text != metadata.end()) {
      try {
        names = nlohmann::json::parse(text->second).get<AttentionColumns>();
      } catch (const nlohmann::json::exception&) {
        throw std::runtime_error(fmt::format("{}: is damaged: its {} are no JSON that moetap writes", shard.path,
                                             keys::kAttentionColumns.name));
      }
    }
    entries_.clear();
    layers_.clear();
    stats_.clear();
    label_columns_.clear();
    open_ = nullptr;
    for (const auto& [name, entry] : shard.columns) entries_.push_back(&entry);
    row_bytes_ = 0;
    for (const SafetensorsEntry* entry : entries_) row_bytes_ += bytes_of_row(*entry, shard);
    const std::string component = reader_.component();
    for (const std::string& layer : layers_of(shard)) {
      const auto place = places_.find({component, layer});
      if (place == places_.end()) {
        throw std::runtime_error(
            fmt::format("{}: holds layer {} of {}, which the run does not know", shard.path, layer, component));
      }
      layers_.push_back({place->second, column(layer + ".selected"), column(layer + ".weights"),
                         column(layer + ".logits"), column(layer + ".scores"), column(layer + ".input")});
    }
    for (const auto& [layer, of_layer] : names) {
      const int place = column(layer + std::string(kStatsEnd));
      if (place >= 0) stats_.push_back({layer, place, of_layer});
    }
    // In the order in which they were recorded.
    const auto begin = [&](const StatsColumn& stats) { return entries_[static_cast<size_t>(stats.column)]->begin; };
    std::sort(stats_.begin(), stats_.end(), [&](const auto& a, const auto& b) { return begin(a) < begin(b); });
    for (const Label& label : kLabels) {
      label_columns_.push_back(column(label.name));
      if (label_columns_.back() < 0)
        throw std::runtime_error(fmt::format("{}: lacks the column {}", shard.path, label.name));
      check(shard, label_columns_.back(), label.dtype, 1);
    }
    call_column_ = column(kCall.name);
    if (call_column_ >= 0) check(shard, call_column_, kCall.dtype, 1);
    for (const LayerColumns& of : layers_) {
      check(shard, of.selected, entry(of.selected).dtype == at::kInt ? at::kInt : at::kShort, 2);
      for (const int place : {of.weights, of.logits, of.scores, of.input}) {
        if (place >= 0) check(shard, place, entry(place).dtype, 2);
      }
    }
    for (const StatsColumn& stats : stats_) {
      check(shard, stats.column, at::kFloat, 2);
      if (entry(stats.column).shape[1] != static_cast<int64_t>(stats.names.size())) {
        throw std::runtime_error(fmt::format("{}: column {} has {} values a row, the metadata name {}", shard.path,
                                             entry(stats.column).name, entry(stats.column).shape[1],
                                             stats.names.size()));
      }
    }
    open_ = &shard;
    num_ = 0;
  }

  static std::vector<std::string> layers_of(const DumpShard& shard) {
    constexpr std::string_view kEnd = ".selected";
    std::vector<std::string> layers;
    for (const auto& [name, entry] : shard.columns) {
      if (name.ends_with(kEnd)) layers.push_back(name.substr(0, name.size() - kEnd.size()));
    }
    return layers;
  }

  static int64_t bytes_of_row(const SafetensorsEntry& entry, const DumpShard& shard) {
    return shard.num_rows == 0 ? 0 : (entry.end - entry.begin) / shard.num_rows;
  }

  const SafetensorsEntry& entry(int place) const { return *entries_[static_cast<size_t>(place)]; }

  void check(const DumpShard& shard, int place, at::ScalarType dtype, size_t rank) const {
    const SafetensorsEntry& of = entry(place);
    if (of.dtype == dtype && of.shape.size() == rank) return;
    throw std::runtime_error(fmt::format("{}: column {} must be {} of {} dimension{}, got {} of {}", shard.path,
                                         of.name, safetensors_dtype_name(dtype), rank, rank == 1 ? "" : "s",
                                         safetensors_dtype_name(of.dtype), of.shape.size()));
  }

  int column(const std::string& name) const {
    for (size_t i = 0; i < entries_.size(); ++i) {
      if (entries_[i]->name == name) return static_cast<int>(i);
    }
    return -1;
  }

  /// Reads rows of the open shard, and more behind them where rows are read one after the other.
  void load(const DumpShard& shard, int64_t first, int64_t rows, int64_t read_ahead_bytes) {
    const bool follows = num_ > 0 && first >= first_ && first <= first_ + num_;
    ahead_rows_ = follows ? std::max<int64_t>(rows, ahead_rows_ * 4) : rows;
    ahead_rows_ = std::max(rows, std::min(ahead_rows_, read_ahead_bytes / std::max<int64_t>(1, row_bytes_)));
    first_ = first;
    num_ = std::min(ahead_rows_, shard.num_rows - first);
    columns_.clear();
    for (const SafetensorsEntry* entry : entries_) {
      std::vector<int64_t> shape = entry->shape;
      shape.front() = num_;
      at::Tensor column = at::empty(shape, entry->dtype);
      const int64_t row_bytes = bytes_of_row(*entry, shard);
      file_->read(shard.data_begin + entry->begin + first * row_bytes, column.mutable_data_ptr(), num_ * row_bytes);
      columns_.push_back(std::move(column));
    }
  }

  Piece piece(const DumpShard& shard, int64_t first, int64_t rows, int64_t read_ahead_bytes) {
    open(shard);
    if (first < first_ || first + rows > first_ + num_) load(shard, first, rows, read_ahead_bytes);
    const auto slice = [&](int place) {
      return place < 0 ? at::Tensor() : columns_[static_cast<size_t>(place)].narrow(0, first - first_, rows);
    };
    Piece piece;
    piece.sample = slice(label_columns_[0]);
    piece.position = slice(label_columns_[1]);
    piece.token_id = slice(label_columns_[2]);
    piece.phase = slice(label_columns_[3]);
    piece.forward = slice(label_columns_[4]);
    piece.call = slice(call_column_);
    for (const LayerColumns& of : layers_) {
      LayerRows layer;
      layer.layer = of.place.layer;
      layer.selected = slice(of.selected);
      layer.weights = slice(of.weights);
      layer.logits = slice(of.logits);
      layer.scores = slice(of.scores);
      layer.input = slice(of.input);
      piece.layers.emplace_back(of.place, std::move(layer));
    }
    for (const StatsColumn& stats : stats_) {
      piece.attention.push_back(
          {reader_.component(), stats.layer, piece.sample, piece.position, slice(stats.column), stats.names});
    }
    return piece;
  }

  DumpSeriesReader reader_;
  const LayerPlaces& places_;
  const DumpShard* open_ = nullptr;
  std::unique_ptr<RandomAccessFile> file_;
  std::vector<const SafetensorsEntry*> entries_;  // of the open shard
  std::vector<LayerColumns> layers_;
  std::vector<StatsColumn> stats_;
  std::vector<int> label_columns_;  // as kLabels
  int call_column_ = -1;
  int64_t row_bytes_ = 0;
  int64_t first_ = 0, num_ = 0;  // rows of the open shard in `columns_`
  int64_t ahead_rows_ = 0;
  std::vector<at::Tensor> columns_;  // as `entries_`
};

DumpForwardReader::DumpForwardReader(const std::string& folder, int64_t rank, const LayerPlaces& places,
                                     std::vector<std::string>& damage)
    : places_(places) {
  for (const std::string& name : DumpSeriesReader::names_in(folder)) {
    series_[name] = std::make_unique<Series>(DumpSeriesReader(folder, name, rank, damage), places_);
  }
}

DumpForwardReader::~DumpForwardReader() = default;

int64_t DumpForwardReader::num_rows(const std::string& series) const {
  const auto known = series_.find(series);
  return known == series_.end() ? 0 : known->second->reader().num_rows();
}

DumpedForward DumpForwardReader::read(int64_t index, const std::vector<Extent>& extents, int64_t sample_offset) {
  DumpedForward forward;
  forward.index = index;
  forward.rows_are_samples = true;
  std::vector<std::pair<LayerPlace, LayerRows>> layers;
  for (const Extent& extent : extents) {
    const auto known = series_.find(extent.series);
    if (known == series_.end()) continue;
    std::vector<Piece> pieces = known->second->read(extent.begin, extent.rows, read_ahead_bytes_);
    if (pieces.empty()) continue;
    Piece& all = pieces.front();
    const std::string path = known->second->path_of(extent.begin);
    for (size_t i = 1; i < pieces.size(); ++i) {
      const Piece& next = pieces[i];
      const auto join = [&](at::Tensor& into, const at::Tensor& from) { into = behind(into, from, path); };
      if (next.layers.size() != all.layers.size() || next.attention.size() != all.attention.size()) {
        throw std::runtime_error(path + ": a forward has other columns in this shard and in the one after it");
      }
      for (auto column :
           {&Piece::sample, &Piece::position, &Piece::token_id, &Piece::call, &Piece::phase, &Piece::forward}) {
        join(all.*column, next.*column);
      }
      for (size_t n = 0; n < all.layers.size(); ++n) {
        for (auto column :
             {&LayerRows::selected, &LayerRows::weights, &LayerRows::logits, &LayerRows::scores, &LayerRows::input}) {
          join(all.layers[n].second.*column, next.layers[n].second.*column);
        }
      }
      for (size_t n = 0; n < all.attention.size(); ++n) join(all.attention[n].values, next.attention[n].values);
    }
    const int64_t num_rows = all.forward.size(0);
    const auto* numbers = all.forward.const_data_ptr<int64_t>();
    if (std::any_of(numbers, numbers + num_rows, [&](int64_t number) { return number != index; })) {
      throw std::runtime_error(
          fmt::format("{}: row {} is not of forward {}, as sums.frames says: the dump is not that of this run",
                      known->second->reader().shards().front().path, extent.begin, index));
    }
    if (sample_offset != 0) all.sample = at::where(all.sample.lt(0), all.sample, all.sample + sample_offset);
    forward.generation = all.phase[0].item<uint8_t>() != 0;
    const bool has_calls = all.call.defined();
    if (!has_calls) all.call = at::zeros({num_rows}, at::kInt);
    const int64_t num_calls = has_calls ? all.call.max().item<int32_t>() + int64_t{1} : 1;
    for (auto& [place, rows] : all.layers) {
      rows.num_calls = num_calls;
      rows.row = all.sample;
      rows.position = all.position;
      rows.token_id = all.token_id;
      rows.call = all.call;
      layers.emplace_back(place, std::move(rows));
    }
    for (DumpedForward::Attention& attention : all.attention) {
      attention.row = all.sample;
      attention.position = all.position;
      const bool is_known =
          std::any_of(forward.attention.begin(), forward.attention.end(), [&](const DumpedForward::Attention& known) {
            return known.component == attention.component && known.layer == attention.layer;
          });
      if (!is_known) forward.attention.push_back(std::move(attention));
    }
  }
  std::stable_sort(layers.begin(), layers.end(),
                   [](const auto& a, const auto& b) { return a.first.hook < b.first.hook; });
  for (auto& [place, rows] : layers) forward.layers.push_back(std::move(rows));
  return forward;
}

}  // namespace moetap::plugin
