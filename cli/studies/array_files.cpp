#include "cli/studies/array_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <limits>

#include "cli/terminal/command_error.h"

namespace moetap::cli {
namespace {

namespace fs = std::filesystem;
using analysis::studies::Definitions;

constexpr const char* kTopK = "topk_idx.npy";
constexpr const char* kGates = "gate_scores.npy";
constexpr const char* kAttention = "attn_weights.npy";
constexpr std::array kTypes{"token_types.npy", "test_token_types.npy"};  // the second is what the notebook writes
constexpr int64_t kBlock = 1 << 14;

std::optional<NpyArray> open_if_there(const fs::path& path, size_t dimensions, const char* shape, bool reals) {
  std::error_code error;
  if (!fs::exists(path, error)) return std::nullopt;
  NpyArray array(path.string());
  if (array.num_dimensions() != dimensions) {
    throw CommandError(
        fmt::format("{}: must be {}, its shape is {}", path.string(), shape, array.header().shape_text()));
  }
  if (array.holds_reals() != reals || array.header().kind == NpyKind::kBool) {
    throw CommandError(fmt::format("{}: must hold {}, it holds {}", path.string(), reals ? "reals" : "integers",
                                   array.header().dtype()));
  }
  return array;
}

void check_size(const NpyArray& array, size_t dimension, int64_t expected, const NpyArray& other) {
  if (array.size(dimension) == expected) return;
  throw CommandError(fmt::format("{}: its shape {} does not go with {} of {}: dimension {} must be {}, it is {}",
                                 array.path(), array.header().shape_text(), other.header().shape_text(),
                                 fs::path(other.path()).filename().string(), dimension, expected,
                                 array.size(dimension)));
}

/// n_b of each sample, and where its padding is not at its end.
void count_valid(ArrayFiles& files, Definitions definitions) {
  std::vector<int64_t> types(static_cast<size_t>(files.length));
  int64_t inside = 0, first_inside = -1;
  for (int64_t b = 0; b < files.num_samples; ++b) {
    const std::array<int64_t, 2> begin{b, 0};
    files.types.read_integers(files.types.element(begin), files.types.stride(1), files.length, types.data());
    for (const int64_t type : types) {
      if (type >= std::numeric_limits<int32_t>::min() && type <= std::numeric_limits<int32_t>::max()) continue;
      throw CommandError(
          fmt::format("{}: sample {} has the token type {}, which is beyond 32 bits", files.types.path(), b, type));
    }
    const int64_t valid = files.length - std::count(types.begin(), types.end(), -1);
    files.valid_tokens.push_back(valid);
    if (std::find(types.begin(), types.begin() + valid, -1) == types.begin() + valid) continue;
    first_inside = inside == 0 ? b : first_inside;
    ++inside;
  }
  if (inside == 0) return;
  const std::string line =
      fmt::format("{}: {} of {} samples have padding (−1) before valid tokens, sample {} is the first",
                  files.types.path(), inside, files.num_samples, first_inside);
  if (definitions == Definitions::kRecommended) {
    throw CommandError(line + "; padding must stand at the end: move it there, or use --definitions notebook");
  }
  files.notices.push_back(line + "; the notebook's definitions take the first tokens of each as the valid ones");
}

int64_t largest_id(const NpyArray& topk) {
  int64_t largest = -1;
  std::vector<int64_t> ids(static_cast<size_t>(kBlock));
  for (int64_t first = 0; first < topk.header().num_elements; first += kBlock) {
    const int64_t n = std::min(kBlock, topk.header().num_elements - first);
    topk.read_integers(first, 1, n, ids.data());
    largest = std::max(largest, *std::max_element(ids.begin(), ids.begin() + n));
  }
  return largest;
}

}  // namespace

bool ArrayFiles::is_valid(int64_t sample, int64_t place) const {
  return place < valid_tokens[static_cast<size_t>(sample)];
}

std::vector<std::string> array_file_names() {
  return {kTopK, kGates, kAttention, kTypes[0], kTypes[1]};
}

bool is_array_folder(const std::string& folder) {
  const std::vector<std::string> names = array_file_names();
  return std::any_of(names.begin(), names.end(), [&](const std::string& name) {
    std::error_code error;
    return fs::exists(fs::path(folder) / name, error);
  });
}

ArrayFiles open_arrays(const std::string& folder, Definitions definitions) {
  const fs::path path = folder;
  auto topk = open_if_there(path / kTopK, 4, "[L, B, S, K]", false);
  if (!topk) throw CommandError(fmt::format("{}: has no {}, the chosen experts [L, B, S, K]", folder, kTopK));
  auto types = open_if_there(path / kTypes[0], 2, "[B, S]", false);
  if (!types) types = open_if_there(path / kTypes[1], 2, "[B, S]", false);
  if (!types) {
    throw CommandError(
        fmt::format("{}: has no {} (or {}), the token types [B, S] with −1 for padding", folder, kTypes[0], kTypes[1]));
  }
  ArrayFiles files{std::move(*topk), std::move(*types), std::nullopt, std::nullopt, 0, 0, 0, 0, 0, {}, {}};
  files.gates = open_if_there(path / kGates, 4, "[L, B, S, E]", true);
  files.attention = open_if_there(path / kAttention, 4, "[L, B, S, S]", true);
  files.num_layers = files.topk.size(0);
  files.num_samples = files.topk.size(1);
  files.length = files.topk.size(2);
  files.top_k = files.topk.size(3);
  if (files.num_layers == 0 || files.num_samples == 0 || files.length == 0 || files.top_k == 0) {
    throw CommandError(
        fmt::format("{}: its shape {} holds nothing", files.topk.path(), files.topk.header().shape_text()));
  }
  check_size(files.types, 0, files.num_samples, files.topk);
  check_size(files.types, 1, files.length, files.topk);
  for (const auto* array : {&files.gates, &files.attention}) {
    for (size_t i = 0; *array && i < 3; ++i) check_size(**array, i, files.topk.size(i), files.topk);
  }
  if (files.attention) check_size(*files.attention, 3, files.length, files.topk);
  if (files.gates) {
    files.num_experts = files.gates->size(3);
  } else {
    files.num_experts = largest_id(files.topk) + 1;
    files.notices.push_back(
        fmt::format("{}: has no {}: {} experts, from the largest id", folder, kGates, files.num_experts));
  }
  if (files.num_experts < 1 || files.num_experts > (1 << 20)) {
    throw CommandError(fmt::format("{}: {} experts; from 1 to {} are read", folder, files.num_experts, 1 << 20));
  }
  if (files.top_k > files.num_experts) {
    throw CommandError(
        fmt::format("{}: {} experts are chosen of {}", files.topk.path(), files.top_k, files.num_experts));
  }
  count_valid(files, definitions);
  return files;
}

int32_t notebook_padding(const ArrayFiles& files) {
  constexpr int64_t kSamples = 10, kTail = 10;
  std::vector<int64_t> types(kTail);
  if (files.length < kTail) return -1;
  for (int64_t b = 0; b < std::min(kSamples, files.num_samples); ++b) {
    const std::array<int64_t, 2> begin{b, files.length - kTail};
    files.types.read_integers(files.types.element(begin), files.types.stride(1), kTail, types.data());
    const bool equal = std::all_of(types.begin(), types.end(), [&](int64_t type) { return type == types[0]; });
    if (equal && types[0] != -1) return static_cast<int32_t>(types[0]);
  }
  return -1;
}

}  // namespace moetap::cli
