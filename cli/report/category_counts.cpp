#include "cli/report/category_counts.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace moetap::cli {
namespace {

using nlohmann::ordered_json;

constexpr size_t kMostCategories = 60;

std::string category_of(const ordered_json& fields) {
  const auto doc = fields.is_object() ? fields.find("doc") : fields.end();
  if (!fields.is_object() || doc == fields.end() || !doc->is_object()) return "";
  const auto category = doc->find("category");
  return category != doc->end() && category->is_string() ? category->get<std::string>() : "";
}

}  // namespace

CategoryCounts::CategoryCounts(const std::vector<ordered_json>& fields, const std::vector<plugin::ReadLayer>& layers) {
  std::map<std::string, int32_t> known;
  for (const ordered_json& sample : fields) {
    const std::string category = category_of(sample);
    if (!category.empty()) known.emplace(category, 0);
  }
  for (auto& [category, place] : known) {
    place = static_cast<int32_t>(categories_.size() < kMostCategories ? categories_.size() : -1);
    if (place < 0) {
      ++num_left_out_;
    } else {
      categories_.push_back(category);
    }
  }
  for (const ordered_json& sample : fields) {
    const auto found = known.find(category_of(sample));
    category_of_.push_back(found == known.end() ? -1 : found->second);
  }
  for (const plugin::ReadLayer& layer : layers) {
    layers_.push_back({layer.layer, layer.num_experts,
                       std::vector<int64_t>(categories_.size() * static_cast<size_t>(layer.num_experts)),
                       std::vector<int64_t>(categories_.size())});
  }
}

void CategoryCounts::add(size_t place, const plugin::TokenLabel* labels, int64_t n, const int32_t* ids, int64_t width) {
  if (categories_.empty()) return;
  Layer& layer = layers_[place];
  for (int64_t t = 0; t < n; ++t) {
    const int64_t sample = labels[t].sample;
    if (sample < 0 || sample >= static_cast<int64_t>(category_of_.size())) continue;
    const int32_t category = category_of_[static_cast<size_t>(sample)];
    if (category < 0) continue;
    bool seen = false;
    for (int64_t k = 0; k < width; ++k) {
      const int32_t id = ids[t * width + k];
      if (id < 0 || id >= layer.num_experts) continue;
      seen = true;
      ++layer.counts[static_cast<size_t>(category * layer.num_experts + id)];
    }
    layer.tokens[static_cast<size_t>(category)] += seen ? 1 : 0;
  }
}

ordered_json CategoryCounts::json() const {
  if (categories_.empty()) return nullptr;
  ordered_json layers = ordered_json::object(), tokens = ordered_json::object();
  for (const Layer& layer : layers_) {
    ordered_json rows = ordered_json::array();
    for (size_t c = 0; c < categories_.size(); ++c) {
      const auto begin = layer.counts.begin() + static_cast<int64_t>(c) * layer.num_experts;
      rows.push_back(std::vector<int64_t>(begin, begin + layer.num_experts));
    }
    layers[layer.id] = std::move(rows);
    tokens[layer.id] = layer.tokens;
  }
  ordered_json json = {{"categories", categories_}, {"layers", std::move(layers)}, {"tokens", std::move(tokens)}};
  if (num_left_out_ > 0) json["note"] = fmt::format("{} further categories are left out.", num_left_out_);
  return json;
}

}  // namespace moetap::cli
