#include "plugin/capture/token_places.h"

#include <algorithm>
#include <utility>

namespace moetap::plugin {
namespace {

/// Sizes of the parts of a concatenation of `whole`; one that is not known is what the others leave.
std::vector<int64_t> sizes_of_parts(const std::vector<hooks::TokenDim>& parts, const ArgumentSizes& sizes,
                                    int64_t whole) {
  std::vector<int64_t> found;
  int64_t known = 0;
  for (const hooks::TokenDim& part : parts) {
    found.push_back(size_of(part, sizes).value_or(-1));
    known += std::max<int64_t>(0, found.back());
  }
  if (std::count(found.begin(), found.end(), -1) == 1 && known <= whole) {
    *std::find(found.begin(), found.end(), -1) = whole - known;
  }
  return found;
}

}  // namespace

std::optional<int64_t> size_of(const hooks::TokenDim& dim, const ArgumentSizes& sizes, SizeFrom from) {
  std::optional<int64_t> size;
  for (const hooks::ArgumentDim& own : dim.arguments) {
    if (own.argument < 0 || static_cast<size_t>(own.argument) >= sizes.size()) continue;
    const auto& argument = sizes[static_cast<size_t>(own.argument)];
    if (!argument || static_cast<int64_t>(argument->size()) != own.rank) continue;
    if (own.dim < 0 || own.dim >= own.rank) continue;
    size = std::max(size.value_or(0), (*argument)[static_cast<size_t>(own.dim)]);
    if (from == SizeFrom::kFirst) break;
  }
  if (size || dim.parts.empty()) return size ? size : dim.size > 0 ? std::optional(dim.size) : std::nullopt;
  int64_t sum = 0;
  for (const hooks::TokenDim& part : dim.parts) {
    const auto one = size_of(part, sizes);
    if (!one) return std::nullopt;
    sum += *one;
  }
  return sum;
}

namespace {

std::optional<TokenPlaces> place_by(const hooks::TokenLayout& layout, const ArgumentSizes& sizes, int64_t num_tokens,
                                    SizeFrom from) {
  c10::SmallVector<std::optional<int64_t>, 4> found;
  int64_t known = 1;
  size_t runs_of_unknown = 0;
  for (size_t i = 0; i < layout.dims.size(); ++i) {
    const hooks::TokenDim& dim = layout.dims[i];
    const std::optional<int64_t> size = size_of(dim, sizes, from);
    const bool starts_run = !size && (i == 0 || found.back() || dim.role != hooks::TokenDimRole::kOther ||
                                      layout.dims[i - 1].role != hooks::TokenDimRole::kOther);
    runs_of_unknown += starts_run ? 1 : 0;
    if (size) known *= *size;
    found.push_back(size);
  }
  if (layout.packed ? runs_of_unknown > 0 || known < num_tokens
                    : runs_of_unknown > 1 || (runs_of_unknown == 0 && known != num_tokens)) {
    return std::nullopt;
  }
  if (runs_of_unknown == 1) {
    if (known == 0 ? num_tokens != 0 : num_tokens % known != 0) return std::nullopt;
    // The first of the run stands for all of it.
    int64_t rest = known == 0 ? 1 : num_tokens / known;
    for (std::optional<int64_t>& size : found) {
      if (!size) size = std::exchange(rest, 1);
    }
  }
  TokenPlaces places;
  places.num_places = layout.packed ? known : num_tokens;
  int64_t step = 1;
  for (size_t i = layout.dims.size(); i-- > 0;) {
    const hooks::TokenDim& dim = layout.dims[i];
    if (dim.role == hooks::TokenDimRole::kBatch) {
      places.batch = *found[i];
      places.batch_step = step;
    } else if (dim.role == hooks::TokenDimRole::kSequence) {
      places.has_sequence = true;
      places.length = *found[i];
      places.sequence_step = step;
      places.parts = dim.parts;
      places.part_sizes = sizes_of_parts(dim.parts, sizes, places.length);
    }
    step *= std::max<int64_t>(1, *found[i]);
  }
  return places;
}

}  // namespace

std::optional<TokenPlaces> place_tokens(const hooks::TokenLayout& layout, const ArgumentSizes& sizes,
                                        int64_t num_tokens) {
  if (!layout.known) return std::nullopt;
  if (auto places = place_by(layout, sizes, num_tokens, SizeFrom::kLargest)) return places;
  return place_by(layout, sizes, num_tokens, SizeFrom::kFirst);
}

std::optional<int64_t> batch_of_arguments(const std::vector<hooks::TokenDim>& batches, const ArgumentSizes& sizes) {
  std::optional<int64_t> shown;
  for (const hooks::TokenDim& batch : batches) {
    const auto size = size_of(batch, sizes);
    if (size && shown && *shown != *size) return std::nullopt;
    if (size) shown = size;
  }
  if (shown) return shown;
  for (const auto& argument : sizes) {
    if (!argument || argument->size() < 2) continue;
    if (shown && *shown != argument->front()) return std::nullopt;
    shown = argument->front();
  }
  return shown;
}

}  // namespace moetap::plugin
