#include "cli/report/token_plan.h"

#include <fmt/format.h>

#include <algorithm>

namespace moetap::cli {
namespace {

// As JSON, with a comma: token id, weights of all digits and of four.
constexpr int64_t kTokenBytes = 7, kRealBytes = 11, kRoundedBytes = 7;
// Below these, the next thing is left out first.
constexpr int64_t kFewLayers = 12, kFewSamples = 8, kFewTokens = 24;

/// `count` of `all`, evenly, the first and the last among them.
std::vector<size_t> evenly(size_t all, size_t count) {
  std::vector<size_t> places;
  if (count >= all || count < 2) {
    for (size_t i = 0; i < std::min(all, count); ++i) places.push_back(i);
    return places;
  }
  for (size_t i = 0; i < count; ++i) places.push_back((i * (all - 1) + (count - 1) / 2) / (count - 1));
  return places;
}

class Planner {
 public:
  Planner(const std::vector<int64_t>& lengths, const std::vector<TokenLayer>& layers, int64_t sample_bytes,
          int64_t wanted_samples)
      : lengths_(lengths), layers_(layers), sample_bytes_(sample_bytes), wanted_(wanted_samples) {}

  int64_t num_samples = 0, num_layers = 0, max_tokens = 0;
  bool rounds = false;

  int64_t bytes() const {
    int64_t a_token = kTokenBytes;
    const int64_t real = rounds ? kRoundedBytes : kRealBytes;
    for (const size_t place : evenly(layers_.size(), static_cast<size_t>(num_layers))) {
      const TokenLayer& layer = layers_[place];
      const int64_t id = layer.num_experts <= 10 ? 2 : layer.num_experts <= 100 ? 3 : 4;
      a_token += layer.width * (id + (layer.has_weights ? real : 0)) + (layer.has_received ? real : 0);
    }
    int64_t tokens = 0;
    for (const size_t place : samples()) tokens += std::min(lengths_[place], max_tokens);
    return tokens * a_token + num_samples * (sample_bytes_ + 6 * num_layers);
  }

  std::vector<size_t> samples() const { return evenly(static_cast<size_t>(wanted_), static_cast<size_t>(num_samples)); }

  /// Makes `value` the largest from `least` up with which all fits; `least` where none does. True: it fits.
  bool shrink(int64_t& value, int64_t least, int64_t most_bytes) {
    int64_t low = std::min(least, value), high = value;
    while (low < high) {
      value = (low + high + 1) / 2;
      if (bytes() <= most_bytes) {
        low = value;
      } else {
        high = value - 1;
      }
    }
    value = low;
    return bytes() <= most_bytes;
  }

 private:
  const std::vector<int64_t>& lengths_;
  const std::vector<TokenLayer>& layers_;
  int64_t sample_bytes_, wanted_;
};

}  // namespace

TokenPlan plan_tokens(const std::vector<int64_t>& lengths, const std::vector<TokenLayer>& layers, int64_t sample_bytes,
                      int64_t max_samples, int64_t max_tokens, int64_t max_bytes) {
  const auto all = static_cast<int64_t>(lengths.size()), all_layers = static_cast<int64_t>(layers.size());
  const int64_t wanted = std::min(max_samples, all);
  Planner planner(lengths, layers, sample_bytes, wanted);
  planner.num_samples = wanted;
  planner.num_layers = all_layers;
  planner.max_tokens = max_tokens;
  for (size_t i = 0; i < lengths.size() && static_cast<int64_t>(i) < wanted; ++i)
    planner.max_tokens = i == 0 ? lengths[i] : std::max(planner.max_tokens, lengths[i]);
  planner.max_tokens = std::min(planner.max_tokens, max_tokens);
  if (planner.bytes() > max_bytes) {
    planner.rounds = true;
    bool fits = planner.bytes() <= max_bytes;
    fits = fits || planner.shrink(planner.num_layers, kFewLayers, max_bytes);
    fits = fits || planner.shrink(planner.num_samples, kFewSamples, max_bytes);
    fits = fits || planner.shrink(planner.max_tokens, kFewTokens, max_bytes);
    fits = fits || planner.shrink(planner.num_samples, 2, max_bytes);
    fits = fits || planner.shrink(planner.num_layers, 2, max_bytes);
    if (!fits) planner.shrink(planner.max_tokens, 1, max_bytes);
  }
  TokenPlan plan{planner.samples(), evenly(layers.size(), static_cast<size_t>(planner.num_layers)), planner.max_tokens,
                 planner.rounds, ""};
  const auto say = [&](const std::string& sentence) { plan.note += (plan.note.empty() ? "" : " ") + sentence; };
  const bool cut = planner.num_samples < wanted;
  if (wanted < all && !cut) {
    say(fmt::format("The first {} of {} samples are here; --max-samples takes more.", wanted, all));
  } else if (cut) {
    say(fmt::format("{} of the {}{} samples are here, taken evenly.", planner.num_samples, wanted < all ? "first " : "",
                    wanted));
  }
  if (planner.num_layers < all_layers)
    say(fmt::format("{} of {} layers are here, taken evenly.", planner.num_layers, all_layers));
  if (planner.rounds) {
    say(fmt::format("Weights have 4 digits{}.",
                    cut || planner.num_layers < all_layers ? ": a page has no room for more of all this" : ""));
  }
  return plan;
}

}  // namespace moetap::cli
