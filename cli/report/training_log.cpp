#include "cli/report/training_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

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
constexpr double kRounding = 1e-6, kPercentSum = 50;

class Reader {
 public:
  Reader(std::string file, std::vector<Diagnostic>& diagnostics) : file_(std::move(file)), diagnostics_(diagnostics) {}

  void read_line(int64_t number, const std::string& line) {
    if (line.find_first_not_of(" \t\r\n") == std::string::npos) {
      ++blank_lines_;
      if (first_blank_ == 0) first_blank_ = number;
      return;
    }
    lines_.emplace_back(number, parse_lenient(line));
    if (lines_.back().second) find_largest(*lines_.back().second);
  }

  ordered_json finish() {
    say_what_is_percent();
    for (const auto& [number, json] : lines_) {
      number_ = number;
      if (json && json->is_object()) {
        add_epoch(*json);
      } else {
        note(Level::kWatch, json ? "is no JSON object; it is left out" : "is no JSON; it is left out");
      }
    }
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
  /// A value and the line that has it.
  struct Largest {
    double value = 0;
    int64_t line = 0;

    void add(double other, int64_t of_line) {
      if (std::isfinite(other) && other > value) *this = {other, of_line};
    }
  };

  /// Percent or shares: no line tells by itself (an accuracy of 0.8 is either), so the largest of the log does.
  void find_largest(const ordered_json& json) {
    if (!json.is_object()) return;
    const int64_t line = lines_.back().first;
    if (const auto found = json.find("routing_acc"); found != json.end()) {
      accuracy_.add(number_in(*found).value_or(0), line);
    }
    const auto shares = json.find("utilization");
    if (shares == json.end() || !shares->is_array()) return;
    double sum = 0;
    for (const auto& share : *shares) {
      const double value = number_in(share).value_or(0);
      sum += std::isfinite(value) ? value : 0;
    }
    utilization_.add(sum, line);
  }

  void say_what_is_percent() {
    if (accuracy_in_percent()) {
      number_ = accuracy_.line;
      note(Level::kInfo, fmt::format("routing_acc {} is taken as percent, in all lines", accuracy_.value));
    }
    if (utilization_in_percent()) {
      number_ = utilization_.line;
      note(Level::kInfo, fmt::format("utilization sums to {:.4g}: taken as percent, in all lines", utilization_.value));
    }
  }
  bool accuracy_in_percent() const { return accuracy_.value > 1 + kRounding; }
  bool utilization_in_percent() const { return utilization_.value > kPercentSum; }

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
    if (accuracy && accuracy_in_percent()) *accuracy /= 100;
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
    const double whole = utilization_in_percent() ? 100 : 1;
    for (auto& share : shares) {
      if (share) *share /= whole;
    }
    if (std::abs(sum / whole - 1) > kSumTolerance) {
      note(Level::kWatch, fmt::format("utilization sums to {:.4g}, not to {}", sum, whole));
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
    if (!idle.empty() && idle != was_idle_) {
      const bool is_one = idle.find(',') == std::string::npos;
      note(Level::kWatch, fmt::format("underused: {} {} {} {} % of the tokens or less", is_one ? "expert" : "experts",
                                      idle, is_one ? "gets" : "get", kDead * 100));
    }
    was_idle_ = idle;
  }

  std::string file_;
  std::vector<Diagnostic>& diagnostics_;
  ordered_json epochs_ = ordered_json::array();
  std::vector<std::pair<int64_t, std::optional<ordered_json>>> lines_;  // those that are not blank; empty: no JSON
  Largest accuracy_, utilization_;                                      // of the sum, where it is utilization
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
