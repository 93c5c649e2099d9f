#include "benchmarks/report.h"

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <fmt/format.h>
#include <torch/version.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <string_view>
#include <thread>

namespace moetap::benchmarks {
namespace {

std::string processor() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown processor";
}

std::string join(const std::vector<std::string>& cells) {
  std::string line = "|";
  for (const std::string& cell : cells) line += " " + cell + " |";
  return line + "\n";
}

}  // namespace

bool smoke_requested(int argc, char** argv) {
  if (argc == 1) return false;
  if (argc == 2 && std::string_view(argv[1]) == "--smoke") return true;
  std::fprintf(stderr, "usage: %s [--smoke]\n", argv[0]);
  std::exit(2);
}

std::string describe_environment() {
  double load[3] = {};
  const bool known = ::getloadavg(load, 3) == 3;
  return fmt::format("{}, {} cores, {}; LibTorch {}, {} threads; GCC {}.{}; load average {}", processor(),
                     std::thread::hardware_concurrency(), at::get_cpu_capability(), TORCH_VERSION,
                     at::get_num_threads(), __GNUC__, __GNUC_MINOR__,
                     known ? fmt::format("{:.1f}", load[0]) : "unknown");
}

MarkdownTable::MarkdownTable(std::vector<std::string> header) {
  std::vector<std::string> rule(header.size(), "---:");
  rule.front() = "---";
  rows_ = {std::move(header), std::move(rule)};
}

void MarkdownTable::add(std::vector<std::string> cells) {
  if (cells.size() != rows_.front().size()) {
    throw std::invalid_argument(
        fmt::format("a row must have {} cells, as the header, got {}", rows_.front().size(), cells.size()));
  }
  rows_.push_back(std::move(cells));
}

std::string MarkdownTable::text() const {
  std::string text;
  for (const auto& row : rows_) text += join(row);
  return text;
}

Quartiles quartiles(std::vector<double> values) {
  if (values.empty()) throw std::invalid_argument("values must not be empty");
  std::sort(values.begin(), values.end());
  const auto at = [&](double share) {
    const double place = share * static_cast<double>(values.size() - 1);
    const auto below = static_cast<size_t>(place);
    const size_t above = std::min(below + 1, values.size() - 1);
    return std::lerp(values[below], values[above], place - static_cast<double>(below));
  };
  return {at(0.25), at(0.5), at(0.75)};
}

}  // namespace moetap::benchmarks
