#include "cli/report/sample_image.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <set>
#include <string_view>

#include "cli/report/base64.h"
#include "cli/report/token_data.h"
#include "cli/terminal/command_error.h"

namespace moetap::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr int64_t kMostBytes = 150'000;

int64_t number_at(const std::string& bytes, size_t place, int count, bool big_endian) {
  int64_t value = 0;
  for (int i = 0; i < count; ++i) {
    const size_t at = place + static_cast<size_t>(big_endian ? i : count - 1 - i);
    value = value << 8 | static_cast<unsigned char>(bytes[at]);
  }
  return value;
}

/// Height and width stand in the frame's header, behind segments of which each says its length.
void read_jpeg_size(const std::string& bytes, ImageType& type) {
  for (size_t place = 2; place + 9 < bytes.size();) {
    if (static_cast<unsigned char>(bytes[place]) != 0xFF) return;
    const auto marker = static_cast<unsigned char>(bytes[place + 1]);
    const bool is_frame = marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC;
    if (is_frame) {
      type.height = number_at(bytes, place + 5, 2, true);
      type.width = number_at(bytes, place + 7, 2, true);
      return;
    }
    place += 2 + static_cast<size_t>(number_at(bytes, place + 2, 2, true));
  }
}

/// The length of so many bytes as base64 in a page.
int64_t encoded_bytes(int64_t bytes) {
  constexpr int64_t kFrame = 30;
  return (bytes + 2) / 3 * 4 + kFrame;
}

std::string text_field(const ordered_json& fields, const char* key) {
  if (!fields.is_object() || !fields.contains(key)) return "";
  const ordered_json& value = fields[key];
  if (value.is_string()) return value.get<std::string>();
  return value.is_array() && value.size() == 1 && value[0].is_string() ? value[0].get<std::string>() : "";
}

}  // namespace

std::optional<ImageType> image_type(const std::string& bytes) {
  const std::string_view view(bytes);
  ImageType type;
  if (view.starts_with("\x89PNG\r\n\x1a\n") && bytes.size() >= 24) {
    return ImageType{"image/png", number_at(bytes, 16, 4, true), number_at(bytes, 20, 4, true)};
  }
  if (view.starts_with("GIF8") && bytes.size() >= 10) {
    return ImageType{"image/gif", number_at(bytes, 6, 2, false), number_at(bytes, 8, 2, false)};
  }
  if (view.starts_with("RIFF") && view.substr(0, 12).ends_with("WEBP")) return ImageType{"image/webp", 0, 0};
  if (view.starts_with("\xFF\xD8\xFF")) {
    type.mime = "image/jpeg";
    read_jpeg_size(bytes, type);
    return type;
  }
  return std::nullopt;
}

PatchGrid patch_grid(int64_t num_tokens, const ImageType& image) {
  const double shape =
      image.width > 0 && image.height > 0 ? static_cast<double>(image.width) / static_cast<double>(image.height) : 1.0;
  PatchGrid best;
  double distance = std::numeric_limits<double>::infinity();
  for (int64_t rows = 1; rows <= num_tokens; ++rows) {
    if (num_tokens % rows != 0) continue;
    const double own = std::abs(std::log(static_cast<double>(num_tokens / rows) / static_cast<double>(rows) / shape));
    if (own < distance) {
      distance = own;
      best = {rows, num_tokens / rows};
    }
  }
  return best;
}

SampleImages::SampleImages(const TokenOptions& options, const plugin::RunReader& run)
    : folder_(options.images), image_token_(options.image_token), max_bytes_(options.max_image_bytes) {
  beside_samples_ = fs::path(run.config_text("samples")).parent_path().string();
  constexpr std::string_view kRegion = "image=";
  const std::string regions = run.config_text("attention_regions");
  const size_t place = regions.starts_with("tokens:") ? regions.find(kRegion) : std::string::npos;
  int64_t id = 0;
  if (!image_token_ && place != std::string::npos &&
      std::sscanf(regions.c_str() + place + kRegion.size(), "%ld", &id) == 1) {
    image_token_ = id;
  }
  if (options.grid.empty()) return;
  PatchGrid grid;
  char end = 0;
  if (std::sscanf(options.grid.c_str(), "%ldx%ld%c", &grid.rows, &grid.columns, &end) != 2 || grid.rows < 1 ||
      grid.columns < 1) {
    throw CommandError(fmt::format("--grid: \"{}\" is no ROWSxCOLUMNS, such as 16x16", options.grid), kExitUsage);
  }
  grid_ = grid;
}

std::string SampleImages::find(int64_t number, const ordered_json& fields) const {
  std::vector<std::string> names;
  const ordered_json doc = fields.is_object() ? fields.value("doc", ordered_json()) : ordered_json();
  for (const std::string& name :
       {text_field(fields, "image"), text_field(doc, "image"), text_field(doc, "image_path")}) {
    if (!name.empty()) names.push_back(name);
  }
  std::vector<fs::path> paths;
  for (const std::string& name : names) {
    if (!folder_.empty()) {
      paths.push_back(fs::path(folder_) / name);
      paths.push_back(fs::path(folder_) / fs::path(name).filename());
    } else {
      paths.push_back(fs::path(beside_samples_) / name);
    }
  }
  if (!folder_.empty()) {
    const ordered_json id = fields.is_object() ? fields.value("doc_id", ordered_json()) : ordered_json();
    std::vector<std::string> stems = {std::to_string(number), fmt::format("{:04d}", number)};
    if (id.is_number_integer())
      stems.insert(stems.begin(), {std::to_string(id.get<int64_t>()), fmt::format("{:04d}", id.get<int64_t>())});
    if (id.is_string()) stems.insert(stems.begin(), id.get<std::string>());
    for (const std::string& stem : stems) {
      for (const char* ending : {".png", ".jpg", ".jpeg", ".webp", ".gif"})
        paths.push_back(fs::path(folder_) / (stem + ending));
    }
  }
  std::error_code error;
  for (const fs::path& path : paths) {
    if (fs::is_regular_file(path, error)) return path.string();
  }
  return "";
}

void SampleImages::add(const std::vector<SampleOfImage>& samples, const std::vector<ordered_json>& fields,
                       std::vector<std::string>& notices) {
  if (!image_token_) return;
  std::vector<Found> all;
  std::set<std::string> paths;
  int64_t bytes = 0;
  for (const SampleOfImage& sample : samples) {
    Found found{&sample, "", 0, ordered_json::array()};
    for (size_t t = 0; t < sample.token_ids.size(); ++t) {
      if (sample.token_ids[t] == *image_token_) found.places.push_back(t);
    }
    if (found.places.empty()) continue;
    const bool has_fields = sample.number >= 0 && sample.number < static_cast<int64_t>(fields.size());
    found.path = find(sample.number, has_fields ? fields[static_cast<size_t>(sample.number)] : ordered_json());
    if (found.path.empty()) continue;
    std::error_code error;
    const auto size = static_cast<int64_t>(fs::file_size(found.path, error));
    if (error) continue;
    if (size > kMostBytes) {
      notices.push_back(fmt::format("{}: has {} bytes, a page takes {}; the sample is shown without a picture",
                                    found.path, size, kMostBytes));
      continue;
    }
    found.num_bytes = encoded_bytes(size);
    if (paths.insert(found.path).second && !known_.contains(found.path)) bytes += found.num_bytes;
    all.push_back(std::move(found));
  }
  const int64_t step = std::max<int64_t>(1, (bytes + max_bytes_ - 1) / std::max<int64_t>(max_bytes_, 1));
  if (step > 1) {
    notices.push_back(fmt::format("pictures of {} of {} samples are in this page, taken evenly: it has room for {} kB",
                                  (static_cast<int64_t>(all.size()) + step - 1) / step, all.size(), max_bytes_ / 1000));
  }
  for (size_t i = 0; i < all.size(); i += static_cast<size_t>(step)) add_picture(all[i], notices);
}

void SampleImages::add_picture(Found& found, std::vector<std::string>& notices) {
  std::ifstream file(found.path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  const std::optional<ImageType> type = image_type(bytes);
  if (!type) {
    notices.push_back(found.path + ": is no PNG, JPEG, GIF or WebP; the sample is shown without a picture");
    return;
  }
  const auto num_tokens = static_cast<int64_t>(found.places.size());
  const PatchGrid grid = grid_.value_or(patch_grid(num_tokens, *type));
  if (grid.rows * grid.columns != num_tokens) {
    notices.push_back(fmt::format("{}: has {} image tokens, not {}x{}; the sample is shown without a picture",
                                  found.path, num_tokens, grid.rows, grid.columns));
    return;
  }
  if (encoded_bytes(static_cast<int64_t>(bytes.size())) > found.num_bytes) return;  // it grew meanwhile
  const auto [known, is_new] = known_.try_emplace(found.path, pictures_.size());
  if (is_new) {
    pictures_.push_back("data:" + type->mime + ";base64," + base64(bytes));
    max_bytes_ -= found.num_bytes;
  }
  found.sample->json["image"] = {
      {"picture", known->second}, {"rows", grid.rows}, {"columns", grid.columns}, {"tokens", std::move(found.places)}};
}

}  // namespace moetap::cli
