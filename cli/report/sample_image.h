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

/// A sample that may have a picture; `json` gets it.
struct SampleOfImage {
  int64_t number = 0;
  const std::vector<int32_t>& token_ids;
  nlohmann::ordered_json& json;
};

/// The pictures of samples, put into the page as data. The file is the one that the sample's field `image`, or
/// `doc.image`, names, else DOC_ID or the sample's number with the ending of a picture, in --images.
class SampleImages {
 public:
  /// Throws CommandError for a grid that is no ROWSxCOLUMNS.
  SampleImages(const TokenOptions& options, const plugin::RunReader& run);

  /// Adds `image` {picture: its place in `take()`, rows, columns, tokens: places of its tokens in the sample} where
  /// there is a picture and the tokens of one image. Pictures above 150 kB are left out with a notice; where those of
  /// all samples do not fit the page, those of every so many-th are in it, and `notices` says how many.
  void add(const std::vector<SampleOfImage>& samples, const std::vector<nlohmann::ordered_json>& fields,
           std::vector<std::string>& notices);

  /// The pictures as data URLs.
  nlohmann::ordered_json take() { return std::move(pictures_); }

 private:
  struct Found {
    const SampleOfImage* sample;
    std::string path;
    int64_t num_bytes = 0;
    nlohmann::ordered_json places;
  };

  std::string find(int64_t number, const nlohmann::ordered_json& fields) const;
  void add_picture(Found& found, std::vector<std::string>& notices);

  std::string folder_, beside_samples_;
  std::optional<int64_t> image_token_;
  std::optional<PatchGrid> grid_;
  int64_t max_bytes_;
  std::map<std::string, size_t> known_;  // by path: its place
  nlohmann::ordered_json pictures_ = nlohmann::ordered_json::array();
};

}  // namespace moetap::cli
