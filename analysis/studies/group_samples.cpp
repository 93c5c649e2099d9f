#include "analysis/studies/group_samples.h"

#include <algorithm>
#include <tuple>

#include "analysis/studies/token_runs.h"

namespace moetap::analysis::studies {
namespace {

void append_count(std::string& bytes, uint64_t count) {
  for (; count >= 128; count >>= 7) bytes.push_back(static_cast<char>(count | 128));
  bytes.push_back(static_cast<char>(count));
}

uint64_t read_count(const std::string& bytes, size_t& cursor) {
  uint64_t count = 0;
  for (unsigned shift = 0;; shift += 7) {
    if (cursor >= bytes.size() || shift > 56) ByteSource::refuse();
    const auto byte = static_cast<unsigned char>(bytes[cursor++]);
    count |= static_cast<uint64_t>(byte & 127) << shift;
    if (byte < 128) return count;
  }
}

}  // namespace

GroupSamples::GroupSamples(const ComponentShape& shape) : shape_(shape) {}

void GroupSamples::observe(const TokenBatch& batch) {
  if (batch.group.empty()) {
    left_out_ += batch.num_tokens;
    return;
  }
  for_samples(batch, [&](int64_t first, int64_t last) {
    if (batch.sample[static_cast<size_t>(first)] < 0) {
      left_out_ += last - first;
    } else {
      observe_sample(batch, first, last);
    }
  });
}

void GroupSamples::observe_sample(const TokenBatch& batch, int64_t first, int64_t last) {
  groups_.assign(batch.group.begin() + first, batch.group.begin() + last);
  std::sort(groups_.begin(), groups_.end());
  left_out_ += std::count(groups_.begin(), groups_.end(), -1);
  groups_.erase(std::unique(groups_.begin(), groups_.end()), groups_.end());
  for (const int32_t group : groups_) {
    if (group < 0) continue;
    Unit unit{batch.sample[static_cast<size_t>(first)], batch.source[static_cast<size_t>(first)], group, {}};
    for (size_t l = 0; l < shape_.layers.size(); ++l) {
      counts_.assign(static_cast<size_t>(shape_.layers[l].num_experts) + 1, 0);
      for (int64_t t = first; t < last; ++t) {
        if (batch.group[static_cast<size_t>(t)] != group || !has_row(batch, batch.layers[l], t)) continue;
        ++counts_[0];
        for (const int32_t expert : used_.in_order(batch.layers[l], t)) ++counts_[static_cast<size_t>(expert) + 1];
      }
      for (const uint64_t count : counts_) append_count(unit.counts, count);
    }
    units_.push_back(std::move(unit));
  }
}

void GroupSamples::merge(const GroupSamples& other) {
  units_.insert(units_.end(), other.units_.begin(), other.units_.end());
  left_out_ += other.left_out_;
}

void GroupSamples::save(ByteSink& sink) const {
  sink.integer(left_out_);
  sink.integer(static_cast<int64_t>(units_.size()));
  for (const Unit* unit : sorted()) {
    sink.integer(unit->sample);
    sink.integer(unit->source);
    sink.integer(unit->group);
    sink.text(unit->counts);
  }
}

void GroupSamples::load(ByteSource& source) {
  left_out_ = source.integer();
  units_.clear();
  for (int64_t left = source.integer(); left > 0; --left) {
    Unit unit;
    unit.sample = source.integer();
    unit.source = static_cast<int32_t>(source.integer());
    const int64_t group = source.integer();
    if (group < 0 || group >= static_cast<int64_t>(shape_.groups.size())) ByteSource::refuse();
    unit.group = static_cast<int32_t>(group);
    unit.counts = source.text();
    size_t cursor = 0;  // all that finalize will read must be there
    for (const LayerShape& layer : shape_.layers) {
      for (int64_t i = 0; i <= layer.num_experts; ++i) read_count(unit.counts, cursor);
    }
    units_.push_back(std::move(unit));
  }
}

std::vector<const GroupSamples::Unit*> GroupSamples::sorted() const {
  std::vector<const Unit*> units;
  for (const Unit& unit : units_) units.push_back(&unit);
  std::sort(units.begin(), units.end(), [](const Unit* a, const Unit* b) {
    return std::tie(a->group, a->sample, a->source) < std::tie(b->group, b->sample, b->source);
  });
  return units;
}

GroupSamples::LayerCounts GroupSamples::layer_counts(const std::vector<const Unit*>& units, size_t l,
                                                     std::vector<size_t>& cursors) const {
  const auto num_experts = static_cast<size_t>(shape_.layers[l].num_experts);
  LayerCounts counts;
  counts.first_sample.assign(shape_.groups.size() + 1, 0);
  for (const Unit* unit : units) ++counts.first_sample[static_cast<size_t>(unit->group) + 1];
  for (size_t g = 0; g < shape_.groups.size(); ++g) counts.first_sample[g + 1] += counts.first_sample[g];
  counts.tokens.reserve(units.size());
  counts.uses.reserve(units.size() * num_experts);
  for (size_t u = 0; u < units.size(); ++u) {
    counts.tokens.push_back(static_cast<double>(read_count(units[u]->counts, cursors[u])));
    for (size_t e = 0; e < num_experts; ++e) {
      counts.uses.push_back(static_cast<double>(read_count(units[u]->counts, cursors[u])));
    }
  }
  return counts;
}

}  // namespace moetap::analysis::studies
