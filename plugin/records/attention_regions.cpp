#include "plugin/records/attention_regions.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <set>
#include <stdexcept>
#include <string_view>

namespace moetap::plugin {
namespace {

constexpr const char* kOther = "other";

std::invalid_argument refuse(const std::string& text, const std::string& reason) {
  return std::invalid_argument(fmt::format(
      "attention_regions must be parts:R, tokens:NAME=ID[,ID]...;... or argument:NAME, got \"{}\": {}", text, reason));
}

std::vector<std::string_view> split(std::string_view text, char at) {
  std::vector<std::string_view> pieces;
  while (true) {
    const size_t end = text.find(at);
    pieces.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return pieces;
    text.remove_prefix(end + 1);
  }
}

std::optional<int64_t> integer(std::string_view text) {
  int64_t value = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  return parsed.ec == std::errc() && parsed.ptr == text.data() + text.size() && !text.empty() ? std::optional(value)
                                                                                              : std::nullopt;
}

std::vector<AttentionRegions::TokenRegion> token_regions(const std::string& text, std::string_view list) {
  std::vector<AttentionRegions::TokenRegion> regions;
  std::set<std::string> names{kOther};
  std::set<int64_t> ids;
  for (const std::string_view piece : split(list, ';')) {
    if (piece.empty()) continue;
    const size_t equal = piece.find('=');
    if (equal == std::string_view::npos || equal == 0) throw refuse(text, "a region is NAME=ID[,ID]...");
    AttentionRegions::TokenRegion region{std::string(piece.substr(0, equal)), {}};
    if (!names.insert(region.name).second) throw refuse(text, fmt::format("two regions are called {}", region.name));
    for (const std::string_view id_text : split(piece.substr(equal + 1), ',')) {
      const auto id = integer(id_text);
      if (!id || *id < 0) throw refuse(text, fmt::format("\"{}\" is no token id", std::string(id_text)));
      if (!ids.insert(*id).second) throw refuse(text, fmt::format("token {} is in two regions", *id));
      region.ids.push_back(*id);
    }
    regions.push_back(std::move(region));
  }
  if (regions.empty()) throw refuse(text, "no region is named");
  return regions;
}

}  // namespace

int64_t AttentionRegions::num_regions() const {
  switch (by) {
    case By::kParts:
      return parts;
    case By::kTokens:
      return static_cast<int64_t>(tokens.size()) + 1;
    case By::kArgument:
      break;
  }
  return kMaxRegions;
}

std::vector<std::string> AttentionRegions::names() const {
  std::vector<std::string> names;
  for (const TokenRegion& region : tokens) names.push_back(region.name);
  if (by == By::kTokens) names.push_back(kOther);
  const char* word = by == By::kParts ? "part" : "region";
  for (int64_t i = static_cast<int64_t>(names.size()); i < num_regions(); ++i)
    names.push_back(fmt::format("{} {}", word, i));
  return names;
}

AttentionRegions AttentionRegions::from_text(const std::string& text) {
  const size_t colon = text.find(':');
  if (colon == std::string::npos) throw refuse(text, "there is no \":\"");
  const std::string kind = text.substr(0, colon);
  const std::string_view rest = std::string_view(text).substr(colon + 1);
  AttentionRegions regions;
  if (kind == "parts") {
    const auto parts = integer(rest);
    if (!parts || *parts < 1 || *parts > kMaxRegions) throw refuse(text, "R must be from 1 to 16");
    regions.parts = *parts;
  } else if (kind == "tokens") {
    regions.by = By::kTokens;
    regions.tokens = token_regions(text, rest);
    if (regions.num_regions() > kMaxRegions) throw refuse(text, "there may be 15 regions and \"other\"");
  } else if (kind == "argument") {
    regions.by = By::kArgument;
    regions.argument = std::string(rest);
    if (regions.argument.empty()) throw refuse(text, "no argument is named");
  } else {
    throw refuse(text, fmt::format("\"{}\" is none of them", kind));
  }
  return regions;
}

}  // namespace moetap::plugin
