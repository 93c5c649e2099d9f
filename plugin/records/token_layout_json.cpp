#include "plugin/records/token_layout_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>

namespace moetap::plugin {
namespace {

using hooks::ArgumentDim;
using hooks::Comparison;
using hooks::MaskDims;
using hooks::MaskMeans;
using hooks::TokenDim;
using hooks::TokenDimRole;

constexpr std::array kRoles = {TokenDimRole::kBatch, TokenDimRole::kSequence, TokenDimRole::kOther};
constexpr std::array kMaskDims = {MaskDims::kUnknown, MaskDims::kTokens, MaskDims::kTransposed, MaskDims::kBuffer,
                                  MaskDims::kOther};
constexpr std::array kComparisons = {Comparison::kEqual,     Comparison::kNotEqual, Comparison::kLess,
                                     Comparison::kLessEqual, Comparison::kGreater,  Comparison::kGreaterEqual};
constexpr std::array kMaskMeans = {MaskMeans::kAuto, MaskMeans::kValid, MaskMeans::kPadding, MaskMeans::kAdditive};
constexpr int64_t kMaxRank = 64;

template <typename Choices>
typename Choices::value_type choice_from(const Choices& choices, const nlohmann::json& json) {
  const auto text = json.get<std::string>();
  const auto found =
      std::find_if(choices.begin(), choices.end(), [&](auto choice) { return text == to_string(choice); });
  if (found == choices.end()) throw std::invalid_argument(fmt::format("a layout of tokens has no \"{}\"", text));
  return *found;
}

nlohmann::ordered_json dim_to_json(const TokenDim& dim) {
  nlohmann::ordered_json json = {{"role", to_string(dim.role)}, {"size", dim.size}};
  auto& arguments = json["arguments"] = nlohmann::ordered_json::array();
  for (const ArgumentDim& from : dim.arguments) arguments.push_back({from.argument, from.dim, from.rank});
  if (!dim.parts.empty()) {
    auto& parts = json["parts"] = nlohmann::ordered_json::array();
    for (const TokenDim& part : dim.parts) parts.push_back(dim_to_json(part));
  }
  return json;
}

TokenDim dim_from_json(const nlohmann::json& json, bool may_have_parts) {
  TokenDim dim;
  dim.role = choice_from(kRoles, json.at("role"));
  dim.size = json.at("size").get<int64_t>();
  for (const auto& from : json.at("arguments")) {
    const ArgumentDim argument{from.at(0).get<int64_t>(), from.at(1).get<int64_t>(), from.at(2).get<int64_t>()};
    if (argument.argument < 0 || argument.dim < 0 || argument.dim >= argument.rank || argument.rank > kMaxRank) {
      throw std::invalid_argument("a layout of tokens names a dimension that no argument has");
    }
    dim.arguments.push_back(argument);
  }
  if (json.contains("parts")) {
    if (!may_have_parts) throw std::invalid_argument("a layout of tokens has parts of parts");
    for (const auto& part : json.at("parts")) dim.parts.push_back(dim_from_json(part, /*may_have_parts=*/false));
  }
  if (dim.size < 0) throw std::invalid_argument("a layout of tokens has a negative size");
  return dim;
}

}  // namespace

nlohmann::ordered_json token_layout_to_json(const hooks::TokenLayout& layout) {
  if (!layout.known) return nullptr;
  nlohmann::ordered_json json;
  json["dims"] = nlohmann::ordered_json::array();
  for (const TokenDim& dim : layout.dims) json["dims"].push_back(dim_to_json(dim));
  json["ids"] = layout.ids;
  json["masks"] = nlohmann::ordered_json::array();
  for (const hooks::TokenMask& mask : layout.masks) {
    json["masks"].push_back(
        {{"argument", mask.argument}, {"dims", to_string(mask.dims)}, {"means", to_string(mask.means)}});
    if (mask.places >= 0) json["masks"].back()["places"] = mask.places;
  }
  if (const auto& packed = layout.packed) {
    json["packed"] = {{"argument", packed->argument}, {"keeps", to_string(packed->keeps)}, {"number", packed->number}};
  }
  return json;
}

hooks::TokenLayout token_layout_from_json(const nlohmann::json& json) {
  hooks::TokenLayout layout;
  if (json.is_null()) return layout;
  layout.known = true;
  for (const auto& dim : json.at("dims")) layout.dims.push_back(dim_from_json(dim, /*may_have_parts=*/true));
  const auto count = [&](TokenDimRole role) {
    return std::count_if(layout.dims.begin(), layout.dims.end(), [&](const TokenDim& dim) { return dim.role == role; });
  };
  if (count(TokenDimRole::kBatch) != 1 || count(TokenDimRole::kSequence) > 1) {
    throw std::invalid_argument("a layout of tokens must have one batch and at most one sequence");
  }
  layout.ids = json.at("ids").get<std::vector<int64_t>>();
  for (const auto& mask : json.at("masks")) {
    layout.masks.push_back({mask.at("argument").get<int64_t>(), choice_from(kMaskDims, mask.at("dims")),
                            choice_from(kMaskMeans, mask.at("means")), mask.value("places", int64_t{-1})});
  }
  if (json.contains("packed")) {
    const auto& packed = json.at("packed");
    layout.packed = {packed.at("argument").get<int64_t>(), choice_from(kComparisons, packed.at("keeps")),
                     packed.at("number").get<double>()};
    if (layout.packed->argument < 0) throw std::invalid_argument("a layout of tokens is packed by no argument");
  }
  return layout;
}

}  // namespace moetap::plugin
