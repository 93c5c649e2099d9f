#include "cli/studies/r3_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <memory>
#include <optional>

#include "cli/studies/npy_array.h"
#include "cli/terminal/command_error.h"

namespace moetap::cli {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxExperts = int64_t{1} << 20;
constexpr int64_t kMaxLayers = int64_t{1} << 16;  // a file without tokens may name any number

/// The digits at the end of sample-000012.npy; −1: there are none.
int64_t number_in(const std::string& path) {
  const std::string name = fs::path(path).stem().string();
  const size_t begin = name.find_last_not_of("0123456789") + 1;
  int64_t number = -1;
  const auto read = std::from_chars(name.data() + begin, name.data() + name.size(), number);
  return read.ec == std::errc{} ? number : -1;
}

NpyArray open_sample(const std::string& path) {
  NpyArray array(path);
  const NpyKind kind = array.header().kind;
  if (array.num_dimensions() != 3 || (kind != NpyKind::kSigned && kind != NpyKind::kUnsigned)) {
    throw CommandError(fmt::format("{}: must hold ids of experts [S, L, K], it holds {} {}", path,
                                   array.header().dtype(), array.header().shape_text()));
  }
  return array;
}

/// All ids of tokens [first, first + n), [n, L, K].
std::vector<int64_t> read_ids(const NpyArray& array, int64_t first, int64_t n) {
  const int64_t layers = array.size(1), top_k = array.size(2);
  std::vector<int64_t> ids(static_cast<size_t>(n * layers * top_k));
  int64_t* out = ids.data();
  for (int64_t t = first; t < first + n; ++t) {
    for (int64_t layer = 0; layer < layers; ++layer, out += top_k) {
      const std::array<int64_t, 3> begin{t, layer, 0};
      array.read_integers(array.element(begin), array.stride(2), top_k, out);
    }
  }
  return ids;
}

}  // namespace

struct R3Source::OpenFile : SampleSource::Cache {
  int64_t sample = -1;
  std::optional<NpyArray> array;
};

std::vector<std::string> R3Source::files_in(const std::string& folder) {
  std::vector<std::string> files;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (entry.path().extension() == ".npy") files.push_back(entry.path().string());
  }
  std::sort(files.begin(), files.end(), [](const std::string& a, const std::string& b) {
    return std::pair(number_in(a), a) < std::pair(number_in(b), b);
  });
  return files;
}

R3Source::R3Source(std::vector<std::string> files, int64_t num_experts, const std::function<void()>& check)
    : files_(std::move(files)) {
  constexpr int64_t kBlock = 4096;
  shape_.name = "arrays";
  int64_t largest = -1, last = -1;
  for (size_t i = 0; i < files_.size(); ++i) {
    check();
    const NpyArray array = open_sample(files_[i]);
    if (i == 0) {
      num_layers_ = array.size(1);
      top_k_ = array.size(2);
    }
    if (array.size(1) != num_layers_ || array.size(2) != top_k_) {
      throw CommandError(fmt::format("{}: has {} layers and {} experts a token, {} has {} and {}", files_[i],
                                     array.size(1), array.size(2), files_.front(), num_layers_, top_k_));
    }
    for (int64_t first = 0; num_experts <= 0 && first < array.size(0); first += kBlock) {
      const std::vector<int64_t> ids = read_ids(array, first, std::min(kBlock, array.size(0) - first));
      for (const int64_t id : ids) largest = std::max(largest, id);
    }
    const int64_t number = number_in(files_[i]);
    last = number > last ? number : last + 1;
    add_sample(last, array.size(0));
    shape_.padded_length = std::max(shape_.padded_length, array.size(0));
  }
  if (num_experts <= 0) {
    num_experts = largest + 1;
    notices_.push_back(
        fmt::format("{}: {} experts, from the largest id; --experts E says it", files_.front(), num_experts));
  }
  if (num_experts < 1 || num_experts > kMaxExperts || num_layers_ < 1 || num_layers_ > kMaxLayers || top_k_ < 1) {
    throw CommandError(fmt::format("{}: has {} layers, {} experts a token and {} experts: nothing to analyze",
                                   files_.front(), num_layers_, top_k_, num_experts));
  }
  for (int64_t l = 0; l < num_layers_; ++l) {
    shape_.layers.push_back({std::to_string(l), "", num_experts, 0, top_k_, ""});
  }
}

std::unique_ptr<SampleSource::Cache> R3Source::make_cache() const {
  return std::make_unique<OpenFile>();
}

void R3Source::append(int64_t sample, int64_t first, int64_t n, uint32_t /*needs*/, Cache& cache,
                      std::vector<LayerBuffer>& layers) const {
  auto& open = dynamic_cast<OpenFile&>(cache);
  if (open.sample != sample) {
    open.array.emplace(open_sample(files_[static_cast<size_t>(sample)]));
    open.sample = sample;
  }
  if (open.array->size(0) < first + n || open.array->size(1) != num_layers_ || open.array->size(2) != top_k_) {
    throw CommandError(fmt::format("{}: changed while it was read", files_[static_cast<size_t>(sample)]));
  }
  const std::vector<int64_t> ids = read_ids(*open.array, first, n);
  for (size_t at = 0, t = 0; t < static_cast<size_t>(n); ++t) {
    for (size_t l = 0; l < layers.size(); ++l) {
      bool seen = false;
      for (int64_t k = 0; k < top_k_; ++k, ++at) {
        const int64_t id = ids[at];
        const bool known = id >= 0 && id < shape_.layers[l].num_experts;
        layers[l].ids.push_back(known ? static_cast<int32_t>(id) : -1);
        layers[l].foreign_ids += known || id == -1 ? 0 : 1;
        seen = seen || id != -1;
      }
      layers[l].seen.push_back(seen ? 1 : 0);
    }
  }
}

}  // namespace moetap::cli
