#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "plugin/run/run_reader.h"

namespace moetap::cli {

struct TokenOptions;

/// Width and height in pixels of a PNG, JPEG, GIF or WebP, and its type; empty where the bytes are none of them.
struct ImageType {
  std::string mime;
  int64_t width = 0, height = 0;  // 0: not read
};
std::optional<ImageType> image_type(const std::string& bytes);

/// Rows and columns of so many patches, of the shape that comes closest to the picture's.
struct PatchGrid {
  int64_t rows = 0, columns = 0;
};
PatchGrid patch_grid(int64_t num_tokens, const ImageType& image);

/// The pictures of samples, put into the page as data. The file is the one that the sample's field `image`, or
/// `doc.image`, names, else DOC_ID or the sample's number with the ending of a picture, in --images.
class SampleImages {
 public:
  /// Throws CommandError for a grid that is no ROWSxCOLUMNS.
  SampleImages(const TokenOptions& options, const plugin::RunReader& run);

  /// Adds `image` {src, rows, columns, tokens: places of its tokens in the sample} where there is a picture and the
  /// tokens of one image. Pictures above 150 kB, or of more than 700 kB together, are left out with a notice.
  void add(int64_t number, const std::vector<int32_t>& token_ids, const std::vector<nlohmann::ordered_json>& fields,
           nlohmann::ordered_json& sample, std::vector<std::string>& notices);

 private:
  std::string find(int64_t number, const nlohmann::ordered_json& fields) const;

  std::string folder_, beside_samples_;
  std::optional<int64_t> image_token_;
  std::optional<PatchGrid> grid_;
  std::map<std::string, std::string> known_;  // by path: its data URL
  int64_t total_bytes_ = 0;
  bool said_full_ = false;
};

}  // namespace moetap::cli
