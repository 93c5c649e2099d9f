#include "cli/report/training_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string_view>

#include "cli/report/log_numbers.h"
#include "cli/terminal/command_error.h"
#include "plugin/formats/json_text.h"

namespace moetap::cli {
namespace {

using nlohmann::ordered_json;
using Level = Diagnostic::Level;

constexpr double kCollapsed = 0.95, kDead = 0.005;
// Shares of one token each, and rounding when they were printed.
constexpr double kSumTolerance = 0.02;

class Reader {
 public:
  Reader(std::string file, std::vector<Diagnostic>& diagnostics) : file_(std::move(file)), diagnostics_(diagnostics) {}

  void read_line(int64_t number, const std::string& line) {
    number_ = number;
    if (line.find_first_not_of(" \t\r\n") == std::string::npos) {
      ++blank_lines_;
      if (first_blank_ == 0) first_blank_ = number;
      return;
    }
    const std::optional<ordered_json> json = parse_lenient(line);
    if (!json || !json->is_object()) {
      note(Level::kWatch, json ? "is no JSON object; it is left out" : "is no JSON; it is left out");
      return;
    }
    add_epoch(*json);
  }

  ordered_json finish() {
    if (blank_lines_ > 0) {
      number_ = first_blank_;
      note(Level::kInfo, blank_lines_ == 1 ? "is blank" : fmt::format("is the first of {} blank lines", blank_lines_));
    }
    number_ = 0;
    if (epochs_.empty()) note(Level::kBad, "holds no epoch");
    if (segment_ > 0)
      note(Level::kInfo, fmt::format("{} parts: the log was appended to; each is a line of its own", segment_ + 1));
    return {{"epochs", std::move(epochs_)}};
  }

 private:
  void note(Level level, const std::string& text) { diagnostics_.push_back({level, file_, number_, text}); }

  std::optional<double> number_of(const ordered_json& object, const char* key, bool required) {
    const auto found = object.find(key);
    if (found == object.end()) {
      if (required) note(Level::kWatch, fmt::format("has no {}", key));
      return std::nullopt;
    }
    if (found->is_null()) return std::nullopt;
    const std::optional<double> value = number_in(*found);
    if (!value) {
      note(Level::kWatch, fmt::format("{} is {}, no number", key, plugin::short_text(*found)));
    } else if (!std::isfinite(*value)) {
      note(Level::kBad, fmt::format("{} is {}", key, plugin::short_text(*found)));
      return std::nullopt;
    }
    return value;
  }

  void add_epoch(const ordered_json& json) {
    ordered_json epoch = {{"line", number_}};
    const std::optional<double> number = number_of(json, "epoch", true);
    // Without a number it is the one after the last.
    const double place = number.value_or(last_epoch_ ? *last_epoch_ + 1 : 1);
    if (last_epoch_ && place <= *last_epoch_) {
      ++segment_;
      note(Level::kWatch, place == *last_epoch_
                              ? fmt::format("epoch {} stands twice", place)
                              : fmt::format("epoch {} comes after {}: the log goes back", place, *last_epoch_));
    }
    last_epoch_ = place;
    epoch["segment"] = segment_;
    epoch["epoch"] = place == std::floor(place) ? ordered_json(static_cast<int64_t>(place)) : ordered_json(place);
    std::optional<double> accuracy = number_of(json, "routing_acc", true);
    if (accuracy && *accuracy > 1) {
      note(Level::kInfo, fmt::format("routing_acc {} is taken as percent", *accuracy));
      *accuracy /= 100;
    }
    const std::optional<double> entropy = number_of(json, "entropy", true);
    if (entropy && *entropy < 0) note(Level::kBad, fmt::format("entropy {} is below 0", *entropy));
    const std::optional<double> rate = number_of(json, "lr", false);
    set(epoch, "routing_acc", accuracy);
    set(epoch, "entropy", entropy);
    if (rate) set(epoch, "lr", rate);
    add_utilization(json, epoch);
    epochs_.push_back(std::move(epoch));
  }

  static void set(ordered_json& object, const char* key, std::optional<double> value) {
    object[key] = value ? ordered_json(*value) : ordered_json(nullptr);
  }

  void add_utilization(const ordered_json& json, ordered_json& epoch) {
    const auto found = json.find("utilization");
    if (found == json.end()) return note(Level::kWatch, "has no utilization");
    if (!found->is_array() || found->empty()) return note(Level::kWatch, "utilization is no list of shares");
    std::vector<std::optional<double>> shares;
    double sum = 0;
    for (const auto& one : *found) {
      const std::optional<double> value = number_in(one);
      const bool finite = value && std::isfinite(*value);
      if (!finite)
        note(Level::kBad, fmt::format("utilization of expert {} is {}", shares.size(), plugin::short_text(one)));
      if (finite && *value < 0)
        note(Level::kBad, fmt::format("utilization of expert {} is {}, below 0", shares.size(), *value));
      shares.push_back(finite ? value : std::nullopt);
      sum += finite ? *value : 0;
    }
    if (num_experts_ != 0 && shares.size() != num_experts_) {
      note(Level::kWatch,
           fmt::format("utilization has {} experts, the lines before have {}", shares.size(), num_experts_));
    }
    if (num_experts_ == 0) num_experts_ = shares.size();
    if (sum > 50) {
      note(Level::kInfo, fmt::format("utilization sums to {:.4g}: taken as percent", sum));
      for (auto& share : shares) {
        if (share) *share /= 100;
      }
      sum /= 100;
    } else if (std::abs(sum - 1) > kSumTolerance) {
      note(Level::kWatch, fmt::format("utilization sums to {:.4g}, not to 1", sum));
    }
    ordered_json list = ordered_json::array();
    for (const auto& share : shares) list.push_back(share ? ordered_json(*share) : ordered_json(nullptr));
    epoch["utilization"] = std::move(list);
    judge(shares);
  }

  /// Collapse and experts that get nothing, said when they begin.
  void judge(const std::vector<std::optional<double>>& shares) {
    const size_t count = shares.size();
    if (count < 2) return;
    const auto heaviest = std::max_element(
        shares.begin(), shares.end(), [](const auto& a, const auto& b) { return a.value_or(-1) < b.value_or(-1); });
    const bool collapsed = heaviest->value_or(0) >= kCollapsed;
    if (collapsed && !was_collapsed_) {
      note(Level::kBad,
           fmt::format("collapse: expert {} gets {:.1f} % of the tokens", heaviest - shares.begin(), **heaviest * 100));
    }
    was_collapsed_ = collapsed;
    std::string idle;
    for (size_t e = 0; e < count; ++e) {
      if (shares[e] && *shares[e] <= kDead) idle += (idle.empty() ? "" : ", ") + std::to_string(e);
    }
    if (!idle.empty() && idle != was_idle_)
      note(Level::kWatch, fmt::format("underused: experts {} get {} % of the tokens or less", idle, kDead * 100));
    was_idle_ = idle;
  }

  std::string file_;
  std::vector<Diagnostic>& diagnostics_;
  ordered_json epochs_ = ordered_json::array();
  int64_t number_ = 0, segment_ = 0, blank_lines_ = 0, first_blank_ = 0;
  std::optional<double> last_epoch_;
  size_t num_experts_ = 0;
  bool was_collapsed_ = false;
  std::string was_idle_;
};

}  // namespace

std::string diagnostic_line(const Diagnostic& diagnostic) {
  const std::string place =
      diagnostic.line > 0 ? fmt::format("{}, line {}", diagnostic.file, diagnostic.line) : diagnostic.file;
  return fmt::format("{}: {}", place, diagnostic.text);
}

ordered_json diagnostics_json(const std::vector<Diagnostic>& diagnostics) {
  constexpr const char* kLevels[] = {"info", "watch", "bad"};
  ordered_json list = ordered_json::array();
  for (const Diagnostic& one : diagnostics) {
    list.push_back({{"level", kLevels[static_cast<size_t>(one.level)]},
                    {"file", one.file},
                    {"line", one.line},
                    {"text", one.text}});
  }
  return list;
}

ordered_json read_training_log(const std::string& path, std::vector<Diagnostic>& diagnostics) {
  std::ifstream file(path, std::ios::binary);
  if (!file || std::filesystem::is_directory(path)) throw CommandError(path + ": cannot be read");
  Reader reader(std::filesystem::path(path).filename().string(), diagnostics);
  int64_t number = 0;
  for (std::string line; std::getline(file, line);) {
    if (++number == 1 && line.starts_with("\xEF\xBB\xBF")) line.erase(0, 3);
    reader.read_line(number, line);
  }
  return reader.finish();
}

}  // namespace moetap::cli
