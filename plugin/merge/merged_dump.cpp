#include "plugin/merge/merged_dump.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <utility>

#include "plugin/dump/attention_series.h"
#include "plugin/dump/dump_forward_reader.h"
#include "plugin/dump/matrix_reader.h"

namespace moetap::plugin {
namespace {

constexpr int64_t kReadAheadBytes = int64_t{64} << 20;  // of all series together
constexpr int64_t kBatchBytes = int64_t{32} << 20;      // written at once

/// Where the layers of a dump lie in the merged run.
LayerPlaces layer_places(const LayerTable& layers) {
  LayerPlaces places;
  for (const LayerTable::Placement& placement : layers.placements()) {
    const RunLayer& layer = layers.layers()[placement.place];
    places.try_emplace({layer.component, layer.layer}, LayerPlace{placement.place, placement.hook});
  }
  return places;
}

/// The name of a matrix (Note [Attention in full]) in the merged run.
std::string renamed(const std::string& name, const RunPart& part, int64_t forward) {
  const size_t begin = name.find('/') + 1;
  const size_t end = name.find('/', begin);
  if (begin == 0 || end == std::string::npos) return name;
  const std::string sample = name.substr(begin, end - begin);
  std::string now;
  if (sample.starts_with("-1.")) {
    now = fmt::format("-1.{}{}", forward, sample.substr(sample.find('.', 3)));
  } else {
    int64_t number = -1;
    const auto read = std::from_chars(sample.data(), sample.data() + sample.size(), number);
    if (read.ec != std::errc{} || read.ptr != sample.data() + sample.size()) {
      throw std::runtime_error(
          fmt::format("{}: holds a matrix \"{}\", which names no sample", part.paths().dump.string(), name));
    }
    now = std::to_string(part.renumbered(number));
  }
  return name.substr(0, begin) + now + name.substr(end);
}

class DumpMerge {
 public:
  DumpMerge(RunState& state, SumsWriter& sums, const RunParts& parts)
      : state_(state), sums_(sums), parts_(parts), places_(layer_places(state.layers)) {}

  /// What is missing, one line each.
  std::vector<std::string> open() {
    std::vector<std::string> damage;
    int64_t num_series = 0;
    for (const auto& part : parts_) {
      const std::string folder = part->paths().dump.string();
      readers_.push_back(std::make_unique<DumpForwardReader>(folder, part->rank(), places_, damage));
      matrices_.push_back(std::make_unique<MatrixReader>(folder, damage));
      num_series += readers_.back()->num_series();
      for (const auto& [series, expected] : part->ending().dump_rows) {
        const int64_t found = AttentionSeries::is_name(series) ? matrices_.back()->num_matrices(series)
                                                               : readers_.back()->num_rows(series);
        if (found < expected) {
          damage.push_back(fmt::format("{}: {} of the {} rows of {} are missing at its end", folder, expected - found,
                                       expected, series));
        }
      }
    }
    for (const auto& reader : readers_)
      reader->set_read_ahead_bytes(kReadAheadBytes / std::max<int64_t>(1, num_series));
    return damage;
  }

  void run(const std::function<void()>& check) {
    struct Place {
      int64_t first_sample = 0;
      uint32_t part = 0;
      uint32_t number = 0;
    };
    std::vector<Place> order;
    for (size_t i = 0; i < parts_.size(); ++i) {
      const auto& forwards = parts_[i]->forwards();
      for (size_t n = 0; n < forwards.size(); ++n) {
        order.push_back(
            {parts_[i]->renumbered(forwards[n].first_sample), static_cast<uint32_t>(i), static_cast<uint32_t>(n)});
      }
    }
    std::sort(order.begin(), order.end(), [](const Place& a, const Place& b) {
      return std::tie(a.first_sample, a.part, a.number) < std::tie(b.first_sample, b.part, b.number);
    });
    state_.dump.begin_batch();
    int64_t written = 0;
    for (size_t i = 0; i < order.size(); ++i) {
      check();
      const RunPart& part = *parts_[order[i].part];
      add(part, order[i].part, part.forwards()[order[i].number], static_cast<int64_t>(i));
      if (state_.dump.bytes() - written < kBatchBytes) continue;
      written = state_.dump.bytes();
      state_.dump.end_batch();
      state_.dump.settle();
      state_.attention_dump.settle();
      state_.dump.begin_batch();
    }
    state_.dump.end_batch();
  }

 private:
  void add(const RunPart& part, size_t number_of_part, const RunPart::Forward& place, int64_t index) {
    std::vector<DumpForwardReader::Extent> rows;
    ForwardExtents merged{part.renumbered(place.first_sample), index, {}};
    AttentionDump::ForwardMatrices matrices;
    for (const ForwardExtents::Extent& extent : part.extents_of(place)) {
      if (!AttentionSeries::is_name(extent.series)) {
        rows.push_back({extent.series, extent.begin, extent.rows});
        continue;
      }
      AttentionDump::ForwardMatrices::OfSeries& series = matrices.series[extent.series];
      series.matrices = matrices_[number_of_part]->read(extent.series, extent.begin, extent.rows);
      for (AttentionMatrix& matrix : series.matrices) matrix.name = renamed(matrix.name, part, index);
      series.metadata = AttentionDump::metadata(extent.series, state_.attention_layers, state_.config);
      int64_t& end = num_matrices_[extent.series];
      const auto added = static_cast<int64_t>(series.matrices.size());
      merged.extents.push_back({extent.series, end, added});
      end += added;
    }
    DumpedForward forward = readers_[number_of_part]->read(place.index, rows, part.sample_offset);
    forward.index = index;
    DumpWriter::ForwardRows written = state_.dump.prepare(forward, state_.layers);
    for (const DumpWriter::ForwardRows::OfSeries& series : written.series) {
      const int64_t added = series.columns.front().rows.size(0);
      merged.extents.push_back({series.series, written.num_rows.at(series.series) - added, added});
    }
    state_.dump.add(std::move(written));
    state_.attention_dump.add(matrices);
    sums_.add(merged);
  }

  RunState& state_;
  SumsWriter& sums_;
  const RunParts& parts_;
  const LayerPlaces places_;
  std::vector<std::unique_ptr<DumpForwardReader>> readers_;  // by part
  std::vector<std::unique_ptr<MatrixReader>> matrices_;      // by part
  std::map<std::string, int64_t> num_matrices_;              // by series, so far
};

}  // namespace

void merge_dumps(RunState& state, SumsWriter& sums, const RunParts& parts, bool allow_missing,
                 std::vector<std::string>& missing, const std::function<void()>& check) {
  if (!writes_dump(state.config)) return;
  DumpMerge merge(state, sums, parts);
  for (std::string& line : merge.open()) {
    if (!allow_missing) {
      throw std::runtime_error(line + "; merge what is there with --allow-missing");
    }
    missing.push_back(std::move(line) + ": left out of the merged run");
  }
  merge.run(check);
}

}  // namespace moetap::plugin
